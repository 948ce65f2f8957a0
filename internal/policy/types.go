// Package policy is the platform team's document: its types, defaults, validation and strict parsing, which Deployments
// are data planes, which policy holds for an object, and the store that keeps the last good documents. At its edge the
// watch reads the documents from ConfigMaps.
package policy

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// APIVersion of the document that this version of the process knows.
	APIVersion = "kdp-webhook.io/v1alpha1"
	// Kind of the document.
	Kind = "DataPlanePolicy"
	// Label on a ConfigMap in the webhook's own namespace that makes it a policy; its value must be "true".
	Label = "kdp-webhook.io/policy"
	// DataKey is the ConfigMap's key that holds the document.
	DataKey = "policy.yaml"
)

// Document is a platform team's policy for data planes. Highest priority that matches wins whole; nothing is merged.
type Document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Priority orders policies that match the same data plane; equal ones go by ConfigMap name.
	Priority    int32       `json:"priority"`
	Match       Match       `json:"match"`
	Mode        Mode        `json:"mode"`
	Resources   Resources   `json:"resources"`
	Autoscaling Autoscaling `json:"autoscaling"`
	Replicas    Replicas    `json:"replicas"`
	BreakGlass  BreakGlass  `json:"breakGlass"`
}

// Mode says what becomes of a violation.
type Mode string

const (
	// Enforce refuses violations and makes changes.
	Enforce Mode = "Enforce"
	// Warn admits violations with a warning and says what it would change.
	Warn Mode = "Warn"
	// Audit admits silently and records what Enforce would have done.
	Audit Mode = "Audit"
	// Off does nothing.
	Off Mode = "Off"
)

// Match selects the data planes that a policy is about.
type Match struct {
	// NamespaceSelector selects by the labels of the Namespace; empty selects all.
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	// DataPlane recognizes data planes: a Deployment is one when any entry holds, before or after the write.
	DataPlane []DataPlaneMatch `json:"dataPlane"`
}

// DataPlaneMatch recognizes a data plane by exactly one of its fields.
type DataPlaneMatch struct {
	// Env of a container or init container; a value that is not literal counts.
	Env *EnvMatch `json:"env,omitempty"`
	// Labels selects by the Deployment's labels.
	Labels *metav1.LabelSelector `json:"labels,omitempty"`
	// Image is a glob on a container's image: * is any run of characters, ? is one.
	Image string `json:"image,omitempty"`
}

// EnvMatch is an environment variable.
type EnvMatch struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// OnUpdate says which updates have resources injected.
type OnUpdate string

const (
	// TemplateChange injects on an update only when that write changes the pod template anyway.
	TemplateChange OnUpdate = "TemplateChange"
	// Always injects on every update, which rolls the pods out.
	Always OnUpdate = "Always"
)

// Resources says what is injected into data-plane Deployments.
type Resources struct {
	Mode     Mode                `json:"mode,omitempty"`
	OnUpdate OnUpdate            `json:"onUpdate"`
	Proxy    *ContainerResources `json:"proxy"`
	Sidecars *ContainerResources `json:"sidecars,omitempty"`
}

// ContainerResources are injected into a container where it has none of its own.
type ContainerResources struct {
	Requests corev1.ResourceList `json:"requests,omitempty"`
	Limits   corev1.ResourceList `json:"limits,omitempty"`
}

// Autoscaling bounds the HPAs of data planes.
type Autoscaling struct {
	Mode Mode `json:"mode,omitempty"`
	// Ensure gives a data plane without an HPA the default one.
	Ensure      bool   `json:"ensure"`
	MinReplicas Bounds `json:"minReplicas"`
	MaxReplicas Bounds `json:"maxReplicas"`
	// MinSpread is the least difference between maxReplicas and minReplicas.
	MinSpread int32 `json:"minSpread"`
	// TargetCPUUtilization is in percent of the requests.
	TargetCPUUtilization Bounds  `json:"targetCPUUtilization"`
	Metrics              Metrics `json:"metrics"`
	// AllowScaleUpDisabled allows behavior.scaleUp to switch scaling up off.
	AllowScaleUpDisabled bool `json:"allowScaleUpDisabled"`
	// ReplaceServerDefault counts a lone CPU metric at 80, and minReplicas 1 where min is higher, as left out.
	ReplaceServerDefault bool `json:"replaceServerDefault"`
	// AllowOptOut honours the annotation kdp-webhook.io/autoscaling: "off": no default HPA.
	AllowOptOut bool       `json:"allowOptOut"`
	Computable  Computable `json:"computable"`
}

// Bounds are what a number is when left out, and the least and the most that it may be.
type Bounds struct {
	Default int32 `json:"default"`
	Min     int32 `json:"min"`
	Max     int32 `json:"max"`
}

// Contains tells whether v lies within the bounds, both included.
func (b Bounds) Contains(v int32) bool { return v >= b.Min && v <= b.Max }

// Metrics says which metrics an HPA must have.
type Metrics string

const (
	// AnyMetrics leaves the choice of metrics to the HPA.
	AnyMetrics Metrics = "Any"
	// CPURequired wants a CPU Utilization metric of the pods or of a container.
	CPURequired Metrics = "CPURequired"
)

// Computable is about HPAs that cannot compute their CPU metric.
type Computable struct {
	Mode Mode `json:"mode"`
}

// Replicas says who may set replicas on a Deployment that an HPA drives.
type Replicas struct {
	Mode Mode `json:"mode,omitempty"`
	// OnOverride is for a write that sets replicas.
	OnOverride ReplicasAction `json:"onOverride"`
	// OnReset is for a whole-object write that lands on exactly 1, or re-asserts what last-applied already held.
	OnReset ReplicasAction `json:"onReset"`
	// AllowScaleToZero allows pausing the HPA by hand.
	AllowScaleToZero bool `json:"allowScaleToZero"`
	// ReleaseOwnership drops the scale writers' field ownership of replicas.
	ReleaseOwnership bool `json:"releaseOwnership"`
	// Autoscalers are the users whose scale writes are the autoscaler's own.
	Autoscalers []string `json:"autoscalers"`
}

// ReplicasAction is what becomes of a write of replicas.
type ReplicasAction string

const (
	// Reject refuses the write.
	Reject ReplicasAction = "Reject"
	// Preserve keeps the live value and lets the rest of the write through.
	Preserve ReplicasAction = "Preserve"
	// WarnAction lets the write through with a warning.
	WarnAction ReplicasAction = "Warn"
)

// BreakGlass says who may pass in an emergency.
type BreakGlass struct {
	// Groups whose members may pass with the annotation kdp-webhook.io/break-glass: "<reason>".
	Groups []string `json:"groups"`
	// MaxDuration is the longest time that an override may last.
	MaxDuration metav1.Duration `json:"maxDuration"`
}

// SectionMode returns the mode of a section: its own, else the document's.
func (d *Document) SectionMode(section Mode) Mode {
	if section != "" {
		return section
	}
	return d.Mode
}
