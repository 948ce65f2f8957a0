package evaluate_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

var modes = []policy.Mode{policy.Enforce, policy.Warn, policy.Audit, policy.Off}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// ruleCase is a write that one rule has something to say about.
type ruleCase struct {
	policy string
	req    evaluate.Request
	facts  facts
}

func ruleCases(t *testing.T) map[policy.Rule]ruleCase {
	t.Helper()
	dataPlane := facts{}
	dataPlane.deployments = append(dataPlane.deployments, deployment(t, "4", proxy, ""))
	driven := dataPlane
	driven.hpas = append(driven.hpas, hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, ""))
	created := func(spec string) evaluate.Request { return writeHPA(hpa(t, "kong-hpa", spec, ""), nil) }
	bySystem := writeScale(3, 4)
	bySystem.User = "system:autoscaler"
	return map[policy.Rule]ruleCase{
		policy.RuleResources: {
			req: writeDeployment(deployment(t, "4", `{name: proxy, `+role+`, resources: {requests: {cpu: 300m}, limits: {memory: 800Mi}}}`, ""), nil),
		},
		policy.RuleMinReplicas: {
			policy: "autoscaling: {minReplicas: {min: 3}}\n", facts: dataPlane, req: created(`{minReplicas: 2, maxReplicas: 10, ` + at75 + `}`),
		},
		policy.RuleMaxReplicas: {facts: dataPlane, req: created(`{minReplicas: 2, maxReplicas: 50, ` + at75 + `}`)},
		policy.RuleMinSpread: {
			policy: "autoscaling: {minSpread: 3}\n", facts: dataPlane, req: created(`{minReplicas: 2, maxReplicas: 4, ` + at75 + `}`),
		},
		policy.RuleTargetCPU: {facts: dataPlane, req: created(`{minReplicas: 2, maxReplicas: 10, ` + at80 + `}`)},
		policy.RuleMetrics: {
			policy: "autoscaling: {metrics: CPURequired}\n", facts: dataPlane,
			req: created(`{minReplicas: 2, maxReplicas: 10, metrics: [{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 75}}}]}`),
		},
		policy.RuleScaleUp: {
			facts: dataPlane, req: created(`{minReplicas: 2, maxReplicas: 10, ` + at75 + `, behavior: {scaleUp: {selectPolicy: Disabled}}}`),
		},
		policy.RuleTargetMissing:     {req: created(`{minReplicas: 2, maxReplicas: 10, ` + at75 + `}`)},
		policy.RuleOverride:          {facts: driven, req: writeScale(3, 4)},
		policy.RuleReset:             {facts: driven, req: writeDeployment(deployment(t, "1", proxy, ""), deployment(t, "4", proxy, ""))},
		policy.RuleUnknownAutoscaler: {facts: driven, req: bySystem},
	}
}

// Every rule in every mode, with its whole findings.
func TestEveryRuleInEveryMode(t *testing.T) {
	cases := ruleCases(t)
	for _, rule := range policy.Rules() {
		t.Run(string(rule), func(t *testing.T) {
			c, ok := cases[rule]
			if !ok {
				t.Fatal("no case for this rule: add one to ruleCases")
			}
			var b strings.Builder
			for _, mode := range modes {
				d := decide(t, c.req, policies(t, `mode: "`+string(mode)+"\"\n"+c.policy), c.facts)
				if mode != policy.Off && !slices.ContainsFunc(d.Findings, func(f evaluate.Finding) bool { return f.Rule == rule }) &&
					(rule != policy.RuleTargetMissing || mode != policy.Audit) {
					t.Errorf("in %s the rule says nothing: %v", mode, d.Findings)
				}
				if mode == policy.Off && len(d.Findings)+len(d.Patch) != 0 {
					t.Errorf("in Off: %v, %v", d.Findings, d.Patch)
				}
				if mode != policy.Enforce && (len(d.Patch) != 0 || len(d.Errors()) != 0) {
					t.Errorf("in %s something is changed or refused: %v", mode, d.Patch)
				}
				fmt.Fprintf(&b, "# %s\n%s\n", mode, lines(t, d))
			}
			golden(t, "rules/"+string(rule)+".txt", b.String())
		})
	}
}

