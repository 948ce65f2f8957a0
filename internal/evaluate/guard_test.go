package evaluate_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
)

// The states that the HPA, 2 to 10, may be in.
var hpaStates = []struct{ name, status string }{
	{"no status yet", `{desiredReplicas: 0, currentReplicas: 0}`},
	{"wants 5", `{desiredReplicas: 5, currentReplicas: 5, conditions: [{type: ScalingActive, status: "True", reason: ValidMetricFound, lastTransitionTime: "2026-08-01T10:00:00Z"}]}`},
	{"wanted 5 once", `{desiredReplicas: 5, currentReplicas: 5, conditions: [{type: ScalingActive, status: "False", reason: AmbiguousSelector, lastTransitionTime: "2026-08-01T10:00:00Z"}]}`},
	{"fails for 2m", `{desiredReplicas: 0, currentReplicas: 5, conditions: [{type: ScalingActive, status: "False", reason: FailedGetResourceMetric, lastTransitionTime: "2026-08-01T11:58:00Z"}]}`},
	{"fails for 2h", `{desiredReplicas: 0, currentReplicas: 5, conditions: [{type: ScalingActive, status: "False", reason: FailedGetResourceMetric, lastTransitionTime: "2026-08-01T10:00:00Z"}]}`},
}

var actors = []string{
	"alice", "system:serviceaccount:kube-system:horizontal-pod-autoscaler", "system:kube-controller-manager",
	"system:serviceaccount:keda:keda-operator", "system:kube-scheduler", "system:admin",
}

var moves = []struct{ live, wanted int32 }{{4, 4}, {4, 3}, {4, 5}, {4, 1}, {4, 0}, {0, 3}, {30, 9}, {4, 30}, {30, 40}}

// outcome returns what the guard made of a write in a few words.
func outcome(d evaluate.Decision) string {
	if len(d.Findings) == 0 {
		return "free"
	}
	var texts []string
	for _, f := range d.Findings {
		text := string(f.Verdict) + " " + string(f.Rule)
		texts = append(texts, text)
	}
	for _, op := range d.Patch {
		texts = append(texts, fmt.Sprintf("%s %s %v", op.Operation, op.Path, op.Value))
	}
	return strings.Join(texts, ", ")
}

func replicasWrite(t *testing.T, door, actor string, live, wanted int32) (evaluate.Request, facts) {
	t.Helper()
	before := deployment(t, strconv.Itoa(int(live)), proxy, "")
	req := writeScale(wanted, live)
	if door == "Deployment" {
		req = writeDeployment(deployment(t, strconv.Itoa(int(wanted)), proxy, ""), before)
	}
	req.User = actor
	return req, facts{}
}

// The whole matrix of who writes, through which door, with the HPA in which state, and which change of replicas.
func TestTheGuard(t *testing.T) {
	var b strings.Builder
	set := policies(t, "")
	for _, door := range []string{"scale", "Deployment"} {
		for _, actor := range actors {
			for _, state := range hpaStates {
				fmt.Fprintf(&b, "%s by %s, the HPA %s\n", door, actor, state.name)
				for _, move := range moves {
					req, f := replicasWrite(t, door, actor, move.live, move.wanted)
					f.deployments = append(f.deployments, deployment(t, strconv.Itoa(int(move.live)), proxy, ""))
					f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, state.status))
					d := decide(t, req, set, f)
					fmt.Fprintf(&b, "  %2d -> %2d: %s\n", move.live, move.wanted, outcome(d))
				}
			}
		}
	}
	golden(t, "guard.txt", b.String())
}

// What a policy makes of each kind of write: every onOverride, onReset and mode.
func TestTheGuardsChoices(t *testing.T) {
	writes := []struct {
		name, door, actor, status string
		live, wanted              int32
	}{
		{"a scale by a user", "scale", "alice", hpaStates[1].status, 4, 3},
		{"a scale to 1 by a user", "scale", "alice", hpaStates[1].status, 4, 1},
		{"an edit of the Deployment", "Deployment", "alice", hpaStates[1].status, 4, 3},
		{"a reset of the Deployment", "Deployment", "alice", hpaStates[1].status, 4, 1},
		{"a scale to zero", "scale", "alice", hpaStates[1].status, 4, 0},
		{"a scale where the HPA cannot", "scale", "alice", hpaStates[4].status, 4, 3},
		{"a reset where the HPA cannot", "Deployment", "alice", hpaStates[4].status, 4, 1},
		{"a scale by an unlisted identity", "scale", "system:kube-scheduler", hpaStates[1].status, 4, 3},
	}
	var b strings.Builder
	for _, w := range writes {
		for _, mode := range modes {
			fmt.Fprintf(&b, "%s, %s\n", w.name, mode)
			for _, action := range []string{"Reject", "Preserve", "Warn"} {
				for _, reset := range []string{"Reject", "Preserve", "Warn"} {
					for _, zero := range []string{"false", "true"} {
						if zero == "true" && (w.wanted != 0 || action != "Reject" || reset != "Reject") {
							continue
						}
						set := policies(t, `replicas: {mode: "`+string(mode)+`", onOverride: `+action+`, onReset: `+reset+`, allowScaleToZero: `+zero+"}\n")
						req, f := replicasWrite(t, w.door, w.actor, w.live, w.wanted)
						f.deployments = append(f.deployments, deployment(t, strconv.Itoa(int(w.live)), proxy, ""))
						f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, w.status))
						label := "onOverride " + action + ", onReset " + reset
						if zero == "true" {
							label += ", allowScaleToZero"
						}
						fmt.Fprintf(&b, "  %s: %s\n", label, outcome(decide(t, req, set, f)))
					}
				}
			}
		}
	}
	golden(t, "guard-choices.txt", b.String())
}

