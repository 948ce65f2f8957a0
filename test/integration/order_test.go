//go:build unix

package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ptr[T any](v T) *T { return &v }

func atoi(t *testing.T, text string) int32 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

func TestAnHPAThatComesBeforeItsDataPlaneIsAnsweredForByTheDataPlane(t *testing.T) {
	s := shell{namespace: newNamespace(t, nil), kubeconfig: alice}
	s.stdin = hpaManifest("early", "kong", "maxReplicas: 50\n"+cpu(75))
	want := outcome{
		stdout: "horizontalpodautoscaler.autoscaling/early created\n",
		stderr: "Warning: spec.scaleTargetRef: Deployment \"kong\" does not exist yet; if it becomes a data plane, this HPA must follow its policy\n",
	}
	if diff := cmp.Diff(want, s.kubectl(t, "create", "-f", "-"), cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("HPA first (-want +got):\n%s", diff)
	}
	syncHPAs(t)

	s.stdin = manifest("kong")
	want = outcome{status: 1, stderr: `The Deployment "kong" is invalid: horizontalPodAutoscaler[early].spec.maxReplicas: Invalid value: 50: ` +
		`the HPA "early" targets this data plane and its spec.maxReplicas must be between 1 and 20: change the HPA first, ` +
		"set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA (the built-in policy)\n"}
	if diff := cmp.Diff(want, s.kubectl(t, "create", "-f", "-"), cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("data plane of an HPA that violates (-want +got):\n%s", diff)
	}

	// Nobody holds the HPA against the policy as long as there is no data plane.
	fix := s.kubectl(t, "patch", "hpa/early", "--patch", `{"spec":{"maxReplicas":20}}`)
	if fix.status != 0 {
		t.Fatal(fix)
	}
	syncHPAs(t)
	want = outcome{stdout: "deployment.apps/kong created\n"}
	if diff := cmp.Diff(want, s.kubectl(t, "create", "-f", "-"), cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("data plane of an HPA that was mended (-want +got):\n%s", diff)
	}
}

func TestAnUpdateThatMakesADataPlaneAnswersForItsHPA(t *testing.T) {
	ns := newNamespace(t, nil)
	create(t, admin, ns, deployment("kong", "traditional"))
	create(t, admin, ns, hpa("kong", 1, 50, 75))
	syncHPAs(t)
	role := `[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"data_plane"}]`
	_, err := admin.AppsV1().Deployments(ns).Patch(t.Context(), "kong", types.JSONPatchType, []byte(role), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `horizontalPodAutoscaler[kong].spec.maxReplicas: Invalid value: 50`) {
		t.Errorf("become a data plane: %v", err)
	}
}

func TestAnHPAOfWhatIsNoDataPlaneIsNeverTouched(t *testing.T) {
	for name, h := range map[string]*autoscalingv2.HorizontalPodAutoscaler{
		"of a control plane": hpa("control", 1, 50, 80),
		"of a StatefulSet": func() *autoscalingv2.HorizontalPodAutoscaler {
			h := hpa("kong", 1, 50, 80)
			h.Spec.ScaleTargetRef.Kind = "StatefulSet"
			return h
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t, nil)
			create(t, admin, ns, controlPlane("control"))
			create(t, admin, ns, dataPlane("kong"))
			stored := create(t, admin, ns, h)
			if diff := difference(flatten(t, h), flatten(t, stored)); !slices.Equal(diff, []string{"metadata.generation: nothing → 1"}) {
				t.Errorf("what changed: %q", diff)
			}
		})
	}
}

// The informers need a moment to hear of a Deployment; its HPA does not wait for that.
func TestAnHPARightAfterItsDataPlaneIsJudged(t *testing.T) {
	ns := newNamespace(t, nil)
	for i := range 20 {
		name := fmt.Sprintf("kong-%d", i)
		create(t, admin, ns, dataPlane(name))
		_, err := apply(t.Context(), admin, ns, hpa(name, 1, 50, 75))
		if !apierrors.IsInvalid(err) {
			t.Fatalf("HPA %d: %v", i, err)
		}
		// And so is its namespace.
		fresh := newNamespace(t, nil)
		create(t, admin, fresh, dataPlane(name))
		if _, err = apply(t.Context(), admin, fresh, hpa(name, 1, 50, 75)); !apierrors.IsInvalid(err) {
			t.Fatalf("HPA %d in a new namespace: %v", i, err)
		}
	}
}

// What the cache knows is not read again: a Deployment that has become a data plane counts as one when the cache has heard.
func TestAnHPAOfADeploymentThatBecameADataPlaneIsJudgedSoon(t *testing.T) {
	ns := newNamespace(t, nil)
	create(t, admin, ns, deployment("kong", "traditional"))
	role := `[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"data_plane"}]`
	if _, err := admin.AppsV1().Deployments(ns).Patch(t.Context(), "kong", types.JSONPatchType, []byte(role), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	eventually(t, func(ctx context.Context) error {
		_, err := admin.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(ctx, hpa("kong", 1, 50, 75), dry)
		if !apierrors.IsInvalid(err) {
			return fmt.Errorf("not refused yet: %w", err)
		}
		return nil
	})
}