// The list of modes that these tests go through is the one that the policy package declares.
func TestEveryModeIsTested(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../policy/types.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []policy.Mode
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Mode" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, policy.Mode(text))
		}
		return true
	})
	if diff := cmp.Diff(declared, modes); diff != "" {
		t.Errorf("(-declared +tested):\n%s", diff)
	}
}

// A section's own mode goes before the document's.
func TestASectionHasItsOwnMode(t *testing.T) {
	cases := ruleCases(t)
	tests := map[string]struct {
		policy string
		rule   policy.Rule
		want   evaluate.Verdict
	}{
		"resources enforced in a policy that audits":   {policy: "mode: Audit\nresources: {mode: Enforce}\n", rule: policy.RuleResources, want: evaluate.Changed},
		"resources off in a policy that enforces":      {policy: "resources: {mode: \"Off\"}\n", rule: policy.RuleResources, want: evaluate.Allowed},
		"autoscaling warned in a policy that enforces": {policy: "autoscaling: {mode: Warn}\n", rule: policy.RuleMaxReplicas, want: evaluate.Warned},
		"autoscaling enforced in a policy that is off": {policy: "mode: \"Off\"\nautoscaling: {mode: Enforce}\n", rule: policy.RuleMaxReplicas, want: evaluate.Denied},
		"replicas audited in a policy that enforces":   {policy: "replicas: {mode: Audit}\n", rule: policy.RuleOverride, want: evaluate.Audited},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := cases[tt.rule]
			d := decide(t, c.req, policies(t, tt.policy), c.facts)
			if d.Verdict() != tt.want {
				t.Errorf("verdict = %s, want %s", d.Verdict(), tt.want)
			}
		})
	}
}

