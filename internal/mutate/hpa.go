package mutate

import (
	"fmt"
	"strconv"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// HPAResult is what has to change in an HPA.
type HPAResult struct {
	Changes []Change
	Patch   Patch
	// After is the HPA as it will be; the one given where nothing changes.
	After *autoscalingv2.HorizontalPodAutoscaler
}

// HPA fills what a data plane's HPA leaves out: maxReplicas, minReplicas and the CPU target. With
// replaceServerDefault, what the API server puts in for values left out counts as left out. Filling never makes an HPA
// invalid: minReplicas stays at or below maxReplicas.
func HPA(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) HPAResult {
	r := HPAResult{After: hpa}
	fillMaxReplicas(&r, a)
	fillMinReplicas(&r, a)
	fillCPUTarget(&r, a)
	return r
}

// edit makes After a copy that can be changed, once.
func (r *HPAResult) edit(c Change) *autoscalingv2.HorizontalPodAutoscalerSpec {
	if len(r.Changes) == 0 {
		r.After = r.After.DeepCopy()
	}
	r.Changes = append(r.Changes, c)
	return &r.After.Spec
}

func fillMaxReplicas(r *HPAResult, a *policy.Autoscaling) {
	if r.After.Spec.MaxReplicas != 0 {
		return
	}
	filled := min(max(a.MaxReplicas.Default, kube.MinReplicas(r.After)+a.MinSpread), a.MaxReplicas.Max)
	r.edit(Change{Rule: policy.RuleMaxReplicas, Field: "spec.maxReplicas", New: itoa(filled)}).MaxReplicas = filled
	r.Patch.put("/spec/maxReplicas", false, filled)
}

func fillMinReplicas(r *HPAResult, a *policy.Autoscaling) {
	was := r.After.Spec.MinReplicas
	serverDefault := was != nil && *was == 1 && a.MinReplicas.Min > 1 && a.ReplaceServerDefault
	if was != nil && !serverDefault {
		return
	}
	highest := r.After.Spec.MaxReplicas
	filled := min(a.MinReplicas.Default, max(highest-a.MinSpread, a.MinReplicas.Min), max(highest, 1))
	if was != nil && (filled == *was || highest-filled < a.MinSpread && highest-*was >= a.MinSpread) {
		return // Nothing to fill, or no number that leaves minSpread: what is wrong with the HPA is not ours to add to.
	}
	c := Change{Rule: policy.RuleMinReplicas, Field: "spec.minReplicas", New: itoa(filled)}
	if was != nil {
		c.Old = itoa(*was)
	}
	r.edit(c).MinReplicas = &filled
	r.Patch.put("/spec/minReplicas", was != nil, filled)
}

func fillCPUTarget(r *HPAResult, a *policy.Autoscaling) {
	filled := a.TargetCPUUtilization.Default
	switch {
	case len(r.After.Spec.Metrics) == 0:
		metrics := []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &filled},
			},
		}}
		r.edit(Change{Rule: policy.RuleTargetCPU, Field: "spec.metrics", New: fmt.Sprintf("cpu %d%%", filled)}).Metrics = metrics
		r.Patch.put("/spec/metrics", false, metrics)
	case a.ReplaceServerDefault && kube.HasServerDefaultMetrics(r.After) && filled != kube.ServerDefaultCPUUtilization:
		r.edit(Change{
			Rule: policy.RuleTargetCPU, Field: "spec.metrics[0].resource.target.averageUtilization",
			Old: strconv.Itoa(kube.ServerDefaultCPUUtilization), New: itoa(filled),
		}).Metrics[0].Resource.Target.AverageUtilization = &filled
		r.Patch.put("/spec/metrics/0/resource/target/averageUtilization", true, filled)
	}
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }
