package policy_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// named returns a policy in force with that document.
func named(t *testing.T, name, doc string) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Ref{Name: name, ResourceVersion: "1"}, parse(t, header+doc))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(set policy.Set) []string {
	var list []string
	for _, p := range set {
		list = append(list, p.Ref.Label())
	}
	return list
}

func TestTheNamesOfAPolicy(t *testing.T) {
	ours, builtIn := policy.Ref{Name: "edge", ResourceVersion: "42"}, policy.Ref{}
	got := []string{ours.String(), ours.Label(), ours.Version(), builtIn.String(), builtIn.Label(), builtIn.Version()}
	want := []string{`policy "edge"`, "edge", "edge@42", "the built-in policy", "built-in", "built-in"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestASetIsOrderedByPriorityThenName(t *testing.T) {
	set := policy.NewSet(
		named(t, "b", ""), named(t, "z", "priority: 5\n"), named(t, "a", ""), named(t, "low", "priority: -1\n"), named(t, "y", "priority: 5\n"),
	)
	if diff := cmp.Diff([]string{"y", "z", "a", "b", "low"}, names(set)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnEmptySetHoldsTheBuiltInPolicy(t *testing.T) {
	set := policy.NewSet()
	if diff := cmp.Diff([]string{"built-in"}, names(set)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(policy.Default(), set[0].Document, quantities); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhichPolicyHolds(t *testing.T) {
	const (
		dataPlane = `{metadata: {name: kong}, spec: {template: {spec: {containers: [{name: kong, image: "kong:3", env: [{name: KONG_ROLE, value: data_plane}]}]}}}}`
		byImage   = `{metadata: {name: kong}, spec: {template: {spec: {containers: [{name: kong, image: "kong:3"}]}}}}`
		neither   = `{metadata: {name: web}, spec: {template: {spec: {containers: [{name: web, image: nginx}]}}}}`
		images    = "match: {dataPlane: [{image: \"kong:*\"}]}\n"
		prodOnly  = "match: {namespaceSelector: {matchLabels: {env: prod}}}\n"
	)
	prod, dev := map[string]string{"env": "prod"}, map[string]string{"env": "dev"}
	tests := map[string]struct {
		policies      map[string]string
		namespace     map[string]string
		after, before string
		want          string
	}{
		"a data plane":                {policies: map[string]string{"a": ""}, after: dataPlane, want: "a"},
		"no data plane":               {policies: map[string]string{"a": ""}, after: neither, want: "none"},
		"nothing at all":              {policies: map[string]string{"a": ""}, want: "none"},
		"it was one before the write": {policies: map[string]string{"a": ""}, after: neither, before: dataPlane, want: "a"},
		"it becomes one":              {policies: map[string]string{"a": ""}, after: dataPlane, before: neither, want: "a"},
		"it is deleted":               {policies: map[string]string{"a": ""}, before: dataPlane, want: "a"},
		"the higher priority wins":    {policies: map[string]string{"a": "", "b": "priority: 1\n"}, after: dataPlane, want: "b"},
		"equal priorities go by name": {policies: map[string]string{"b": "", "a": ""}, after: dataPlane, want: "a"},
		"a higher one that does not cover the namespace": {
			policies: map[string]string{"a": "", "b": "priority: 1\n" + prodOnly}, namespace: dev, after: dataPlane, want: "a",
		},
		"a higher one that covers the namespace": {
			policies: map[string]string{"a": "", "b": "priority: 1\n" + prodOnly}, namespace: prod, after: dataPlane, want: "b",
		},
		"a namespace that nobody covers":       {policies: map[string]string{"b": prodOnly}, namespace: dev, after: dataPlane, want: "none"},
		"a namespace whose labels are unknown": {policies: map[string]string{"b": prodOnly}, after: dataPlane, want: "none"},
		"a lower one that takes it for a data plane": {
			policies: map[string]string{"a": "priority: 1\n", "b": images}, after: byImage, want: "b",
		},
		"what it will be goes before what it was": {
			policies: map[string]string{"a": "priority: 1\n", "b": images}, after: byImage, before: dataPlane, want: "b",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var policies []*policy.Policy
			for name, doc := range tt.policies {
				policies = append(policies, named(t, name, doc))
			}
			got := "none"
			if p := policy.NewSet(policies...).For(tt.namespace, deployment(t, tt.after), deployment(t, tt.before)); p != nil {
				got = p.Ref.Label()
			}
			if got != tt.want {
				t.Errorf("For = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTheStoreKeepsTheLastGoodDocument(t *testing.T) {
	store := policy.NewStore()
	put := func(version, doc string) string {
		return text(store.Put(policy.Ref{Name: "edge", ResourceVersion: version}, []byte(doc)))
	}
	inForce := func() string {
		set := store.Set()
		if len(set) != 1 {
			t.Fatalf("%d policies in force", len(set))
		}
		return set[0].Ref.Version() + " " + string(set[0].Mode)
	}
	steps := []struct {
		name, errors, inForce string
		do                    func() string
	}{
		{name: "nothing yet", inForce: "built-in Enforce", do: func() string { return "" }},
		{
			name: "the first document is broken", inForce: "built-in Enforce", do: func() string { return put("1", header+"mode: Loose\n") },
			errors: "mode: Unsupported value: \"Loose\": supported values: \"Enforce\", \"Warn\", \"Audit\", \"Off\"\n",
		},
		{name: "a good one", inForce: "edge@2 Warn", do: func() string { return put("2", header+"mode: Warn\n") }},
		{
			name: "it is edited and broken thrice over", inForce: "edge@2 Warn",
			do: func() string {
				return put("3", header+"mood: Warn\nresources: {proxy: {requests: {cpu: lots}}}\nautoscaling: {maxReplicas: {min: 9, max: 5}}\n")
			},
			errors: "autoscaling.maxReplicas.min: Invalid value: 9: must not be above max, 5\n" +
				"mood: Invalid value: unknown field, did you mean \"mode\"?\n" +
				"resources.proxy.requests[cpu]: Invalid value: \"lots\": must be a quantity like 300m or 800Mi\n",
		},
		{name: "it is repaired", inForce: "edge@4 Audit", do: func() string { return put("4", header+"mode: Audit\n") }},
		{name: "it is deleted", inForce: "built-in Enforce", do: func() string { store.Delete("edge"); return "" }},
		{name: "another is deleted", inForce: "built-in Enforce", do: func() string { store.Delete("other"); return "" }},
	}
	for _, step := range steps {
		if diff := cmp.Diff(step.errors, step.do()); diff != "" {
			t.Errorf("%s: errors (-want +got):\n%s", step.name, diff)
		}
		if diff := cmp.Diff(step.inForce, inForce()); diff != "" {
			t.Errorf("%s: in force (-want +got):\n%s", step.name, diff)
		}
	}
}

func TestTheStoreTellsWhichVersionIsInForce(t *testing.T) {
	store := policy.NewStore()
	if ref, ok := store.Current("edge"); ok {
		t.Errorf("nothing was put: %v", ref)
	}
	store.Put(policy.Ref{Name: "edge", ResourceVersion: "7"}, []byte(header))
	store.Put(policy.Ref{Name: "edge", ResourceVersion: "8"}, []byte("broken"))
	if ref, ok := store.Current("edge"); !ok || ref.Version() != "edge@7" {
		t.Errorf("Current = %v, %v", ref, ok)
	}
}

func TestASetThatWasTakenDoesNotChange(t *testing.T) {
	store := policy.NewStore()
	taken := store.Set()
	store.Put(policy.Ref{Name: "edge"}, []byte(header+"mode: Warn\n"))
	if diff := cmp.Diff([]string{"built-in"}, names(taken)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadersMayAskWhileADocumentIsPut(t *testing.T) {
	store := policy.NewStore()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 200 {
				if len(store.Set()) != 1 {
					t.Error("not exactly one policy in force")
				}
			}
		})
	}
	for range 50 {
		store.Put(policy.Ref{Name: "edge"}, []byte(header))
		store.Delete("edge")
	}
	readers.Wait()
}

func TestRulesAreNamedOnce(t *testing.T) {
	seen := map[policy.Rule]bool{}
	for _, r := range policy.Rules() {
		if seen[r] || r == "" {
			t.Errorf("rule %q twice, or without a name", r)
		}
		seen[r] = true
	}
}

func TestVariablesThatTheProcessDoesNotKeepAreWarnedAbout(t *testing.T) {
	client := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kdp-system", Name: "team", Labels: map[string]string{policy.Label: "true"}},
		Data: map[string]string{policy.DataKey: "apiVersion: " + policy.APIVersion + "\nkind: " + policy.Kind + "\nmatch:\n  dataPlane:\n" +
			"    - env: {name: KONG_ROLE, value: data_plane}\n    - env: {name: ROLE, value: gateway}\n"},
	})
	process, err := policy.CompileDataPlanes(policy.Default().Match.DataPlane)
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan policy.News, 1)
	watch, err := policy.NewWatch(client, "kdp-system", process, policy.NewStore(), func(n policy.News) { news <- n })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watch.Start(ctx) }()
	got := <-news
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	want := []string{"match.dataPlane[1].env: HPAs and scale writes are not judged by ROLE: list it in the chart's dataPlanes"}
	if diff := cmp.Diff(want, got.Warnings); diff != "" || len(got.Errors) > 0 || !got.IsInForce {
		t.Errorf("%+v\n%s", got, diff)
	}
}
