package validate_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
	"github.com/kdp-webhook/kdp-webhook/internal/validate"
)

func hpa(t *testing.T, spec string) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	h := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(spec), &h.Spec); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return h
}

// autoscaling returns that section of a policy.
func autoscaling(t *testing.T, section string) *policy.Autoscaling {
	t.Helper()
	d, errs := policy.Parse([]byte("apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\nautoscaling: " + section + "\n"))
	if len(errs) > 0 {
		t.Fatalf("fixture: %v", errs.ToAggregate())
	}
	return &d.Autoscaling
}

// target returns a Deployment with that pod spec, nil for "".
func target(t *testing.T, pod string) *kube.Deployment {
	t.Helper()
	if pod == "" {
		return nil
	}
	raw, err := yaml.YAMLToJSON([]byte(`{metadata: {name: kong}, spec: {template: {spec: ` + pod + `}}}`))
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	d, err := kube.DecodeDeployment(raw)
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return d
}

// violation is a validate.Violation as a table can hold it.
type violation struct {
	Rule     policy.Rule
	Field    string
	Found    string
	Must     string
	Remedy   string
	Distance int64
}

func plain(violations []validate.Violation) []violation {
	var list []violation
	for _, v := range violations {
		found := fmt.Sprint(v.Found)
		if _, omitted := v.Found.(field.OmitValueType); omitted {
			found = ""
		}
		list = append(list, violation{
			Rule: v.Rule, Field: v.Field.String(), Found: found, Must: v.Must, Remedy: v.Remedy, Distance: v.Distance,
		})
	}
	return list
}

const (
	cpu75   = `{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 75}}}`
	cpu95   = `{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 95}}}`
	proxy0  = `{type: ContainerResource, containerResource: {name: cpu, container: proxy, target: {type: Utilization, averageUtilization: 4}}}`
	proxy75 = `{type: ContainerResource, containerResource: {name: cpu, container: proxy, target: {type: Utilization, averageUtilization: 75}}}`
	memory  = `{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 95}}}`
)

type testCase struct {
	policy, hpa, target string
	want                []violation
}

func run(t *testing.T, tests map[string]testCase) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			section := tt.policy
			if section == "" {
				section = "{}"
			}
			got := validate.HPA(hpa(t, tt.hpa), autoscaling(t, section), target(t, tt.target))
			if diff := cmp.Diff(tt.want, plain(got)); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func minimum(found, must string, distance int64) violation {
	return violation{
		Rule: policy.RuleMinReplicas, Field: "spec.minReplicas", Found: found, Must: must, Distance: distance,
		Remedy: "set autoscaling.minReplicas in the release's values, or minReplicas in the HPA",
	}
}

func maximum(found, must string, distance int64) violation {
	return violation{
		Rule: policy.RuleMaxReplicas, Field: "spec.maxReplicas", Found: found, Must: must, Distance: distance,
		Remedy: "set autoscaling.maxReplicas in the release's values, or maxReplicas in the HPA",
	}
}

func TestMinReplicas(t *testing.T) {
	const p = `{minReplicas: {min: 2, max: 4}}`
	run(t, map[string]testCase{
		"at the least":    {policy: p, hpa: `{minReplicas: 2, maxReplicas: 9}`},
		"at the most":     {policy: p, hpa: `{minReplicas: 4, maxReplicas: 9}`},
		"one too few":     {policy: p, hpa: `{minReplicas: 1, maxReplicas: 9}`, want: []violation{minimum("1", "must be between 2 and 4", 1)}},
		"left out is one": {policy: p, hpa: `{maxReplicas: 9}`, want: []violation{minimum("1", "must be between 2 and 4", 1)}},
		"zero":            {policy: p, hpa: `{minReplicas: 0, maxReplicas: 9}`, want: []violation{minimum("0", "must be between 2 and 4", 2)}},
		"three too many":  {policy: p, hpa: `{minReplicas: 7, maxReplicas: 9}`, want: []violation{minimum("7", "must be between 2 and 4", 3)}},
		"only one value is allowed": {
			policy: `{minReplicas: {min: 3, max: 3}}`, hpa: `{minReplicas: 2, maxReplicas: 9}`, want: []violation{minimum("2", "must be 3", 1)},
		},
		"zero that is allowed": {policy: `{minReplicas: {min: 0}}`, hpa: `{minReplicas: 0, maxReplicas: 9}`},
	})
}

func TestMaxReplicas(t *testing.T) {
	run(t, map[string]testCase{
		"at the most":    {hpa: `{minReplicas: 1, maxReplicas: 20}`},
		"above the most": {hpa: `{minReplicas: 1, maxReplicas: 50}`, want: []violation{maximum("50", "must be between 1 and 20", 30)}},
		"as far above as numbers go": {
			hpa: `{minReplicas: 1, maxReplicas: 2147483647}`, want: []violation{maximum("2147483647", "must be between 1 and 20", 2147483627)},
		},
		"below the least": {
			policy: `{maxReplicas: {min: 3}}`, hpa: `{minReplicas: 1, maxReplicas: 2}`, want: []violation{maximum("2", "must be between 3 and 20", 1)},
		},
		"both ends at once, in this order": {
			hpa:  `{minReplicas: 30, maxReplicas: 40}`,
			want: []violation{minimum("30", "must be between 1 and 20", 10), maximum("40", "must be between 1 and 20", 20)},
		},
	})
}

