package mutate_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/mutate"
)

// deploymentExpectation is what a case's expected.yaml holds.
type deploymentExpectation struct {
	Changes []string `json:"changes"`
	Notes   []string `json:"notes"`
	Patch   []string `json:"patch"`
	// Resources of each container, and the record, as they are after the patch.
	Resources map[string]any `json:"resources"`
	Record    string         `json:"record,omitempty"`
}

// Each folder holds a Deployment as it is written, as it was before (old.yaml; none for a create), the policy (the
// built-in one where there is none) and the namespace's LimitRanges.
func TestDeployment(t *testing.T) {
	for _, folder := range folders(t, "deployment") {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			raw := read(t, folder, "object.yaml")
			before, p, ranges := readDeployment(t, folder, "old.yaml"), readPolicy(t, folder), readLimitRanges(t, folder)
			after := decode(t, raw)
			untouched := after.DeepCopy()

			result, err := mutate.Deployment(after, before, p, ranges)
			if err != nil {
				t.Fatal(err)
			}

			patched := apply(t, raw, result.Patch)
			golden(t, folder, "expected.yaml", deploymentExpectation{
				Changes: changeLines(result.Changes), Notes: noteLines(result.Notes), Patch: operations(t, result.Patch),
				Resources: resourcesOf(t, patched), Record: decode(t, patched).Metadata.Annotations[mutate.InjectedAnnotation],
			})
			if diff := cmp.Diff(untouched, after, quantities, cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
				t.Errorf("the object that was given was changed (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(decode(t, patched), result.After, asTheRulesSeeIt...); diff != "" {
				t.Errorf("After is not what the patch makes (-patched +After):\n%s", diff)
			}
			again, err := mutate.Deployment(decode(t, patched), before, p, ranges)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string(nil), operations(t, again.Patch)); diff != "" {
				t.Errorf("mutated again it has another patch (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(noteLines(result.Notes), noteLines(again.Notes)); diff != "" {
				t.Errorf("mutated again it has other notes (-first +second):\n%s", diff)
			}
			touched := differences(generic(t, raw), generic(t, patched), "")
			if path, ok := onlyUnder(touched, resourcePaths(after)...); !ok {
				t.Errorf("%s was touched", path)
			}
		})
	}
}

// asTheRulesSeeIt compares Deployments by what rules read: quantities by value, and an empty list or no resources as
// none.
var asTheRulesSeeIt = []cmp.Option{
	quantities, cmpopts.IgnoreUnexported(kube.Deployment{}), cmpopts.EquateEmpty(),
	cmp.Transformer("resources", func(r *kube.Resources) map[string]corev1.ResourceList {
		if r.Empty() {
			return nil
		}
		return map[string]corev1.ResourceList{kube.Requests: r.Requests, kube.Limits: r.Limits}
	}),
}

// resourcePaths returns the JSON pointers that a mutation may touch.
func resourcePaths(d *kube.Deployment) []string {
	paths := []string{"/metadata/annotations"}
	for _, c := range kube.CountingContainers(d.Pod()) {
		paths = append(paths, c.Pointer()+"/resources")
	}
	return paths
}

// resourcesOf returns the resources of every container of a Deployment's JSON, as they are.
func resourcesOf(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	type containers []struct {
		Name      string `json:"name"`
		Resources any    `json:"resources"`
	}
	var o struct {
		Spec struct {
			Template struct {
				Spec struct {
					InitContainers containers `json:"initContainers"`
					Containers     containers `json:"containers"`
				} `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	resources := map[string]any{}
	for _, c := range append(o.Spec.Template.Spec.Containers, o.Spec.Template.Spec.InitContainers...) {
		resources[c.Name] = c.Resources
	}
	return resources
}

func TestARequestIsNeverLeftAboveTheLimitThatWasInjected(t *testing.T) {
	for _, folder := range folders(t, "deployment") {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			raw := read(t, folder, "object.yaml")
			result, err := mutate.Deployment(decode(t, raw), readDeployment(t, folder, "old.yaml"), readPolicy(t, folder), readLimitRanges(t, folder))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range kube.AllContainers(result.After.Pod()) {
				if name, request, limit, bad := requestAboveLimit(c.Resources); bad {
					t.Errorf("%s: %s request %s, limit %s", c.Name, name, request.String(), limit.String())
				}
			}
		})
	}
}

// requestAboveLimit returns the first resource whose request is above its limit.
func requestAboveLimit(r *kube.Resources) (name corev1.ResourceName, request, limit resource.Quantity, bad bool) {
	if r == nil {
		return "", request, limit, false
	}
	for _, name := range kube.ResourceNames(r.Requests) {
		request := r.Requests[name]
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			return name, request, limit, true
		}
	}
	return "", request, limit, false
}
