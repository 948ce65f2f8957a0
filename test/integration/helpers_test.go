//go:build unix

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/admission"
	"github.com/kdp-webhook/kdp-webhook/test/cluster"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

// patience is how long a condition may take on busy cores.
const patience = time.Minute

// eventually waits until the condition returns nil.
func eventually(t *testing.T, condition func(ctx context.Context) error) {
	t.Helper()
	eventuallyIn(t.Context(), t, condition)
}

func eventuallyIn(ctx context.Context, t *testing.T, condition func(ctx context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}

// newNamespace creates a Namespace that the webhook is called for.
func newNamespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-" + rand.String(8), Labels: labels}}
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// outcome is what a user of kubectl sees.
type outcome struct {
	stdout, stderr string
	status         int
}

// shell runs kubectl in a namespace as somebody with this kubeconfig, in a folder that holds the files.
type shell struct {
	namespace, kubeconfig string
	// user to impersonate; empty is the kubeconfig's own.
	user  string
	dir   string
	env   []string
	stdin string
}

func (s shell) kubectl(t *testing.T, args ...string) outcome {
	t.Helper()
	command := cluster.Command{Args: append([]string{"--namespace=" + s.namespace}, args...), Kubeconfig: s.kubeconfig, Dir: s.dir, Env: s.env}
	if s.user != "" {
		command.Args = append([]string{"--as=" + s.user, "--as-group=system:masters"}, command.Args...)
	}
	if s.stdin != "" {
		command.Stdin = strings.NewReader(s.stdin)
	}
	var o outcome
	var err error
	o.stdout, o.stderr, err = plane.Run(t.Context(), command)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		o.status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o outcome) String() string {
	var b strings.Builder
	for _, l := range lines(o.stdout) {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	for _, l := range lines(o.stderr) {
		fmt.Fprintf(&b, "  ! %s\n", l)
	}
	fmt.Fprintf(&b, "  status %d\n", o.status)
	return b.String()
}

// flatten returns an object as path → value, without what differs between any two objects.
func flatten(t *testing.T, obj any) map[string]string {
	t.Helper()
	raw, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	if metadata, ok := tree["metadata"].(map[string]any); ok {
		for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace"} {
			delete(metadata, key)
		}
	}
	flat := map[string]string{}
	flattenInto(flat, "", tree)
	return flat
}

func flattenInto(flat map[string]string, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 && path != "" {
			flat[path] = "{}"
		}
		for k, item := range v {
			at := k
			if strings.ContainsAny(k, "./") {
				at = "[" + k + "]"
			} else if path != "" {
				at = "." + k
			}
			flattenInto(flat, path+at, item)
		}
	case []any:
		for i, item := range v {
			flattenInto(flat, fmt.Sprintf("%s[%d]", path, i), item)
		}
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		flat[path] = string(raw)
	}
}

// difference lists what changed from one object to the other.
func difference(from, to map[string]string) []string {
	var out []string
	for path, old := range from {
		if now, ok := to[path]; !ok {
			out = append(out, fmt.Sprintf("%s: %s → nothing", path, old))
		} else if now != old {
			out = append(out, fmt.Sprintf("%s: %s → %s", path, old, now))
		}
	}
	for path, now := range to {
		if _, ok := from[path]; !ok {
			out = append(out, fmt.Sprintf("%s: nothing → %s", path, now))
		}
	}
	sort.Strings(out)
	return out
}

