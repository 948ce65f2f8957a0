//go:build unix

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var errNotThere = errors.New("not there yet")

// told is an Event as a test compares it.
func told(e *eventsv1.Event, uids map[types.UID]string) string {
	reference := func(r corev1.ObjectReference) string {
		uid := "without UID"
		if r.UID != "" {
			if uid = uids[r.UID]; uid == "" {
				uid = "UNKNOWN UID"
			}
		}
		namespace := ""
		if r.Namespace == e.Namespace {
			namespace = ", own namespace"
		}
		return fmt.Sprintf("%s %s/%s (%s%s)", r.APIVersion, r.Kind, r.Name, uid, namespace)
	}
	text := fmt.Sprintf("%s %s %s by %s/%s on %s", e.Type, e.Reason, e.Action, e.ReportingController, e.ReportingInstance, reference(e.Regarding))
	if e.Related != nil {
		text += " related " + reference(*e.Related)
	}
	if e.Series != nil {
		text += fmt.Sprintf(" ×%d", e.Series.Count)
	}
	return text + ": " + e.Note
}

func expectEvents(t *testing.T, namespace string, uids map[types.UID]string, want ...string) {
	t.Helper()
	var diff string
	t.Cleanup(func() {
		if t.Failed() && diff != "" {
			t.Logf("events (-want +got):\n%s", diff)
		}
	})
	eventually(t, func(ctx context.Context) error {
		events, err := eventsIn(ctx, namespace)
		if err != nil {
			return err
		}
		var got []string
		for i := range events {
			got = append(got, strings.ReplaceAll(told(&events[i], uids), namespace, "NAMESPACE"))
		}
		if diff = cmp.Diff(want, got); diff != "" {
			return errNotThere
		}
		return nil
	})
}

const by = " by kdp-webhook.io/kdp-webhook/webhook on "

