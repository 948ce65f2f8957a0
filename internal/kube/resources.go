package kube

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// ContainerRef is a container and where it stands in the pod template.
type ContainerRef struct {
	*Container
	// Init is true for an init container.
	Init  bool
	Index int
}

// Pointer returns the JSON pointer of the container within a Deployment.
func (r ContainerRef) Pointer() string {
	return "/spec/template/spec/" + r.list() + "/" + strconv.Itoa(r.Index)
}

// Field returns the field path of the container within a Deployment.
func (r ContainerRef) Field() string {
	return "spec.template.spec." + r.list() + "[" + strconv.Itoa(r.Index) + "]"
}

func (r ContainerRef) list() string {
	if r.Init {
		return "initContainers"
	}
	return "containers"
}

// AllContainers returns the containers, then the init containers, each in spec order.
func AllContainers(pod *PodSpec) []ContainerRef {
	refs := make([]ContainerRef, 0, len(pod.Containers)+len(pod.InitContainers))
	for i := range pod.Containers {
		refs = append(refs, ContainerRef{Container: &pod.Containers[i], Index: i})
	}
	for i := range pod.InitContainers {
		refs = append(refs, ContainerRef{Container: &pod.InitContainers[i], Init: true, Index: i})
	}
	return refs
}

// CountingContainers returns the containers whose requests an HPA sums up: all containers, and the init containers that
// keep running (restartPolicy Always), in this order.
func CountingContainers(pod *PodSpec) []ContainerRef {
	return slices.DeleteFunc(AllContainers(pod), func(c ContainerRef) bool {
		return c.Init && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	})
}

// EffectiveRequest returns the request that the container's pods will have: the request, else the limit, which the API
// server defaults requests from on pods, but not on pod templates.
func (r *Resources) EffectiveRequest(name corev1.ResourceName) (resource.Quantity, bool) {
	if q, ok := r.Get(Requests, name); ok {
		return q, true
	}
	return r.Get(Limits, name)
}

// The two lists of Resources, as the API spells them.
const (
	Requests = "requests"
	Limits   = "limits"
)

// List returns the list Requests or Limits; r may be nil.
func (r *Resources) List(list string) corev1.ResourceList {
	switch {
	case r == nil:
		return nil
	case list == Limits:
		return r.Limits
	default:
		return r.Requests
	}
}

// Get returns a value of the list Requests or Limits; r may be nil.
func (r *Resources) Get(list string, name corev1.ResourceName) (resource.Quantity, bool) {
	q, ok := r.List(list)[name]
	return q, ok
}

// Set puts a value into the list Requests or Limits.
func (r *Resources) Set(list string, name corev1.ResourceName, q resource.Quantity) {
	values := &r.Requests
	if list == Limits {
		values = &r.Limits
	}
	if *values == nil {
		*values = corev1.ResourceList{}
	}
	(*values)[name] = q
}

// Empty tells whether nothing is requested or limited; r may be nil.
func (r *Resources) Empty() bool { return r == nil || len(r.Requests) == 0 && len(r.Limits) == 0 }

// mostDigits is how many digits a reasonable quantity has at most; the API itself caps at some 20.
const mostDigits = 100

// Reasonable tells whether a quantity can be computed with: a few bytes like "1e2147483647" parse at once, yet comparing
// them takes gigabytes.
func Reasonable(q resource.Quantity) bool {
	return q.Format != resource.DecimalExponent || q.AsDec().Scale() >= -mostDigits
}

// unreasonable names the first value that is not Reasonable, "" where there is none; r may be nil.
func (r *Resources) unreasonable() string {
	for _, list := range []string{Requests, Limits} {
		values := r.List(list)
		for _, name := range ResourceNames(values) {
			if !Reasonable(values[name]) {
				return fmt.Sprintf("%s[%s]", list, name)
			}
		}
	}
	return ""
}

// HighestCPUUtilization returns the utilization, in percent of the requests, that a CPU metric of the pods reaches when
// every counting container uses its whole CPU limit; with a container's name, that of a metric of this container alone.
// Pod-level resources, where set, stand for those of all containers. It is unknown (false) where a limit or a request is
// missing.
func HighestCPUUtilization(pod *PodSpec, container string) (int64, bool) {
	requests, ok := totalCPU(pod, container, Requests)
	if !ok || requests <= 0 {
		return 0, false
	}
	limits, ok := totalCPU(pod, container, Limits)
	return limits * 100 / requests, ok
}

// totalCPU sums up, in millicores, a list of the container of that name, or of all that count.
func totalCPU(pod *PodSpec, container, list string) (total int64, ok bool) {
	if q, has := pod.Resources.Get(list, corev1.ResourceCPU); has && container == "" {
		if !Reasonable(q) {
			return 0, false
		}
		return q.MilliValue(), true
	}
	for _, c := range CountingContainers(pod) {
		if container != "" && container != c.Name {
			continue
		}
		q, has := c.Resources.Get(list, corev1.ResourceCPU)
		if !has && list == Requests {
			q, has = c.Resources.EffectiveRequest(corev1.ResourceCPU)
		}
		if !has || !Reasonable(q) {
			return 0, false
		}
		total, ok = total+q.MilliValue(), true
	}
	return total, ok
}

// ResourceNames returns the names of all lists, sorted.
func ResourceNames(lists ...corev1.ResourceList) []corev1.ResourceName {
	var names []corev1.ResourceName
	for _, list := range lists {
		for name := range list {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
