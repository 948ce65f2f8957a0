package mutate

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// InjectedAnnotation records, on the Deployment, what was injected into its containers: a value that still equals its
// record follows later policies, any other one is its team's own.
const InjectedAnnotation = kube.AnnotationPrefix + "injected"

// DeploymentResult is what has to change in a Deployment.
type DeploymentResult struct {
	Changes []Change
	Notes   []Note
	Patch   Patch
	// After is the Deployment as it will be; the one given where nothing changes.
	After *kube.Deployment
}

// record is the content of InjectedAnnotation: container → requests and limits.
type record map[string]*kube.Resources

// recordOf reads a Deployment's record. One that cannot be read counts as none: what it spoke of is then the team's own.
func recordOf(d *kube.Deployment) record {
	if d == nil {
		return record{}
	}
	text, ok := d.Metadata.Annotations[InjectedAnnotation]
	if !ok {
		return record{}
	}
	// Anybody may write the annotation: quantities are read once they are known to be ones that this process writes.
	var entries map[string]map[string]map[string]string
	if json.Unmarshal([]byte(text), &entries) != nil {
		return record{}
	}
	r := record{}
	for container, lists := range entries {
		r[container] = &kube.Resources{}
		for list, values := range lists {
			for name, value := range values {
				if list != kube.Requests && list != kube.Limits || !recordedQuantity.MatchString(value) {
					return record{}
				}
				q, err := resource.ParseQuantity(value)
				if err != nil {
					return record{}
				}
				r[container].Set(list, corev1.ResourceName(name), q)
			}
		}
	}
	return r
}

var recordedQuantity = regexp.MustCompile(`^[0-9.]{1,24}([a-zA-Z]{1,2}|[eE][0-9]{1,2})?$`)

// holds tells whether the container's value is the one that was injected.
func (r record) holds(container, list string, name corev1.ResourceName, value resource.Quantity) bool {
	recorded, ok := r[container].Get(list, name)
	return ok && recorded.Cmp(value) == 0
}

// Deployment injects the policy's resources into a data plane's containers, where absent. before is nil for a create.
// On an update that would not roll the pods out anyway nothing is injected (unless the policy says Always); what was
// injected before and got lost on the way, as by a replace of the whole object, is put back as it was.
func Deployment(after, before *kube.Deployment, p *policy.Policy, ranges []*corev1.LimitRange) (DeploymentResult, error) {
	if !after.Pod().Resources.Empty() {
		return DeploymentResult{After: after}, nil
	}
	injected := inject(after, before, p, ranges)
	if len(injected.Patch) == 0 && len(injected.Notes) == 0 || before == nil || p.Resources.OnUpdate == policy.Always {
		return injected, nil
	}
	recorded := recordOf(before)
	same, err := kube.SameTemplate(before, after, func(d *kube.Deployment, container, list, name string) bool {
		c := find(d, container)
		if c == nil {
			return false
		}
		value, ok := c.Resources.Get(list, corev1.ResourceName(name))
		return ok && recorded.holds(container, list, corev1.ResourceName(name), value)
	})
	if err != nil {
		return DeploymentResult{}, err
	}
	if same {
		return restore(after, before, recorded), nil
	}
	return injected, nil
}

// find returns the container or init container of that name; names are unique among both.
func find(d *kube.Deployment, name string) *kube.Container {
	for _, c := range kube.AllContainers(d.Pod()) {
		if c.Name == name {
			return c.Container
		}
	}
	return nil
}

// target is a container and what the policy wants in it.
type target struct {
	kube.ContainerRef
	want *policy.ContainerResources
}

// targets returns the containers that the policy injects into: the proxy, and the sidecars where it says what they get.
func targets(after, before *kube.Deployment, p *policy.Policy) ([]target, []Note) {
	var list []target
	var notes []Note
	proxy, ok := p.Proxy(after, before)
	if !ok {
		notes = append(notes, Note{
			Rule: policy.RuleResources, Field: "spec.template.spec.containers",
			Message: `cannot tell which container is the proxy, nothing is injected: name it "proxy"`,
		})
	}
	sidecars := p.Resources.Sidecars
	for _, c := range kube.CountingContainers(after.Pod()) {
		switch {
		case ok && !c.Init && c.Index == proxy:
			list = append(list, target{ContainerRef: c, want: p.Resources.Proxy})
		case ok && len(sidecars.Requests)+len(sidecars.Limits) > 0:
			list = append(list, target{ContainerRef: c, want: sidecars})
		}
	}
	return list, notes
}

