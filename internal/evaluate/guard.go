package evaluate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// replicasWrite is a write that may change how many replicas a Deployment has.
type replicasWrite struct {
	// live is what the request's old object holds, never a cache.
	live, wanted int32
	// scale is true for a write of the scale subresource.
	scale bool
	user  string
	now   time.Time
	hpas  []*autoscalingv2.HorizontalPodAutoscaler
	// lastApplied is what the object, as it was, says that client-side apply asked for before; nil for a scale. This and
	// origin, which tells whether wanted was asked for, read whole manifests: most writes must get by without.
	lastApplied func() (int32, bool)
	origin      func() kube.Origin
}

// resets tells whether a whole-object write lands on exactly 1, or repeats what was last applied.
func (w replicasWrite) resets() bool {
	if w.scale {
		return false
	}
	if w.wanted == 1 {
		return true
	}
	applied, ok := w.lastApplied()
	return ok && applied == w.wanted
}

func deploymentWrite(req Request, hpas []*autoscalingv2.HorizontalPodAutoscaler) replicasWrite {
	return replicasWrite{
		live: req.OldDeployment.Replicas(), wanted: req.Deployment.Replicas(),
		user: req.User, now: req.Now, hpas: hpas, lastApplied: req.OldDeployment.LastAppliedReplicas,
		origin: func() kube.Origin { return kube.OriginOf(req.Object, req.FieldManager, kube.ReplicasPath) },
	}
}

func scaleWrite(req Request, hpas []*autoscalingv2.HorizontalPodAutoscaler) replicasWrite {
	return replicasWrite{
		live: req.OldScale.Spec.Replicas, wanted: req.Scale.Spec.Replicas,
		scale: true, user: req.User, now: req.Now, hpas: hpas,
		origin: func() kube.Origin { return kube.Explicit },
	}
}

// ruling is what the guard says about a write that is not free.
type ruling struct {
	rule   policy.Rule
	action policy.ReplicasAction
	write  replicasWrite
	hpa    *autoscalingv2.HorizontalPodAutoscaler
	// leniency says why a refusal became a warning; empty where it did not.
	leniency string
}

// guard is the one place that decides about replicas of a data plane that an HPA drives. It returns nil for a write that
// is free.
func guard(w replicasWrite, p *policy.Policy) *ruling {
	if w.live == w.wanted || len(w.hpas) == 0 {
		return nil
	}
	if w.scale && slices.Contains(p.Replicas.Autoscalers, w.user) {
		return nil
	}
	r := &ruling{rule: policy.RuleOverride, action: p.Replicas.OnOverride, write: w, hpa: w.hpas[0]}
	if w.resets() {
		r.rule, r.action = policy.RuleReset, p.Replicas.OnReset
	}
	if slices.ContainsFunc(w.hpas, r.isFreeFor) || w.live == 0 || w.wanted == 0 && p.Replicas.AllowScaleToZero {
		return nil
	}
	// A reset is preserved even so: that loses nothing, while an override that is preserved is refused in all but name.
	if r.rule == policy.RuleReset && r.action == policy.Preserve {
		return r
	}
	if reason, cannot := kube.CannotScale(r.hpa, w.now); cannot {
		r.action, r.leniency = policy.WarnAction, "it cannot scale ("+reason+")"
	} else if isControlPlaneIdentity(w.user) {
		r.rule, r.action = policy.RuleUnknownAutoscaler, policy.WarnAction
		r.leniency = w.user + " may be its autoscaler: list it in replicas.autoscalers"
		if slices.Contains(p.Replicas.Autoscalers, w.user) {
			r.leniency = w.user + " is listed in replicas.autoscalers"
		}
	}
	return r
}

// isFreeFor tells whether the HPA itself would not object: the write does what the HPA wants, or brings the replicas
// from outside its range to inside. A reset that can be preserved is not let through on that account: from above the
// range it would lose more pods than the HPA does.
func (r *ruling) isFreeFor(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	w := r.write
	inRange := policy.Bounds{Min: kube.MinReplicas(hpa), Max: hpa.Spec.MaxReplicas}
	if !inRange.Contains(w.wanted) {
		return false
	}
	desired := hpa.Status.DesiredReplicas
	asDesired := desired > 0 && w.wanted == desired && kube.ScalingActive(hpa).Status == corev1.ConditionTrue
	lossy := r.rule == policy.RuleReset && r.action == policy.Preserve && w.wanted < w.live
	return asDesired || !inRange.Contains(w.live) && !lossy
}