// A violation is about this write: what was there and did not grow is a warning.
func TestTheRatchet(t *testing.T) {
	const min3 = "autoscaling: {minReplicas: {min: 3}, minSpread: 4}\n"
	tests := map[string]struct {
		policy, before, after string
		want                  []string
	}{
		"a violation that is new":           {before: `{maxReplicas: 20, ` + at75 + `}`, after: `{maxReplicas: 21, ` + at75 + `}`, want: []string{"denied maxReplicas"}},
		"a violation that grows":            {before: `{maxReplicas: 30, ` + at75 + `}`, after: `{maxReplicas: 31, ` + at75 + `}`, want: []string{"denied maxReplicas"}},
		"a violation that stays":            {before: `{maxReplicas: 30, ` + at75 + `}`, after: `{maxReplicas: 30, ` + at75 + `}`, want: []string{"warned maxReplicas"}},
		"a violation that shrinks":          {before: `{maxReplicas: 30, ` + at75 + `}`, after: `{maxReplicas: 29, ` + at75 + `}`, want: []string{"warned maxReplicas"}},
		"a violation that is repaired":      {before: `{maxReplicas: 30, ` + at75 + `}`, after: `{maxReplicas: 20, ` + at75 + `}`},
		"an old violation beside a new one": {before: `{maxReplicas: 30, ` + at75 + `}`, after: `{maxReplicas: 30, ` + at95 + `}`, want: []string{"warned maxReplicas", "denied targetCPUUtilization"}},
		"a violation that changes sides, nearer": {
			policy: "autoscaling: {targetCPUUtilization: {min: 50}}\n",
			before: `{maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 100}}}]}`,
			after:  `{maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 45}}}]}`,
			want:   []string{"warned targetCPUUtilization"},
		},
		"an old violation of another metric": {
			before: `{maxReplicas: 9, ` + at95 + `}`,
			after:  `{maxReplicas: 9, metrics: [{type: ContainerResource, containerResource: {container: proxy, name: cpu, target: {type: Utilization, averageUtilization: 95}}}]}`,
			want:   []string{"denied targetCPUUtilization"},
		},
		"another target is another HPA": {
			before: `{scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: other}, maxReplicas: 30, ` + at75 + `}`,
			after:  `{maxReplicas: 30, ` + at75 + `}`, want: []string{"denied maxReplicas"},
		},
		"the same target in another version is the same": {
			before: `{scaleTargetRef: {apiVersion: apps/v1beta9, kind: Deployment, name: kong-dp}, maxReplicas: 30, ` + at75 + `}`,
			after:  `{maxReplicas: 30, ` + at75 + `}`, want: []string{"warned maxReplicas"},
		},
		"a spread that filling minReplicas would break is not held against an untouched HPA": {
			policy: min3, before: `{minReplicas: 1, maxReplicas: 6, ` + at75 + `}`, after: `{minReplicas: 1, maxReplicas: 6, ` + at75 + `}`,
			want: []string{"warned minReplicas"},
		},
		"scaling up was switched off before": {
			before: `{maxReplicas: 9, ` + at75 + `, behavior: {scaleUp: {selectPolicy: Disabled}}}`,
			after:  `{maxReplicas: 9, ` + at75 + `, behavior: {scaleUp: {selectPolicy: Disabled}, scaleDown: {selectPolicy: Min}}}`,
			want:   []string{"warned scaleUpDisabled"},
		},
	}
	f := facts{}
	f.deployments = append(f.deployments, deployment(t, "4", proxy, ""))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, writeHPA(hpa(t, "kong-hpa", tt.after, ""), hpa(t, "kong-hpa", tt.before, "")), policies(t, tt.policy), f)
			var got []string
			for _, finding := range d.Findings {
				got = append(got, string(finding.Verdict)+" "+string(finding.Rule))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whole decisions about writes that are not about one rule alone.
func TestDecisions(t *testing.T) {
	dataPlane, web := deployment(t, "4", proxy, ""), deployment(t, "4", `{name: web, image: nginx}`, "")
	cluster := facts{}
	cluster.deployments = append(cluster.deployments, dataPlane)
	webCluster := facts{}
	webCluster.deployments = append(webCluster.deployments, web)
	bad := hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 50, `+at95+`}`, "")
	second := hpa(t, "second", `{minReplicas: 0, maxReplicas: 5, `+at75+`}`, "")
	withHPAs := facts{}
	withHPAs.hpas = append(withHPAs.hpas, bad, second)
	tests := map[string]struct {
		policy string
		req    evaluate.Request
		facts  facts
	}{
		"an HPA of a Deployment that is no data plane": {req: writeHPA(bad, nil), facts: webCluster},
		"an HPA of a StatefulSet": {
			req: writeHPA(hpa(t, "kong-hpa", `{scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: kong-dp}, maxReplicas: 50}`, ""), nil), facts: cluster,
		},
		"an HPA of a Deployment of another group": {
			req: writeHPA(hpa(t, "kong-hpa", `{scaleTargetRef: {apiVersion: example.com/v1, kind: Deployment, name: kong-dp}, maxReplicas: 50}`, ""), nil), facts: cluster,
		},
		"an HPA in a namespace that nobody covers": {
			policy: "match: {namespaceSelector: {matchLabels: {env: prod}}}\n", req: writeHPA(bad, nil), facts: cluster,
		},
		"an HPA whose target is missing, in a namespace that nobody covers": {
			policy: "match: {namespaceSelector: {matchLabels: {env: prod}}}\n", req: writeHPA(bad, nil),
		},
		"an HPA with everything wrong":                    {req: writeHPA(bad, nil), facts: cluster},
		"an HPA that asks for 80":                         {req: writeHPA(hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 9, `+at80+`}`, ""), nil), facts: cluster},
		"an HPA that is all right":                        {req: writeHPA(hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 9, `+at75+`}`, ""), nil), facts: cluster},
		"a Deployment that is no data plane":              {req: writeDeployment(web, nil)},
		"a data plane that is created where HPAs are":     {req: writeDeployment(dataPlane, nil), facts: withHPAs},
		"a Deployment that becomes a data plane":          {req: writeDeployment(dataPlane, web), facts: withHPAs},
		"a Deployment that becomes a data plane, in Warn": {policy: "mode: Warn\n", req: writeDeployment(dataPlane, web), facts: withHPAs},
		"a data plane that stays one":                     {req: writeDeployment(dataPlane, dataPlane), facts: withHPAs},
		"a data plane that ceases to be one":              {req: writeDeployment(web, dataPlane), facts: withHPAs},
		"a data plane without resources":                  {req: writeDeployment(deployment(t, "1", `{name: proxy, `+role+`}`, ""), nil)},
		"a scale of what is no data plane":                {req: writeScale(3, 4), facts: webCluster},
	}
	var b strings.Builder
	for _, name := range sorted(tests) {
		tt := tests[name]
		fmt.Fprintf(&b, "# %s\n%s\n", name, lines(t, decide(t, tt.req, policies(t, tt.policy), tt.facts)))
	}
	golden(t, "decisions.txt", b.String())
}

func TestALimitRangeThatForbidsInjectionIsANote(t *testing.T) {
	f := facts{}
	f.ranges = append(f.ranges, &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypePod, Max: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
	}}}})
	var b strings.Builder
	for _, mode := range modes {
		d := decide(t, writeDeployment(deployment(t, "1", `{name: proxy, `+role+`}`, ""), nil), policies(t, `mode: "`+string(mode)+"\"\n"), f)
		fmt.Fprintf(&b, "# %s\n%s\n", mode, lines(t, d))
	}
	golden(t, "limitrange.txt", b.String())
}

