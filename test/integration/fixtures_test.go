//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// manifest is a data plane's Deployment as a user writes it; more is added to its spec.
func manifest(name string, more ...string) string {
	spec := ""
	if len(more) > 0 {
		spec = indent(strings.Join(more, "\n"))
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
%[2]s  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
    spec:
      initContainers:
      - name: clear-stale-pid
        image: kong/kong-gateway:3.4
        resources: {}
      containers:
      - name: proxy
        image: kong/kong-gateway:3.4
        env:
        - {name: KONG_ROLE, value: data_plane}
`, name, spec)
}

// hpaManifest is an HPA as a user writes it; spec is its spec without the target, in YAML's flow style.
func hpaManifest(name, target, spec string) string {
	return fmt.Sprintf(`apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: %s
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s}
%s`, name, target, indent(spec))
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n"
}

// cpu is an HPA's metrics in YAML.
func cpu(utilization int) string {
	return fmt.Sprintf("metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: %d}}}]", utilization)
}

func deployment(name, role string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "proxy", Image: "kong/kong-gateway:3.4", Env: []corev1.EnvVar{{Name: "KONG_ROLE", Value: role}},
				}}},
			},
		},
	}
}

func dataPlane(name string) *appsv1.Deployment { return deployment(name, "data_plane") }

func controlPlane(name string) *appsv1.Deployment { return deployment(name, "control_plane") }

// hpa is an HPA of the Deployment of the same name; utilization 0 leaves the metrics out.
func hpa(name string, lowest, highest, utilization int32) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    &lowest, MaxReplicas: highest,
		},
	}
	if utilization > 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
			},
		}}
	}
	return h
}

// apply creates an object and returns it as it is stored.
func apply[T runtime.Object](ctx context.Context, c kubernetes.Interface, namespace string, obj T) (T, error) {
	var out runtime.Object
	var err error
	switch o := any(obj).(type) {
	case *appsv1.Deployment:
		out, err = c.AppsV1().Deployments(namespace).Create(ctx, o, metav1.CreateOptions{})
	case *autoscalingv2.HorizontalPodAutoscaler:
		out, err = c.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, o, metav1.CreateOptions{})
	case *corev1.ConfigMap:
		out, err = c.CoreV1().ConfigMaps(namespace).Create(ctx, o, metav1.CreateOptions{})
	default:
		err = fmt.Errorf("no client for %T", obj)
	}
	if err != nil {
		var none T
		return none, err
	}
	return out.(T), nil
}

func create[T runtime.Object](t *testing.T, c kubernetes.Interface, namespace string, obj T) T {
	t.Helper()
	out, err := apply(t.Context(), c, namespace, obj)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scaleTo sets a Deployment's replicas through the scale subresource.
func scaleTo(ctx context.Context, c kubernetes.Interface, namespace, name string, replicas int32) error {
	_, err := c.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{}, "scale")
	return err
}

func mustScaleTo(t *testing.T, c kubernetes.Interface, namespace, name string, replicas int32) {
	t.Helper()
	if err := scaleTo(t.Context(), c, namespace, name, replicas); err != nil {
		t.Fatal(err)
	}
}

func replicasOf(t *testing.T, namespace, name string) int32 {
	t.Helper()
	d, err := admin.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return *d.Spec.Replicas
}

// setStatus writes an HPA's status as its controller would.
func setStatus(t *testing.T, namespace, name string, status autoscalingv2.HorizontalPodAutoscalerStatus) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AutoscalingV2().HorizontalPodAutoscalers(namespace).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}
