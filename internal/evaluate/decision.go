package evaluate

import (
	"fmt"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// Verdict is what became of one finding, or of a decision as a whole.
type Verdict string

const (
	// Allowed means: nothing was found.
	Allowed Verdict = "allowed"
	// Audited means: admitted silently; Enforce would have done something.
	Audited Verdict = "audited"
	// Warned means: admitted with a warning.
	Warned Verdict = "warned"
	// Changed means: the object was changed.
	Changed Verdict = "changed"
	// Denied means: refused.
	Denied Verdict = "denied"
)

// Verdicts returns every verdict, from the mildest to the most severe.
func Verdicts() []Verdict { return []Verdict{Allowed, Audited, Warned, Changed, Denied} }

// Finding is one thing that a rule had to say about a write.
type Finding struct {
	Rule    policy.Rule
	Mode    policy.Mode
	Verdict Verdict
	// Field path of the value that it is about.
	Field string
	// Old and New are the values before and after: of a change, what was written and what it became; of all else, what
	// was there before the write and what was written. Empty where absent or not known.
	Old, New string
	// Message is whole: what must hold, and what would help. Which policy says so is Explain's to add.
	Message string
	// Warning is the short form that clients show, empty where there is nothing to tell the user; at most 120
	// characters as far as names allow.
	Warning string
	// HPA that the finding is about where that is not the object written; empty where there is none.
	HPA string

	found any
}

// Decision is what the policies say about one write.
type Decision struct {
	// Policy that holds; nil where none does, so that the write is no business of ours.
	Policy *policy.Ref
	// Findings in a deterministic order.
	Findings []Finding
	// Patch makes the changes; operations on exactly the paths that change.
	Patch []jsonpatch.Operation
}

// Verdict returns the most severe verdict of the findings.
func (d *Decision) Verdict() Verdict {
	worst := Allowed
	rank := map[Verdict]int{}
	for i, v := range Verdicts() {
		rank[v] = i
	}
	for i := range d.Findings {
		if v := d.Findings[i].Verdict; rank[v] > rank[worst] {
			worst = v
		}
	}
	return worst
}

// With returns the findings with that verdict.
func (d *Decision) With(v Verdict) []Finding {
	var found []Finding
	for i := range d.Findings {
		if d.Findings[i].Verdict == v {
			found = append(found, d.Findings[i])
		}
	}
	return found
}

// Errors returns what was refused, as the API machinery reports it.
func (d *Decision) Errors() field.ErrorList {
	var errs field.ErrorList
	for _, f := range d.With(Denied) {
		errs = append(errs, &field.Error{Type: field.ErrorTypeInvalid, Field: f.Field, BadValue: f.found, Detail: d.Explain(f.Message)})
	}
	return errs
}

// Explain adds to a text which policy says so.
func (d *Decision) Explain(text string) string {
	if d.Policy == nil {
		return text
	}
	return fmt.Sprintf("%s (%s)", text, d.Policy)
}

// PolicyVersion names the policy and its version, "none" where no policy holds.
func (d *Decision) PolicyVersion() string {
	if d.Policy == nil {
		return "none"
	}
	return d.Policy.Version()
}

// short cuts a warning to what clients are sure to show whole.
func short(text string) string {
	const longest = 120
	if len(text) <= longest {
		return text
	}
	cut := strings.LastIndexByte(text[:longest-3], ' ')
	if cut < 0 {
		cut = longest - 3
	}
	return text[:cut] + "..."
}
