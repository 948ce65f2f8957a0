// Package cluster holds the facts about a cluster that rules may ask for: a small interface, and its implementations.
package cluster

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// Facts is what rules may ask of the cluster. Answers come from memory, may lag behind the API server, are in a
// deterministic order, and must not be changed.
type Facts interface {
	// NamespaceLabels returns the labels of a Namespace, nil for one that does not exist.
	NamespaceLabels(namespace string) map[string]string
	// Deployment returns a Deployment, nil where there is none.
	Deployment(namespace, name string) *kube.Deployment
	// HPAsFor returns the HPAs that scale the target, by name.
	HPAsFor(target kube.TargetKey) []*autoscalingv2.HorizontalPodAutoscaler
	// LimitRanges returns a namespace's LimitRanges, by name.
	LimitRanges(namespace string) []*corev1.LimitRange
}
