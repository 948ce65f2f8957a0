// Package admission is the HTTP edge: it decodes a review, gathers the facts, asks the evaluator and answers. It runs on
// controller-runtime's webhook server, which turns panics into errors and counts requests and panics.
package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/kdp-webhook/kdp-webhook/internal/audit"
	"github.com/kdp-webhook/kdp-webhook/internal/cluster"
	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// The paths that the API server calls.
const (
	MutatePath   = "/mutate"
	ValidatePath = "/validate"
)

// Facts gathers what rules may ask of the cluster.
type Facts interface {
	// Synced returns nil once the facts are complete.
	Synced() error
	// With returns facts that know the namespace and, where name is not empty, the Deployment of that name in it.
	With(ctx context.Context, namespace, name string) (cluster.Facts, error)
}

// Policies tells whether the policies have been read.
type Policies interface {
	Synced() error
}

// Recorder records what was decided. It never blocks.
type Recorder interface {
	Record(review audit.Review)
}

// Reviewer answers admission reviews.
type Reviewer struct {
	Facts    Facts
	Policies Policies
	Store    *policy.Store
	Recorder Recorder
	// Now tells the time.
	Now func() time.Time
}

// Register puts the reviewer's two webhooks on a server.
func (r *Reviewer) Register(server webhook.Server, log logr.Logger) {
	constructor := func(logr.Logger, *admission.Request) logr.Logger { return log }
	server.Register(MutatePath, newHandler(r.Mutate, constructor))
	server.Register(ValidatePath, newHandler(r.Validate, constructor))
}

// Mutate answers a review with the patch that makes the object follow its policy. It refuses nothing: what must be
// refused is refused by Validate, after every other webhook has had its say. An error means "could not decide".
func (r *Reviewer) Mutate(ctx context.Context, req admission.Request) (admission.Response, error) {
	request, decision, err := r.decide(ctx, req)
	if err != nil {
		return admission.Response{}, err
	}
	response := admitted()
	if len(decision.Patch) > 0 {
		response.Patches = slices.Clone(decision.Patch)
	}
	changes := decision.With(evaluate.Changed)
	if len(changes) == 0 {
		return response, nil
	}
	response.Warnings = warnings(changes)
	response.AuditAnnotations = map[string]string{"mutation-policy": decision.PolicyVersion(), "mutation": listed(changes)}
	// A change of a write that is going to be refused never happens.
	if decision.Verdict() != evaluate.Denied {
		r.record(&req, &request, decision, changes)
	}
	return response, nil
}

// Validate answers a review with what the policy makes of the object as it is going to be stored. An error means "could
// not decide".
func (r *Reviewer) Validate(ctx context.Context, req admission.Request) (admission.Response, error) {
	request, decision, err := r.decide(ctx, req)
	if err != nil {
		return admission.Response{}, err
	}
	findings := finalFindings(&decision)
	decision.Findings = findings
	r.record(&req, &request, decision, findings)
	response := admitted()
	if errs := decision.Errors(); len(errs) > 0 {
		response = refused(req, errs)
	}
	response.Warnings = warnings(findings)
	if decision.Policy != nil {
		response.AuditAnnotations = annotations(&decision, findings)
	}
	return response, nil
}

// finalFindings returns what holds for an object that is not changed any more: a change that is still due was lost on
// its way here. Replicas that should have been kept must not be lost with it, so that such a write is refused; any other
// change comes with the next write.
func finalFindings(d *evaluate.Decision) []evaluate.Finding {
	var findings []evaluate.Finding
	for _, f := range d.Findings {
		if f.Verdict == evaluate.Changed {
			if f.Field != "spec.replicas" {
				continue
			}
			f.Verdict = evaluate.Denied
			f.Message = "not " + f.Message + "; another webhook set it after this one"
		}
		findings = append(findings, f)
	}
	return findings
}

func (r *Reviewer) decide(ctx context.Context, req admission.Request) (evaluate.Request, evaluate.Decision, error) {
	if err := errors.Join(r.Policies.Synced(), r.Facts.Synced()); err != nil {
		return evaluate.Request{}, evaluate.Decision{}, err
	}
	request, err := decode(&req.AdmissionRequest)
	if err != nil {
		return request, evaluate.Decision{}, err
	}
	request.Now = r.Now()
	facts, err := r.Facts.With(ctx, req.Namespace, deploymentAskedAbout(&request))
	if err != nil {
		return request, evaluate.Decision{}, err
	}
	decision, err := evaluate.Evaluate(request, r.Store.Set(), facts)
	return request, decision, err
}

func (r *Reviewer) record(in *admission.Request, req *evaluate.Request, decision evaluate.Decision, findings []evaluate.Finding) {
	if in.DryRun != nil && *in.DryRun {
		return
	}
	regarding, related := references(&in.AdmissionRequest, req)
	r.Recorder.Record(audit.Review{
		Kind: in.Kind.Kind, Operation: string(in.Operation), Namespace: in.Namespace, Name: in.Name, User: in.UserInfo.Username,
		Regarding: regarding, Related: related, Decision: decision, Findings: findings,
	})
}

func admitted() admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: true}}
}

// refused answers with the status that the API server itself gives for invalid objects: 422 with a cause for each field.
func refused(req admission.Request, errs field.ErrorList) admission.Response {
	gk := schema.GroupKind{Group: req.Kind.Group, Kind: req.Kind.Kind}
	status := apierrors.NewInvalid(gk, req.Name, errs).Status()
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &status}}
}

func warnings(findings []evaluate.Finding) []string {
	var texts []string
	for i := range findings {
		if w := findings[i].Warning; w != "" {
			texts = append(texts, w)
		}
	}
	return texts
}

// annotations are what the API server writes into its audit log. It never overwrites one: since Mutate and Validate answer
// under the same webhook's name, their keys must differ.
func annotations(d *evaluate.Decision, findings []evaluate.Finding) map[string]string {
	a := map[string]string{"policy": d.PolicyVersion(), "verdict": string(d.Verdict())}
	if len(findings) > 0 {
		a["findings"] = listed(findings)
	}
	return a
}

func listed(findings []evaluate.Finding) string {
	texts := make([]string, 0, len(findings))
	for i := range findings {
		f := &findings[i]
		texts = append(texts, fmt.Sprintf("%s %s: %s %q → %q", f.Verdict, f.Rule, f.Field, f.Old, f.New))
	}
	return strings.Join(texts, "; ")
}
