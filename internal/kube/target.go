// Package kube knows what the Kubernetes API means where autoscaling is concerned: which object an HPA scales, which
// containers count in its arithmetic, what a container effectively requests, and whether a value was asked for or
// defaulted. It is pure: no client, no clock, no policy.
package kube

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TargetKey identifies the object that an HPA scales. It carries no API version: the HPA controller resolves
// scaleTargetRef by group and kind, so apps/v1 and apps/v1beta9 are the same target.
type TargetKey struct {
	Namespace string
	Group     string
	Kind      string
	Name      string
}

// HPATarget returns the key of the object that the HPA scales. An apiVersion that cannot be parsed gives a key that
// no object has.
func HPATarget(hpa *autoscalingv2.HorizontalPodAutoscaler) TargetKey {
	ref := hpa.Spec.ScaleTargetRef
	group := ref.APIVersion
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err == nil {
		group = gv.Group
	}
	return TargetKey{Namespace: hpa.Namespace, Group: group, Kind: ref.Kind, Name: ref.Name}
}

// DeploymentKey returns the target key of a Deployment.
func DeploymentKey(namespace, name string) TargetKey {
	return TargetKey{Namespace: namespace, Group: "apps", Kind: "Deployment", Name: name}
}

// IsDeployment tells whether the target is a Deployment.
func (k TargetKey) IsDeployment() bool { return k.Group == "apps" && k.Kind == "Deployment" }

// String returns namespace/Kind.group/name, which is also the key of the HPA index.
func (k TargetKey) String() string {
	return k.Namespace + "/" + k.Kind + "." + k.Group + "/" + k.Name
}
