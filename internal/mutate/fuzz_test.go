package mutate_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/mutate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// choices turns fuzzed bytes into decisions; when they run out every decision is the first option.
type choices []byte

func (c *choices) of(n int) int {
	if len(*c) == 0 {
		return 0
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return int(b) % n
}

func (c *choices) flip() bool { return c.of(2) == 1 }

func pick[T any](c *choices, options ...T) T { return options[c.of(len(options))] }

var (
	fuzzedCPU    = []string{"100m", "0", "200m", "300m", "330m", "500m", "900m", "1", "1200m", "1500m", "2", "5", "1e3", "0.0001"}
	fuzzedMemory = []string{"64Mi", "0", "100Mi", "300Mi", "314572800", "500M", "800Mi", "1Gi", "1.5Gi", "2Gi", "1e9", "100Ei", "1"}
	fuzzedRatio  = []string{"1", "1.1", "1.5", "2", "3", "3.3", "4", "10", "1e9"}
)

// list returns requests or limits, nil where they are absent.
func (c *choices) list(extra bool) map[string]any {
	if c.of(3) == 0 {
		return nil
	}
	values := map[string]any{}
	if c.flip() {
		values["cpu"] = pick(c, fuzzedCPU...)
	}
	if c.flip() {
		values["memory"] = pick(c, fuzzedMemory...)
	}
	if extra && c.of(4) == 3 {
		values["ephemeral-storage"] = "1Gi"
	}
	return values
}

func put(m map[string]any, key string, value map[string]any) {
	if value != nil {
		m[key] = value
	}
}

func (c *choices) resources() map[string]any {
	switch c.of(4) {
	case 0:
		return nil
	case 1:
		return map[string]any{}
	default:
		r := map[string]any{}
		put(r, kube.Requests, c.list(true))
		put(r, kube.Limits, c.list(true))
		return r
	}
}

func (c *choices) container(name string, init bool) map[string]any {
	out := map[string]any{"name": name, "image": pick(c, "kong:3.9", "kong:3.10")}
	if name == "proxy" && c.of(8) != 7 || c.of(8) == 7 {
		out["env"] = []any{map[string]any{"name": "KONG_ROLE", "value": "data_plane"}}
	}
	if init && c.flip() {
		out["restartPolicy"] = "Always"
	}
	put(out, "resources", c.resources())
	return out
}

// deployment returns a Deployment's JSON, in maps.
func (c *choices) deployment() map[string]any {
	var containers, inits []any
	for i := range 1 + c.of(3) {
		containers = append(containers, c.container([]string{"proxy", "mesh", "log"}[i], false))
	}
	for i := range c.of(3) {
		inits = append(inits, c.container([]string{"setup", "vault"}[i], true))
	}
	if c.of(4) == 3 {
		slices.Reverse(containers)
	}
	spec := map[string]any{"containers": containers}
	if inits != nil {
		spec["initContainers"] = inits
	}
	if c.of(10) == 9 {
		spec["resources"] = map[string]any{kube.Requests: map[string]any{"cpu": "1"}}
	}
	metadata := map[string]any{"name": "kong"}
	switch c.of(4) {
	case 0:
	case 1:
		metadata["annotations"] = map[string]any{}
	case 2:
		metadata["annotations"] = map[string]any{mutate.InjectedAnnotation: pick(c,
			"", "null", "{}", `{"proxy":`, `{"proxy":null}`, `{"proxy":{"requests":{"cpu":300}}}`, `{"proxy":{"requests":{"cpu":"1e2147483647"}}}`,
			`{"proxy":{"requests":{"cpu":"1.2.3"}}}`, `{"proxy":{"claims":{"cpu":"1"}}}`, `{"gone":{"limits":{"cpu":"1"}}}`, `[]`)}
	default:
		metadata["annotations"] = map[string]any{mutate.InjectedAnnotation: c.record(append(containers, inits...)), "team": "edge"}
	}
	return map[string]any{"metadata": metadata, "spec": map[string]any{"template": map[string]any{"spec": spec}}}
}

// record returns an annotation that records some of what the containers hold, and some that they do not.
func (c *choices) record(containers []any) string {
	entries := map[string]any{}
	for _, item := range containers {
		container := item.(map[string]any)
		entry := map[string]any{}
		for _, list := range []string{kube.Requests, kube.Limits} {
			values, _ := container["resources"].(map[string]any)
			held, _ := values[list].(map[string]any)
			kept := map[string]any{}
			for _, name := range slices.Sorted(maps.Keys(held)) {
				if c.of(4) != 3 {
					kept[name] = held[name]
				}
			}
			if c.of(6) == 5 {
				kept["cpu"] = pick(c, fuzzedCPU...)
			}
			entry[list] = kept
		}
		entries[container["name"].(string)] = entry
	}
	text, err := json.Marshal(entries)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// containerResources returns what a policy wants in a container.
func (c *choices) containerResources() *policy.ContainerResources {
	r := &policy.ContainerResources{}
	for list, values := range map[string]map[string]any{kube.Requests: c.list(false), kube.Limits: c.list(false)} {
		for name, text := range values {
			q := resource.MustParse(text.(string))
			if q.Sign() <= 0 {
				continue
			}
			(*kube.Resources)(r).Set(list, corev1.ResourceName(name), q)
		}
	}
	for name, request := range r.Requests {
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			r.Requests[name], r.Limits[name] = limit, request
		}
	}
	return r
}

func (c *choices) policy(t *testing.T) *policy.Policy {
	d := policy.Default()
	d.Resources.OnUpdate = pick(c, policy.TemplateChange, policy.Always)
	if c.flip() {
		d.Resources.Proxy = c.containerResources()
	}
	if c.flip() {
		d.Resources.Sidecars = c.containerResources()
	}
	if errs := policy.Validate(d); len(errs) > 0 {
		t.Fatalf("the fuzzed policy is invalid: %v", errs.ToAggregate())
	}
	p, err := policy.New(policy.Ref{Name: "fuzz"}, d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (c *choices) bound(values []string, memory []string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if c.of(4) == 3 {
		list[corev1.ResourceCPU] = resource.MustParse(pick(c, values...))
	}
	if c.of(4) == 3 {
		list[corev1.ResourceMemory] = resource.MustParse(pick(c, memory...))
	}
	return list
}

// limitRanges returns LimitRanges, defaulted as the API server does.
func (c *choices) limitRanges() []*corev1.LimitRange {
	var ranges []*corev1.LimitRange
	for range c.of(3) {
		item := corev1.LimitRangeItem{
			Type: pick(c, corev1.LimitTypeContainer, corev1.LimitTypePod),
			Min:  c.bound(fuzzedCPU, fuzzedMemory), Max: c.bound(fuzzedCPU, fuzzedMemory),
			MaxLimitRequestRatio: c.bound(fuzzedRatio, fuzzedRatio),
		}
		if item.Type == corev1.LimitTypeContainer {
			item.Default, item.DefaultRequest = c.bound(fuzzedCPU, fuzzedMemory), c.bound(fuzzedCPU, fuzzedMemory)
			fillUp(item.Default, item.Max)
			fillUp(item.DefaultRequest, item.Default)
			fillUp(item.DefaultRequest, item.Min)
		}
		ranges = append(ranges, &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}})
	}
	return ranges
}

func fillUp(list, from corev1.ResourceList) {
	for name, value := range from {
		if _, has := list[name]; !has {
			list[name] = value
		}
	}
}

// before returns the Deployment as it was: unlike the one that is written, or like it apart from some of its parts.
func (c *choices) before(t *testing.T, after []byte) *kube.Deployment {
	var was map[string]any
	switch c.of(4) {
	case 0:
		return nil
	case 1:
		was = c.deployment()
	default:
		if err := json.Unmarshal(after, &was); err != nil {
			t.Fatal(err)
		}
		template := was["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		for _, item := range template["containers"].([]any) {
			container := item.(map[string]any)
			if c.of(3) == 2 {
				delete(container, "resources")
				put(container, "resources", c.resources())
			}
			if c.of(6) == 5 {
				container["image"] = "kong:2"
			}
		}
		if c.flip() {
			was["metadata"].(map[string]any)["annotations"] = map[string]any{mutate.InjectedAnnotation: c.record(template["containers"].([]any))}
		}
	}
	raw, err := json.Marshal(was)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, raw)
}

