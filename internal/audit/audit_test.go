package audit

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

func newRecorder(t *testing.T) (*Recorder, *fixture, *[]string) {
	t.Helper()
	f := newFixture(t)
	var logged []string
	log := funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{})
	r, err := NewRecorder(log, f.Events, f.metrics)
	if err != nil {
		t.Fatal(err)
	}
	return r, f, &logged
}

func notesOf(t *testing.T, f *fixture) []string {
	t.Helper()
	f.run(t)()
	var notes []string
	for _, e := range f.stored(t) {
		notes = append(notes, e.Type+" "+e.Reason+" "+e.Action+": "+e.Note)
	}
	return notes
}

func review(p *policy.Ref, findings ...evaluate.Finding) Review {
	return Review{
		Kind: "Deployment", Operation: "UPDATE", Namespace: "team", Name: "kong", User: "alice",
		Regarding: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "team", Name: "kong", UID: "uid"},
		Decision:  evaluate.Decision{Policy: p}, Findings: findings,
	}
}

var ref = &policy.Ref{Name: "gold", ResourceVersion: "42"}

func TestEachFindingIsCountedAndLoggedAndEachRuleIsToldOnce(t *testing.T) {
	r, f, logged := newRecorder(t)
	r.Record(review(ref,
		evaluate.Finding{Rule: policy.RuleResources, Mode: policy.Enforce, Verdict: evaluate.Changed, Field: "a", New: "1", Message: "set to 1"},
		evaluate.Finding{Rule: policy.RuleResources, Mode: policy.Enforce, Verdict: evaluate.Changed, Field: "b", Old: "1", New: "2", Message: "set to 2"},
		evaluate.Finding{Rule: policy.RuleOverride, Mode: policy.Enforce, Verdict: evaluate.Denied, Field: "spec.replicas", Old: "4", New: "3", Message: "no"},
		evaluate.Finding{Rule: policy.RuleMaxReplicas, Mode: policy.Warn, Verdict: evaluate.Warned, Field: "spec.maxReplicas", New: "50", Message: "too many"},
		evaluate.Finding{Rule: policy.RuleMinReplicas, Mode: policy.Audit, Verdict: evaluate.Audited, Field: "spec.minReplicas", New: "0", Message: "too few"},
	))
	r.Record(review(ref))
	r.Record(review(nil))
	// No policy holds, and still there is something to say: counted and logged, told to nobody.
	r.Record(review(nil, evaluate.Finding{Rule: policy.RuleTargetMissing, Mode: policy.Warn, Verdict: evaluate.Warned, Field: "spec", Message: "early"}))

	const metrics = `
# HELP kdp_decisions_total Findings of reviewed writes, dry runs excluded: kind and operation of the write, the rule, what became of it (verdict: allowed, audited, warned, changed, denied), the mode in force and the policy. Changes are counted when they are made; a write that validation then has nothing to say about counts once as allowed, with rule "none". A write that the API server retries is reviewed again.
# TYPE kdp_decisions_total counter
kdp_decisions_total{kind="Deployment",mode="Audit",operation="UPDATE",policy="gold",rule="minReplicas",verdict="audited"} 1
kdp_decisions_total{kind="Deployment",mode="Enforce",operation="UPDATE",policy="gold",rule="replicasOverride",verdict="denied"} 1
kdp_decisions_total{kind="Deployment",mode="Enforce",operation="UPDATE",policy="gold",rule="resources",verdict="changed"} 2
kdp_decisions_total{kind="Deployment",mode="Warn",operation="UPDATE",policy="gold",rule="maxReplicas",verdict="warned"} 1
kdp_decisions_total{kind="Deployment",mode="Warn",operation="UPDATE",policy="none",rule="targetMissing",verdict="warned"} 1
kdp_decisions_total{kind="Deployment",mode="none",operation="UPDATE",policy="gold",rule="none",verdict="allowed"} 1
kdp_decisions_total{kind="Deployment",mode="none",operation="UPDATE",policy="none",rule="none",verdict="allowed"} 1
`
	if err := testutil.CollectAndCompare(r.decisions, strings.NewReader(metrics)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(r.decisions); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	const logLine = `"level"=0 "msg"="decision" "verdict"="denied" "rule"="replicasOverride" "mode"="Enforce" "policy"="gold@42" "user"="alice" ` +
		`"operation"="UPDATE" "kind"="Deployment" "namespace"="team" "name"="kong" "field"="spec.replicas" "old"="4" "new"="3" "message"="no"`
	if len(*logged) != 6 || (*logged)[2] != logLine {
		t.Errorf("logged:\n%s", strings.Join(*logged, "\n"))
	}
	want := []string{
		`Normal PolicyApplied resources: changed what alice wrote: a: set to 1; b: set to 2 (policy "gold")`,
		`Warning PolicyViolation replicasOverride: alice was refused: spec.replicas 4 → 3: no (policy "gold")`,
		`Warning PolicyWarning maxReplicas: let through for alice, but: spec.maxReplicas 50: too many (policy "gold")`,
	}
	if diff := cmp.Diff(want, sorted(notesOf(t, f))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestANoteOfManyFindingsIsCut(t *testing.T) {
	r, f, _ := newRecorder(t)
	var findings []evaluate.Finding
	for range 100 {
		findings = append(findings, evaluate.Finding{Rule: policy.RuleResources, Verdict: evaluate.Changed, Field: strings.Repeat("ü", 10), Message: "→ 1"})
	}
	r.Record(review(ref, findings...))
	notes := notesOf(t, f)
	const prefix = "Normal PolicyApplied resources: "
	if len(notes) != 1 || len(notes[0])-len(prefix) > maxNote || len(notes[0]) < maxNote {
		t.Errorf("notes %q", notes)
	}
}

func TestNewsOfAPolicyAreLoggedAndTold(t *testing.T) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kdp-system", Name: "gold", UID: "uid", ResourceVersion: "43"}}
	errs := field.ErrorList{
		field.Invalid(field.NewPath("mode"), "Off!", "must be one of Enforce, Warn, Audit, Off"),
		field.Required(field.NewPath("kind"), ""),
	}
	for name, c := range map[string]struct {
		news policy.News
		log  string
		want []string
	}{
		"loaded": {
			news: policy.News{ConfigMap: cm, InForce: policy.Ref{Name: "gold", ResourceVersion: "43"}, IsInForce: true},
			log:  `"level"=0 "msg"="policy loaded" "configMap"="gold" "resourceVersion"="43"`,
			want: []string{"Normal PolicyLoaded load: In force, resourceVersion 43"},
		},
		"invalid at first": {
			news: policy.News{ConfigMap: cm, Errors: errs},
			log:  `"msg"="policy is invalid and not used" "error"="[mode: Invalid value: \"Off!\": must be one of Enforce, Warn, Audit, Off, kind: Required value]" "configMap"="gold" "resourceVersion"="43" "inForce"="no earlier version of it is in force"`,
			want: []string{`Warning PolicyInvalid load: Not used, no earlier version of it is in force: [mode: Invalid value: "Off!": must be one of Enforce, Warn, Audit, Off, kind: Required value]`},
		},
		"invalid after a good one": {
			news: policy.News{ConfigMap: cm, Errors: errs[:1], InForce: policy.Ref{Name: "gold", ResourceVersion: "42"}, IsInForce: true},
			log:  `"msg"="policy is invalid and not used" "error"="mode: Invalid value: \"Off!\": must be one of Enforce, Warn, Audit, Off" "configMap"="gold" "resourceVersion"="43" "inForce"="its last good version, resourceVersion 42, stays in force"`,
			want: []string{`Warning PolicyInvalid load: Not used, its last good version, resourceVersion 42, stays in force: mode: Invalid value: "Off!": must be one of Enforce, Warn, Audit, Off`},
		},
		"deleted": {
			news: policy.News{ConfigMap: cm, Deleted: true},
			log:  `"level"=0 "msg"="policy deleted" "configMap"="gold" "resourceVersion"="43"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, f, logged := newRecorder(t)
			r.RecordPolicy(c.news)
			if diff := cmp.Diff([]string{c.log}, *logged); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.want, notesOf(t, f)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	f := newFixture(t)
	if _, err := NewRecorder(f.log, f.Events, registry); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRecorder(f.log, f.Events, registry); err == nil {
		t.Error("registered twice")
	}
}

func sorted(texts []string) []string {
	slices.Sort(texts)
	return texts
}
