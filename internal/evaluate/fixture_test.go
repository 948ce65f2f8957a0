package evaluate_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

var update = flag.Bool("update", false, "write what is seen into testdata")

// now is when every request of these tests is made.
var now = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

const (
	header = "apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\n"
	full   = `resources: {requests: {cpu: 300m, memory: 300Mi}, limits: {cpu: 1200m, memory: 800Mi}}`
	role   = `env: [{name: KONG_ROLE, value: data_plane}]`
	proxy  = `{name: proxy, ` + role + `, ` + full + `}`
)

// facts are what a test says about its cluster.
type facts struct {
	namespace   map[string]string
	deployments []*kube.Deployment
	hpas        []*autoscalingv2.HorizontalPodAutoscaler
	ranges      []*corev1.LimitRange
}

func (f facts) NamespaceLabels(string) map[string]string { return f.namespace }

func (f facts) Deployment(namespace, name string) *kube.Deployment {
	for _, d := range f.deployments {
		if d.Metadata.Namespace == namespace && d.Metadata.Name == name {
			return d
		}
	}
	return nil
}

func (f facts) HPAsFor(target kube.TargetKey) []*autoscalingv2.HorizontalPodAutoscaler {
	var list []*autoscalingv2.HorizontalPodAutoscaler
	for _, hpa := range f.hpas {
		if kube.HPATarget(hpa) == target {
			list = append(list, hpa)
		}
	}
	return list
}

func (f facts) LimitRanges(string) []*corev1.LimitRange { return f.ranges }

// policies returns a set of one policy, named edge, with that document.
func policies(t *testing.T, doc string) policy.Set {
	t.Helper()
	return policy.NewSet(inForce(t, "edge", doc))
}

func inForce(t *testing.T, name, doc string) *policy.Policy {
	t.Helper()
	d, errs := policy.Parse([]byte(header + doc))
	if len(errs) > 0 {
		t.Fatalf("fixture: %v", errs.ToAggregate())
	}
	p, err := policy.New(policy.Ref{Name: name, ResourceVersion: "7"}, d)
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return p
}

// deployment returns Deployment kong/kong-dp with those containers and replicas, and more metadata.
func deployment(t *testing.T, replicas, containers, metadata string) *kube.Deployment {
	t.Helper()
	spec := `template: {spec: {containers: [` + containers + `]}}`
	if replicas != "" {
		spec = `replicas: ` + replicas + `, ` + spec
	}
	raw, err := yaml.YAMLToJSON([]byte(`{metadata: {name: kong-dp, namespace: kong` + metadata + `}, spec: {` + spec + `}}`))
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	d, err := kube.DecodeDeployment(raw)
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return d
}

// hpa returns an HPA in namespace kong; spec leaves its target out, which is Deployment kong-dp.
func hpa(t *testing.T, name, spec, status string) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	h := &autoscalingv2.HorizontalPodAutoscaler{}
	text := `{metadata: {name: ` + name + `, namespace: kong}, spec: ` + spec
	if status != "" {
		text += `, status: ` + status
	}
	if err := yaml.UnmarshalStrict([]byte(text+`}`), h); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	if h.Spec.MinReplicas == nil {
		one := int32(1) // As the API server defaults it before admission.
		h.Spec.MinReplicas = &one
	}
	if h.Spec.ScaleTargetRef.Name == "" {
		h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "kong-dp"}
	}
	return h
}

const (
	at75 = `metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 75}}}]`
	at80 = `metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]`
	at95 = `metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 95}}}]`
)

func scale(replicas int32) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
}

func request() evaluate.Request {
	return evaluate.Request{Namespace: "kong", Name: "kong-dp", User: "alice", FieldManager: "kubectl-edit", Now: now}
}

func writeDeployment(after, before *kube.Deployment) evaluate.Request {
	r := request()
	r.Deployment, r.OldDeployment = after, before
	return r
}

func writeHPA(after, before *autoscalingv2.HorizontalPodAutoscaler) evaluate.Request {
	r := request()
	r.Name, r.HPA, r.OldHPA = after.Name, after, before
	return r
}

func writeScale(after, before int32) evaluate.Request {
	r := request()
	r.Scale, r.OldScale = scale(after), scale(before)
	return r
}

func decide(t *testing.T, req evaluate.Request, set policy.Set, f facts) evaluate.Decision {
	t.Helper()
	d, err := evaluate.Evaluate(req, set, f)
	if err != nil {
		t.Fatalf("could not decide: %v", err)
	}
	for _, finding := range d.Findings {
		if len(finding.Warning) > 120 {
			t.Errorf("a warning of %d bytes: %s", len(finding.Warning), finding.Warning)
		}
		if (finding.Verdict == evaluate.Warned) && finding.Warning == "" {
			t.Errorf("warned without a warning: %+v", finding)
		}
		if finding.Verdict == evaluate.Audited && finding.Warning != "" {
			t.Errorf("audited with a warning: %+v", finding)
		}
	}
	return d
}

// lines returns a decision as a reader sees it.
func lines(t *testing.T, d evaluate.Decision) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("policy: " + d.PolicyVersion() + "\nverdict: " + string(d.Verdict()) + "\n")
	for _, f := range d.Findings {
		b.WriteString("- " + string(f.Verdict) + " " + string(f.Rule) + " (" + string(f.Mode) + ") " + f.Field + ": " + value(f.Old) + " -> " + value(f.New) + "\n")
		b.WriteString("  message: " + f.Message + "\n")
		if f.Warning != "" {
			b.WriteString("  warning: " + f.Warning + "\n")
		}
		if f.HPA != "" {
			b.WriteString("  hpa: " + f.HPA + "\n")
		}
	}
	for _, op := range d.Patch {
		text, err := json.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("patch: " + string(text) + "\n")
	}
	return b.String()
}

func value(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
