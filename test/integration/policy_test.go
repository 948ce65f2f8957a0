//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kdp-webhook/kdp-webhook/internal/admission"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

const head = "apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\n"

// writePolicy creates or updates a policy ConfigMap.
func writePolicy(ctx context.Context, name, document string) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{policy.Label: "true"}},
		Data:       map[string]string{policy.DataKey: document},
	}
	stored, err := admin.CoreV1().ConfigMaps(harness.Namespace).Update(ctx, cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		stored, err = admin.CoreV1().ConfigMaps(harness.Namespace).Create(ctx, cm, metav1.CreateOptions{})
	}
	return stored, err
}

// enforcePolicy writes a policy and waits until it is in force; the test's end takes it back.
func enforcePolicy(t *testing.T, name, document string) *corev1.ConfigMap {
	t.Helper()
	client := httpsClient(t)
	t.Cleanup(func() {
		deletePolicy(t, client, name)
	})
	cm, err := writePolicy(t.Context(), name, document)
	if err != nil {
		t.Fatal(err)
	}
	awaitPolicy(t.Context(), t, client, name+"@"+cm.ResourceVersion)
	return cm
}

func deletePolicy(t *testing.T, client *http.Client, name string) {
	t.Helper()
	ctx := context.Background() // the test may be over
	if err := admin.CoreV1().ConfigMaps(harness.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	awaitPolicy(ctx, t, client, "built-in")
}

// createReview is a dry run of creating a data plane.
func createReview(t *testing.T) *admissionv1.AdmissionReview {
	t.Helper()
	raw, err := json.Marshal(dataPlane("kong"))
	if err != nil {
		t.Fatal(err)
	}
	dry := true
	return &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "create", DryRun: &dry, Operation: admissionv1.Create, Namespace: metav1.NamespaceDefault, Name: "kong",
		Kind:     metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Resource: metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		UserInfo: authenticationv1.UserInfo{Username: person}, Object: runtime.RawExtension{Raw: raw},
	}}
}

// awaitPolicy waits until that version of a policy is in force.
func awaitPolicy(ctx context.Context, t *testing.T, client *http.Client, version string) {
	t.Helper()
	eventuallyIn(ctx, t, func(ctx context.Context) error {
		answer, err := sendIn(ctx, t, client, admission.ValidatePath, createReview(t))
		if err != nil {
			return err
		}
		if got := answer.AuditAnnotations["policy"]; got != version {
			return fmt.Errorf("policy %q is in force, not %q", got, version)
		}
		return nil
	})
}

// numbered is a policy whose four numbers say which version it is.
func numbered(n int) string {
	return head + fmt.Sprintf("resources:\n  proxy:\n    requests: {cpu: %[1]dm, memory: %[1]dMi}\n    limits: {cpu: %[2]dm, memory: %[2]dMi}\n", 100+n, 200+n)
}

func TestAPolicyThatIsEditedWhileRequestsRunHoldsForEachOfThemWhole(t *testing.T) {
	const name, versions = "edited", 25
	first := enforcePolicy(t, name, numbered(0))
	client := httpsClient(t)
	type answer struct{ version, patch string }
	var mu sync.Mutex
	answers := map[answer]int{}
	byVersion := map[string]int{name + "@" + first.ResourceVersion: 0}

	ctx := t.Context()
	running, stop := context.WithCancel(ctx)
	defer stop()
	var workers errgroup.Group
	for range 4 {
		workers.Go(func() error {
			for running.Err() == nil {
				response, err := sendIn(ctx, t, client, admission.MutatePath, createReview(t))
				if err != nil {
					return err
				}
				mu.Lock()
				answers[answer{response.AuditAnnotations["mutation-policy"], string(response.Patch)}]++
				mu.Unlock()
			}
			return nil
		})
	}
	for n := 1; n <= versions; n++ {
		cm, err := writePolicy(t.Context(), name, numbered(n))
		if err != nil {
			t.Fatal(err)
		}
		version := name + "@" + cm.ResourceVersion
		byVersion[version] = n
		if n%5 == 0 { // some follow each other at once, some are waited for
			awaitPolicy(ctx, t, client, version)
		}
	}
	stop()
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for a := range answers {
		n, known := byVersion[a.version]
		seen[a.version] = true
		if !known {
			t.Errorf("answer by %q, which is no version of the policy", a.version)
		}
		requests, limits := fmt.Sprintf(`{"cpu":"%[1]dm","memory":"%[1]dMi"}`, 100+n), fmt.Sprintf(`{"cpu":"%[1]dm","memory":"%[1]dMi"}`, 200+n)
		const at = "/spec/template/spec/containers/0/resources/"
		want := fmt.Sprintf(`[{"op":"add","path":"%srequests","value":%s},{"op":"add","path":"%slimits","value":%s},`+
			`{"op":"add","path":"/metadata/annotations","value":{"kdp-webhook.io/injected":%q}}]`,
			at, requests, at, limits, fmt.Sprintf(`{"proxy":{"limits":%s,"requests":%s}}`, limits, requests))
		if a.patch != want {
			t.Errorf("answer by version %d (%s) holds other numbers: %s, not %s", n, a.version, a.patch, want)
		}
	}
	if len(seen) < 5 {
		t.Errorf("only %d versions of %d were in force while requests ran", len(seen), versions)
	}
	// What is stored goes by it, too.
	d := create(t, admin, newNamespace(t, nil), dataPlane("kong"))
	if got := d.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().String(); got != fmt.Sprintf("%dm", 100+versions) {
		t.Errorf("stored request %s", got)
	}
}

