package kube

import (
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// ServerDefaultCPUUtilization is the CPU target, in percent of the requests, that the API server puts into an HPA
// without metrics (autoscaling/v2 defaulting, DefaultCPUUtilization).
const ServerDefaultCPUUtilization = 80

// CPUTarget is a metric of an HPA that aims at a CPU utilization.
type CPUTarget struct {
	// Index of the metric in spec.metrics.
	Index int
	// Container is empty for a Resource metric, the container's name for a ContainerResource metric.
	Container string
	// Utilization aimed at, in percent of the requests.
	Utilization int32
}

// Field returns the name of the metric's own field in spec.metrics.
func (t CPUTarget) Field() string {
	if t.Container != "" {
		return "containerResource"
	}
	return "resource"
}

// CPUTargets returns the HPA's metrics that aim at a CPU utilization, in spec order.
func CPUTargets(hpa *autoscalingv2.HorizontalPodAutoscaler) []CPUTarget {
	var targets []CPUTarget
	for i, m := range hpa.Spec.Metrics {
		switch {
		case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil &&
			m.Resource.Name == corev1.ResourceCPU && aimsAtUtilization(m.Resource.Target):
			targets = append(targets, CPUTarget{Index: i, Utilization: *m.Resource.Target.AverageUtilization})
		case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil &&
			m.ContainerResource.Name == corev1.ResourceCPU && aimsAtUtilization(m.ContainerResource.Target):
			targets = append(targets, CPUTarget{
				Index: i, Container: m.ContainerResource.Container,
				Utilization: *m.ContainerResource.Target.AverageUtilization,
			})
		}
	}
	return targets
}

func aimsAtUtilization(t autoscalingv2.MetricTarget) bool {
	return t.Type == autoscalingv2.UtilizationMetricType && t.AverageUtilization != nil
}

// HasServerDefaultMetrics tells whether the HPA's metrics are what the API server puts in when none are given: a lone
// CPU metric at 80 %. Somebody may as well have asked for it: the two look the same.
func HasServerDefaultMetrics(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	targets := CPUTargets(hpa)
	return len(hpa.Spec.Metrics) == 1 && len(targets) == 1 && targets[0].Container == "" &&
		targets[0].Utilization == ServerDefaultCPUUtilization
}

// MinReplicas returns spec.minReplicas, 1 where it was left out, as the API server defaults it.
func MinReplicas(hpa *autoscalingv2.HorizontalPodAutoscaler) int32 {
	if hpa.Spec.MinReplicas == nil {
		return 1
	}
	return *hpa.Spec.MinReplicas
}

// ScalingActive returns the HPA's condition of that type; a zero one where it has none yet.
func ScalingActive(hpa *autoscalingv2.HorizontalPodAutoscaler) autoscalingv2.HorizontalPodAutoscalerCondition {
	for _, c := range hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive {
			return c
		}
	}
	return autoscalingv2.HorizontalPodAutoscalerCondition{}
}

// failedMetricGrace is how long an HPA may fail to read a metric before it counts as unable to scale: metrics are
// missing for a moment after every start and rollout.
const failedMetricGrace = 3 * time.Minute

// CannotScale tells whether the HPA has been unable to read its metrics for over three minutes, and with what reason.
func CannotScale(hpa *autoscalingv2.HorizontalPodAutoscaler, now time.Time) (reason string, cannot bool) {
	c := ScalingActive(hpa)
	if c.Status != corev1.ConditionFalse || !strings.HasPrefix(c.Reason, "FailedGet") {
		return "", false
	}
	return c.Reason, now.Sub(c.LastTransitionTime.Time) > failedMetricGrace
}