func TestWhatWasChangedOrRefusedIsToldInEvents(t *testing.T) {
	s := shell{namespace: newNamespace(t, nil), kubeconfig: alice}
	ns := s.namespace
	uids := map[types.UID]string{}
	var want []string
	expect := func(text string) {
		t.Helper()
		want = append(want, text)
		expectEvents(t, ns, uids, want...)
	}

	s.stdin = manifest("kong")
	if o := s.kubectl(t, "create", "-f", "-"); o.status != 0 {
		t.Fatal(o)
	}
	const namespace = "v1 Namespace/NAMESPACE (without UID, own namespace)"
	expect("Normal PolicyApplied resources" + by + namespace + " related apps/v1 Deployment/kong (without UID, own namespace): " +
		"Deployment kong: changed what alice wrote: spec.template.spec.containers[0].resources.requests[cpu]: set to 300m; " +
		"spec.template.spec.containers[0].resources.requests[memory]: set to 300Mi; " +
		"spec.template.spec.containers[0].resources.limits[cpu]: set to 1200m; " +
		"spec.template.spec.containers[0].resources.limits[memory]: set to 800Mi (the built-in policy)")
	d, err := admin.AppsV1().Deployments(ns).Get(t.Context(), "kong", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	uids[d.UID] = "UID of the Deployment"

	s.stdin = hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 50\n"+cpu(80))
	if o := s.kubectl(t, "create", "-f", "-"); o.status == 0 {
		t.Fatal(o)
	}
	expect("Warning PolicyViolation maxReplicas" + by + namespace + " related autoscaling/v2 HorizontalPodAutoscaler/kong (without UID, own namespace): " +
		"HorizontalPodAutoscaler kong: alice was refused: spec.maxReplicas 50: must be between 1 and 20: set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA (the built-in policy)")

	s.stdin = hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 10\n"+cpu(80))
	if o := s.kubectl(t, "create", "-f", "-"); o.status != 0 {
		t.Fatal(o)
	}
	expect("Normal PolicyApplied targetCPUUtilization" + by + namespace + " related autoscaling/v2 HorizontalPodAutoscaler/kong (without UID, own namespace): " +
		"HorizontalPodAutoscaler kong: changed what alice wrote: spec.metrics[0].resource.target.averageUtilization: set to 75 (the built-in policy)")
	h, err := admin.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(t.Context(), "kong", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	uids[h.UID] = "UID of the HPA"

	if o := s.kubectl(t, "patch", "hpa/kong", "--patch", `{"spec":{"maxReplicas":21}}`); o.status == 0 {
		t.Fatal(o)
	}
	expect("Warning PolicyViolation maxReplicas" + by + "autoscaling/v2 HorizontalPodAutoscaler/kong (UID of the HPA, own namespace): " +
		"alice was refused: spec.maxReplicas 10 → 21: must be between 1 and 20: set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA (the built-in policy)")

	mustScaleTo(t, mustClientAs(t, hpaController), ns, "kong", 4)
	syncHPAs(t)
	const refusal = "Warning PolicyViolation replicasOverride" + by + "apps/v1 Deployment/kong (UID of the Deployment, own namespace) related autoscaling/v2 HorizontalPodAutoscaler/kong (without UID, own namespace)%s: " +
		`alice was refused: spec.replicas 4 → 3: the HPA "kong" drives it between 2 and 10, it is at 4: ` +
		`to hold at most 3, run: kubectl patch hpa kong --patch '{"spec":{"maxReplicas":3}}' (the built-in policy)`
	for n := 1; n <= 3; n++ {
		if o := s.kubectl(t, "scale", "deployment/kong", "--replicas=3"); o.status == 0 {
			t.Fatal(o)
		}
		if n == 1 {
			expect(fmt.Sprintf(refusal, ""))
		} else {
			want[len(want)-1] = fmt.Sprintf(refusal, fmt.Sprintf(" ×%d", n))
			expectEvents(t, ns, uids, want...)
		}
	}
	// Somebody else, and another number, are other Events.
	bob := s
	bob.user = "bob"
	if o := bob.kubectl(t, "scale", "deployment/kong", "--replicas=3"); o.status == 0 {
		t.Fatal(o)
	}
	expect(strings.ReplaceAll(fmt.Sprintf(refusal, ""), "alice", "bob"))

	if o := s.kubectl(t, "patch", "deployment/kong", "--patch", `{"spec":{"replicas":1}}`); o.status != 0 {
		t.Fatal(o)
	}
	expect("Normal PolicyApplied replicasReset" + by + "apps/v1 Deployment/kong (UID of the Deployment, own namespace) related autoscaling/v2 HorizontalPodAutoscaler/kong (without UID, own namespace): " +
		`changed what alice wrote: spec.replicas: kept at 4 instead of 1, since the HPA "kong" drives it between 2 and 10, it is at 4: ` +
		"set autoscaling.enabled=true in the release's values or remove replicaCount from them (spec.replicas from a manifest); to end autoscaling, delete the HPA first (the built-in policy)")
	if n := metric(t, "kdp_events_dropped_total", nil); n != 0 {
		t.Errorf("%v events were dropped", n)
	}
}

func TestNothingIsToldAboutDryRuns(t *testing.T) {
	s := shell{namespace: newNamespace(t, nil), kubeconfig: alice}
	create(t, admin, s.namespace, dataPlane("kong")) // one Event
	create(t, admin, s.namespace, hpa("kong", 2, 10, 75))
	mustScaleTo(t, mustClientAs(t, hpaController), s.namespace, "kong", 4)
	syncHPAs(t)
	for _, args := range [][]string{
		command("scale deployment/kong --replicas=3 --dry-run=server"),
		append(command("patch deployment/kong --dry-run=server --patch"), `{"spec":{"replicas":1}}`),
		append(command("patch hpa/kong --dry-run=server --patch"), `{"spec":{"maxReplicas":50}}`),
	} {
		s.kubectl(t, args...)
	}
	// The last Event of all comes after those that there should not be.
	if o := s.kubectl(t, "scale", "deployment/kong", "--replicas=5"); o.status == 0 {
		t.Fatal(o)
	}
	eventually(t, func(ctx context.Context) error {
		events, err := eventsIn(ctx, s.namespace)
		if err != nil {
			return err
		}
		if len(events) < 2 {
			return errNotThere
		}
		if len(events) > 2 || events[1].Action != "replicasOverride" || !strings.Contains(events[1].Note, "4 → 5") {
			t.Errorf("events %+v", events)
		}
		return nil
	})
}

func TestEveryDecisionIsALineOfTheLog(t *testing.T) {
	namespace := newNamespace(t, nil)
	create(t, admin, namespace, dataPlane("kong"))
	create(t, admin, namespace, hpa("kong", 2, 10, 75))
	s := shell{namespace: namespace, kubeconfig: alice}
	s.kubectl(t, "patch", "hpa", "kong", "--patch", `{"spec":{"maxReplicas":50}}`)
	log, err := os.ReadFile(webhook.Log())
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	for line := range bytes.Lines(log) {
		var entry map[string]any
		if json.Unmarshal(line, &entry) == nil && entry["msg"] == "decision" && entry["namespace"] == namespace && entry["verdict"] == "denied" {
			delete(entry, "ts")
			got = append(got, entry)
		}
	}
	want := []map[string]any{{
		"level": "info", "logger": "audit", "msg": "decision", "verdict": "denied", "rule": "maxReplicas", "mode": "Enforce",
		"policy": "built-in", "user": person, "operation": "UPDATE", "kind": "HorizontalPodAutoscaler", "namespace": namespace, "name": "kong",
		"field": "spec.maxReplicas", "old": "10", "new": "50",
		"message": "must be between 1 and 20: set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