func TestABrokenPolicyLeavesTheLastGoodOneInForce(t *testing.T) {
	const name = "broken"
	good := enforcePolicy(t, name, numbered(1))
	client := httpsClient(t)
	for _, c := range []struct{ name, document string }{
		{"unknown field", head + "modes: Enforce\n"},
		{"bad quantity", head + "resources: {proxy: {requests: {cpu: 12 apples}}}\n"},
		{"min above max", head + "autoscaling: {maxReplicas: {min: 9, max: 3}}\n"},
		{"all at once", head + "modes: Enforce\nresources: {proxy: {requests: {cpu: 12 apples}}}\nautoscaling: {maxReplicas: {min: 9, max: 3}}\n"},
		{"not YAML", "{"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cm, err := writePolicy(t.Context(), name, c.document)
			if err != nil {
				t.Fatal(err)
			}
			var note string
			eventually(t, func(ctx context.Context) error {
				events, err := eventsIn(ctx, harness.Namespace)
				if err != nil {
					return err
				}
				for _, e := range events {
					if e.Reason == "PolicyInvalid" && e.Regarding.ResourceVersion == cm.ResourceVersion {
						if e.Regarding.Kind != "ConfigMap" || e.Regarding.Name != name || e.Regarding.UID != good.UID || e.Type != corev1.EventTypeWarning || e.Action != "load" {
							t.Errorf("event %+v", e)
						}
						note = e.Note
						return nil
					}
				}
				return fmt.Errorf("no PolicyInvalid event of version %s", cm.ResourceVersion)
			})
			golden(t, t.Name(), strings.ReplaceAll(note, "resourceVersion "+good.ResourceVersion, "resourceVersion GOOD")+"\n")
			awaitPolicy(t.Context(), t, client, name+"@"+good.ResourceVersion)
		})
	}
	t.Run("without the key", func(t *testing.T) {
		cm := good.DeepCopy()
		cm.ResourceVersion, cm.Data = "", nil
		if _, err := admin.CoreV1().ConfigMaps(harness.Namespace).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitPolicy(t.Context(), t, client, name+"@"+good.ResourceVersion)
	})
	t.Run("mended", func(t *testing.T) {
		cm, err := writePolicy(t.Context(), name, numbered(2))
		if err != nil {
			t.Fatal(err)
		}
		awaitPolicy(t.Context(), t, client, name+"@"+cm.ResourceVersion)
	})
	t.Run("deleted", func(t *testing.T) {
		deletePolicy(t, client, name)
		d := create(t, admin, newNamespace(t, nil), dataPlane("kong"))
		if got := d.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().String(); got != "300m" {
			t.Errorf("stored request %s", got)
		}
	})
	t.Run("without the label it is none", func(t *testing.T) {
		cm := enforcePolicy(t, "unlabelled", numbered(3))
		cm.Labels = nil
		if _, err := admin.CoreV1().ConfigMaps(harness.Namespace).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitPolicy(t.Context(), t, client, "built-in")
	})
}

func TestModesSayWhatBecomesOfAFinding(t *testing.T) {
	for _, mode := range []string{"Warn", "Audit", "Off"} {
		t.Run(mode, func(t *testing.T) {
			name := "mode-" + strings.ToLower(mode)
			cm := enforcePolicy(t, name, head+"mode: "+mode+"\n")
			s := shell{namespace: newNamespace(t, nil), kubeconfig: alice}
			before := map[string]float64{}
			labels := func(verdict string) map[string]string { return map[string]string{"verdict": verdict, "policy": name} }
			verdicts := []string{"allowed", "audited", "warned", "changed", "denied"}
			for _, v := range verdicts {
				before[v] = metric(t, "kdp_decisions_total", labels(v))
			}
			var transcript strings.Builder
			s.stdin = manifest("kong", "replicas: 4")
			w := write{want: through, replicas: 4}
			for _, w.args = range [][]string{{"create", "-f", "-"}, {"create", "-f", "-", "--save-config"}, command("scale deployment/kong --replicas=3"), command("annotate deployment/kong a=b")} {
				if len(w.args) == 4 && w.args[0] == "create" {
					s.stdin = hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 50\n"+cpu(80))
				}
				if w.args[0] == "scale" {
					awaitHPA(t, s.namespace)
					w.replicas = 3
				}
				transcript.WriteString(w.real(t, s))
			}
			counted := map[string]float64{}
			for _, v := range verdicts {
				if n := metric(t, "kdp_decisions_total", labels(v)) - before[v]; n != 0 {
					counted[v] = n
				}
			}
			fmt.Fprintf(&transcript, "counted %v\n", counted)
			golden(t, t.Name(), scrub(strings.NewReplacer(s.namespace, "NAMESPACE", "@"+cm.ResourceVersion, "@VERSION").Replace(transcript.String())))
		})
	}
}

// awaitHPA waits until the webhook knows of the HPA "kong" in a mode that does not tell: the API server's watch has
// brought it to others by then, and the Deployment's create would have been answered by it.
func awaitHPA(t *testing.T, namespace string) {
	t.Helper()
	client := httpsClient(t)
	eventually(t, func(ctx context.Context) error {
		answer, err := sendIn(ctx, t, client, admission.ValidatePath, scaleReview(t, person, namespace, "kong", 5, 6))
		if err != nil {
			return err
		}
		if v := answer.AuditAnnotations["verdict"]; v == "allowed" && !strings.HasPrefix(answer.AuditAnnotations["policy"], "mode-off") {
			return fmt.Errorf("the HPA is not known yet: %v", answer.AuditAnnotations)
		}
		return nil
	})
}
