package kube_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

const kong = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: kong-dp-kong
  namespace: kong
  uid: 0b5c
  resourceVersion: "42"
  labels: {app.kubernetes.io/name: kong}
  annotations: {kdp-webhook.io/injected: '{}', deployment.kubernetes.io/revision: "3"}
  deletionTimestamp: "2026-08-01T12:00:00Z"
spec:
  replicas: 3
  template:
    spec:
      resources: {requests: {cpu: "1"}}
      initContainers:
        - {name: clear-stale-pid, image: "kong:3.9", env: [{name: KONG_ROLE, value: data_plane}, {name: OTHER, value: x}]}
        - {name: mesh, image: "mesh:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}
      containers:
        - name: proxy
          image: kong:3.9
          env:
            - {name: KONG_ROLE, valueFrom: {configMapKeyRef: {name: kong, key: role}}}
            - {name: KONG_DATABASE, value: "off"}
          resources: {requests: {cpu: 300m, memory: 300Mi}, limits: {memory: 800Mi}}
`

// keep keeps the variables named.
type keep struct{ env []string }

func (k keep) ReadsEnv(name string) bool { return slices.Contains(k.env, name) }

func TestADeploymentIsStrippedToWhatPoliciesRead(t *testing.T) {
	stripped := kube.FromDeployment(typed(t, kong), keep{})
	for _, c := range kube.AllContainers(stripped.Pod()) {
		if c.Env != nil {
			t.Errorf("container %s: variables that nobody reads are kept: %v", c.Name, c.Env)
		}
	}
	if diff := cmp.Diff(map[string]string{"kdp-webhook.io/injected": "{}"}, stripped.Metadata.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestATypedAndADecodedDeploymentAreTheSameInWhatIsKept(t *testing.T) {
	stripped := kube.FromDeployment(typed(t, kong), keep{env: []string{"KONG_ROLE"}})

	want := decode(t, kong)
	// What the cache leaves out: annotations of others, and variables that no policy reads.
	delete(want.Metadata.Annotations, "deployment.kubernetes.io/revision")
	for _, c := range kube.AllContainers(want.Pod()) {
		var kept []kube.EnvVar
		for _, e := range c.Env {
			if e.Name == "KONG_ROLE" {
				kept = append(kept, e)
			}
		}
		c.Env = kept
	}
	if diff := cmp.Diff(want, stripped, quantities, cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
		t.Errorf("(-decoded +stripped):\n%s", diff)
	}
}

func TestAnEmptyDeploymentIsDecodedAndStrippedAlike(t *testing.T) {
	const empty = `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: a}]}}}}`
	stripped := kube.FromDeployment(typed(t, empty), keep{})
	if diff := cmp.Diff(decode(t, empty), stripped, cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
		t.Errorf("(-decoded +stripped):\n%s", diff)
	}
}

func TestDecodingADeployment(t *testing.T) {
	tests := map[string]struct {
		raw  string
		want string
	}{
		"no JSON":                    {raw: `{"spec":`, want: "decode Deployment: unexpected end of JSON input"},
		"containers of another type": {raw: `{"spec":{"template":{"spec":{"containers":{}}}}}`, want: "decode Deployment: json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []kube.Container"},
		"a quantity that is none":    {raw: `{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"much"}}}]}}}}`, want: `decode Deployment: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'`},
		"a quantity that would take forever to compare": {
			raw:  `{"spec":{"template":{"spec":{"containers":[{"name":"proxy","resources":{"limits":{"cpu":"1e2147483647"}}}]}}}}`,
			want: `decode Deployment: container "proxy": limits[cpu] is out of all proportion`,
		},
		"such a quantity for the whole pod": {
			raw:  `{"spec":{"template":{"spec":{"resources":{"requests":{"memory":"1e99999999"}}}}}}`,
			want: `decode Deployment: pod: requests[memory] is out of all proportion`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, err := kube.DecodeDeployment([]byte(tt.raw))
			if err == nil {
				t.Fatalf("decoded to %v", d)
			}
			if err.Error() != tt.want {
				t.Errorf("error:\n got %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestReasonableQuantities(t *testing.T) {
	for _, text := range []string{"0", "-1", "300m", "1n", "800Mi", "8Ei", "1e18", "9223372036854775807", "1e30"} {
		if !kube.Reasonable(resource.MustParse(text)) {
			t.Errorf("%s is taken for out of proportion", text)
		}
	}
	for _, text := range []string{"1e1000", "1e2147483647"} {
		if kube.Reasonable(resource.MustParse(text)) {
			t.Errorf("%s is taken for reasonable", text)
		}
	}
}

func TestLiteralVariables(t *testing.T) {
	tests := map[string]struct {
		env  string
		want bool
	}{
		"a value":                        {env: `{name: A, value: data_plane}`, want: true},
		"no value":                       {env: `{name: A}`, want: true},
		"a value from elsewhere":         {env: `{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}`},
		"a value that refers to another": {env: `{name: A, value: "x$(ROLE)"}`},
		"a dollar is no reference":       {env: `{name: A, value: "$ROLE"}`, want: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var e kube.EnvVar
			if err := yaml.Unmarshal([]byte(tt.env), &e); err != nil {
				t.Fatal(err)
			}
			if got := e.Literal(); got != tt.want {
				t.Errorf("Literal = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReplicas(t *testing.T) {
	for spec, want := range map[string]int32{`{}`: 1, `{replicas: null}`: 1, `{replicas: 0}`: 0, `{replicas: 7}`: 7} {
		if got := decode(t, `{metadata: {name: a}, spec: `+spec+`}`).Replicas(); got != want {
			t.Errorf("spec %s: Replicas = %d, want %d", spec, got, want)
		}
	}
}

func TestDeepCopySharesNothingThatChanges(t *testing.T) {
	d := decode(t, kong)
	before, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}

	c := d.DeepCopy()
	if diff := cmp.Diff(d, c, quantities, cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
		t.Fatalf("the copy differs (-original +copy):\n%s", diff)
	}
	*c.Spec.Replicas = 99
	c.Metadata.Annotations["x"], c.Metadata.Labels["x"] = "y", "y"
	c.Pod().Resources.Set(kube.Limits, corev1.ResourceCPU, resource.MustParse("9"))
	for _, container := range kube.AllContainers(c.Pod()) {
		if container.Resources == nil {
			container.Resources = &kube.Resources{}
		}
		container.Resources.Set(kube.Requests, corev1.ResourceCPU, resource.MustParse("9"))
		container.Name = "renamed"
	}

	after, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("changing the copy changed the original (-before +after):\n%s", diff)
	}
}

func TestLastAppliedReplicas(t *testing.T) {
	tests := map[string]struct {
		annotations string
		want        int32
		ok          bool
	}{
		"never applied":           {annotations: `{}`},
		"applied with replicas":   {annotations: `{kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":3}}'}`, want: 3, ok: true},
		"applied with zero":       {annotations: `{kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":0}}'}`, want: 0, ok: true},
		"applied without":         {annotations: `{kubectl.kubernetes.io/last-applied-configuration: '{"spec":{}}'}`},
		"a manifest of no use":    {annotations: `{kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":"3"}}'}`},
		"a manifest that is none": {annotations: `{kubectl.kubernetes.io/last-applied-configuration: ''}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := decode(t, `{metadata: {name: a, annotations: `+tt.annotations+`}}`).LastAppliedReplicas()
			if got != tt.want || ok != tt.ok {
				t.Errorf("LastAppliedReplicas = %d, %v, want %d, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestSameTemplate(t *testing.T) {
	const base = `{metadata: {name: a}, spec: {replicas: 1, template: {metadata: {labels: {a: b}}, spec: {
		initContainers: [{name: setup, image: i}],
		containers: [{name: proxy, image: "kong:3", resources: {limits: {cpu: "1"}}}]}}}}`
	tests := map[string]struct {
		a, b string
		want bool
	}{
		"nothing changed": {a: base, b: base, want: true},
		"replicas, labels and annotations are not the template": {
			a: base, want: true,
			b: `{metadata: {name: a, labels: {x: z}, annotations: {x: z}}, spec: {replicas: 9, template: {metadata: {labels: {a: b}}, spec: {
				initContainers: [{name: setup, image: i}],
				containers: [{name: proxy, image: "kong:3", resources: {limits: {cpu: "1"}}}]}}}}`,
		},
		"the order of keys does not matter": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, image: x}]}}}}`, want: true,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{image: x, name: proxy}]}}}}`,
		},
		"an image": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, image: x}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, image: z}]}}}}`,
		},
		"an annotation of the template": {
			a: `{metadata: {name: a}, spec: {template: {metadata: {annotations: {restartedAt: now}}, spec: {containers: [{name: proxy}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}]}}}}`,
		},
		"a field that our types do not know": {
			a: `{metadata: {name: a}, spec: {template: {spec: {novelty: 1, containers: [{name: proxy}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {novelty: 2, containers: [{name: proxy}]}}}}`,
		},
		"a resource that is ignored": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, resources: {limits: {memory: 1Gi}}}]}}}}`, want: true,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}]}}}}`,
		},
		"an ignored resource of an init container": {
			a: `{metadata: {name: a}, spec: {template: {spec: {initContainers: [{name: mesh, resources: {limits: {memory: 1Gi}}}], containers: [{name: proxy}]}}}}`, want: true,
			b: `{metadata: {name: a}, spec: {template: {spec: {initContainers: [{name: mesh, resources: {}}], containers: [{name: proxy}]}}}}`,
		},
		"a resource that is not ignored": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, resources: {limits: {memory: 1Gi, cpu: "1"}}}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}]}}}}`,
		},
		"claims stay when the lists are dropped": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, resources: {claims: [{name: gpu}], limits: {memory: 1Gi}}}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}]}}}}`,
		},
		"another container": {
			a: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}]}}}}`,
			b: `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy}, {name: proxy2}]}}}}`,
		},
		"no template at all": {a: `{metadata: {name: a}}`, b: base},
	}
	ignoreMemory := func(_ *kube.Deployment, _, _, resource string) bool { return resource == "memory" }
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := decode(t, tt.a), decode(t, tt.b)
			got, err := kube.SameTemplate(a, b, ignoreMemory)
			if err != nil {
				t.Fatal(err)
			}
			mirrored, err := kube.SameTemplate(b, a, ignoreMemory)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want || mirrored != tt.want {
				t.Errorf("SameTemplate = %v, the other way round %v, want %v", got, mirrored, tt.want)
			}
		})
	}
}

func TestSameTemplateTellsTheDeploymentAndContainerItAsksAbout(t *testing.T) {
	a := decode(t, `{metadata: {name: a}, spec: {template: {spec: {containers: [{name: proxy, resources: {limits: {cpu: "1"}}}]}}}}`)
	b := decode(t, `{metadata: {name: b}, spec: {template: {spec: {initContainers: [{name: mesh, resources: {requests: {cpu: "2"}}}], containers: []}}}}`)
	var asked []string
	_, err := kube.SameTemplate(a, b, func(d *kube.Deployment, container, list, resource string) bool {
		asked = append(asked, d.Metadata.Name+" "+container+" "+list+" "+resource)
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a proxy limits cpu", "b mesh requests cpu"}, asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestADeploymentFromACacheHasNoTemplateToCompare(t *testing.T) {
	d := kube.FromDeployment(typed(t, kong), keep{})
	same, err := kube.SameTemplate(d, d, func(*kube.Deployment, string, string, string) bool { return true })
	if same || err != nil {
		t.Errorf("SameTemplate = %v, %v, want false, nil", same, err)
	}
}