// FuzzDeploymentIdempotent: whatever is written, whatever was there before, and whatever policy and LimitRanges hold,
// the patch applies; mutated again it has none; it is a valid Deployment still; nobody's own values change; nothing but
// resources and the record does; and a pod that was possible stays possible.
func FuzzDeploymentIdempotent(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("one data plane"))
	f.Add([]byte{1, 1, 0, 0, 3, 2, 1, 1, 1, 3, 1, 3, 1, 0, 3, 2, 1, 3, 1, 3, 1})
	f.Add([]byte{2, 0, 2, 3, 1, 5, 1, 4, 2, 1, 9, 1, 2, 0, 3, 3, 1, 2, 1, 0, 1, 1, 7, 1, 3, 3, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 3, 3, 3, 3, 3, 3})
	for i := range 16 {
		seed := make([]byte, 96)
		for j := range seed {
			seed[j] = byte((i*131 + j*j*7 + j*i*13) % 251)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := choices(data)
		raw, err := json.Marshal(c.deployment())
		if err != nil {
			t.Fatal(err)
		}
		p, ranges, before := c.policy(t), c.limitRanges(), c.before(t, raw)
		if before != nil && !isValid(before) {
			t.Skip("the API server keeps no such Deployment")
		}
		after := decode(t, raw)

		result, err := mutate.Deployment(after, before, p, ranges)
		if err != nil {
			t.Fatal(err)
		}
		patched := apply(t, raw, result.Patch)
		written := decode(t, patched)

		again, err := mutate.Deployment(written, before, p, ranges)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Patch) != 0 {
			t.Errorf("mutated again it has a patch: %v\nfirst: %v\nobject: %s", operations(t, again.Patch), operations(t, result.Patch), raw)
		}
		if err := yaml.UnmarshalStrict(patched, &appsv1.Deployment{}); err != nil {
			t.Errorf("it is no Deployment any more: %v\n%s", err, patched)
		}
		if diff := cmp.Diff(written, result.After, asTheRulesSeeIt...); diff != "" {
			t.Errorf("After is not what the patch makes (-patched +After):\n%s", diff)
		}
		if diff := cmp.Diff(decode(t, raw), after, quantities, cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
			t.Errorf("the object that was given was changed (-before +after):\n%s", diff)
		}
		touched := differences(generic(t, raw), generic(t, patched), "")
		if path, ok := onlyUnder(touched, resourcePaths(after)...); !ok {
			t.Errorf("%s was touched: %v", path, operations(t, result.Patch))
		}
		if _, rollsOut := onlyUnder(touched, "/metadata"); before != nil && !rollsOut && p.Resources.OnUpdate == policy.TemplateChange {
			if diff := cmp.Diff(templateOf(t, beforeJSON(t, before)), templateOf(t, raw)); diff == "" {
				t.Errorf("a write that rolls nothing out does now: %v", operations(t, result.Patch))
			}
		}
		checkValues(t, after, written)
		if before == nil {
			checkPossible(t, ranges, after, written)
		}
	})
}

