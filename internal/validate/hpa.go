// Package validate holds objects against the policy: an object in, violations out. It neither decides about modes nor
// about what was there before.
package validate

import (
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// Violation is one value that the policy does not allow.
type Violation struct {
	Rule policy.Rule
	// Field path of the value.
	Field *field.Path
	// Found is the value.
	Found any
	// Must says what must hold, like "must be between 1 and 20".
	Must string
	// Remedy says how to get there, in the user's own tools.
	Remedy string
	// Subject tells violations of one rule apart, before and after a write: which metric it is about, wherever that stands
	// in the list. Empty for rules that have one subject only.
	Subject string
	// Distance says how far the value is from what is allowed, in the value's own unit; of two violations of the same
	// rule and subject the one with the smaller distance is nearer to the policy.
	Distance int64
}

// HPA returns all that the policy does not allow in a data plane's HPA, in the order of policy.Rules. target is the
// Deployment that it scales, as it will be; nil where that is not known.
func HPA(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling, target *kube.Deployment) []Violation {
	var violations []Violation
	violations = append(violations, minReplicas(hpa, a)...)
	violations = append(violations, maxReplicas(hpa, a)...)
	violations = append(violations, minSpread(hpa, a)...)
	violations = append(violations, targetCPU(hpa, a)...)
	violations = append(violations, metrics(hpa, a)...)
	violations = append(violations, scaleUp(hpa, a, target)...)
	return violations
}

// Was returns the number that the HPA, as it was before the write, holds where the violation is; nil where there is none.
func Was(old *autoscalingv2.HorizontalPodAutoscaler, v Violation) any {
	switch v.Rule {
	case policy.RuleMinReplicas:
		return kube.MinReplicas(old)
	case policy.RuleMaxReplicas, policy.RuleMinSpread:
		return old.Spec.MaxReplicas
	default:
		for _, t := range kube.CPUTargets(old) {
			if subject(t) == v.Subject {
				return t.Utilization
			}
		}
		return nil
	}
}

var (
	spec         = field.NewPath("spec")
	scaleUpField = spec.Child("behavior", "scaleUp")
)

func subject(t kube.CPUTarget) string { return t.Field() + "/" + t.Container }

func targetField(t kube.CPUTarget) *field.Path {
	return spec.Child("metrics").Index(t.Index).Child(t.Field(), "target", "averageUtilization")
}

func minReplicas(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) []Violation {
	return bounded(policy.RuleMinReplicas, spec.Child("minReplicas"), kube.MinReplicas(hpa), a.MinReplicas,
		"autoscaling.minReplicas", "minReplicas")
}

func maxReplicas(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) []Violation {
	return bounded(policy.RuleMaxReplicas, spec.Child("maxReplicas"), hpa.Spec.MaxReplicas, a.MaxReplicas,
		"autoscaling.maxReplicas", "maxReplicas")
}

// bounded holds a number against its bounds; value is its name in a release's values, name the one in the HPA.
func bounded(rule policy.Rule, path *field.Path, found int32, b policy.Bounds, value, name string) []Violation {
	if b.Contains(found) {
		return nil
	}
	return []Violation{{
		Rule: rule, Field: path, Found: found, Must: mustBe(b), Distance: outside(found, b),
		Remedy: fmt.Sprintf("set %s in the release's values, or %s in the HPA", value, name),
	}}
}

func mustBe(b policy.Bounds) string {
	if b.Min == b.Max {
		return fmt.Sprintf("must be %d", b.Min)
	}
	return fmt.Sprintf("must be between %d and %d", b.Min, b.Max)
}

// outside returns how far v lies outside the bounds.
func outside(v int32, b policy.Bounds) int64 {
	return max(int64(b.Min)-int64(v), int64(v)-int64(b.Max), 0)
}

func minSpread(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) []Violation {
	spread := int64(hpa.Spec.MaxReplicas) - int64(kube.MinReplicas(hpa))
	if spread >= int64(a.MinSpread) {
		return nil
	}
	return []Violation{{
		Rule: policy.RuleMinSpread, Field: spec.Child("maxReplicas"), Found: hpa.Spec.MaxReplicas,
		Must:   fmt.Sprintf("must be at least %d above minReplicas, which is %d", a.MinSpread, kube.MinReplicas(hpa)),
		Remedy: "lower minReplicas or raise maxReplicas", Distance: int64(a.MinSpread) - spread,
	}}
}

func targetCPU(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) []Violation {
	var violations []Violation
	for _, t := range kube.CPUTargets(hpa) {
		if a.TargetCPUUtilization.Contains(t.Utilization) {
			continue
		}
		violations = append(violations, Violation{
			Rule:  policy.RuleTargetCPU,
			Field: targetField(t), Subject: subject(t),
			Found: t.Utilization, Must: mustBe(a.TargetCPUUtilization), Distance: outside(t.Utilization, a.TargetCPUUtilization),
			Remedy: "set the CPU target in autoscaling.metrics of the release's values, or in the HPA",
		})
	}
	return violations
}

func metrics(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling) []Violation {
	if a.Metrics != policy.CPURequired || len(kube.CPUTargets(hpa)) > 0 {
		return nil
	}
	return []Violation{{
		Rule: policy.RuleMetrics, Field: spec.Child("metrics"), Found: field.OmitValueType{},
		Must:     "must hold a CPU metric of type Utilization",
		Remedy:   fmt.Sprintf("add a Resource metric for cpu with averageUtilization %d", a.TargetCPUUtilization.Default),
		Distance: 1,
	}}
}

// hopelessTolerance is a tolerance, as a multiple of the target, at which an HPA counts as never scaling up even where
// the highest utilization that its pods can reach is not known.
const hopelessTolerance = 10

// defaultTolerance is the HPA controller's own, unless its flag --horizontal-pod-autoscaler-tolerance says otherwise.
const defaultTolerance = 0.1

func scaleUp(hpa *autoscalingv2.HorizontalPodAutoscaler, a *policy.Autoscaling, target *kube.Deployment) []Violation {
	if a.AllowScaleUpDisabled || hpa.Spec.Behavior == nil || hpa.Spec.Behavior.ScaleUp == nil {
		return nil
	}
	rules := hpa.Spec.Behavior.ScaleUp
	if rules.SelectPolicy != nil && *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return []Violation{{
			Rule: policy.RuleScaleUp, Field: scaleUpField.Child("selectPolicy"), Found: *rules.SelectPolicy,
			Must: "must not switch scaling up off", Remedy: "remove it, or set it to Max or Min", Distance: 1,
		}}
	}
	if rules.Tolerance == nil {
		return nil
	}
	// Without a tolerance of its own an HPA has the controller's: the same or less switches nothing off.
	tolerance := rules.Tolerance.AsApproximateFloat64()
	if tolerance <= defaultTolerance {
		return nil
	}
	for _, t := range kube.CPUTargets(hpa) {
		startsAt := min(float64(t.Utilization)*(1+tolerance), math.MaxInt32)
		var must string
		if highest, known := highestUtilization(target, t.Container); known && startsAt >= float64(highest) {
			must = fmt.Sprintf("must let the HPA scale up: it would start at %.0f%% CPU, the containers' limits end at %d%%", startsAt, highest)
		} else if !known && tolerance >= hopelessTolerance {
			must = fmt.Sprintf("must let the HPA scale up: it would start at %.0f%% CPU", startsAt)
		}
		if must != "" {
			return []Violation{{
				Rule: policy.RuleScaleUp, Field: scaleUpField.Child("tolerance"), Found: rules.Tolerance.String(),
				Must: must, Remedy: "remove it, or set it to 0.1", Distance: int64(startsAt),
			}}
		}
	}
	return nil
}

func highestUtilization(d *kube.Deployment, container string) (int64, bool) {
	if d == nil {
		return 0, false
	}
	return kube.HighestCPUUtilization(d.Pod(), container)
}