// stored returns every Deployment and HPA of a namespace, flattened under Kind/name.
func stored(t *testing.T, namespace string) map[string]string {
	t.Helper()
	all := map[string]string{}
	deployments, err := admin.AppsV1().Deployments(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hpas, err := admin.AutoscalingV2().HorizontalPodAutoscalers(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range deployments.Items {
		for path, value := range flatten(t, &deployments.Items[i]) {
			all["Deployment/"+deployments.Items[i].Name+" "+path] = value
		}
	}
	for i := range hpas.Items {
		for path, value := range flatten(t, &hpas.Items[i]) {
			all["HPA/"+hpas.Items[i].Name+" "+path] = value
		}
	}
	return all
}

// golden compares a text with a file of testdata, or writes the file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden.txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines(string(want)), lines(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// auditEvent is what is read of an audit.k8s.io/v1 Event.
type auditEvent struct {
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource, Namespace, Name, Subresource string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Annotations map[string]string `json:"annotations"`
}

// auditMark is a place in the audit log.
func auditMark(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(plane.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// auditSince returns what the audit log says about writes in a namespace after the mark.
func auditSince(t *testing.T, mark int64, namespace string) []auditEvent {
	t.Helper()
	f, err := os.Open(plane.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(mark, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	var events []auditEvent
	for line := range bytes.Lines(text) {
		var e auditEvent
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &e) != nil {
			continue // being written: of a request that is not answered yet
		}
		if e.ObjectRef.Namespace == namespace && slices.Contains([]string{"create", "update", "patch"}, e.Verb) && e.ObjectRef.Resource != "events" {
			events = append(events, e)
		}
	}
	return events
}

// ours are the audit annotations about the webhook, sorted.
func (e auditEvent) ours() []string {
	var out []string
	for k, v := range e.Annotations {
		if strings.Contains(k, "kdp-webhook.io") || strings.Contains(k, "webhook.admission.k8s.io/") {
			out = append(out, k+": "+v)
		}
	}
	sort.Strings(out)
	return out
}

// patches are the patches that the mutating webhooks made.
func (e auditEvent) patches(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, k := range slices.Sorted(mapsKeys(e.Annotations)) {
		if !strings.HasPrefix(k, "patch.webhook.admission.k8s.io/") {
			continue
		}
		var a struct {
			Patch json.RawMessage `json:"patch"`
		}
		if err := json.Unmarshal([]byte(e.Annotations[k]), &a); err != nil {
			t.Fatal(err)
		}
		out = append(out, string(a.Patch))
	}
	return out
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// decisions returns the decisions that the process has counted.
func decisions(t *testing.T) float64 {
	t.Helper()
	return metric(t, "kdp_decisions_total", nil)
}

func metric(t *testing.T, name string, labels map[string]string) float64 {
	t.Helper()
	n, err := webhook.Metric(t.Context(), name, labels)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// calls is how often the two webhooks were called.
type calls struct{ Mutating, Validating int }

func callsSoFar(t *testing.T) calls {
	t.Helper()
	m, err := webhook.Calls(t.Context(), admission.MutatePath)
	if err != nil {
		t.Fatal(err)
	}
	v, err := webhook.Calls(t.Context(), admission.ValidatePath)
	if err != nil {
		t.Fatal(err)
	}
	return calls{m, v}
}

func (c calls) minus(o calls) calls {
	return calls{c.Mutating - o.Mutating, c.Validating - o.Validating}
}

// eventsIn returns the Events of a namespace.
func eventsIn(ctx context.Context, namespace string) ([]eventsv1.Event, error) {
	list, err := admin.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	return list.Items, nil
}

// httpsClient trusts what the webhook's configuration trusts.
func httpsClient(t *testing.T) *http.Client {
	t.Helper()
	config, err := admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), harness.Release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(config.Webhooks[0].ClientConfig.CABundle) {
		t.Fatal("no CA bundle in the webhook's configuration")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// send sends a review by hand, as the API server does, and returns the body of the answer.
func send(t *testing.T, client *http.Client, path string, review *admissionv1.AdmissionReview) (*admissionv1.AdmissionResponse, error) {
	t.Helper()
	return sendIn(t.Context(), t, client, path, review)
}

func sendIn(ctx context.Context, t *testing.T, client *http.Client, path string, review *admissionv1.AdmissionReview) (*admissionv1.AdmissionResponse, error) {
	t.Helper()
	review.TypeMeta = metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &answer); err != nil || answer.Response == nil {
		return nil, fmt.Errorf("%s: %s (%w)", response.Status, text, err)
	}
	return answer.Response, nil
}

// scaleReview is a dry run of a scale write.
func scaleReview(t *testing.T, user, namespace, name string, from, to int32) *admissionv1.AdmissionReview {
	t.Helper()
	object := func(replicas int32) runtime.RawExtension {
		raw, err := json.Marshal(&autoscalingv1.Scale{
			TypeMeta:   metav1.TypeMeta{APIVersion: "autoscaling/v1", Kind: "Scale"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas},
		})
		if err != nil {
			t.Fatal(err)
		}
		return runtime.RawExtension{Raw: raw}
	}
	dry := true
	return &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: types.UID(rand.String(8)), DryRun: &dry, Operation: admissionv1.Update, Namespace: namespace, Name: name,
		Kind:     metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"},
		Resource: metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, SubResource: "scale",
		UserInfo: authenticationv1.UserInfo{Username: user},
		Object:   object(to), OldObject: object(from),
	}}
}

// sentinel is an HPA whose changes tell how far the webhook's cache of HPAs is.
var sentinel struct {
	namespace string
	number    atomic.Int32
}

// syncHPAs waits until the webhook has seen every HPA as it is now. HPAs reach it in the order of their writes: when it
// has seen the last one, it has seen the others.
func syncHPAs(t *testing.T) {
	t.Helper()
	const name = "sentinel"
	if sentinel.namespace == "" {
		sentinel.namespace = newNamespace(t, nil)
		sentinel.number.Store(1000)
		create(t, unreviewed, sentinel.namespace, dataPlane(name))
		create(t, unreviewed, sentinel.namespace, hpa(name, 1, 1000, 75))
	}
	n := sentinel.number.Add(1)
	patch := fmt.Appendf(nil, `{"spec":{"maxReplicas":%d}}`, n)
	if _, err := unreviewed.AutoscalingV2().HorizontalPodAutoscalers(sentinel.namespace).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	client, seen := httpsClient(t), fmt.Sprintf(`the HPA "sentinel" drives it between 1 and %d,`, n)
	eventually(t, func(ctx context.Context) error {
		answer, err := sendIn(ctx, t, client, admission.ValidatePath, scaleReview(t, person, sentinel.namespace, name, 2, 3))
		if err != nil {
			return err
		}
		if answer.Allowed || !strings.Contains(answer.Result.Message, seen) {
			return fmt.Errorf("the webhook has not seen the latest HPA: %+v", answer)
		}
		return nil
	})
}

// read decodes YAML into a new T.
func read[T any](t *testing.T, text string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`kubectl-edit-\d+\.yaml`), "kubectl-edit-N.yaml"},
	{regexp.MustCompile(`(resourceVersion[" :\\]+)\d+`), "${1}RV"},
}

// scrub replaces what differs from run to run.
func scrub(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}