// isControlPlaneIdentity tells whether the user is a component of the control plane, which an autoscaler may be too.
// system:admin is none: that is who people are who administer some distributions' clusters.
func isControlPlaneIdentity(user string) bool {
	return strings.HasPrefix(user, "system:") && !strings.HasPrefix(user, "system:serviceaccount:") && user != "system:admin"
}

// addRuling takes over what the guard said; nil is nothing.
func (d *Decision) addRuling(mode policy.Mode, r *ruling) {
	if r == nil {
		return
	}
	w := r.write
	f := Finding{
		Rule: r.rule, Mode: mode, Field: "spec.replicas", Old: itoa(w.live), New: itoa(w.wanted),
		HPA: r.hpa.Name, found: w.wanted,
	}
	drives := fmt.Sprintf("the HPA %q drives it between %d and %d, it is at %d", r.hpa.Name, kube.MinReplicas(r.hpa), r.hpa.Spec.MaxReplicas, w.live)
	f.Message = drives + ": " + r.remedy()
	switch {
	case r.action == policy.Preserve && mode == policy.Enforce:
		f.Verdict, f.Old, f.New = Changed, itoa(w.wanted), itoa(w.live)
		f.Message = fmt.Sprintf("kept at %d instead of %d, since %s", w.live, w.wanted, f.Message)
		f.Warning = short(fmt.Sprintf("spec.replicas: kept at %d, not %d, HPA %q drives it; %s", w.live, w.wanted, r.hpa.Name, r.shortRemedy()))
		// A Scale leaves replicas 0 out, where "replace" would find nothing.
		d.Patch = append(d.Patch, jsonpatch.NewOperation("add", "/spec/replicas", w.live))
	case r.action == policy.WarnAction && mode != policy.Audit:
		f.Verdict = Warned
		if r.leniency != "" {
			f.Message += "; admitted, since " + r.leniency
		}
		f.Warning = short(fmt.Sprintf("spec.replicas: HPA %q drives it, %d may not last; %s", r.hpa.Name, w.wanted, r.shortRemedy()))
	default:
		f.Verdict = verdictOf(mode)
		if f.Verdict == Warned {
			f.Warning = short(fmt.Sprintf("spec.replicas: HPA %q drives it; %s", r.hpa.Name, r.shortRemedy()))
		}
	}
	d.Findings = append(d.Findings, f)
}

// remedy tells the way out in the tools that the write was made with.
func (r *ruling) remedy() string {
	if r.write.wanted == 0 {
		return "scaling to zero would pause it, which the policy does not allow: set replicas.allowScaleToZero there to pause by hand"
	}
	if r.write.scale {
		return r.scaleRemedy()
	}
	if r.write.origin() == kube.Defaulted {
		return "the manifest leaves replicas out, which defaults to 1: set autoscaling.enabled=true in the release's values, or carry the live replicas over"
	}
	return "set autoscaling.enabled=true in the release's values or remove replicaCount from them (spec.replicas from a manifest); " +
		"to end autoscaling, delete the HPA first"
}

// scaleRemedy names the command by which the HPA itself gives what the write wanted.
func (r *ruling) scaleRemedy() string {
	n, lowest, highest := r.write.wanted, kube.MinReplicas(r.hpa), r.hpa.Spec.MaxReplicas
	bound, fields := "at least", fmt.Sprintf(`"minReplicas":%d`, n)
	switch {
	case n > highest:
		fields += fmt.Sprintf(`,"maxReplicas":%d`, n)
	case n < lowest:
		bound, fields = "at most", fmt.Sprintf(`"minReplicas":%d,"maxReplicas":%d`, n, n)
	case n < r.write.live:
		bound, fields = "at most", fmt.Sprintf(`"maxReplicas":%d`, n)
	}
	return fmt.Sprintf(`to hold %s %d, run: kubectl patch hpa %s --patch '{"spec":{%s}}'`, bound, n, r.hpa.Name, fields)
}

func (r *ruling) shortRemedy() string {
	if r.write.scale {
		return "change its minReplicas or maxReplicas"
	}
	return "set autoscaling.enabled=true"
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }
