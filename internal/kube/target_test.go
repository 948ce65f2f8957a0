package kube_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

func TestHPATarget(t *testing.T) {
	tests := map[string]struct {
		apiVersion, kind string
		want             kube.TargetKey
		isDeployment     bool
		text             string
	}{
		"a Deployment of apps/v1": {
			apiVersion: "apps/v1", kind: "Deployment", isDeployment: true,
			want: kube.TargetKey{Namespace: "ns", Group: "apps", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment.apps/kong",
		},
		"a version that does not exist names the same Deployment": {
			apiVersion: "apps/v1beta9", kind: "Deployment", isDeployment: true,
			want: kube.TargetKey{Namespace: "ns", Group: "apps", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment.apps/kong",
		},
		"an empty version names the same Deployment": {
			apiVersion: "apps/", kind: "Deployment", isDeployment: true,
			want: kube.TargetKey{Namespace: "ns", Group: "apps", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment.apps/kong",
		},
		"a kind of the same name in another group is another object": {
			apiVersion: "extensions/v1beta1", kind: "Deployment",
			want: kube.TargetKey{Namespace: "ns", Group: "extensions", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment.extensions/kong",
		},
		"a version without a group is the core group": {
			apiVersion: "v1", kind: "Deployment",
			want: kube.TargetKey{Namespace: "ns", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment./kong",
		},
		"no apiVersion is the core group": {
			kind: "ReplicationController",
			want: kube.TargetKey{Namespace: "ns", Kind: "ReplicationController", Name: "kong"},
			text: "ns/ReplicationController./kong",
		},
		"another kind of the group": {
			apiVersion: "apps/v1", kind: "StatefulSet",
			want: kube.TargetKey{Namespace: "ns", Group: "apps", Kind: "StatefulSet", Name: "kong"},
			text: "ns/StatefulSet.apps/kong",
		},
		"kinds are told apart by case": {
			apiVersion: "apps/v1", kind: "deployment",
			want: kube.TargetKey{Namespace: "ns", Group: "apps", Kind: "deployment", Name: "kong"},
			text: "ns/deployment.apps/kong",
		},
		"an apiVersion that cannot be parsed is nobody's": {
			apiVersion: "apps/v1/v2", kind: "Deployment",
			want: kube.TargetKey{Namespace: "ns", Group: "apps/v1/v2", Kind: "Deployment", Name: "kong"},
			text: "ns/Deployment.apps/v1/v2/kong",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			hpa := &autoscalingv2.HorizontalPodAutoscaler{}
			hpa.Namespace = "ns"
			hpa.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: tt.apiVersion, Kind: tt.kind, Name: "kong"}

			key := kube.HPATarget(hpa)

			if diff := cmp.Diff(tt.want, key); diff != "" {
				t.Errorf("HPATarget (-want +got):\n%s", diff)
			}
			if key.IsDeployment() != tt.isDeployment {
				t.Errorf("IsDeployment = %v, want %v", key.IsDeployment(), tt.isDeployment)
			}
			if key.String() != tt.text {
				t.Errorf("String = %q, want %q", key.String(), tt.text)
			}
			if same := key == kube.DeploymentKey("ns", "kong"); same != tt.isDeployment {
				t.Errorf("equals the Deployment's own key: %v, want %v", same, tt.isDeployment)
			}
		})
	}
}
