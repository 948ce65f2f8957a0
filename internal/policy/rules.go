package policy

// Rule names what a decision was about: a label of metrics, the action of Events, a key of the decision log.
type Rule string

// The rules. Those about a field are named after the policy's own field.
const (
	// RuleResources injects requests and limits.
	RuleResources Rule = "resources"
	// RuleMinReplicas bounds and defaults an HPA's minReplicas.
	RuleMinReplicas Rule = "minReplicas"
	// RuleMaxReplicas bounds and defaults an HPA's maxReplicas.
	RuleMaxReplicas Rule = "maxReplicas"
	// RuleMinSpread wants a difference between an HPA's maxReplicas and minReplicas.
	RuleMinSpread Rule = "minSpread"
	// RuleTargetCPU bounds and defaults an HPA's CPU utilization target.
	RuleTargetCPU Rule = "targetCPUUtilization"
	// RuleMetrics wants a CPU metric in an HPA.
	RuleMetrics Rule = "metrics"
	// RuleScaleUp refuses HPAs that never scale up.
	RuleScaleUp Rule = "scaleUpDisabled"
	// RuleTargetMissing is about an HPA whose target does not exist yet.
	RuleTargetMissing Rule = "targetMissing"
	// RuleOverride is about a write that sets replicas on a Deployment that an HPA drives.
	RuleOverride Rule = "replicasOverride"
	// RuleReset is about a whole-object write that resets replicas on a Deployment that an HPA drives.
	RuleReset Rule = "replicasReset"
	// RuleUnknownAutoscaler is about a write of replicas by a control-plane identity that replicas.autoscalers does not list.
	RuleUnknownAutoscaler Rule = "unknownAutoscaler"
)

// Rules returns every rule, in the order in which they are judged.
func Rules() []Rule {
	return []Rule{
		RuleResources, RuleMinReplicas, RuleMaxReplicas, RuleMinSpread, RuleTargetCPU, RuleMetrics, RuleScaleUp,
		RuleTargetMissing, RuleOverride, RuleReset, RuleUnknownAutoscaler,
	}
}
