package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/kdp-webhook/kdp-webhook/internal/audit"
	"github.com/kdp-webhook/kdp-webhook/internal/cluster"
	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// facts are what the test says they are.
type facts struct {
	notSynced, cannotRead error
	// asked for: namespace and name.
	asked       []string
	deployments map[string]*kube.Deployment
	hpas        []*autoscalingv2.HorizontalPodAutoscaler
	panics      bool
}

func (f *facts) Synced() error { return f.notSynced }

func (f *facts) With(_ context.Context, namespace, name string) (cluster.Facts, error) {
	f.asked = append(f.asked, namespace+"/"+name)
	return f, f.cannotRead
}

func (f *facts) NamespaceLabels(string) map[string]string {
	if f.panics {
		panic("a rule does not know this")
	}
	return map[string]string{}
}

func (f *facts) Deployment(_, name string) *kube.Deployment { return f.deployments[name] }

func (f *facts) HPAsFor(kube.TargetKey) []*autoscalingv2.HorizontalPodAutoscaler { return f.hpas }

func (f *facts) LimitRanges(string) []*corev1.LimitRange { return nil }

// recorder keeps what it is told.
type recorder struct {
	reviews []audit.Review
	panics  bool
}

func (r *recorder) Record(review audit.Review) {
	if r.panics {
		panic("the recorder broke")
	}
	r.reviews = append(r.reviews, review)
}

type synced struct{ err error }

func (s synced) Synced() error { return s.err }

// server answers reviews with these facts, by the built-in policy.
type server struct {
	*facts
	*recorder
	policies synced
	mux      *http.ServeMux
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{facts: &facts{}, recorder: &recorder{}, mux: http.NewServeMux()}
	reviewer := &Reviewer{
		Facts: s.facts, Policies: &s.policies, Store: policy.NewStore(), Recorder: s.recorder,
		Now: func() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC) },
	}
	reviewer.Register(webhook.NewServer(webhook.Options{WebhookMux: s.mux}), logr.Discard())
	return s
}

func (s *server) post(t *testing.T, path string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	s.mux.ServeHTTP(answer, request)
	return answer
}

// review sends a review that can be decided.
func (s *server) review(t *testing.T, path string, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	answer := s.post(t, path, marshal(t, reviewOf(request)))
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(answer.Body.Bytes(), &review); err != nil || answer.Code != http.StatusOK {
		t.Fatalf("%d: %s (%v)", answer.Code, answer.Body, err)
	}
	return review.Response
}

func reviewOf(request *admissionv1.AdmissionRequest) *admissionv1.AdmissionReview {
	return &admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// request is a write of an object; old is "" for a create.
func request(kind metav1.GroupVersionKind, object, old string) *admissionv1.AdmissionRequest {
	r := &admissionv1.AdmissionRequest{
		UID: "review", Kind: kind, Operation: admissionv1.Create, Namespace: "team", Name: "kong",
		UserInfo: authenticationv1.UserInfo{Username: "alice"}, Object: runtime.RawExtension{Raw: []byte(object)},
	}
	if old != "" {
		r.Operation, r.OldObject = admissionv1.Update, runtime.RawExtension{Raw: []byte(old)}
	}
	return r
}

// dataPlane is a data plane's JSON.
func dataPlane(replicas string) string {
	return `{"metadata":{"name":"kong","namespace":"team","uid":"deployment-uid","resourceVersion":"7"},"spec":{"replicas":` + replicas + `,
		"template":{"spec":{"containers":[{"name":"proxy","env":[{"name":"KONG_ROLE","value":"data_plane"}],"resources":{}}]}}}}`
}

func decoded(t *testing.T, text string) *kube.Deployment {
	t.Helper()
	d, err := kube.DecodeDeployment([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func hpa(lowest, highest int32) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "kong", UID: "hpa-uid", ResourceVersion: "8"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "kong"},
			MinReplicas:    &lowest, MaxReplicas: highest,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(75))},
			}}},
		},
	}
}

