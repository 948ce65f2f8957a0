//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
)

func TestOnlyWhatIsOurBusinessCostsACall(t *testing.T) {
	ns := newNamespace(t, nil)
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: excluded[len(excluded)-1]}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for _, name := range []string{"kong", "doomed"} {
		create(t, admin, ns, dataPlane(name))
	}
	create(t, admin, ns, controlPlane("control"))
	create(t, admin, ns, hpa("kong", 2, 10, 75))
	syncHPAs(t)
	patch := func(c kubernetes.Interface, name, patch string, subresources ...string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.AppsV1().Deployments(ns).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
			return err
		}
	}
	patchHPA := func(c kubernetes.Interface, patch string, subresources ...string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.AutoscalingV2().HorizontalPodAutoscalers(ns).Patch(ctx, "kong", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
			return err
		}
	}
	const annotate = `{"metadata":{"annotations":{"a":"b"}}}`
	statefulSet := hpa("other", 1, 50, 80)
	statefulSet.Spec.ScaleTargetRef.Kind = "StatefulSet"
	controller := mustClientAs(t, "system:serviceaccount:kube-system:deployment-controller")
	for _, c := range []struct {
		name string
		do   func(ctx context.Context) error
		want calls
	}{
		{"a Deployment's status", patch(admin, "kong", `{"status":{"replicas":1}}`, "status"), calls{}},
		{"an HPA's status", patchHPA(admin, `{"status":{"desiredReplicas":2}}`, "status"), calls{}},
		{"a data plane in an excluded namespace", func(ctx context.Context) error {
			_, err := apply(ctx, admin, excluded[len(excluded)-1], dataPlane("kong-"+rand.String(4)))
			return err
		}, calls{}},
		{"an HPA in an excluded namespace", func(ctx context.Context) error {
			_, err := apply(ctx, admin, excluded[len(excluded)-1], hpa("kong-"+rand.String(4), 1, 50, 80))
			return err
		}, calls{}},
		{"another control plane", func(ctx context.Context) error {
			_, err := apply(ctx, admin, ns, controlPlane("control-2"))
			return err
		}, calls{}},
		{"a change of a control plane", patch(admin, "control", annotate), calls{}},
		{"an HPA of a StatefulSet", func(ctx context.Context) error {
			_, err := apply(ctx, admin, ns, statefulSet)
			return err
		}, calls{}},
		{"the HPA controller's scale", func(ctx context.Context) error {
			return scaleTo(ctx, mustClientAs(t, hpaController), ns, "kong", 5)
		}, calls{}},
		{"a scale to what it is", func(ctx context.Context) error { return scaleTo(ctx, admin, ns, "kong", 5) }, calls{}},
		{"our own write of a data plane", patch(unreviewed, "kong", annotate), calls{}},
		{"our own write of an HPA", patchHPA(unreviewed, annotate), calls{}},
		{"what the deployment controller notes", patch(controller, "kong", `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}`), calls{}},
		{"the removal of a data plane", func(ctx context.Context) error {
			return admin.AppsV1().Deployments(ns).Delete(ctx, "doomed", metav1.DeleteOptions{})
		}, calls{}},
		{"a ConfigMap", func(ctx context.Context) error {
			_, err := apply(ctx, admin, ns, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "any"}})
			return err
		}, calls{}},
		{"a new data plane", func(ctx context.Context) error {
			_, err := apply(ctx, admin, ns, dataPlane("kong-2"))
			return err
		}, calls{Mutating: 1, Validating: 1}},
		{"a change of a data plane", patch(admin, "kong", `{"metadata":{"annotations":{"a":"c"}}}`), calls{Mutating: 1, Validating: 1}},
		{"a control plane that becomes a data plane", patch(admin, "control-2", `{"spec":{"template":{"spec":{"containers":[{"name":"proxy","image":"kong","env":[{"name":"KONG_ROLE","value":"data_plane"}]}]}}}}`), calls{Mutating: 1, Validating: 1}},
		{"a change of an HPA", patchHPA(admin, `{"spec":{"maxReplicas":9}}`), calls{Mutating: 1, Validating: 1}},
		{"a person's scale", func(ctx context.Context) error { return ignoreInvalid(scaleTo(ctx, admin, ns, "kong", 3)) }, calls{Mutating: 1, Validating: 1}},
		{"a person's scale of a control plane", func(ctx context.Context) error { return scaleTo(ctx, admin, ns, "control", 3) }, calls{Mutating: 1, Validating: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, counted := callsSoFar(t), decisions(t)
			if err := c.do(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, callsSoFar(t).minus(before)); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if c.want == (calls{}) && decisions(t) != counted {
				t.Error("something was decided")
			}
		})
	}
}

