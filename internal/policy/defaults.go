package policy

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leftOut marks a Bounds.Default that the document does not give.
const leftOut = math.MinInt32

// The documented walkthrough's numbers.
const (
	defaultMinReplicas = 1
	defaultMaxReplicas = 20
	defaultTargetCPU   = 75
)

// Default returns the built-in policy, which holds where there is no policy ConfigMap at all: the documented
// walkthrough's own numbers.
func Default() *Document {
	d := scalarDefaults()
	d.APIVersion, d.Kind = APIVersion, Kind
	d.setDefaults()
	return d
}

// scalarDefaults returns a document with every scalar that has a default set to it: what a document leaves out stays as
// it is here. Lists and maps are left to setDefaults, since decoding would merge into them.
func scalarDefaults() *Document {
	return &Document{
		Mode:      Enforce,
		Resources: Resources{OnUpdate: TemplateChange},
		Autoscaling: Autoscaling{
			Ensure:               true,
			MinReplicas:          Bounds{Default: leftOut, Min: 1, Max: 20},
			MaxReplicas:          Bounds{Default: leftOut, Min: 1, Max: 20},
			TargetCPUUtilization: Bounds{Default: leftOut, Min: 1, Max: 90},
			Metrics:              AnyMetrics,
			ReplaceServerDefault: true,
			AllowOptOut:          true,
			Computable:           Computable{Mode: Warn},
		},
		Replicas:   Replicas{OnOverride: Reject, OnReset: Preserve, ReleaseOwnership: true},
		BreakGlass: BreakGlass{MaxDuration: metav1.Duration{Duration: 24 * time.Hour}},
	}
}

func (d *Document) setDefaults() {
	if d.Match.DataPlane == nil {
		d.Match.DataPlane = []DataPlaneMatch{{Env: &EnvMatch{Name: "KONG_ROLE", Value: "data_plane"}}}
	}
	if d.Resources.Proxy == nil {
		d.Resources.Proxy = &ContainerResources{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("300m"), corev1.ResourceMemory: resource.MustParse("300Mi"),
			},
			Limits: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("1200m"), corev1.ResourceMemory: resource.MustParse("800Mi"),
			},
		}
	}
	if d.Resources.Sidecars == nil {
		d.Resources.Sidecars = &ContainerResources{}
	}
	a := &d.Autoscaling
	a.MinReplicas.setDefault(defaultMinReplicas)
	a.MaxReplicas.setDefault(defaultMaxReplicas)
	a.TargetCPUUtilization.setDefault(defaultTargetCPU)
	if d.Replicas.Autoscalers == nil {
		d.Replicas.Autoscalers = []string{
			"system:serviceaccount:kube-system:horizontal-pod-autoscaler",
			"system:kube-controller-manager",
		}
	}
	if d.BreakGlass.Groups == nil {
		d.BreakGlass.Groups = []string{}
	}
}

// setDefault fills a default that was left out with the built-in one, moved into the bounds that the document gives.
func (b *Bounds) setDefault(builtIn int32) {
	if b.Default == leftOut {
		b.Default = max(min(builtIn, b.Max), b.Min)
	}
}