func TestWhatCannotBeDecidedIsAnHTTPErrorAndNoVerdict(t *testing.T) {
	create := marshal(t, reviewOf(request(deploymentKind, dataPlane("1"), "")))
	const unspecific = "internal error, see the webhook's log"
	for name, c := range map[string]struct {
		given func(*server)
		body  []byte
		want  string
	}{
		"facts not synced":    {given: func(s *server) { s.notSynced = errors.New("no facts yet") }, want: "no facts yet"},
		"policies not synced": {given: func(s *server) { s.policies.err = errors.New("no policies yet") }, want: "no policies yet"},
		"neither synced": {given: func(s *server) {
			s.notSynced, s.policies.err = errors.New("no facts yet"), errors.New("no policies yet")
		}, want: "no policies yet\nno facts yet"},
		"facts cannot be read": {given: func(s *server) { s.cannotRead = errors.New("the API server is away") }, want: "the API server is away"},
		"a Deployment that cannot be decoded": {
			body: marshal(t, reviewOf(request(deploymentKind, `{"spec":{"replicas":"many"}}`, ""))),
			want: "decode Deployment: json: cannot unmarshal string into Go struct field .spec.replicas of type int32",
		},
		"an old Deployment that cannot be decoded": {
			body: marshal(t, reviewOf(request(deploymentKind, dataPlane("1"), `[]`))),
			want: "decode Deployment: json: cannot unmarshal array into Go value of type kube.Deployment",
		},
		"an HPA that cannot be decoded": {
			body: marshal(t, reviewOf(request(hpaKind, `{"spec":7}`, ""))),
			want: "decode HorizontalPodAutoscaler: json: cannot unmarshal number into Go struct field HorizontalPodAutoscaler.spec of type v2.HorizontalPodAutoscalerSpec",
		},
		"a scale without its old one": {
			body: marshal(t, reviewOf(request(scaleKind, `{"spec":{"replicas":1}}`, ""))),
			want: "evaluate team/kong: no object that rules know",
		},
		"a kind that no rule knows": {
			body: marshal(t, reviewOf(request(metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, `{}`, ""))),
			want: "no rule knows /v1, Kind=Pod",
		},
		"no review at all":  {body: []byte(`{"kind":"Pod"`), want: unspecific},
		"an empty body":     {body: []byte{}, want: "no rule knows /, Kind="},
		"a panic in a rule": {given: func(s *server) { s.facts.panics = true }, want: unspecific},
	} {
		for _, path := range []string{MutatePath, ValidatePath} {
			t.Run(name+" "+path, func(t *testing.T) {
				s := newServer(t)
				if c.given != nil {
					c.given(s)
				}
				body := c.body
				if body == nil {
					body = create
				}
				answer := s.post(t, path, body)
				if diff := cmp.Diff("kdp-webhook could not decide: "+c.want+"\n", answer.Body.String()); diff != "" || answer.Code != http.StatusInternalServerError {
					t.Errorf("%d (-want +got):\n%s", answer.Code, diff)
				}
				if len(s.reviews) != 0 {
					t.Errorf("recorded: %+v", s.reviews)
				}
			})
		}
	}
}

func TestAPanicIsCountedAndTheNextReviewIsAnswered(t *testing.T) {
	s := newServer(t)
	before := panicsCounted(t)
	s.recorder.panics = true
	answer := s.post(t, MutatePath, marshal(t, reviewOf(request(deploymentKind, dataPlane("1"), ""))))
	if answer.Code != http.StatusInternalServerError {
		t.Errorf("%d: %s", answer.Code, answer.Body)
	}
	if n := panicsCounted(t) - before; n != 1 {
		t.Errorf("%v panics were counted", n)
	}
	s.recorder.panics = false
	if got := s.review(t, MutatePath, request(deploymentKind, dataPlane("1"), "")); !got.Allowed || len(got.Patch) == 0 {
		t.Errorf("after a panic: %+v", got)
	}
}

