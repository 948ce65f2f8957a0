// Package evaluate decides: a write, the policies and the facts in, a Decision out. It is pure (no clock, no client, no
// log), so that the webhook and every other door give the same verdict.
package evaluate

import (
	"fmt"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/cluster"
	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/mutate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
	"github.com/kdp-webhook/kdp-webhook/internal/validate"
)

// Request is one write of a Deployment, an HPA or a Deployment's scale. The fields of exactly one kind are set; the old
// object is nil for a create.
type Request struct {
	Namespace string
	Name      string
	// User who writes, and the field manager that the write goes by.
	User         string
	FieldManager string
	// Now is the time of the request.
	Now time.Time

	Deployment, OldDeployment *kube.Deployment
	HPA, OldHPA               *autoscalingv2.HorizontalPodAutoscaler
	Scale, OldScale           *autoscalingv1.Scale
	// Object is the JSON of the object as it arrived; nil where it is not at hand. It only sharpens messages.
	Object []byte
}

// Evaluate decides about a write. An error means "could not decide"; a refusal is a result.
func Evaluate(req Request, policies policy.Set, facts cluster.Facts) (Decision, error) {
	switch {
	case req.Deployment != nil:
		return evaluateDeployment(req, policies, facts)
	case req.HPA != nil:
		return evaluateHPA(req, policies, facts), nil
	case req.Scale != nil && req.OldScale != nil:
		return evaluateScale(req, policies, facts), nil
	default:
		return Decision{}, fmt.Errorf("evaluate %s/%s: no object that rules know", req.Namespace, req.Name)
	}
}

func evaluateDeployment(req Request, policies policy.Set, facts cluster.Facts) (Decision, error) {
	after, before := req.Deployment, req.OldDeployment
	p := policies.For(facts.NamespaceLabels(req.Namespace), after, before)
	if p == nil {
		return Decision{}, nil
	}
	d := Decision{Policy: &p.Ref}
	hpas := facts.HPAsFor(kube.DeploymentKey(req.Namespace, req.Name))

	if mode := p.SectionMode(p.Resources.Mode); mode != policy.Off {
		result, err := mutate.Deployment(after, before, p, facts.LimitRanges(req.Namespace))
		if err != nil {
			return Decision{}, fmt.Errorf("inject resources into %s/%s: %w", req.Namespace, req.Name, err)
		}
		d.addChanges(mode, result.Changes, result.Patch)
		d.addNotes(mode, result.Notes)
		if mode == policy.Enforce {
			after = result.After
		}
	}
	if mode := p.SectionMode(p.Replicas.Mode); mode != policy.Off && before != nil {
		d.addRuling(mode, guard(deploymentWrite(req, hpas), p))
	}
	// The write that makes a Deployment a data plane answers for the HPAs that were there before it was one.
	if mode := p.SectionMode(p.Autoscaling.Mode); mode != policy.Off && p.IsDataPlane(after) && !p.IsDataPlane(before) {
		for _, hpa := range hpas {
			// As its own write would have been judged: what it leaves out is filled.
			hpa = mutate.HPA(hpa, &p.Autoscaling).After
			d.addViolations(mode, validate.HPA(hpa, &p.Autoscaling, after), nil, nil, hpa.Name)
		}
	}
	return d, nil
}

func evaluateHPA(req Request, policies policy.Set, facts cluster.Facts) Decision {
	target := kube.HPATarget(req.HPA)
	if !target.IsDeployment() {
		return Decision{}
	}
	namespace := facts.NamespaceLabels(req.Namespace)
	deployment := facts.Deployment(target.Namespace, target.Name)
	if deployment == nil {
		return targetMissing(target, policies, namespace)
	}
	p := policies.For(namespace, deployment, nil)
	if p == nil {
		return Decision{}
	}
	d := Decision{Policy: &p.Ref}
	mode := p.SectionMode(p.Autoscaling.Mode)
	if mode == policy.Off {
		return d
	}
	result := mutate.HPA(req.HPA, &p.Autoscaling)
	d.addChanges(mode, result.Changes, result.Patch)
	if req.OldHPA != nil {
		d.warnOfReplaced()
	}
	var old []validate.Violation
	if req.OldHPA != nil && kube.HPATarget(req.OldHPA) == target {
		old = validate.HPA(req.OldHPA, &p.Autoscaling, deployment)
	}
	d.addViolations(mode, validate.HPA(result.After, &p.Autoscaling, deployment), old, req.OldHPA, "")
	return d
}

// targetMissing warns about an HPA whose target does not exist yet: nobody can tell whether it will be a data plane.
func targetMissing(target kube.TargetKey, policies policy.Set, namespace map[string]string) Decision {
	for _, p := range policies {
		if !p.CoversNamespace(namespace) {
			continue
		}
		if mode := p.SectionMode(p.Autoscaling.Mode); mode == policy.Off || mode == policy.Audit {
			return Decision{}
		}
		message := fmt.Sprintf("Deployment %q does not exist yet; if it becomes a data plane, this HPA must follow its policy", target.Name)
		return Decision{Findings: []Finding{{
			Rule: policy.RuleTargetMissing, Mode: policy.Warn, Verdict: Warned, Field: "spec.scaleTargetRef.name",
			New: target.Name, Message: message, Warning: short("spec.scaleTargetRef: " + message), found: target.Name,
		}}}
	}
	return Decision{}
}

