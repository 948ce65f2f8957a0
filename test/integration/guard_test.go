//go:build unix

package integration

import (
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scalingActive is the status of an HPA that has, or has not, computed its metrics since then.
func scalingActive(status corev1.ConditionStatus, reason string, since time.Duration, desired int32) autoscalingv2.HorizontalPodAutoscalerStatus {
	return autoscalingv2.HorizontalPodAutoscalerStatus{
		CurrentReplicas: 4, DesiredReplicas: desired,
		Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{
			Type: autoscalingv2.ScalingActive, Status: status, Reason: reason, LastTransitionTime: metav1.NewTime(time.Now().Add(-since)),
		}},
	}
}

func TestTheReplicasGuardOverTheAPI(t *testing.T) {
	const able, unable = corev1.ConditionTrue, corev1.ConditionFalse
	for _, c := range []struct {
		name string
		// user who scales; empty is a person.
		user string
		// live is what runs; 0 is 4.
		live   int32
		paused bool
		status *autoscalingv2.HorizontalPodAutoscalerStatus
		to     string
		want   result
	}{
		{name: "a person", to: "3", want: refused},
		{name: "the HPA controller", user: hpaController, to: "3", want: through},
		{name: "the controller manager under its own name", user: "system:kube-controller-manager", to: "3", want: through},
		{name: "the HPA controller to outside the range", user: hpaController, to: "15", want: through},
		{name: "another service account", user: "system:serviceaccount:keda:keda-operator", to: "3", want: refused},
		{name: "a control plane identity that is not listed", user: "system:my-autoscaler", to: "3", want: through},
		{name: "a person to what the HPA wants", status: ptr(scalingActive(able, "ValidMetricFound", 0, 7)), to: "7", want: through},
		{name: "a person to something else than the HPA wants", status: ptr(scalingActive(able, "ValidMetricFound", 0, 7)), to: "6", want: refused},
		{name: "a person to what an HPA that cannot scale wanted", status: ptr(scalingActive(unable, "FailedGetResourceMetric", time.Minute, 7)), to: "7", want: refused},
		{name: "a person for two minutes without metrics", status: ptr(scalingActive(unable, "FailedGetResourceMetric", 2*time.Minute, 0)), to: "3", want: refused},
		{name: "a person for four minutes without metrics", status: ptr(scalingActive(unable, "FailedGetResourceMetric", 4*time.Minute, 0)), to: "3", want: through},
		{name: "a person while the HPA is disabled", status: ptr(scalingActive(unable, "ScalingDisabled", 4*time.Minute, 0)), to: "3", want: refused},
		{name: "a person who resumes from 0", paused: true, to: "3", want: through},
		{name: "a person from above the range into it", live: 15, to: "10", want: through},
		{name: "a person from above the range to above it", live: 15, to: "12", want: refused},
		{name: "a person from below the range into it", live: 1, to: "2", want: through},
		{name: "a person out of the range", to: "11", want: refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shell{namespace: newNamespace(t, nil), kubeconfig: alice, user: c.user}
			live := c.live
			switch {
			case c.paused:
				live = 0
			case live == 0:
				live = 4
			}
			d := dataPlane("kong")
			d.Spec.Replicas = &live
			create(t, admin, s.namespace, d)
			create(t, admin, s.namespace, hpa("kong", 2, 10, 75))
			if c.status != nil {
				setStatus(t, s.namespace, "kong", *c.status)
			}
			syncHPAs(t)
			w := write{args: []string{"scale", "deployment/kong", "--replicas=" + c.to}, want: c.want, replicas: live}
			if c.want == through {
				w.replicas = atoi(t, c.to)
			}
			golden(t, t.Name(), scrub(strings.ReplaceAll(w.real(t, s), s.namespace, "NAMESPACE")))
		})
	}
}

func TestAnOverrideIsPreservedWhereThePolicySaysSo(t *testing.T) {
	enforcePolicy(t, "preserve", head+"replicas: {onOverride: Preserve}\n")
	namespace := newNamespace(t, nil)
	live := int32(4)
	d := dataPlane("kong")
	d.Spec.Replicas = &live
	create(t, admin, namespace, d)
	create(t, admin, namespace, hpa("kong", 2, 10, 75))
	syncHPAs(t)
	s := shell{namespace: namespace, kubeconfig: alice}
	for _, c := range []struct {
		args []string
		kept string
	}{
		{[]string{"scale", "deployment/kong", "--replicas=3"}, "kept at 4, not 3"},
		{[]string{"scale", "deployment/kong", "--replicas=0"}, "kept at 4, not 0"},
		{[]string{"patch", "deployment/kong", "--patch", `{"spec":{"replicas":6}}`}, "kept at 4, not 6"},
	} {
		if o := s.kubectl(t, c.args...); o.status != 0 || !strings.Contains(o.stderr, `Warning: spec.replicas: `+c.kept+`, HPA "kong" drives it`) {
			t.Errorf("%v:\n%s", c.args, o)
		}
		if n := replicasOf(t, namespace, "kong"); n != 4 {
			t.Errorf("%v: %d replicas", c.args, n)
		}
	}
}
