package kube_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

func TestFit(t *testing.T) {
	tests := map[string]struct {
		ranges []string
		value  string
		want   string
	}{
		"no LimitRanges":                      {value: "300m", want: "300m"},
		"within the bounds":                   {ranges: []string{`[{type: Container, min: {cpu: 100m}, max: {cpu: 1}}]`}, value: "300m", want: "300m"},
		"below the min":                       {ranges: []string{`[{type: Container, min: {cpu: 500m}}]`}, value: "300m", want: "500m"},
		"above the max":                       {ranges: []string{`[{type: Container, max: {cpu: 200m}}]`}, value: "300m", want: "200m"},
		"equal to the max":                    {ranges: []string{`[{type: Container, max: {cpu: 0.3}}]`}, value: "300m", want: "300m"},
		"bounds for another resource":         {ranges: []string{`[{type: Container, max: {memory: 1Mi}}]`}, value: "300m", want: "300m"},
		"bounds for pods are not containers'": {ranges: []string{`[{type: Pod, max: {cpu: 100m}}]`}, value: "300m", want: "300m"},
		"the tightest of two LimitRanges": {
			ranges: []string{`[{type: Container, max: {cpu: 200m}}]`, `[{type: Container, max: {cpu: 100m}}]`}, value: "300m", want: "100m",
		},
		"the highest of two mins": {
			ranges: []string{`[{type: Container, min: {cpu: 400m}}]`, `[{type: Container, min: {cpu: 500m}}]`}, value: "300m", want: "500m",
		},
		"bounds that exclude each other: the max holds": {
			ranges: []string{`[{type: Container, min: {cpu: 500m}}]`, `[{type: Container, max: {cpu: 200m}}]`}, value: "300m", want: "200m",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := kube.Fit(limitRanges(t, tt.ranges...), corev1.ResourceCPU, resource.MustParse(tt.value))
			if got.Cmp(resource.MustParse(tt.want)) != 0 {
				t.Errorf("Fit = %s, want %s", got.String(), tt.want)
			}
		})
	}
}

func TestFitDoesNotLendOutTheLimitRangesOwnQuantity(t *testing.T) {
	ranges := limitRanges(t, `[{type: Container, max: {cpu: 200m}}]`)
	got := kube.Fit(ranges, corev1.ResourceCPU, resource.MustParse("1"))
	got.Add(resource.MustParse("1"))
	if q := ranges[0].Spec.Limits[0].Max[corev1.ResourceCPU]; q.String() != "200m" {
		t.Errorf("the LimitRange's max became %s", q.String())
	}
}

func TestMaxRatio(t *testing.T) {
	tests := map[string]struct {
		ranges []string
		want   string
	}{
		"no LimitRanges": {want: "none"},
		"no ratio":       {ranges: []string{`[{type: Container, max: {cpu: 1}}]`}, want: "none"},
		"one ratio":      {ranges: []string{`[{type: Container, maxLimitRequestRatio: {cpu: 1.5}}]`}, want: "1500m"},
		"the smaller of two": {
			ranges: []string{`[{type: Container, maxLimitRequestRatio: {cpu: 2}}]`, `[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`}, want: "2",
		},
		"a ratio for pods is not the containers'": {ranges: []string{`[{type: Pod, maxLimitRequestRatio: {cpu: 2}}]`}, want: "none"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := "none"
			if ratio, ok := kube.MaxRatio(limitRanges(t, tt.ranges...), corev1.ResourceCPU); ok {
				got = ratio.String()
			}
			if got != tt.want {
				t.Errorf("MaxRatio = %s, want %s", got, tt.want)
			}
		})
	}
}