func ignoreInvalid(err error) error {
	if apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

// otherWebhook registers a webhook of somebody else, called after ours, that makes a patch of Deployments in the namespace.
func otherWebhook(t *testing.T, namespace, patch string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: true, Patch: []byte(patch), PatchType: ptr(admissionv1.PatchTypeJSONPatch),
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	name := "z-other-" + rand.String(6) // ours comes first
	none := admissionregistrationv1.SideEffectClassNone
	_, err := admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: name + ".example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none,
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: ptr(server.URL + "/"), CABundle: bundle},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
			}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// The API server has to hear of it.
	eventually(t, func(ctx context.Context) error {
		d := controlPlane("probe")
		stored, err := admin.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if len(difference(flatten(t, withDefaults(stored)), flatten(t, withDefaults(d)))) == 0 {
			return errNotThere
		}
		return nil
	})
}

// withDefaults returns what the other webhook may have patched: labels, replicas and containers.
func withDefaults(d *appsv1.Deployment) *appsv1.Deployment {
	out := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: d.Labels, Annotations: d.Annotations}}
	out.Spec.Replicas = ptr(int32(1))
	if d.Spec.Replicas != nil {
		out.Spec.Replicas = d.Spec.Replicas
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		out.Spec.Template.Spec.Containers = append(out.Spec.Template.Spec.Containers, corev1.Container{Name: c.Name, Resources: c.Resources})
	}
	return out
}

func TestAWriteThatAnotherWebhookChangesCostsTwoMutatingCallsAtMost(t *testing.T) {
	ns := newNamespace(t, nil)
	otherWebhook(t, ns, `[{"op":"add","path":"/metadata/labels","value":{"other":"was-here"}}]`)
	before := callsSoFar(t)
	d := create(t, admin, ns, dataPlane("kong"))
	if diff := cmp.Diff(calls{Mutating: 2, Validating: 1}, callsSoFar(t).minus(before)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if d.Labels["other"] != "was-here" || d.Spec.Template.Spec.Containers[0].Resources.Limits.Cpu().String() != "1200m" {
		t.Errorf("stored: %+v", d)
	}
}

func TestResourcesThatAnotherWebhookTakesAwayComeBack(t *testing.T) {
	ns := newNamespace(t, nil)
	otherWebhook(t, ns, `[{"op":"replace","path":"/spec/template/spec/containers/0/resources","value":{"requests":{"cpu":"2"}}}]`)
	d := create(t, admin, ns, dataPlane("kong"))
	got := difference(map[string]string{}, flatten(t, d.Spec.Template.Spec.Containers[0].Resources))
	want := []string{`limits.cpu: nothing → "2"`, `limits.memory: nothing → "800Mi"`, `requests.cpu: nothing → "2"`, `requests.memory: nothing → "300Mi"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stored resources (-want +got):\n%s", diff)
	}
}

func TestReplicasThatAnotherWebhookResetsAreKept(t *testing.T) {
	ns := newNamespace(t, nil)
	d := dataPlane("kong")
	d.Spec.Replicas = ptr(int32(4))
	create(t, admin, ns, d)
	create(t, admin, ns, hpa("kong", 2, 10, 75))
	syncHPAs(t)
	otherWebhook(t, ns, `[{"op":"add","path":"/spec/replicas","value":7}]`)
	// An override by a webhook is an override.
	_, err := admin.AppsV1().Deployments(ns).Patch(t.Context(), "kong", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a write that another webhook makes an override: %v", err)
	}
	if got := replicasOf(t, ns, "kong"); got != 4 {
		t.Errorf("%d replicas", got)
	}
}
