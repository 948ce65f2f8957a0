package policy_test

import (
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// deployment decodes a Deployment; "" is none.
func deployment(t *testing.T, text string) *kube.Deployment {
	t.Helper()
	if text == "" {
		return nil
	}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	d, err := kube.DecodeDeployment(raw)
	if err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return d
}

// pods returns a Deployment with that pod spec.
func pods(spec string) string {
	return `{metadata: {name: kong, labels: {app: kong, tier: edge}}, spec: {template: {spec: ` + spec + `}}}`
}

// withDataPlanes returns the policy that has these entries.
func withDataPlanes(t *testing.T, entries string) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Ref{Name: "test"}, parse(t, header+"match: {dataPlane: ["+entries+"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestIsDataPlane(t *testing.T) {
	const role = `env: {name: KONG_ROLE, value: data_plane}`
	tests := map[string]struct {
		entries, deployment string
		want                bool
	}{
		"no Deployment": {entries: `{` + role + `}`},
		"the role in a container": {
			entries: `{` + role + `}`, want: true,
			deployment: pods(`{containers: [{name: sidecar}, {name: kong, env: [{name: A, value: b}, {name: KONG_ROLE, value: data_plane}]}]}`),
		},
		"the role in an init container only": {
			entries: `{` + role + `}`, want: true,
			deployment: pods(`{initContainers: [{name: setup, env: [{name: KONG_ROLE, value: data_plane}]}], containers: [{name: kong}]}`),
		},
		"the role from a ConfigMap may be that one": {
			entries: `{` + role + `}`, want: true,
			deployment: pods(`{containers: [{name: kong, env: [{name: KONG_ROLE, valueFrom: {configMapKeyRef: {name: c, key: k}}}]}]}`),
		},
		"the role from another variable may be that one": {
			entries: `{` + role + `}`, want: true,
			deployment: pods(`{containers: [{name: kong, env: [{name: KONG_ROLE, value: $(ROLE)}]}]}`),
		},
		"another role": {
			entries:    `{` + role + `}`,
			deployment: pods(`{containers: [{name: kong, env: [{name: KONG_ROLE, value: control_plane}]}]}`),
		},
		"a role that only begins alike": {
			entries:    `{` + role + `}`,
			deployment: pods(`{containers: [{name: kong, env: [{name: KONG_ROLE, value: data_plane_2}]}]}`),
		},
		"the value under another name": {
			entries:    `{` + role + `}`,
			deployment: pods(`{containers: [{name: kong, env: [{name: ROLE, value: data_plane}]}]}`),
		},
		"no environment at all": {entries: `{` + role + `}`, deployment: pods(`{containers: [{name: kong}]}`)},
		"labels": {
			entries: `{labels: {matchLabels: {app: kong}}}`, deployment: pods(`{containers: [{name: kong}]}`), want: true,
		},
		"labels by expression": {
			entries:    `{labels: {matchExpressions: [{key: tier, operator: In, values: [edge, core]}]}}`,
			deployment: pods(`{containers: [{name: kong}]}`), want: true,
		},
		"one label of two": {
			entries: `{labels: {matchLabels: {app: kong, tier: core}}}`, deployment: pods(`{containers: [{name: kong}]}`),
		},
		"an image": {
			entries: `{image: "kong/kong-gateway:*"}`, deployment: pods(`{containers: [{name: a, image: "kong/kong-gateway:3.9"}]}`), want: true,
		},
		"an image of an init container": {
			entries: `{image: "kong/kong-gateway:*"}`, want: true,
			deployment: pods(`{initContainers: [{name: a, image: "kong/kong-gateway:3.9"}], containers: [{name: b, image: c}]}`),
		},
		"an image in another registry": {
			entries: `{image: "kong/kong-gateway:*"}`, deployment: pods(`{containers: [{name: a, image: "mirror.example/kong/kong-gateway:3.9"}]}`),
		},
		"an image in any registry": {
			entries: `{image: "*/kong-gateway:*"}`, want: true,
			deployment: pods(`{containers: [{name: a, image: "mirror.example/x/kong-gateway:3.9"}]}`),
		},
		"a glob for one character": {
			entries: `{image: "kong:3.?"}`, deployment: pods(`{containers: [{name: a, image: "kong:3.9"}]}`), want: true,
		},
		"one character is not two": {
			entries: `{image: "kong:3.?"}`, deployment: pods(`{containers: [{name: a, image: "kong:3.10"}]}`),
		},
		"a dot in a glob is a dot": {
			entries: `{image: "kong.io/*"}`, deployment: pods(`{containers: [{name: a, image: "kongxio/kong"}]}`),
		},
		"brackets in a glob are brackets": {
			entries: `{image: "kong[0-9]*"}`, deployment: pods(`{containers: [{name: a, image: "kong3"}]}`),
		},
		"the second of two entries": {
			entries: `{` + role + `}, {image: "kong:*"}`, deployment: pods(`{containers: [{name: a, image: "kong:3"}]}`), want: true,
		},
		"none of two entries": {
			entries: `{` + role + `}, {image: "kong:*"}`, deployment: pods(`{containers: [{name: a, image: "nginx:3"}]}`),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := withDataPlanes(t, tt.entries).IsDataPlane(deployment(t, tt.deployment)); got != tt.want {
				t.Errorf("IsDataPlane = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestProxy(t *testing.T) {
	const (
		byRole   = `{env: {name: KONG_ROLE, value: data_plane}}`
		byLabels = `{labels: {matchLabels: {app: kong}}}`
		role     = `env: [{name: KONG_ROLE, value: data_plane}]`
	)
	tests := map[string]struct {
		entries, after, before string
		// want is the container's name, "" where it cannot be told.
		want string
	}{
		"the container with the role":             {entries: byRole, after: pods(`{containers: [{name: proxy}, {name: kong, ` + role + `}]}`), want: "kong"},
		"the first of two with the role":          {entries: byRole, after: pods(`{containers: [{name: a, ` + role + `}, {name: proxy, ` + role + `}]}`), want: "a"},
		"an init container has the role: by name": {entries: byRole, after: pods(`{initContainers: [{name: setup, ` + role + `}], containers: [{name: a}, {name: proxy}]}`), want: "proxy"},
		"an init container has the role: the only container": {
			entries: byRole, after: pods(`{initContainers: [{name: setup, ` + role + `}], containers: [{name: a}]}`), want: "a",
		},
		"an init container has the role: nobody can tell": {
			entries: byRole, after: pods(`{initContainers: [{name: setup, ` + role + `}], containers: [{name: a}, {name: b}]}`),
		},
		"labels: by name":              {entries: byLabels, after: pods(`{containers: [{name: a}, {name: proxy}]}`), want: "proxy"},
		"labels: the only container":   {entries: byLabels, after: pods(`{containers: [{name: a}]}`), want: "a"},
		"labels: nobody can tell":      {entries: byLabels, after: pods(`{containers: [{name: a}, {name: b}]}`)},
		"the container with the image": {entries: `{image: "kong:*"}`, after: pods(`{containers: [{name: proxy}, {name: a, image: "kong:3"}]}`), want: "a"},
		"the write took the role away": {
			entries: byRole, after: pods(`{containers: [{name: a}, {name: kong}]}`),
			before: pods(`{containers: [{name: kong, ` + role + `}, {name: a}]}`), want: "kong",
		},
		"the write took the role and the container away": {
			entries: byRole, after: pods(`{containers: [{name: a}]}`), before: pods(`{containers: [{name: kong, ` + role + `}]}`),
		},
		"the write took the role away from what could not be told": {
			entries: byRole, after: pods(`{containers: [{name: a}]}`),
			before: pods(`{initContainers: [{name: setup, ` + role + `}], containers: [{name: a}, {name: b}]}`),
		},
		"the write moved the role": {
			entries: byRole, after: pods(`{containers: [{name: a, ` + role + `}, {name: b}]}`),
			before: pods(`{containers: [{name: a}, {name: b, ` + role + `}]}`), want: "a",
		},
		"no containers": {entries: byRole, after: pods(`{initContainers: [{name: setup, ` + role + `}]}`)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			after := deployment(t, tt.after)
			got := ""
			if i, ok := withDataPlanes(t, tt.entries).Proxy(after, deployment(t, tt.before)); ok {
				got = after.Pod().Containers[i].Name
			}
			if got != tt.want {
				t.Errorf("Proxy = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWhatEntriesRead(t *testing.T) {
	compile := func(entries ...policy.DataPlaneMatch) *policy.DataPlanes {
		d, err := policy.CompileDataPlanes(entries)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	byEnv := compile(policy.DataPlaneMatch{Env: &policy.EnvMatch{Name: "A"}}, policy.DataPlaneMatch{Env: &policy.EnvMatch{Name: "B"}})
	for name, want := range map[string]bool{"A": true, "B": true, "C": false} {
		if byEnv.ReadsEnv(name) != want {
			t.Errorf("ReadsEnv(%s) = %v", name, !want)
		}
	}
	byLabels := compile(withDataPlanes(t, `{labels: {matchLabels: {a: b}}}`).Match.DataPlane...)
	if byLabels.ReadsEnv("A") {
		t.Error("entries by label read variables")
	}
}

func TestAnEntryThatCannotBeCompiledIsAnError(t *testing.T) {
	d := policy.Default()
	d.Match.DataPlane = withDataPlanes(t, `{labels: {matchLabels: {a: b}}}`).Match.DataPlane
	d.Match.DataPlane[0].Labels.MatchLabels["a"] = "not a value"
	if _, err := policy.New(policy.Ref{}, d); err == nil || !slices.Contains([]string{
		`match: dataPlane[0].labels: values[0][a]: Invalid value: "not a value": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
	}, err.Error()) {
		t.Errorf("error = %v", err)
	}
	e := policy.Default()
	e.Match.NamespaceSelector.MatchLabels = map[string]string{"a": "not a value"}
	if _, err := policy.New(policy.Ref{}, e); err == nil {
		t.Error("a namespace selector that cannot be compiled is no error")
	}
}