// The truth is the LimitRanger admission plug-in of Kubernetes, plugin/pkg/admission/limitranger.
func TestLimitRangeViolation(t *testing.T) {
	const (
		bare = `{name: proxy}`
		full = `{name: proxy, resources: {requests: {cpu: 300m, memory: 300Mi}, limits: {cpu: 1200m, memory: 800Mi}}}`
	)
	tests := map[string]struct {
		ranges     []string
		containers string
		inits      string
		want       string
	}{
		"no LimitRanges": {containers: full},
		"a LimitRange for volumes": {
			ranges: []string{`[{type: PersistentVolumeClaim, max: {storage: 1Gi}}]`}, containers: full,
		},
		"within all bounds": {
			ranges:     []string{`[{type: Container, min: {cpu: 100m}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 4}}]`},
			containers: full,
		},
		"a limit above the max": {
			ranges: []string{`[{type: Container, max: {cpu: 1}}]`}, containers: full,
			want: "maximum cpu is 1, the limit is 1200m",
		},
		"no limit where there is a max": {
			ranges:     []string{`[{type: Container, max: {cpu: 1}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 300m}}}`,
			want:       "maximum cpu is 1, no limit is given",
		},
		"no limit where the LimitRange defaults one": {
			ranges:     []string{`[{type: Container, max: {cpu: 1}, default: {cpu: 1}, defaultRequest: {cpu: 1}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 300m}}}`,
		},
		"a limit below the min": {
			ranges:     []string{`[{type: Container, min: {cpu: 500m}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 500m}, limits: {cpu: 400m}}}`,
			want:       "cpu request 500m would be above the limit 400m",
		},
		"a request below the min": {
			ranges: []string{`[{type: Container, min: {cpu: 500m}}]`}, containers: full,
			want: "minimum cpu is 500m, the request is 300m",
		},
		"no request where there is a min": {
			ranges: []string{`[{type: Container, min: {cpu: 500m}}]`}, containers: bare,
			want: "minimum cpu is 500m, no request is given",
		},
		"a limit alone is the request": {
			ranges: []string{`[{type: Container, min: {cpu: 500m}}]`}, containers: `{name: proxy, resources: {limits: {cpu: 500m}}}`,
		},
		"a limit alone goes before the LimitRange's default request": {
			ranges:     []string{`[{type: Container, min: {cpu: 500m}, defaultRequest: {cpu: 800m}}]`},
			containers: `{name: proxy, resources: {limits: {cpu: 600m}}}`,
		},
		"no request where the LimitRange defaults one": {
			ranges: []string{`[{type: Container, min: {cpu: 500m}, defaultRequest: {cpu: 500m}}]`}, containers: bare,
		},
		"a request above the LimitRange's default limit": {
			ranges:     []string{`[{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 200m}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 300m}}}`,
			want:       "cpu request 300m would be above the limit 200m",
		},
		"the first of two LimitRanges defaults": {
			ranges: []string{
				`[{type: Container, default: {cpu: 200m}}]`, `[{type: Container, default: {cpu: 100m}, min: {cpu: 200m}}]`,
			},
			containers: `{name: proxy, resources: {requests: {cpu: 200m}}}`,
		},
		"the second of two LimitRanges forbids": {
			ranges: []string{`[{type: Container, max: {cpu: 2}}]`, `[{type: Container, max: {memory: 500Mi}}]`}, containers: full,
			want: "maximum memory is 500Mi, the limit is 800Mi",
		},
		"resources are judged in the order of their names": {
			ranges: []string{`[{type: Container, max: {memory: 1Mi, cpu: 1m}}]`}, containers: full,
			want: "maximum cpu is 1m, the limit is 1200m",
		},
		"a ratio that is reached": {
			ranges: []string{`[{type: Container, maxLimitRequestRatio: {cpu: 4}}]`}, containers: full,
		},
		"a ratio that is reached where floating point says it is passed": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 300m}, limits: {cpu: 900m}}}`,
		},
		"a ratio with a fraction that is passed": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {memory: 1.5}}]`},
			containers: `{name: proxy, resources: {requests: {memory: 100Mi}, limits: {memory: 151Mi}}}`,
			want:       "limit/request ratio of memory is at most 1500m, but it is 151Mi/100Mi",
		},
		"a ratio that is passed": {
			ranges: []string{`[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`}, containers: full,
			want: "limit/request ratio of cpu is at most 3, but it is 1200m/300m",
		},
		"a ratio without a limit": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: 300m}}}`,
			want:       "limit/request ratio of cpu is at most 3, but request or limit is not given",
		},
		"a ratio to a request of zero": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`},
			containers: `{name: proxy, resources: {requests: {cpu: "0"}, limits: {cpu: 1}}}`,
			want:       "limit/request ratio of cpu is at most 3, but request or limit is not given",
		},
		"a ratio to a limit of zero": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {cpu: 3}}]`},
			containers: `{name: proxy, resources: {limits: {cpu: "0"}}}`,
			want:       "limit/request ratio of cpu is at most 3, but request or limit is not given",
		},
		"a ratio to a limit alone is one": {
			ranges:     []string{`[{type: Container, maxLimitRequestRatio: {cpu: 1}}]`},
			containers: `{name: proxy, resources: {limits: {cpu: 1}}}`,
		},
		"the pod's max, passed by two containers together": {
			ranges:     []string{`[{type: Pod, max: {cpu: 2}}]`},
			containers: full + `, {name: mesh, resources: {limits: {cpu: 900m}}}`,
			want:       "pod maximum cpu is 2, the limit is 2100m",
		},
		"the pod's max, with an init container that keeps running": {
			ranges:     []string{`[{type: Pod, max: {cpu: 2}}]`},
			containers: full, inits: `{name: mesh, restartPolicy: Always, resources: {limits: {cpu: 900m}}}`,
			want: "pod maximum cpu is 2, the limit is 2100m",
		},
		"the pod's max, with an init container that ends before": {
			ranges:     []string{`[{type: Pod, max: {cpu: 2}}]`},
			containers: full, inits: `{name: setup, resources: {limits: {cpu: 900m}}}`,
		},
		"the pod's max, passed by an init container alone": {
			ranges:     []string{`[{type: Pod, max: {cpu: 2}}]`},
			containers: full, inits: `{name: setup, resources: {limits: {cpu: 3}}}`,
			want: "pod maximum cpu is 2, the limit is 3",
		},
		"the pod's min": {
			ranges: []string{`[{type: Pod, min: {memory: 1Gi}}]`}, containers: full,
			want: "pod minimum memory is 1Gi, the request is 300Mi",
		},
		"the pod's ratio": {
			ranges: []string{`[{type: Pod, maxLimitRequestRatio: {cpu: 2}}]`}, containers: full,
			want: "pod limit/request ratio of cpu is at most 2, but it is 1200m/300m",
		},
		"the containers' defaults count in the pod's sum": {
			ranges:     []string{`[{type: Container, default: {cpu: 1}, defaultRequest: {cpu: 1}}, {type: Pod, max: {cpu: 2}}]`},
			containers: full + `, {name: mesh}`,
			want:       "pod maximum cpu is 2, the limit is 2200m",
		},
		"what another container violates by itself is not this one's": {
			ranges:     []string{`[{type: Container, max: {cpu: 2}}]`},
			containers: full + `, {name: mesh, resources: {limits: {cpu: 3}}}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(t, `{containers: [`+tt.containers+`], initContainers: [`+tt.inits+`]}`)
			if got := kube.LimitRangeViolation(limitRanges(t, tt.ranges...), p, &p.Containers[0]); got != tt.want {
				t.Errorf("LimitRangeViolation:\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestLimitRangeViolationLeavesThePodAsItIs(t *testing.T) {
	p := pod(t, `{containers: [{name: proxy, resources: {limits: {cpu: 1}}}]}`)
	kube.LimitRangeViolation(limitRanges(t, `[{type: Container, default: {memory: 1Gi}}, {type: Pod, max: {cpu: 2}}]`), p, &p.Containers[0])
	if r := p.Containers[0].Resources; len(r.Requests) != 0 || len(r.Limits) != 1 {
		t.Errorf("defaults were written into the pod: %v", r)
	}
}
