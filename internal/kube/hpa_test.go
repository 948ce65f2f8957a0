package kube_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

func hpaSpec(t *testing.T, text string) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	hpa := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(text), &hpa.Spec); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return hpa
}

func TestCPUTargetsAndServerDefault(t *testing.T) {
	const (
		cpu      = `{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}`
		cpu75    = `{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 75}}}`
		cpuValue = `{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 500m}}}`
		memory   = `{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 80}}}`
		proxy    = `{type: ContainerResource, containerResource: {name: cpu, container: proxy, target: {type: Utilization, averageUtilization: 80}}}`
		external = `{type: External, external: {metric: {name: rps}, target: {type: AverageValue, averageValue: "1"}}}`
		empty    = `{type: Resource, resource: {name: cpu, target: {type: Utilization}}}`
		hollow   = `{type: Resource}`
	)
	tests := map[string]struct {
		metrics       string
		want          []kube.CPUTarget
		serverDefault bool
	}{
		"no metrics":                               {metrics: ``},
		"what the server puts in":                  {metrics: cpu, want: []kube.CPUTarget{{Utilization: 80}}, serverDefault: true},
		"another CPU target":                       {metrics: cpu75, want: []kube.CPUTarget{{Utilization: 75}}},
		"memory at 80 is no CPU target":            {metrics: memory},
		"CPU by value is no utilization":           {metrics: cpuValue},
		"CPU of a container is not lonely default": {metrics: proxy, want: []kube.CPUTarget{{Container: "proxy", Utilization: 80}}},
		"CPU at 80 beside another metric was asked for": {
			metrics: external + "," + cpu, want: []kube.CPUTarget{{Index: 1, Utilization: 80}},
		},
		"two CPU targets, in spec order": {
			metrics: proxy + "," + cpu75, want: []kube.CPUTarget{{Container: "proxy", Utilization: 80}, {Index: 1, Utilization: 75}},
		},
		"a utilization that is left out": {metrics: empty},
		"a metric without its source":    {metrics: hollow},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			hpa := hpaSpec(t, `{scaleTargetRef: {kind: Deployment, name: kong}, maxReplicas: 2, metrics: [`+tt.metrics+`]}`)
			if diff := cmp.Diff(tt.want, kube.CPUTargets(hpa)); diff != "" {
				t.Errorf("CPUTargets (-want +got):\n%s", diff)
			}
			if got := kube.HasServerDefaultMetrics(hpa); got != tt.serverDefault {
				t.Errorf("HasServerDefaultMetrics = %v, want %v", got, tt.serverDefault)
			}
		})
	}
}

func TestCPUTargetField(t *testing.T) {
	if got := (kube.CPUTarget{}).Field(); got != "resource" {
		t.Errorf("of the pods: %q", got)
	}
	if got := (kube.CPUTarget{Container: "proxy"}).Field(); got != "containerResource" {
		t.Errorf("of a container: %q", got)
	}
}

func TestMinReplicas(t *testing.T) {
	hpa := &autoscalingv2.HorizontalPodAutoscaler{}
	if got := kube.MinReplicas(hpa); got != 1 {
		t.Errorf("left out: %d, want 1", got)
	}
	zero := int32(0)
	hpa.Spec.MinReplicas = &zero
	if got := kube.MinReplicas(hpa); got != 0 {
		t.Errorf("zero: %d, want 0", got)
	}
}

func TestCannotScale(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	condition := func(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason string, since metav1.Time) autoscalingv2.HorizontalPodAutoscalerCondition {
		return autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind, Status: status, Reason: reason, LastTransitionTime: since}
	}
	tests := map[string]struct {
		conditions []autoscalingv2.HorizontalPodAutoscalerCondition
		reason     string
		want       bool
	}{
		"an HPA that has no status yet": {},
		"active": {conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
			condition(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", ago(time.Hour)),
		}},
		"its metrics fail for an hour": {
			conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
				condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", ago(time.Hour)),
				condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetResourceMetric", ago(time.Hour)),
			},
			reason: "FailedGetResourceMetric", want: true,
		},
		"its metrics fail for exactly three minutes": {
			conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
				condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetResourceMetric", ago(3*time.Minute)),
			},
			reason: "FailedGetResourceMetric",
		},
		"its metrics fail for a second more": {
			conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
				condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetExternalMetric", ago(3*time.Minute+time.Second)),
			},
			reason: "FailedGetExternalMetric", want: true,
		},
		"it is paused": {conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
			condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", ago(time.Hour)),
		}},
		"its selector is ambiguous": {conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
			condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector", ago(time.Hour)),
		}},
		"another condition fails to get something": {conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
			condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", ago(time.Hour)),
		}},
		"nobody knows": {conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
			condition(autoscalingv2.ScalingActive, corev1.ConditionUnknown, "FailedGetResourceMetric", ago(time.Hour)),
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			hpa := &autoscalingv2.HorizontalPodAutoscaler{}
			hpa.Status.Conditions = tt.conditions
			reason, cannot := kube.CannotScale(hpa, now)
			if reason != tt.reason || cannot != tt.want {
				t.Errorf("CannotScale = %q, %v, want %q, %v", reason, cannot, tt.reason, tt.want)
			}
		})
	}
}
