package kube_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

func TestCountingContainers(t *testing.T) {
	tests := map[string]struct {
		pod       string
		all, want []string
	}{
		"no container at all": {pod: `{}`, all: []string{}, want: []string{}},
		"containers count, in spec order": {
			pod:  `{containers: [{name: b}, {name: a}]}`,
			all:  []string{"b /spec/template/spec/containers/0", "a /spec/template/spec/containers/1"},
			want: []string{"b /spec/template/spec/containers/0", "a /spec/template/spec/containers/1"},
		},
		"an init container that ends does not count": {
			pod:  `{initContainers: [{name: setup}], containers: [{name: proxy}]}`,
			all:  []string{"proxy /spec/template/spec/containers/0", "setup /spec/template/spec/initContainers/0"},
			want: []string{"proxy /spec/template/spec/containers/0"},
		},
		"an init container that keeps running counts, after the containers": {
			pod: `{initContainers: [{name: setup}, {name: mesh, restartPolicy: Always}], containers: [{name: proxy}]}`,
			all: []string{
				"proxy /spec/template/spec/containers/0", "setup /spec/template/spec/initContainers/0",
				"mesh /spec/template/spec/initContainers/1",
			},
			want: []string{"proxy /spec/template/spec/containers/0", "mesh /spec/template/spec/initContainers/1"},
		},
		"an init container with another restart policy does not count": {
			pod:  `{initContainers: [{name: setup, restartPolicy: OnFailure}], containers: [{name: proxy}]}`,
			all:  []string{"proxy /spec/template/spec/containers/0", "setup /spec/template/spec/initContainers/0"},
			want: []string{"proxy /spec/template/spec/containers/0"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(t, tt.pod)
			if diff := cmp.Diff(tt.all, pointers(kube.AllContainers(p))); diff != "" {
				t.Errorf("AllContainers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, pointers(kube.CountingContainers(p))); diff != "" {
				t.Errorf("CountingContainers (-want +got):\n%s", diff)
			}
		})
	}
}

func pointers(refs []kube.ContainerRef) []string {
	texts := []string{}
	for _, r := range refs {
		texts = append(texts, r.Name+" "+r.Pointer())
	}
	return texts
}

func TestContainerRefsPointIntoThePodTheyCameFrom(t *testing.T) {
	p := pod(t, `{initContainers: [{name: mesh, restartPolicy: Always}], containers: [{name: proxy}]}`)
	for _, c := range kube.CountingContainers(p) {
		c.Resources = &kube.Resources{}
	}
	if p.Containers[0].Resources == nil || p.InitContainers[0].Resources == nil {
		t.Error("a change through a reference did not reach the pod")
	}
}

func TestEffectiveRequest(t *testing.T) {
	list := func(q string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}
	}
	tests := map[string]struct {
		resources *kube.Resources
		want      string
	}{
		"no resources at all":                    {resources: nil, want: "none"},
		"empty resources":                        {resources: &kube.Resources{}, want: "none"},
		"a request alone":                        {resources: &kube.Resources{Requests: list("100m")}, want: "100m"},
		"a limit alone counts as the request":    {resources: &kube.Resources{Limits: list("2")}, want: "2"},
		"a request is not replaced by the limit": {resources: &kube.Resources{Requests: list("100m"), Limits: list("2")}, want: "100m"},
		"a request of zero is a request":         {resources: &kube.Resources{Requests: list("0"), Limits: list("2")}, want: "0"},
		"a request for another resource is no use": {
			resources: &kube.Resources{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}, want: "none",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := "none"
			if q, ok := tt.resources.EffectiveRequest(corev1.ResourceCPU); ok {
				got = q.String()
			}
			if got != tt.want {
				t.Errorf("EffectiveRequest = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestHighestCPUUtilization(t *testing.T) {
	const unknown = -1
	tests := map[string]struct {
		pod       string
		container string
		want      int64
	}{
		"limits above requests": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: 1200m}}}]}`, want: 400,
		},
		"a limit alone is the request too": {
			pod: `{containers: [{name: a, resources: {limits: {cpu: "1"}}}]}`, want: 100,
		},
		"containers are summed up before they are divided": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: 1200m}}},
				{name: b, resources: {requests: {cpu: 100m}, limits: {cpu: 100m}}}]}`, want: 325,
		},
		"an init container that keeps running is summed up too": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: 100m}}}],
				initContainers: [{name: b, restartPolicy: Always, resources: {requests: {cpu: 100m}, limits: {cpu: 300m}}}]}`, want: 200,
		},
		"an init container that ends is not": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: 100m}}}],
				initContainers: [{name: b, resources: {requests: {cpu: 1m}, limits: {cpu: "9"}}}]}`, want: 100,
		},
		"a container without a limit has no highest": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}}}]}`, want: unknown,
		},
		"one of two containers without a request": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: "1"}}}, {name: b}]}`, want: unknown,
		},
		"a request of zero": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: "0"}, limits: {cpu: "1"}}}]}`, want: unknown,
		},
		"no containers": {pod: `{}`, want: unknown},
		"a metric of one container looks at that one alone": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: 600m}}}, {name: b}]}`, container: "a", want: 200,
		},
		"a metric of a container that is not there": {
			pod: `{containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: 600m}}}]}`, container: "b", want: unknown,
		},
		"a metric of one container goes before pod-level resources": {
			pod: `{resources: {requests: {cpu: "1"}, limits: {cpu: "9"}},
				containers: [{name: a, resources: {requests: {cpu: 300m}, limits: {cpu: 600m}}}]}`, container: "a", want: 200,
		},
		"pod-level resources replace the containers'": {
			pod: `{resources: {requests: {cpu: "1"}, limits: {cpu: "2"}},
				containers: [{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: "1"}}}]}`, want: 200,
		},
		"pod-level resources stand in for containers without any": {
			pod: `{resources: {requests: {cpu: "1"}, limits: {cpu: "3"}}, containers: [{name: a}]}`, want: 300,
		},
		"a pod-level limit beside containers without requests": {
			pod: `{resources: {limits: {cpu: "3"}}, containers: [{name: a}]}`, want: unknown,
		},
		"a pod-level limit beside containers with requests": {
			pod: `{resources: {limits: {cpu: "3"}}, containers: [{name: a, resources: {requests: {cpu: "1"}}}]}`, want: 300,
		},
		"a pod-level request alone leaves the containers' limits": {
			pod: `{resources: {requests: {cpu: "1"}},
				containers: [{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: "5"}}}]}`, want: 500,
		},
		"pod-level resources for memory alone say nothing about CPU": {
			pod: `{resources: {requests: {memory: 1Gi}, limits: {memory: 1Gi}},
				containers: [{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: 500m}}}]}`, want: 500,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := kube.HighestCPUUtilization(pod(t, tt.pod), tt.container)
			if !ok {
				got = unknown
			}
			if got != tt.want {
				t.Errorf("HighestCPUUtilization = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestResourceNames(t *testing.T) {
	q := resource.MustParse("1")
	got := kube.ResourceNames(corev1.ResourceList{"memory": q, "cpu": q}, nil, corev1.ResourceList{"cpu": q, "ephemeral-storage": q})
	if diff := cmp.Diff([]corev1.ResourceName{"cpu", "ephemeral-storage", "memory"}, got); diff != "" {
		t.Errorf("names are not sorted or not distinct (-want +got):\n%s", diff)
	}
	if got := kube.ResourceNames(); len(got) != 0 {
		t.Errorf("ResourceNames() = %v, want none", got)
	}
}

func TestSettingResources(t *testing.T) {
	r := &kube.Resources{}
	if !r.Empty() || !(*kube.Resources)(nil).Empty() {
		t.Error("resources without any value are not empty")
	}
	r.Set(kube.Requests, corev1.ResourceCPU, resource.MustParse("1"))
	r.Set(kube.Limits, corev1.ResourceCPU, resource.MustParse("2"))
	want := &kube.Resources{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
	}
	if diff := cmp.Diff(want, r, quantities); diff != "" {
		t.Errorf("Set (-want +got):\n%s", diff)
	}
	if r.Empty() {
		t.Error("resources with values are empty")
	}
}

func TestUtilizationOfQuantitiesThatNothingCanBeComparedWithIsUnknown(t *testing.T) {
	for _, pod := range []string{
		`{"resources":{"requests":{"cpu":"1e2147483647"}},"containers":[{"name":"proxy"}]}`,
		`{"containers":[{"name":"proxy","resources":{"requests":{"cpu":"1"},"limits":{"cpu":"1e2147483647"}}}]}`,
	} {
		var spec kube.PodSpec
		if err := json.Unmarshal([]byte(pod), &spec); err != nil {
			t.Fatal(err)
		}
		if got, known := kube.HighestCPUUtilization(&spec, ""); known {
			t.Errorf("%s: got %d, want unknown", pod, got)
		}
	}
}
