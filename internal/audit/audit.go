// Package audit is what becomes of a decision: a counter and a log line, which cannot be lost, and an Event, which can
// and is counted when it is.
package audit

import (
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// Reasons of Events.
const (
	ReasonPolicyViolation = "PolicyViolation"
	ReasonPolicyWarning   = "PolicyWarning"
	ReasonPolicyApplied   = "PolicyApplied"
	ReasonPolicyLoaded    = "PolicyLoaded"
	ReasonPolicyInvalid   = "PolicyInvalid"
)

// Review is one write that was decided about.
type Review struct {
	// Kind written: Deployment, HorizontalPodAutoscaler or Scale.
	Kind string
	// Operation is CREATE or UPDATE.
	Operation string
	Namespace string
	Name      string
	User      string
	// Regarding is the object that Events are about, Related the other one; Related may be empty.
	Regarding, Related corev1.ObjectReference
	Decision           evaluate.Decision
	// Findings of the decision to be recorded; a write that passes two webhooks has each finding recorded by one.
	Findings []evaluate.Finding
}

// Recorder records decisions and news of policies. It is safe for concurrent use and never blocks.
type Recorder struct {
	log       logr.Logger
	events    *Events
	decisions *prometheus.CounterVec
}

// NewRecorder returns a recorder that registers its metrics with the registerer.
func NewRecorder(log logr.Logger, events *Events, registerer prometheus.Registerer) (*Recorder, error) {
	r := &Recorder{
		log: log, events: events,
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kdp_decisions_total",
			Help: "Findings of reviewed writes, dry runs excluded: kind and operation of the write, the rule, what became of it " +
				"(verdict: allowed, audited, warned, changed, denied), the mode in force and the policy. Changes are counted when " +
				"they are made; a write that validation then has nothing to say about counts once as allowed, with rule \"none\". " +
				"A write that the API server retries is reviewed again.",
		}, []string{"kind", "operation", "rule", "verdict", "mode", "policy"}),
	}
	return r, registerer.Register(r.decisions)
}

// Record leaves a counter and a log line for each finding, and an Event where a policy holds.
func (r *Recorder) Record(review Review) {
	policyLabel := "none"
	if review.Decision.Policy != nil {
		policyLabel = review.Decision.Policy.Label()
	}
	if len(review.Findings) == 0 {
		r.decisions.WithLabelValues(review.Kind, review.Operation, "none", string(evaluate.Allowed), "none", policyLabel).Inc()
		return
	}
	for i := range review.Findings {
		f := &review.Findings[i]
		r.decisions.WithLabelValues(review.Kind, review.Operation, string(f.Rule), string(f.Verdict), string(f.Mode), policyLabel).Inc()
		r.log.Info("decision",
			"verdict", f.Verdict, "rule", f.Rule, "mode", f.Mode, "policy", review.Decision.PolicyVersion(),
			"user", review.User, "operation", review.Operation, "kind", review.Kind,
			"namespace", review.Namespace, "name", review.Name,
			"field", f.Field, "old", f.Old, "new", f.New, "message", f.Message)
	}
	if review.Decision.Policy == nil {
		return
	}
	for _, e := range eventsOf(review) {
		r.events.Record(e)
	}
}

// eventsOf folds the findings of one rule and verdict into one Event: four injected values are one change to people.
func eventsOf(review Review) []Event {
	var events []Event
	type group struct {
		rule    policy.Rule
		verdict evaluate.Verdict
	}
	var groups []group
	for i := range review.Findings {
		g := group{review.Findings[i].Rule, review.Findings[i].Verdict}
		if g.verdict != evaluate.Audited && !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		e := Event{Regarding: review.Regarding, Related: review.Related, Action: string(g.rule), User: review.User}
		var notes []string
		for i := range review.Findings {
			f := &review.Findings[i]
			if f.Rule != g.rule || f.Verdict != g.verdict {
				continue
			}
			notes = append(notes, note(f))
			if e.Related.Kind == "" && f.HPA != "" {
				e.Related = corev1.ObjectReference{
					APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler", Namespace: review.Namespace, Name: f.HPA,
				}
			}
		}
		switch g.verdict {
		case evaluate.Denied:
			e.Type, e.Reason = corev1.EventTypeWarning, ReasonPolicyViolation
			e.Note = review.User + " was refused: "
		case evaluate.Changed:
			e.Type, e.Reason = corev1.EventTypeNormal, ReasonPolicyApplied
			e.Note = "changed what " + review.User + " wrote: "
		default:
			e.Type, e.Reason = corev1.EventTypeWarning, ReasonPolicyWarning
			e.Note = "let through for " + review.User + ", but: "
		}
		// A create has its Event on the Namespace: say what was created.
		if r := review.Related; r.Kind != "" {
			e.Note = r.Kind + " " + r.Name + ": " + e.Note
		}
		e.Note = cutNote(review.Decision.Explain(e.Note + strings.Join(notes, "; ")))
		events = append(events, e)
	}
	return events
}

func note(f *evaluate.Finding) string {
	switch {
	case f.Verdict == evaluate.Changed:
		return f.Field + ": " + f.Message
	case f.Old != "" && f.New != "":
		return f.Field + " " + f.Old + " → " + f.New + ": " + f.Message
	case f.New != "":
		return f.Field + " " + f.New + ": " + f.Message
	default:
		return f.Field + ": " + f.Message
	}
}

// RecordPolicy leaves a log line and an Event for news of a policy.
func (r *Recorder) RecordPolicy(news policy.News) {
	cm := news.ConfigMap
	log := r.log.WithValues("configMap", cm.Name, "resourceVersion", cm.ResourceVersion)
	e := Event{
		Regarding: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: cm.Namespace, Name: cm.Name, UID: cm.UID, ResourceVersion: cm.ResourceVersion,
		},
		Action: "load",
	}
	switch {
	case news.Deleted:
		log.Info("policy deleted")
		return
	case len(news.Errors) > 0:
		inForce := "no earlier version of it is in force"
		if news.IsInForce {
			inForce = "its last good version, resourceVersion " + news.InForce.ResourceVersion + ", stays in force"
		}
		log.Error(news.Errors.ToAggregate(), "policy is invalid and not used", "inForce", inForce)
		e.Type, e.Reason = corev1.EventTypeWarning, ReasonPolicyInvalid
		e.Note = cutNote("Not used, " + inForce + ": " + news.Errors.ToAggregate().Error())
	case len(news.Warnings) > 0:
		log.Info("policy loaded, but not all of it works", "warnings", news.Warnings)
		e.Type, e.Reason = corev1.EventTypeWarning, ReasonPolicyWarning
		e.Note = cutNote("In force, resourceVersion " + cm.ResourceVersion + ", but " + strings.Join(news.Warnings, "; "))
	default:
		log.Info("policy loaded")
		e.Type, e.Reason, e.Note = corev1.EventTypeNormal, ReasonPolicyLoaded, "In force, resourceVersion "+cm.ResourceVersion
	}
	r.events.Record(e)
}