// Whole findings of the writes that people will meet.
func TestWhatTheGuardSays(t *testing.T) {
	hpa2to10 := hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, hpaStates[1].status)
	failing := hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, hpaStates[4].status)
	applied := `, annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":3}}'}`
	before, cluster := deployment(t, "4", proxy, ""), facts{hpas: nil}
	cluster.deployments = append(cluster.deployments, before)
	with := func(f facts, hpas ...string) facts {
		for _, which := range hpas {
			if which == "failing" {
				f.hpas = append(f.hpas, failing)
			} else {
				f.hpas = append(f.hpas, hpa2to10)
			}
		}
		return f
	}
	by := func(req evaluate.Request, user string) evaluate.Request {
		req.User = user
		return req
	}
	ssaWithout := writeDeployment(deployment(t, "1", proxy, ""), before)
	ssaWithout.FieldManager = "helm"
	ssaWithout.Object = []byte(`{"metadata":{"managedFields":[{"manager":"helm","operation":"Apply","fieldsV1":{"f:spec":{"f:template":{}}}}]}}`)
	tests := map[string]struct {
		policy string
		req    evaluate.Request
		facts  facts
	}{
		"kubectl scale":                             {req: writeScale(3, 4), facts: with(cluster, "driving")},
		"kubectl scale to zero":                     {req: writeScale(0, 4), facts: with(cluster, "driving")},
		"kubectl scale that is preserved":           {policy: "replicas: {onOverride: Preserve}\n", req: writeScale(3, 4), facts: with(cluster, "driving")},
		"kubectl scale where the HPA cannot":        {req: writeScale(3, 4), facts: with(cluster, "failing")},
		"kubectl scale by a control-plane identity": {req: by(writeScale(3, 4), "system:autoscaler"), facts: with(cluster, "driving")},
		"kubectl edit":                              {req: writeDeployment(deployment(t, "3", proxy, ""), before), facts: with(cluster, "driving")},
		"a whole-object write that resets":          {req: writeDeployment(deployment(t, "1", proxy, ""), before), facts: with(cluster, "driving")},
		"a whole-object write that resets, refused": {
			policy: "replicas: {onReset: Reject}\n", req: writeDeployment(deployment(t, "1", proxy, ""), before), facts: with(cluster, "driving"),
		},
		"a server-side apply without replicas, refused": {policy: "replicas: {onReset: Reject}\n", req: ssaWithout, facts: with(cluster, "driving")},
		"a write that re-asserts what was applied last": {
			req: writeDeployment(deployment(t, "3", proxy, applied), deployment(t, "4", proxy, applied)), facts: with(cluster, "driving"),
		},
		"a reset that is warned about": {
			policy: "replicas: {onReset: Warn}\n", req: writeDeployment(deployment(t, "1", proxy, ""), before), facts: with(cluster, "driving"),
		},
		"a reset in Warn":                       {policy: "mode: Warn\n", req: writeDeployment(deployment(t, "1", proxy, ""), before), facts: with(cluster, "driving")},
		"two HPAs, of which the first is named": {req: writeScale(3, 4), facts: with(cluster, "failing", "driving")},
		"no HPA":                                {req: writeScale(3, 4), facts: cluster},
		"no data plane":                         {req: writeScale(3, 4), facts: with(facts{}, "driving")},
		"the whole policy is off":               {policy: "mode: \"Off\"\n", req: writeScale(3, 4), facts: with(cluster, "driving")},
	}
	var b strings.Builder
	for _, name := range sorted(tests) {
		tt := tests[name]
		fmt.Fprintf(&b, "# %s\n%s\n", name, lines(t, decide(t, tt.req, policies(t, tt.policy), tt.facts)))
	}
	golden(t, "guard-messages.txt", b.String())
}

func TestAResetFromAboveTheRangeLosesNoPods(t *testing.T) {
	tests := map[string]struct {
		policy       string
		live, wanted int32
		want         string
	}{
		"preserved: the HPA brings it into the range":           {live: 8, wanted: 1, want: "changed replicasReset, add /spec/replicas 8"},
		"not to be preserved: a move into the range is free":    {policy: "replicas: {onReset: Reject}\n", live: 8, wanted: 1, want: "free"},
		"to another number in the range: no reset, and free":    {live: 8, wanted: 3, want: "free"},
		"from a pause: whoever sets replicas ends it, and free": {live: 0, wanted: 1, want: "free"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			req, f := replicasWrite(t, "Deployment", "helm", tt.live, tt.wanted)
			f.deployments = append(f.deployments, deployment(t, strconv.Itoa(int(tt.live)), proxy, ""))
			f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 1, maxReplicas: 5, `+at75+`}`, ""))
			if got := outcome(decide(t, req, policies(t, tt.policy), f)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLiveIsWhatTheRequestSaysNotTheCache(t *testing.T) {
	f := facts{hpas: nil}
	f.deployments = append(f.deployments, deployment(t, "9", proxy, ""))
	f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, ""))
	d := decide(t, writeDeployment(deployment(t, "1", proxy, ""), deployment(t, "6", proxy, "")), policies(t, ""), f)
	if diff := cmp.Diff("changed replicasReset, add /spec/replicas 6", outcome(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestACreateIsNotGuarded(t *testing.T) {
	f := facts{}
	f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, ""))
	if got := outcome(decide(t, writeDeployment(deployment(t, "30", proxy, ""), nil), policies(t, ""), f)); got != "free" {
		t.Errorf("a create: %s", got)
	}
}