func inject(d, before *kube.Deployment, p *policy.Policy, ranges []*corev1.LimitRange) DeploymentResult {
	result := DeploymentResult{After: d.DeepCopy()}
	recorded, next := recordOf(d), record{}
	// What was injected into containers that are left alone stays on record.
	for _, c := range kube.AllContainers(result.After.Pod()) {
		_, next[c.Name] = withoutRecorded(c.Resources, c.Name, recorded)
	}
	todo, notes := targets(result.After, before, p)
	was, settled := make([]*kube.Resources, len(todo)), make([]bool, len(todo))
	for i, t := range todo {
		was[i] = t.Resources
	}
	// Where a LimitRange bounds the pod as a whole, what one container gives back may make room for another: go on until
	// nothing moves, so that the next review finds nothing left to do.
	for moved := true; moved; {
		moved, result.Notes = false, slices.Clone(notes)
		for i, t := range todo {
			if settled[i] {
				continue
			}
			base, had := withoutRecorded(was[i], t.Name, recorded)
			candidate, added := fillIn(base, had, t.want, ranges)
			t.Resources = candidate
			ours := !added.Empty() || !had.Empty()
			if why := kube.LimitRangeViolation(ranges, result.After.Pod(), t.Container); why != "" && ours {
				t.Resources = was[i]
				result.Notes = append(result.Notes, Note{
					Rule: policy.RuleResources, Field: t.Field() + ".resources",
					Message: "left alone on account of a LimitRange: " + why,
				})
				continue
			}
			next[t.Name], settled[i], moved = added, true, true
		}
	}
	for i, t := range todo {
		result.write(t.ContainerRef, was[i], t.Resources)
	}
	result.writeRecord(d, next)
	if len(result.Patch) == 0 {
		result.After = d
	}
	return result
}

// withoutRecorded splits a container's resources into what its team gave and what was injected earlier.
func withoutRecorded(now *kube.Resources, container string, recorded record) (base, injected *kube.Resources) {
	base, injected = now.DeepCopy(), &kube.Resources{}
	if base == nil {
		return &kube.Resources{}, injected
	}
	for list, values := range map[string]corev1.ResourceList{kube.Requests: base.Requests, kube.Limits: base.Limits} {
		for name, value := range values {
			if recorded.holds(container, list, name, value) {
				injected.Set(list, name, value)
				delete(values, name)
			}
		}
	}
	return base, injected
}

// fillIn returns base with what is wanted and absent added, and what was added; had is what earlier injections left. A
// limit that its team gave alone counts as the request, since pods default the one from the other: nothing is added to
// such a resource, but a request that is there from an earlier injection stays, since taking it away would raise it to
// the limit. What is added is moved into the LimitRanges' bounds, and an added limit is never below the request.
func fillIn(base, had *kube.Resources, want *policy.ContainerResources, ranges []*corev1.LimitRange) (filled, added *kube.Resources) {
	filled, added = base.DeepCopy(), &kube.Resources{}
	for _, name := range kube.ResourceNames(want.Requests, want.Limits) {
		request, hasRequest := base.Get(kube.Requests, name)
		if limit, hasLimit := base.Get(kube.Limits, name); hasLimit {
			request, wanted := want.Requests[name]
			if _, injected := had.Get(kube.Requests, name); injected && wanted && !hasRequest {
				request = kube.Fit(ranges, name, request)
				if request.Cmp(limit) > 0 {
					request = limit.DeepCopy()
				}
				filled.Set(kube.Requests, name, request)
				added.Set(kube.Requests, name, request)
			}
			continue
		}
		limit, addLimit := want.Limits[name]
		if addLimit {
			limit = kube.Fit(ranges, name, limit)
		}
		addRequest := false
		if !hasRequest {
			if request, addRequest = want.Requests[name]; addRequest {
				request = kube.Fit(ranges, name, request)
			}
		}
		if addLimit && (hasRequest || addRequest) {
			limit = fitLimit(ranges, name, request, limit)
		}
		if addRequest {
			filled.Set(kube.Requests, name, request)
			added.Set(kube.Requests, name, request)
		}
		if addLimit {
			filled.Set(kube.Limits, name, limit)
			added.Set(kube.Limits, name, limit)
		}
	}
	return filled, added
}

// fitLimit moves an injected limit to where it makes a valid pod with the request: at most the LimitRanges' ratio above
// it, and never below it.
func fitLimit(ranges []*corev1.LimitRange, name corev1.ResourceName, request, limit resource.Quantity) resource.Quantity {
	if ratio, ok := kube.MaxRatio(ranges, name); ok {
		highest := times(request, ratio)
		if limit.Cmp(highest) > 0 {
			limit = highest
		}
	}
	if limit.Cmp(request) < 0 {
		return request.DeepCopy()
	}
	return limit
}

