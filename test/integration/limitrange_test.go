//go:build unix

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// limited makes a namespace with a LimitRange for containers and waits until the webhook knows it.
func limited(t *testing.T, item corev1.LimitRangeItem) string {
	t.Helper()
	namespace := newNamespace(t, nil)
	item.Type = corev1.LimitTypeContainer
	if _, err := admin.CoreV1().LimitRanges(namespace).Create(t.Context(), &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		d, err := admin.AppsV1().Deployments(namespace).Create(ctx, dataPlane("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if got := d.Spec.Template.Spec.Containers[0].Resources; got.Limits.Cpu().MilliValue() == 1200 && got.Requests.Cpu().MilliValue() == 300 {
			return fmt.Errorf("not limited yet: %+v", got)
		}
		return nil
	})
	return namespace
}

// podOf creates the pod that the Deployment controller would make of a template: here the real LimitRanger speaks.
func podOf(t *testing.T, d *appsv1.Deployment) error {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "kong-", Labels: d.Spec.Template.Labels}, Spec: d.Spec.Template.Spec}
	_, err := admin.CoreV1().Pods(d.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	return err
}

func cpuAndMemory(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

func TestInjectionMakesNoPodThatALimitRangeForbids(t *testing.T) {
	for _, c := range []struct {
		name             string
		item             corev1.LimitRangeItem
		requests, limits string
	}{
		{"max below the policy's limits", corev1.LimitRangeItem{Max: cpuAndMemory("1", "512Mi")}, "300m/300Mi", "1/512Mi"},
		{"max below the policy's requests", corev1.LimitRangeItem{Max: cpuAndMemory("200m", "256Mi")}, "200m/256Mi", "200m/256Mi"},
		{"min above the policy's requests", corev1.LimitRangeItem{Min: cpuAndMemory("500m", "512Mi")}, "500m/512Mi", "1200m/800Mi"},
		{"a ratio", corev1.LimitRangeItem{MaxLimitRequestRatio: cpuAndMemory("2", "2")}, "300m/300Mi", "600m/600Mi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := create(t, admin, limited(t, c.item), dataPlane("kong"))
			r := d.Spec.Template.Spec.Containers[0].Resources
			if got := r.Requests.Cpu().String() + "/" + r.Requests.Memory().String(); got != c.requests {
				t.Errorf("requests %s, want %s", got, c.requests)
			}
			if got := r.Limits.Cpu().String() + "/" + r.Limits.Memory().String(); got != c.limits {
				t.Errorf("limits %s, want %s", got, c.limits)
			}
			if err := podOf(t, d); err != nil {
				t.Error(err)
			}
			documented := d.DeepCopy()
			documented.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: cpuAndMemory("300m", "300Mi"), Limits: cpuAndMemory("1200m", "800Mi"),
			}
			if err := podOf(t, documented); err == nil {
				t.Error("the LimitRange forbids nothing")
			}
		})
	}
}

func TestAContainerThatNoInjectionCouldMakeValidIsLeftAlone(t *testing.T) {
	namespace := limited(t, corev1.LimitRangeItem{Max: cpuAndMemory("1", "512Mi")})
	s := shell{namespace: namespace, kubeconfig: alice, stdin: manifest("kong") + "        resources: {requests: {cpu: 2}}\n"}
	o := s.kubectl(t, "create", "-f", "-")
	const want = "Warning: spec.template.spec.containers[0].resources: left alone on account of a LimitRange: maximum cpu is 1, the limit"
	if o.status != 0 || !strings.HasPrefix(o.stderr, want) {
		t.Errorf("%s, want a warning that begins with %q", o, want)
	}
	d, err := admin.AppsV1().Deployments(namespace).Get(t.Context(), "kong", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := d.Spec.Template.Spec.Containers[0].Resources; len(r.Requests) != 1 || len(r.Limits) != 0 {
		t.Errorf("resources %+v", r)
	}
}