func TestMinSpread(t *testing.T) {
	spread := func(found, must string, distance int64) violation {
		return violation{
			Rule: policy.RuleMinSpread, Field: "spec.maxReplicas", Found: found, Must: must, Distance: distance,
			Remedy: "lower minReplicas or raise maxReplicas",
		}
	}
	run(t, map[string]testCase{
		"no spread is asked for":  {hpa: `{minReplicas: 3, maxReplicas: 3}`},
		"exactly the spread":      {policy: `{minSpread: 2}`, hpa: `{minReplicas: 3, maxReplicas: 5}`},
		"one short of the spread": {policy: `{minSpread: 2}`, hpa: `{minReplicas: 3, maxReplicas: 4}`, want: []violation{spread("4", "must be at least 2 above minReplicas, which is 3", 1)}},
		"minReplicas left out":    {policy: `{minSpread: 2}`, hpa: `{maxReplicas: 2}`, want: []violation{spread("2", "must be at least 2 above minReplicas, which is 1", 1)}},
		"the wrong way round":     {hpa: `{minReplicas: 5, maxReplicas: 3}`, want: []violation{spread("3", "must be at least 0 above minReplicas, which is 5", 2)}},
	})
}

func TestTargetCPU(t *testing.T) {
	const remedy = "set the CPU target in autoscaling.metrics of the release's values, or in the HPA"
	run(t, map[string]testCase{
		"within the bounds":         {hpa: `{maxReplicas: 9, metrics: [` + cpu75 + `]}`},
		"no metrics":                {hpa: `{maxReplicas: 9}`},
		"memory is nobody's matter": {hpa: `{maxReplicas: 9, metrics: [` + memory + `]}`},
		"too high": {
			hpa: `{maxReplicas: 9, metrics: [` + cpu95 + `]}`,
			want: []violation{{
				Rule: policy.RuleTargetCPU, Field: "spec.metrics[0].resource.target.averageUtilization", Found: "95",
				Must: "must be between 1 and 90", Remedy: remedy, Distance: 5,
			}},
		},
		"each of two, by their places": {
			policy: `{targetCPUUtilization: {min: 50, max: 80}}`,
			hpa:    `{maxReplicas: 9, metrics: [` + memory + `, ` + proxy0 + `, ` + cpu75 + `, ` + cpu95 + `]}`,
			want: []violation{
				{
					Rule: policy.RuleTargetCPU, Field: "spec.metrics[1].containerResource.target.averageUtilization", Found: "4",
					Must: "must be between 50 and 80", Remedy: remedy, Distance: 46,
				},
				{
					Rule: policy.RuleTargetCPU, Field: "spec.metrics[3].resource.target.averageUtilization", Found: "95",
					Must: "must be between 50 and 80", Remedy: remedy, Distance: 15,
				},
			},
		},
	})
}

func TestMetrics(t *testing.T) {
	missing := []violation{{
		Rule: policy.RuleMetrics, Field: "spec.metrics", Must: "must hold a CPU metric of type Utilization",
		Remedy: "add a Resource metric for cpu with averageUtilization 75", Distance: 1,
	}}
	run(t, map[string]testCase{
		"any will do":                {hpa: `{maxReplicas: 9, metrics: [` + memory + `]}`},
		"CPU is required and there":  {policy: `{metrics: CPURequired}`, hpa: `{maxReplicas: 9, metrics: [` + memory + `, ` + cpu75 + `]}`},
		"CPU of a container will do": {policy: `{metrics: CPURequired}`, hpa: `{maxReplicas: 9, metrics: [` + proxy75 + `]}`},
		"CPU is required and not there": {
			policy: `{metrics: CPURequired}`, hpa: `{maxReplicas: 9, metrics: [` + memory + `]}`, want: missing,
		},
		"CPU by value is not by utilization": {
			policy: `{metrics: CPURequired}`, want: missing,
			hpa: `{maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 500m}}}]}`,
		},
		"no metrics at all": {policy: `{metrics: CPURequired}`, hpa: `{maxReplicas: 9}`, want: missing},
	})
}

