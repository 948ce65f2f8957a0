package kube_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// quantities compares quantities by value.
var quantities = cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })

func decode(t *testing.T, text string) *kube.Deployment {
	t.Helper()
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

func typed(t *testing.T, text string) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict([]byte(text), d); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return d
}

// pod decodes a pod spec.
func pod(t *testing.T, text string) *kube.PodSpec {
	t.Helper()
	p := &kube.PodSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return p
}

// limitRange decodes a LimitRange's spec.limits.
func limitRange(t *testing.T, text string) *corev1.LimitRange {
	t.Helper()
	r := &corev1.LimitRange{}
	if err := yaml.UnmarshalStrict([]byte(text), &r.Spec.Limits); err != nil {
		t.Fatalf("fixture: %v", err)
	}
	return r
}

func limitRanges(t *testing.T, texts ...string) []*corev1.LimitRange {
	t.Helper()
	var ranges []*corev1.LimitRange
	for _, text := range texts {
		ranges = append(ranges, limitRange(t, text))
	}
	return ranges
}