// times returns q times ratio, rounded down: to millis where q is small enough that they matter, else to units.
func times(q, ratio resource.Quantity) resource.Quantity {
	if q.MilliValue() < 1_000_000 {
		return *resource.NewMilliQuantity(q.MilliValue()*ratio.MilliValue()/1000, q.Format)
	}
	return *resource.NewQuantity(q.Value()/1000*ratio.MilliValue()+q.Value()%1000*ratio.MilliValue()/1000, q.Format)
}

// write turns the difference between a container's resources into changes and operations.
func (r *DeploymentResult) write(c kube.ContainerRef, now, then *kube.Resources) {
	parent := c.Pointer() + "/resources"
	fresh := &kube.Resources{}
	for _, list := range []string{kube.Requests, kube.Limits} {
		was, will := now.List(list), then.List(list)
		for _, name := range kube.ResourceNames(was, will) {
			old, had := was[name]
			value, has := will[name]
			if had && has && old.Cmp(value) == 0 {
				continue
			}
			change := Change{Rule: policy.RuleResources, Field: fmt.Sprintf("%s.resources.%s[%s]", c.Field(), list, name)}
			at := pointer(parent+"/"+list, string(name))
			if had {
				change.Old = old.String()
			}
			if has {
				change.New = value.String()
			}
			switch {
			case !has:
				r.Patch.remove(at)
			case was == nil:
				fresh.Set(list, name, value)
			default:
				r.Patch.put(at, had, value.String())
			}
			r.Changes = append(r.Changes, change)
		}
	}
	switch {
	case now == nil && !fresh.Empty():
		r.Patch.put(parent, false, asJSON(fresh))
	case now != nil:
		for _, list := range []string{kube.Requests, kube.Limits} {
			if values := fresh.List(list); values != nil {
				r.Patch.put(parent+"/"+list, false, asStrings(values))
			}
		}
	}
}

// writeRecord brings the annotation in line with what is injected now.
func (r *DeploymentResult) writeRecord(d *kube.Deployment, next record) {
	annotations := d.Metadata.Annotations
	old, had := annotations[InjectedAnnotation]
	at := pointer("/metadata/annotations", InjectedAnnotation)
	text := next.text()
	switch {
	case text == old:
	case text == "":
		r.Patch.remove(at)
		delete(r.After.Metadata.Annotations, InjectedAnnotation)
	case annotations == nil:
		r.Patch.put("/metadata/annotations", false, map[string]string{InjectedAnnotation: text})
		r.After.Metadata.Annotations = map[string]string{InjectedAnnotation: text}
	default:
		r.Patch.put(at, had, text)
		r.After.Metadata.Annotations[InjectedAnnotation] = text
	}
}

// text returns the record as the annotation holds it, "" for one without any value.
func (r record) text() string {
	entries := make(map[string]any, len(r))
	for container, resources := range r {
		if !resources.Empty() {
			entries[container] = asJSON(resources)
		}
	}
	if len(entries) == 0 {
		return ""
	}
	text, err := json.Marshal(entries)
	if err != nil {
		panic("maps of strings do not marshal: " + err.Error())
	}
	return string(text)
}

// restore puts back what an update that changes nothing else of the pod template has dropped of what was injected.
func restore(after, before *kube.Deployment, injected record) DeploymentResult {
	result := DeploymentResult{After: after.DeepCopy()}
	for _, c := range kube.CountingContainers(result.After.Pod()) {
		was := find(before, c.Name)
		if was == nil {
			continue
		}
		now := c.Resources
		then := now.DeepCopy()
		if then == nil {
			then = &kube.Resources{}
		}
		for _, list := range []string{kube.Requests, kube.Limits} {
			for name, value := range was.Resources.List(list) {
				if _, has := now.Get(list, name); !has && injected.holds(c.Name, list, name, value) {
					then.Set(list, name, value)
				}
			}
		}
		result.write(c, now, then)
		c.Resources = then
	}
	if len(result.Changes) > 0 {
		result.writeRecord(after, injected)
	}
	if len(result.Patch) == 0 {
		result.After = after
	}
	return result
}

func asJSON(r *kube.Resources) map[string]any {
	out := map[string]any{}
	for _, list := range []string{kube.Requests, kube.Limits} {
		if values := r.List(list); len(values) > 0 {
			out[list] = asStrings(values)
		}
	}
	return out
}

func asStrings(values corev1.ResourceList) map[string]string {
	out := make(map[string]string, len(values))
	for name, value := range values {
		out[string(name)] = value.String()
	}
	return out
}