func TestScaleUp(t *testing.T) {
	const (
		roomy = `{containers: [{name: proxy, resources: {requests: {cpu: 300m}, limits: {cpu: 1200m}}}]}`
		tight = `{containers: [{name: proxy, resources: {limits: {cpu: 300m}}}]}`
		loose = `{containers: [{name: proxy, resources: {requests: {cpu: 300m}}}]}`
		// The pod as a whole has room, its proxy has none.
		mixed = `{containers: [{name: proxy, resources: {limits: {cpu: 300m}}}, {name: mesh, resources: {requests: {cpu: 100m}, limits: {cpu: "2"}}}]}`
	)
	with := func(metric, scaleUp string) string {
		return `{maxReplicas: 9, metrics: [` + metric + `], behavior: {scaleUp: ` + scaleUp + `}}`
	}
	hopeless := func(found, must string, distance int64) []violation {
		return []violation{{
			Rule: policy.RuleScaleUp, Field: "spec.behavior.scaleUp.tolerance", Found: found, Must: must,
			Remedy: "remove it, or set it to 0.1", Distance: distance,
		}}
	}
	run(t, map[string]testCase{
		"no behavior":            {hpa: `{maxReplicas: 9}`, target: roomy},
		"behavior for down only": {hpa: `{maxReplicas: 9, behavior: {scaleDown: {selectPolicy: Disabled}}}`, target: roomy},
		"the usual policies":     {hpa: with(cpu75, `{selectPolicy: Max, stabilizationWindowSeconds: 0}`), target: roomy},
		"switched off": {
			hpa: with(cpu75, `{selectPolicy: Disabled}`), target: roomy,
			want: []violation{{
				Rule: policy.RuleScaleUp, Field: "spec.behavior.scaleUp.selectPolicy", Found: "Disabled",
				Must: "must not switch scaling up off", Remedy: "remove it, or set it to Max or Min", Distance: 1,
			}},
		},
		"switched off, which the policy allows": {policy: `{allowScaleUpDisabled: true}`, hpa: with(cpu75, `{selectPolicy: Disabled}`), target: roomy},
		"a tolerance with room above":           {hpa: with(cpu75, `{tolerance: 0.5}`), target: roomy},
		"a tolerance that the limits end before": {
			hpa: with(cpu75, `{tolerance: 0.5}`), target: tight,
			want: hopeless("500m", "must let the HPA scale up: it would start at 112% CPU, the containers' limits end at 100%", 112),
		},
		"a tolerance that just reaches the limits": {
			hpa: with(cpu75, `{tolerance: "3"}`), target: `{containers: [{name: proxy, resources: {requests: {cpu: 100m}, limits: {cpu: 300m}}}]}`,
			want: hopeless("3", "must let the HPA scale up: it would start at 300% CPU, the containers' limits end at 300%", 300),
		},
		"that tolerance, which the policy allows": {policy: `{allowScaleUpDisabled: true}`, hpa: with(cpu75, `{tolerance: 0.5}`), target: tight},
		"the controller's own tolerance is not what switches it off": {
			policy: `{targetCPUUtilization: {max: 200}}`, target: tight,
			hpa: with(`{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 120}}}`, `{tolerance: 0.1}`),
		},
		"no limits: a large tolerance may be reached": {hpa: with(cpu75, `{tolerance: "9"}`), target: loose},
		"no limits: one that nobody reaches": {
			hpa: with(cpu75, `{tolerance: "10"}`), target: loose, want: hopeless("10", "must let the HPA scale up: it would start at 825% CPU", 825),
		},
		"nobody knows the target": {
			hpa: with(cpu75, `{tolerance: "10"}`), want: hopeless("10", "must let the HPA scale up: it would start at 825% CPU", 825),
		},
		"a metric of one container ends at that one's limit": {
			hpa: with(proxy75, `{tolerance: 0.5}`), target: mixed,
			want: hopeless("500m", "must let the HPA scale up: it would start at 112% CPU, the containers' limits end at 100%", 112),
		},
		"a metric of the pods ends at all limits together": {hpa: with(cpu75, `{tolerance: 0.5}`), target: mixed},
		"a metric that is not CPU":                         {hpa: with(memory, `{tolerance: "10"}`), target: tight},
		"as large as quantities go": {
			hpa: with(cpu75, `{tolerance: "1e2147483647"}`), target: loose,
			want: hopeless("10e2147483646", "must let the HPA scale up: it would start at 2147483647% CPU", 2147483647),
		},
	})
}

func TestEveryViolationIsReportedAtOnceInTheOrderOfTheRules(t *testing.T) {
	p := `{minReplicas: {min: 2}, maxReplicas: {max: 10}, minSpread: 3, metrics: CPURequired}`
	got := validate.HPA(hpa(t, `{minReplicas: 30, maxReplicas: 12, metrics: [`+memory+`], behavior: {scaleUp: {selectPolicy: Disabled}}}`), autoscaling(t, p), nil)
	var rules []policy.Rule
	for _, v := range got {
		rules = append(rules, v.Rule)
	}
	want := []policy.Rule{policy.RuleMinReplicas, policy.RuleMaxReplicas, policy.RuleMinSpread, policy.RuleMetrics, policy.RuleScaleUp}
	if diff := cmp.Diff(want, rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