func TestADenialIs422WithACauseForEachField(t *testing.T) {
	s := newServer(t)
	s.deployments = map[string]*kube.Deployment{"kong": decoded(t, dataPlane("1"))}
	h := hpa(30, 50)
	got := s.review(t, ValidatePath, request(hpaKind, string(marshal(t, h)), ""))
	const lowest = "Invalid value: 30: must be between 1 and 20: set autoscaling.minReplicas in the release's values, or minReplicas in the HPA (the built-in policy)"
	const highest = "Invalid value: 50: must be between 1 and 20: set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA (the built-in policy)"
	want := &admissionv1.AdmissionResponse{
		UID: "review",
		Result: &metav1.Status{
			Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid,
			Message: `HorizontalPodAutoscaler.autoscaling "kong" is invalid: [spec.minReplicas: ` + lowest + ", spec.maxReplicas: " + highest + "]",
			Details: &metav1.StatusDetails{Name: "kong", Group: "autoscaling", Kind: "HorizontalPodAutoscaler", Causes: []metav1.StatusCause{
				{Type: metav1.CauseTypeFieldValueInvalid, Field: "spec.minReplicas", Message: lowest},
				{Type: metav1.CauseTypeFieldValueInvalid, Field: "spec.maxReplicas", Message: highest},
			}},
		},
		AuditAnnotations: map[string]string{
			"policy": "built-in", "verdict": "denied",
			"findings": `denied minReplicas: spec.minReplicas "" → "30"; denied maxReplicas: spec.maxReplicas "" → "50"`,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestAMutationRefusesNothing(t *testing.T) {
	s := newServer(t)
	s.deployments = map[string]*kube.Deployment{"kong": decoded(t, dataPlane("1"))}
	h := hpa(30, 0)
	*h.Spec.Metrics[0].Resource.Target.AverageUtilization = 80
	got := s.review(t, MutatePath, request(hpaKind, string(marshal(t, h)), ""))
	if !got.Allowed || len(got.Patch) == 0 {
		t.Errorf("response %+v", got)
	}
	if len(s.reviews) != 0 {
		t.Errorf("a change of what is going to be refused is recorded: %+v", s.reviews)
	}
}

// The audit log keeps the first of two annotations of one key.
func TestWhatMutateAndValidateAnnotateHasDifferentKeys(t *testing.T) {
	s := newServer(t)
	mutated := s.review(t, MutatePath, request(deploymentKind, dataPlane("1"), ""))
	validated := s.review(t, ValidatePath, request(deploymentKind, dataPlane("1"), ""))
	if len(mutated.AuditAnnotations) == 0 || len(validated.AuditAnnotations) == 0 {
		t.Fatal("no annotations")
	}
	for key := range mutated.AuditAnnotations {
		if _, both := validated.AuditAnnotations[key]; both {
			t.Errorf("both annotate %q", key)
		}
	}
}

func TestReplicasThatWereKeptAndLostAgainAreRefused(t *testing.T) {
	s := newServer(t)
	s.hpas = []*autoscalingv2.HorizontalPodAutoscaler{hpa(2, 10)}
	s.deployments = map[string]*kube.Deployment{"kong": decoded(t, dataPlane("4"))}
	write := request(deploymentKind, dataPlane("1"), dataPlane("4"))

	kept := s.review(t, MutatePath, write)
	want := &admissionv1.AdmissionResponse{
		UID: "review", Allowed: true, Result: &metav1.Status{Code: 200}, PatchType: new(admissionv1.PatchTypeJSONPatch),
		Patch:    []byte(`[{"op":"add","path":"/spec/replicas","value":4}]`),
		Warnings: []string{`spec.replicas: kept at 4, not 1, HPA "kong" drives it; set autoscaling.enabled=true`},
		AuditAnnotations: map[string]string{
			"mutation-policy": "built-in", "mutation": `changed replicasReset: spec.replicas "1" → "4"`,
		},
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("mutation (-want +got):\n%s", diff)
	}

	lost := s.review(t, ValidatePath, write)
	const message = `spec.replicas: Invalid value: 1: not kept at 4 instead of 1, since the HPA "kong" drives it between 2 and 10, it is at 4: `
	if lost.Allowed || lost.Result.Code != 422 || !strings.Contains(lost.Result.Message, message) || !strings.Contains(lost.Result.Message, "another webhook set it after this one") {
		t.Errorf("validation of the lost replicas: %+v", lost.Result)
	}
	if lost.AuditAnnotations["verdict"] != "denied" {
		t.Errorf("annotations %v", lost.AuditAnnotations)
	}
	// What was lost of the resources comes with the next write.
	if got := s.review(t, ValidatePath, request(deploymentKind, dataPlane("1"), "")); !got.Allowed || len(got.Warnings) > 0 {
		t.Errorf("validation of lost resources: %+v", got)
	}
}

func TestDryRunsAreAnsweredAndNotRecorded(t *testing.T) {
	s := newServer(t)
	s.hpas = []*autoscalingv2.HorizontalPodAutoscaler{hpa(2, 10)}
	for _, path := range []string{MutatePath, ValidatePath} {
		for _, write := range []*admissionv1.AdmissionRequest{
			request(deploymentKind, dataPlane("1"), ""), request(deploymentKind, dataPlane("3"), dataPlane("4")),
		} {
			wet := s.review(t, path, write)
			recorded := len(s.reviews)
			write.DryRun = new(true)
			if diff := cmp.Diff(wet, s.review(t, path, write)); diff != "" {
				t.Errorf("%s: the dry run is answered differently (-wet +dry):\n%s", path, diff)
			}
			if len(s.reviews) != recorded {
				t.Errorf("%s: the dry run is recorded", path)
			}
		}
	}
}

func TestWhatARecordIsAbout(t *testing.T) {
	scale := func(replicas string) string {
		return `{"metadata":{"name":"kong","namespace":"team","uid":"deployment-uid","resourceVersion":"7"},"spec":{"replicas":` + replicas + `}}`
	}
	inTeam := func(apiVersion, kind, name, uid, version string) corev1.ObjectReference {
		return corev1.ObjectReference{
			APIVersion: apiVersion, Kind: kind, Namespace: "team", Name: name, UID: types.UID(uid), ResourceVersion: version,
		}
	}
	namespace := inTeam("v1", "Namespace", "team", "", "")
	h := string(marshal(t, hpa(2, 10)))
	for name, c := range map[string]struct {
		write                        *admissionv1.AdmissionRequest
		wantRegarding, wantRelated   corev1.ObjectReference
		wantKind, wantOp, wantsFacts string
	}{
		"a Deployment's create": {request(deploymentKind, dataPlane("1"), ""), namespace, inTeam("apps/v1", "Deployment", "kong", "", ""), "Deployment", "CREATE", "team/"},
		"a Deployment's update": {request(deploymentKind, dataPlane("1"), dataPlane("1")), inTeam("apps/v1", "Deployment", "kong", "deployment-uid", "7"), corev1.ObjectReference{}, "Deployment", "UPDATE", "team/"},
		"an HPA's create":       {request(hpaKind, h, ""), namespace, inTeam("autoscaling/v2", "HorizontalPodAutoscaler", "kong", "", ""), "HorizontalPodAutoscaler", "CREATE", "team/kong"},
		"an HPA's update":       {request(hpaKind, h, h), inTeam("autoscaling/v2", "HorizontalPodAutoscaler", "kong", "hpa-uid", "8"), corev1.ObjectReference{}, "HorizontalPodAutoscaler", "UPDATE", "team/kong"},
		"a scale":               {request(scaleKind, scale("3"), scale("4")), inTeam("apps/v1", "Deployment", "kong", "deployment-uid", "7"), corev1.ObjectReference{}, "Scale", "UPDATE", "team/kong"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.deployments = map[string]*kube.Deployment{"kong": decoded(t, dataPlane("1"))}
			s.review(t, ValidatePath, c.write)
			if len(s.reviews) != 1 {
				t.Fatalf("%d records", len(s.reviews))
			}
			got := s.reviews[0]
			got.Decision, got.Findings = (audit.Review{}).Decision, nil
			want := audit.Review{
				Kind: c.wantKind, Operation: c.wantOp, Namespace: "team", Name: "kong", User: "alice",
				Regarding: c.wantRegarding, Related: c.wantRelated,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{c.wantsFacts}, s.asked); diff != "" {
				t.Errorf("facts asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// panicsCounted reads controller-runtime's own counter.
func panicsCounted(t *testing.T) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() == "controller_runtime_webhook_panics_total" {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
