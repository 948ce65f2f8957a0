package kube

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// Fit returns value moved into the LimitRanges' bounds for a container's value of that list and resource: not below a
// min, and not above a max. Where the bounds exclude each other the max holds.
func Fit(ranges []*corev1.LimitRange, name corev1.ResourceName, value resource.Quantity) resource.Quantity {
	each(ranges, corev1.LimitTypeContainer, func(item corev1.LimitRangeItem) {
		if lowest, ok := item.Min[name]; ok && value.Cmp(lowest) < 0 {
			value = lowest.DeepCopy()
		}
	})
	each(ranges, corev1.LimitTypeContainer, func(item corev1.LimitRangeItem) {
		if highest, ok := item.Max[name]; ok && value.Cmp(highest) > 0 {
			value = highest.DeepCopy()
		}
	})
	return value
}

// MaxRatio returns the smallest limit/request ratio that the LimitRanges allow a container's resource.
func MaxRatio(ranges []*corev1.LimitRange, name corev1.ResourceName) (ratio resource.Quantity, ok bool) {
	each(ranges, corev1.LimitTypeContainer, func(item corev1.LimitRangeItem) {
		if r, has := item.MaxLimitRequestRatio[name]; has && (!ok || r.Cmp(ratio) < 0) {
			ratio, ok = r, true
		}
	})
	return ratio, ok
}

// LimitRangeViolation tells why the API server would refuse the template's pods on account of one container or of the
// pod as a whole, as the LimitRanger admission plug-in judges them: requests default to limits, then the LimitRanges'
// defaults fill what is absent, then the container and the pod are held against min, max and ratio. It returns "" where
// they pass. What other containers violate by themselves, and pod-level resources, are not looked at.
func LimitRangeViolation(ranges []*corev1.LimitRange, pod *PodSpec, container *Container) string {
	if len(ranges) == 0 {
		return ""
	}
	own := withDefaults(ranges, container.Resources)
	for _, name := range ResourceNames(own.Requests) {
		request, _ := own.Get(Requests, name)
		if limit, ok := own.Get(Limits, name); ok && request.Cmp(limit) > 0 {
			return fmt.Sprintf("%s request %s would be above the limit %s", name, request.String(), limit.String())
		}
	}
	var why string
	each(ranges, corev1.LimitTypeContainer, func(item corev1.LimitRangeItem) {
		if why == "" {
			why = violates(item, own)
		}
	})
	each(ranges, corev1.LimitTypePod, func(item corev1.LimitRangeItem) {
		if why == "" {
			if reason := violates(item, podTotal(ranges, pod)); reason != "" {
				why = "pod " + reason
			}
		}
	})
	return why
}

func each(ranges []*corev1.LimitRange, kind corev1.LimitType, visit func(corev1.LimitRangeItem)) {
	for _, r := range ranges {
		for _, item := range r.Spec.Limits {
			if item.Type == kind {
				visit(item)
			}
		}
	}
}

// withDefaults returns a container's resources as its pods will have them.
func withDefaults(ranges []*corev1.LimitRange, in *Resources) *Resources {
	out := &Resources{}
	if in != nil {
		out = in.DeepCopy()
	}
	for name, limit := range out.Limits {
		if _, ok := out.Requests[name]; !ok {
			out.Set(Requests, name, limit)
		}
	}
	each(ranges, corev1.LimitTypeContainer, func(item corev1.LimitRangeItem) {
		fill(out, Limits, item.Default)
		fill(out, Requests, item.DefaultRequest)
	})
	return out
}

func fill(r *Resources, list string, defaults corev1.ResourceList) {
	for name, value := range defaults {
		if _, ok := r.Get(list, name); !ok {
			r.Set(list, name, value)
		}
	}
}

// violates holds requests and limits against a LimitRange item; the names of resources are visited in order.
func violates(item corev1.LimitRangeItem, r *Resources) string {
	for _, name := range ResourceNames(item.Min, item.Max, item.MaxLimitRequestRatio) {
		request, hasRequest := r.Get(Requests, name)
		limit, hasLimit := r.Get(Limits, name)
		if lowest, ok := item.Min[name]; ok {
			switch {
			case !hasRequest:
				return fmt.Sprintf("minimum %s is %s, no request is given", name, lowest.String())
			case request.Cmp(lowest) < 0:
				return fmt.Sprintf("minimum %s is %s, the request is %s", name, lowest.String(), request.String())
			case hasLimit && limit.Cmp(lowest) < 0:
				return fmt.Sprintf("minimum %s is %s, the limit is %s", name, lowest.String(), limit.String())
			}
		}
		if highest, ok := item.Max[name]; ok {
			switch {
			case !hasLimit:
				return fmt.Sprintf("maximum %s is %s, no limit is given", name, highest.String())
			case limit.Cmp(highest) > 0:
				return fmt.Sprintf("maximum %s is %s, the limit is %s", name, highest.String(), limit.String())
			case hasRequest && request.Cmp(highest) > 0:
				return fmt.Sprintf("maximum %s is %s, the request is %s", name, highest.String(), request.String())
			}
		}
		if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
			if !hasRequest || !hasLimit || request.IsZero() || limit.IsZero() {
				return fmt.Sprintf("limit/request ratio of %s is at most %s, but request or limit is not given", name, ratio.String())
			}
			if exceedsRatio(limit, request, ratio) {
				return fmt.Sprintf("limit/request ratio of %s is at most %s, but it is %s/%s", name, ratio.String(), limit.String(), request.String())
			}
		}
	}
	return ""
}

// exceedsRatio tells whether limit/request is above the ratio, rounding as LimitRanger does: a limit that is exactly the
// ratio above its request must pass here where it passes there.
func exceedsRatio(limit, request, ratio resource.Quantity) bool {
	l, r := limit.Value(), request.Value()
	if l <= resource.MaxMilliValue && r <= resource.MaxMilliValue {
		l, r = limit.MilliValue(), request.MilliValue()
	}
	highest, actual := float64(ratio.Value()), float64(l)/float64(r)
	if ratio.Value() <= resource.MaxMilliValue {
		highest, actual = float64(ratio.MilliValue()), actual*1000
	}
	return actual > highest
}

// podTotal sums up a pod's requests and limits as the scheduler and LimitRanger do.
func podTotal(ranges []*corev1.LimitRange, pod *PodSpec) *Resources {
	typed := &corev1.Pod{}
	for _, c := range AllContainers(pod) {
		own := withDefaults(ranges, c.Resources)
		container := corev1.Container{
			RestartPolicy: c.RestartPolicy,
			Resources:     corev1.ResourceRequirements{Requests: own.Requests, Limits: own.Limits},
		}
		if c.Init {
			typed.Spec.InitContainers = append(typed.Spec.InitContainers, container)
		} else {
			typed.Spec.Containers = append(typed.Spec.Containers, container)
		}
	}
	return &Resources{
		Requests: helpers.PodRequests(typed, helpers.PodResourcesOptions{}),
		Limits:   helpers.PodLimits(typed, helpers.PodResourcesOptions{}),
	}
}
