//go:build unix

package integration

import (
	"bytes"
	"encoding/json"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kdp-webhook/kdp-webhook/internal/admission"
)

func TestFieldsThatOurTypesDoNotKnowAreKept(t *testing.T) {
	const object = `{
		"apiVersion": "apps/v1", "kind": "Deployment", "newTop": {"a": [1, 2.5, null]},
		"metadata": {"name": "kong", "namespace": "NS", "newMeta": "x"},
		"spec": {"replicas": 1, "newSpec": {"deep": {"er": true}},
			"selector": {"matchLabels": {"app": "kong"}},
			"template": {"metadata": {"labels": {"app": "kong"}}, "newTemplate": 9007199254740993,
				"spec": {"newPod": [], "containers": [
					{"name": "log", "image": "log", "newSidecar": {}},
					{"name": "proxy", "image": "kong", "newContainer": "y", "resources": {"newResources": [{"name": "gpu"}]},
						"env": [{"name": "KONG_ROLE", "value": "data_plane", "newEnv": 1}]}]}}}}`
	const wanted = `{
		"apiVersion": "apps/v1", "kind": "Deployment", "newTop": {"a": [1, 2.5, null]},
		"metadata": {"name": "kong", "namespace": "NS", "newMeta": "x", "annotations": {
			"kdp-webhook.io/injected": "{\"proxy\":{\"limits\":{\"cpu\":\"1200m\",\"memory\":\"800Mi\"},\"requests\":{\"cpu\":\"300m\",\"memory\":\"300Mi\"}}}"}},
		"spec": {"replicas": 1, "newSpec": {"deep": {"er": true}},
			"selector": {"matchLabels": {"app": "kong"}},
			"template": {"metadata": {"labels": {"app": "kong"}}, "newTemplate": 9007199254740993,
				"spec": {"newPod": [], "containers": [
					{"name": "log", "image": "log", "newSidecar": {}},
					{"name": "proxy", "image": "kong", "newContainer": "y", "resources": {"newResources": [{"name": "gpu"}],
							"requests": {"cpu": "300m", "memory": "300Mi"}, "limits": {"cpu": "1200m", "memory": "800Mi"}},
						"env": [{"name": "KONG_ROLE", "value": "data_plane", "newEnv": 1}]}]}}}}`
	ns := newNamespace(t, nil)
	dry := true
	review := &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "by-hand", DryRun: &dry, Operation: admissionv1.Create, Namespace: ns, Name: "kong",
		Kind:     metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Resource: metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		UserInfo: authenticationv1.UserInfo{Username: person},
		Object:   runtime.RawExtension{Raw: []byte(object)},
	}}
	got, err := send(t, httpsClient(t), admission.MutatePath, review)
	if err != nil {
		t.Fatal(err)
	}
	patch := got.Patch
	got.Patch = nil
	want := &admissionv1.AdmissionResponse{
		UID: "by-hand", Allowed: true, PatchType: ptr(admissionv1.PatchTypeJSONPatch), Result: &metav1.Status{Code: 200},
		AuditAnnotations: map[string]string{
			"mutation-policy": "built-in",
			"mutation": `changed resources: spec.template.spec.containers[1].resources.requests[cpu] "" → "300m"; ` +
				`changed resources: spec.template.spec.containers[1].resources.requests[memory] "" → "300Mi"; ` +
				`changed resources: spec.template.spec.containers[1].resources.limits[cpu] "" → "1200m"; ` +
				`changed resources: spec.template.spec.containers[1].resources.limits[memory] "" → "800Mi"`,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	operations, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	result, err := operations.Apply([]byte(object))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, []byte(wanted)), tree(t, result)); diff != "" {
		t.Errorf("object after %s (-want +got):\n%s", patch, diff)
	}

	// The patched object is no more work: no patch, and admitted.
	review.Request.Object.Raw = result
	for _, path := range []string{admission.MutatePath, admission.ValidatePath} {
		got, err := send(t, httpsClient(t), path, review)
		if err != nil {
			t.Fatal(err)
		}
		want := &admissionv1.AdmissionResponse{UID: "by-hand", Allowed: true, Result: &metav1.Status{Code: 200}}
		if path == admission.ValidatePath {
			want.AuditAnnotations = map[string]string{"policy": "built-in", "verdict": "allowed"}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s of the patched object (-want +got):\n%s", path, diff)
		}
	}
}

// tree decodes JSON with numbers as they are written.
func tree(t *testing.T, text []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