func TestWhatCannotBeDecidedIsAnError(t *testing.T) {
	_, err := evaluate.Evaluate(request(), policy.NewSet(), facts{})
	if err == nil || err.Error() != "evaluate kong/kong-dp: no object that rules know" {
		t.Errorf("error = %v", err)
	}
	withoutOld := writeScale(3, 4)
	withoutOld.OldScale = nil
	if _, err := evaluate.Evaluate(withoutOld, policy.NewSet(), facts{}); err == nil {
		t.Error("a scale without its old object is decided")
	}
}

func TestARefusalAsTheAPIReportsIt(t *testing.T) {
	f := facts{}
	f.deployments = append(f.deployments, deployment(t, "4", proxy, ""))
	d := decide(t, writeHPA(hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 50, `+at95+`}`, ""), nil), policies(t, ""), f)
	want := []string{
		`spec.maxReplicas: Invalid value: 50: must be between 1 and 20: set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA (policy "edge")`,
		`spec.metrics[0].resource.target.averageUtilization: Invalid value: 95: must be between 1 and 90: set the CPU target in autoscaling.metrics of the release's values, or in the HPA (policy "edge")`,
	}
	var got []string
	for _, err := range d.Errors() {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheMostSevereFindingIsTheVerdict(t *testing.T) {
	d := evaluate.Decision{}
	if d.Verdict() != evaluate.Allowed || d.PolicyVersion() != "none" {
		t.Errorf("nothing found: %s, %s", d.Verdict(), d.PolicyVersion())
	}
	for _, v := range evaluate.Verdicts()[1:] {
		d.Findings = append([]evaluate.Finding{{Verdict: v}}, d.Findings...)
		if d.Verdict() != v {
			t.Errorf("with %s: %s", v, d.Verdict())
		}
		if found := d.With(v); len(found) != 1 {
			t.Errorf("With(%s) = %v", v, found)
		}
	}
}

func TestTheSameRequestIsDecidedAlikeEveryTime(t *testing.T) {
	for rule, c := range ruleCases(t) {
		set := policies(t, c.policy)
		first := lines(t, decide(t, c.req, set, c.facts))
		for range 20 {
			if diff := cmp.Diff(first, lines(t, decide(t, c.req, set, c.facts))); diff != "" {
				t.Fatalf("%s (-first +later):\n%s", rule, diff)
			}
		}
	}
}

// Clients show 120 characters of a warning for sure: names as long as they may be are cut, and decide checks the length.
func TestWarningsAreShort(t *testing.T) {
	long := strings.Repeat("long-name-", 6) + "xyz"
	for rule, c := range ruleCases(t) {
		for _, mode := range []policy.Mode{policy.Enforce, policy.Warn} {
			req, f := c.req, facts{deployments: c.facts.deployments}
			for _, h := range c.facts.hpas {
				h = h.DeepCopy()
				h.Name = long
				f.hpas = append(f.hpas, h)
			}
			if req.HPA != nil {
				req.HPA = req.HPA.DeepCopy()
				req.HPA.Name = long
				if rule == policy.RuleTargetMissing {
					req.HPA.Spec.ScaleTargetRef.Name = long
				}
			}
			for _, finding := range decide(t, req, policies(t, "mode: "+string(mode)+"\n"+c.policy), f).Findings {
				if finding.Warning != "" && len(finding.Warning) < 20 {
					t.Errorf("%s in %s: nothing is left of the warning: %q", rule, mode, finding.Warning)
				}
			}
		}
	}
	bad := hpa(t, long, `{minReplicas: 0, maxReplicas: 50, `+at95+`}`, "")
	d := decide(t, writeDeployment(deployment(t, "4", proxy, ""), nil), policies(t, "mode: Warn\n"), facts{hpas: []*autoscalingv2.HorizontalPodAutoscaler{bad}})
	if len(d.Findings) != 3 {
		t.Fatalf("findings: %v", d.Findings)
	}
	if got, want := d.Findings[1].Warning, `HPA "`+long+`": spec.maxReplicas 50 must be between 1 and 20;...`; got != want {
		t.Errorf("warning:\n got %s\nwant %s", got, want)
	}
}

func TestThePolicyThatHoldsIsNamed(t *testing.T) {
	f := facts{}
	f.deployments = append(f.deployments, deployment(t, "4", proxy, ""))
	set := policy.NewSet(inForce(t, "low", "mode: Audit\n"), inForce(t, "high", "priority: 5\n"))
	d := decide(t, writeHPA(hpa(t, "kong-hpa", `{maxReplicas: 50, `+at75+`}`, ""), nil), set, f)
	if d.PolicyVersion() != "high@7" || d.Verdict() != evaluate.Denied {
		t.Errorf("%s decided %s", d.PolicyVersion(), d.Verdict())
	}
	builtIn := decide(t, writeHPA(hpa(t, "kong-hpa", `{maxReplicas: 50, `+at75+`}`, ""), nil), policy.NewSet(), f)
	if builtIn.PolicyVersion() != "built-in" {
		t.Errorf("without a policy %s decided", builtIn.PolicyVersion())
	}
}

func TestARefusedChangeTellsWhatWasThereBefore(t *testing.T) {
	dataPlane := facts{}
	dataPlane.deployments = append(dataPlane.deployments, deployment(t, "4", proxy, ""))
	before := hpa(t, "kong-hpa", `{minReplicas: 2, maxReplicas: 10, `+at75+`}`, "")
	after := hpa(t, "kong-hpa", strings.ReplaceAll(`{minReplicas: 21, maxReplicas: 50, `+at75+`}`, "75", "95"), "")
	d := decide(t, writeHPA(after, before), policies(t, ""), dataPlane)
	var got []string
	for _, f := range d.Findings {
		got = append(got, fmt.Sprintf("%s %s: %s -> %s", f.Verdict, f.Field, f.Old, f.New))
	}
	want := []string{
		"denied spec.minReplicas: 2 -> 21",
		"denied spec.maxReplicas: 10 -> 50",
		"denied spec.metrics[0].resource.target.averageUtilization: 75 -> 95",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAViolationIsTheSameWhereverItsMetricStands(t *testing.T) {
	const memory = `{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 70}}}`
	cpu := func(target string) string {
		return `{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: ` + target + `}}}`
	}
	spec := func(metrics string) string { return `{minReplicas: 2, maxReplicas: 10, metrics: [` + metrics + `]}` }
	dataPlane := facts{}
	dataPlane.deployments = append(dataPlane.deployments, deployment(t, "4", proxy, ""))
	before := hpa(t, "kong-hpa", spec(cpu("95")), "")
	for target, want := range map[string]evaluate.Verdict{"95": evaluate.Warned, "92": evaluate.Warned, "96": evaluate.Denied} {
		d := decide(t, writeHPA(hpa(t, "kong-hpa", spec(memory+", "+cpu(target)), ""), before), policies(t, ""), dataPlane)
		if got := d.Verdict(); got != want {
			t.Errorf("target %s: %s, want %s", target, got, want)
		}
	}
}

func TestAnHPAThatCameBeforeItsDataPlaneIsJudgedAsItsOwnWriteWouldBe(t *testing.T) {
	f := facts{}
	f.hpas = append(f.hpas, hpa(t, "kong-hpa", `{minReplicas: 1, maxReplicas: 10, `+at80+`}`, ""))
	set := policies(t, "autoscaling: {minReplicas: {min: 2}, targetCPUUtilization: {max: 75}}\n")
	d := decide(t, writeDeployment(deployment(t, "1", proxy, ""), nil), set, f)
	if got := d.With(evaluate.Denied); len(got) > 0 {
		t.Errorf("what the HPA left out is held against the Deployment: %+v", got)
	}
}