// isValid tells whether no request is above its limit.
func isValid(d *kube.Deployment) bool {
	return !slices.ContainsFunc(kube.AllContainers(d.Pod()), func(c kube.ContainerRef) bool {
		_, _, _, bad := requestAboveLimit(c.Resources)
		return bad
	})
}

func beforeJSON(t *testing.T, d *kube.Deployment) []byte {
	t.Helper()
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// templateOf returns what rules read of a pod template.
func templateOf(t *testing.T, raw []byte) string {
	t.Helper()
	text, err := json.Marshal(decode(t, raw).Pod())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkValues: a value that no record claims is its team's own and stays; a request is never above its limit, unless it
// came so.
func checkValues(t *testing.T, after, written *kube.Deployment) {
	t.Helper()
	var claimed map[string]map[string]map[string]any
	_ = json.Unmarshal([]byte(after.Metadata.Annotations[mutate.InjectedAnnotation]), &claimed)
	was, is := kube.AllContainers(after.Pod()), kube.AllContainers(written.Pod())
	for i := range was {
		for _, list := range []string{kube.Requests, kube.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
				own, had := was[i].Resources.Get(list, name)
				if _, isClaimed := claimed[was[i].Name][list][string(name)]; !had || isClaimed {
					continue
				}
				if now, has := is[i].Resources.Get(list, name); !has || now.Cmp(own) != 0 {
					t.Errorf("%s: its own %s[%s] %s became %s", was[i].Name, list, name, own.String(), now.String())
				}
			}
		}
		if _, _, _, cameSo := requestAboveLimit(was[i].Resources); cameSo {
			continue
		}
		if name, request, limit, bad := requestAboveLimit(is[i].Resources); bad {
			t.Errorf("%s: %s request %s is above the limit %s", is[i].Name, name, request.String(), limit.String())
		}
	}
}

// checkPossible: where the LimitRanges allow the pods as they were asked for, they allow them as they are now.
func checkPossible(t *testing.T, ranges []*corev1.LimitRange, after, written *kube.Deployment) {
	t.Helper()
	for _, c := range kube.AllContainers(after.Pod()) {
		if kube.LimitRangeViolation(ranges, after.Pod(), c.Container) != "" {
			return
		}
	}
	for i, c := range kube.AllContainers(written.Pod()) {
		if why := kube.LimitRangeViolation(ranges, written.Pod(), c.Container); why != "" {
			t.Errorf("container "+strconv.Itoa(i)+" is impossible now: %s", why)
		}
	}
}