func evaluateScale(req Request, policies policy.Set, facts cluster.Facts) Decision {
	deployment := facts.Deployment(req.Namespace, req.Name)
	if deployment == nil {
		return Decision{}
	}
	p := policies.For(facts.NamespaceLabels(req.Namespace), deployment, nil)
	if p == nil {
		return Decision{}
	}
	d := Decision{Policy: &p.Ref}
	if mode := p.SectionMode(p.Replicas.Mode); mode != policy.Off {
		d.addRuling(mode, guard(scaleWrite(req, facts.HPAsFor(deployment.Key())), p))
	}
	return d
}

// addChanges takes changes over in Enforce, and says in the other modes what they would have been.
func (d *Decision) addChanges(mode policy.Mode, changes []mutate.Change, patch mutate.Patch) {
	if mode == policy.Enforce {
		d.Patch = append(d.Patch, patch...)
	}
	for _, c := range changes {
		f := Finding{Rule: c.Rule, Mode: mode, Field: c.Field, Old: c.Old, New: c.New, found: c.Old}
		to := c.New
		if to == "" {
			to = "nothing"
		}
		switch mode {
		case policy.Enforce:
			f.Verdict, f.Message = Changed, "set to "+to
		case policy.Warn:
			f.Verdict, f.Message = Warned, "would be set to "+to
			f.Warning = short(fmt.Sprintf("%s: %s", c.Field, f.Message))
		default:
			f.Verdict, f.Message = Audited, "would be set to "+to
		}
		d.Findings = append(d.Findings, f)
	}
}

// warnOfReplaced tells whoever updates an HPA that a value which may have been asked for was replaced: nothing else would
// show that the write did not do what it says. A create leaves such values out more often than not.
func (d *Decision) warnOfReplaced() {
	for i := range d.Findings {
		if f := &d.Findings[i]; f.Verdict == Changed && f.Old != "" {
			f.Warning = short(fmt.Sprintf("%s: %s counts as left out, %s is set instead (%s)", f.Field, f.Old, f.New, d.Policy))
		}
	}
}

// addNotes reports what could not be changed.
func (d *Decision) addNotes(mode policy.Mode, notes []mutate.Note) {
	for _, n := range notes {
		f := Finding{Rule: n.Rule, Mode: mode, Verdict: Warned, Field: n.Field, Message: n.Message}
		if mode == policy.Audit {
			f.Verdict = Audited
		} else {
			f.Warning = short(n.Field + ": " + n.Message)
		}
		d.Findings = append(d.Findings, f)
	}
}

// addViolations judges violations of an HPA: by the mode, and by what the HPA violated before the write. A violation
// that was there and did not grow is not this write's. hpa names the HPA where it is not the object written.
func (d *Decision) addViolations(mode policy.Mode, found, old []validate.Violation, before *autoscalingv2.HorizontalPodAutoscaler, hpa string) {
	for _, v := range found {
		path, warning := v.Field.String(), fmt.Sprintf("%s %v %s; %s", v.Field, v.Found, v.Must, v.Remedy)
		if _, omitted := v.Found.(field.OmitValueType); omitted {
			warning = fmt.Sprintf("%s %s; %s", v.Field, v.Must, v.Remedy)
		}
		f := Finding{
			Rule: v.Rule, Mode: mode, Field: path, New: valueText(v.Found), Message: v.Must + ": " + v.Remedy, found: v.Found,
		}
		if hpa != "" {
			f.Field = field.NewPath("horizontalPodAutoscaler").Key(hpa).String() + "." + path
			f.HPA = hpa
			f.Message = fmt.Sprintf("the HPA %q targets this data plane and its %s %s: change the HPA first, %s", hpa, path, v.Must, v.Remedy)
			warning = fmt.Sprintf("HPA %q: %s", hpa, warning)
		}
		if before != nil {
			f.Old = valueText(validate.Was(before, v))
		}
		f.Verdict = verdictOf(mode)
		if i := slices.IndexFunc(old, func(o validate.Violation) bool { return sameFinding(o, v) }); i >= 0 {
			f.Old = valueText(old[i].Found)
			if v.Distance <= old[i].Distance && f.Verdict == Denied {
				f.Verdict = Warned
				f.Message += "; admitted, since this write does not make it worse"
			}
		}
		if f.Verdict == Warned {
			f.Warning = short(warning)
		}
		d.Findings = append(d.Findings, f)
	}
}

// sameFinding tells whether two violations are the same one before and after a write.
func sameFinding(a, b validate.Violation) bool {
	return a.Rule == b.Rule && a.Subject == b.Subject
}

// verdictOf returns what a mode makes of a violation.
func verdictOf(mode policy.Mode) Verdict {
	switch mode {
	case policy.Enforce:
		return Denied
	case policy.Warn:
		return Warned
	default:
		return Audited
	}
}

// valueText returns a value as text, "" for none.
func valueText(v any) string {
	if _, omitted := v.(field.OmitValueType); omitted || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}
