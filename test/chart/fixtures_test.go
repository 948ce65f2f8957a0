//go:build unix

package chart_test

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// nastyStrings are what CEL, YAML, JSON, Go templates or the kubelet might take
// for something else than text.
var nastyStrings = []string{
	`"`, `\`, `\"`, `\\`, `'`, "`", `"""`, `r"x"`, "a\nb", "a\r\nb", "\t", "\a\b\f\v", "\x01", "\x7f", "\u0085", "\u2028", "\ufeff", "é", "😀",
	"<&>", "$", "$$", "$X", "{{ .Values }}", "%s%!", "# no comment", "a: b", "- a", " x ", "~", "null", "true", "7", "*", ".*", `\u0041`, `\x41`,
	`" || true || "`, `")))) || true || [object].exists(o, o.kind == "`,
}

// nastyDataPlanes recognizes each of nastyStrings as the value of ROLE; an entry
// with $( is what every value that is not literal matches anyway.
var nastyDataPlanes = func() []any {
	all := []any{
		probeEntry,
		map[string]any{"env": map[string]any{"name": `A"b\'c`, "value": "$(X)$$(Y)"}},
		map[string]any{"labels": map[string]any{"matchLabels": map[string]any{`a"\'`: `b"\'`}}},
		map[string]any{"labels": map[string]any{"matchExpressions": []any{
			map[string]any{"key": `c"\'`, "operator": "In", "values": []any{`d"\'`, "é😀"}},
		}}},
	}
	for _, s := range nastyStrings {
		all = append(all, map[string]any{"env": map[string]any{"name": "ROLE", "value": s}})
	}
	return append(all, map[string]any{"image": `"\'é😀[a-z]+(?i)$(X)`})
}()

// probeEntry is what tests recognize an installed webhook by.
var probeEntry = map[string]any{"env": map[string]any{"name": "KONG_ROLE", "value": "data_plane"}}

var everyKindOfDataPlane = []any{
	probeEntry,
	map[string]any{"labels": map[string]any{"matchLabels": map[string]any{"role": "gateway"}}},
	map[string]any{"image": "kong/*"},
}

// deployment has one proxy container and one init container, neither with an environment.
func deployment(name string, options ...func(*appsv1.Deployment)) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					InitContainers: []corev1.Container{{Name: "prepare", Image: "example/prepare:1"}},
					Containers:     []corev1.Container{{Name: "proxy", Image: "example/proxy:1"}},
				},
			},
		},
	}
	for _, option := range options {
		option(d)
	}
	return d
}

// dataPlane is what the chart's default recognizes.
func dataPlane(name string, options ...func(*appsv1.Deployment)) *appsv1.Deployment {
	return deployment(name, append([]func(*appsv1.Deployment){env("KONG_ROLE", "data_plane")}, options...)...)
}

func env(name, value string) func(*appsv1.Deployment) {
	return envVar(corev1.EnvVar{Name: name, Value: value})
}

func envVar(e corev1.EnvVar) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		c := &d.Spec.Template.Spec.Containers[0]
		c.Env = append(c.Env, e)
	}
}

func initEnv(name, value string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		c := &d.Spec.Template.Spec.InitContainers[0]
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
	}
}

func image(image string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image }
}

func initImage(image string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.InitContainers[0].Image = image }
}

// elaborate has a field of every type that the API wraps (quantities, numbers or
// strings, maps, times are not in a spec), so that comparing specs meets them.
func elaborate(d *appsv1.Deployment) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromInt32(1))},
	}
	pod := &d.Spec.Template.Spec
	pod.NodeSelector = map[string]string{"disk": "fast"}
	pod.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
	pod.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("1Gi"))}}}}
	pod.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1200m"), corev1.ResourceMemory: resource.MustParse("0.8Gi")}
	pod.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}}
}

func statefulSet(name string) *appsv1.StatefulSet {
	d := dataPlane(name)
	return &appsv1.StatefulSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.StatefulSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

func hpa(apiVersion, kind string) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "gateway"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: "gateway"},
			MaxReplicas:    3,
		},
	}
}

func hpaV1(apiVersion, kind string) *autoscalingv1.HorizontalPodAutoscaler {
	return &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "gateway"},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: "gateway"},
			MaxReplicas:    3,
		},
	}
}
