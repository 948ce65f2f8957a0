package mutate_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/mutate"
)

// hpaExpectation is what a case's expected.yaml holds.
type hpaExpectation struct {
	Changes []string `json:"changes"`
	Patch   []string `json:"patch"`
	// Spec as it is after the patch, without its target.
	Spec map[string]any `json:"spec"`
}

// Each folder holds an HPA as admission sees it and the policy (the built-in one where there is none).
func TestHPA(t *testing.T) {
	for _, folder := range folders(t, "hpa") {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			hpa := decodeHPA(t, read(t, folder, "object.yaml"))
			raw, err := json.Marshal(hpa)
			if err != nil {
				t.Fatal(err)
			}
			a := &readPolicy(t, folder).Autoscaling
			untouched := hpa.DeepCopy()

			result := mutate.HPA(hpa, a)

			patched := apply(t, raw, result.Patch)
			golden(t, folder, "expected.yaml", hpaExpectation{
				Changes: changeLines(result.Changes), Patch: operations(t, result.Patch), Spec: specOf(t, patched),
			})
			if diff := cmp.Diff(untouched, hpa, quantities); diff != "" {
				t.Errorf("the object that was given was changed (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(decodeHPA(t, patched), result.After, quantities); diff != "" {
				t.Errorf("After is not what the patch makes (-patched +After):\n%s", diff)
			}
			if again := mutate.HPA(decodeHPA(t, patched), a); len(again.Patch)+len(again.Changes) != 0 {
				t.Errorf("mutated again it has another patch: %v", operations(t, again.Patch))
			}
		})
	}
}

func decodeHPA(t *testing.T, raw []byte) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	hpa := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict(raw, hpa); err != nil {
		t.Fatal(err)
	}
	return hpa
}

func specOf(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var o struct {
		Spec map[string]any `json:"spec"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	delete(o.Spec, "scaleTargetRef")
	return o.Spec
}
