package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// LastAppliedAnnotation is where client-side `kubectl apply` keeps the manifest it was last given.
	LastAppliedAnnotation = corev1.LastAppliedConfigAnnotation
	// AnnotationPrefix is the prefix of every annotation and label of this project.
	AnnotationPrefix = "kdp-webhook.io/"
)

// Deployment holds what rules read of an apps/v1 Deployment and nothing else: decoding only this costs a fraction of
// decoding the typed object, and so does keeping it in memory.
type Deployment struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		// Replicas is nil where left out; the API server defaults it to 1 before admission.
		Replicas *int32 `json:"replicas"`
		Template struct {
			Spec PodSpec `json:"spec"`
		} `json:"template"`
	} `json:"spec"`

	// raw is the JSON that the object was decoded from; nil for an object from a cache.
	raw []byte
}

// Metadata holds what rules read of an object's metadata.
type Metadata struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	UID             types.UID         `json:"uid"`
	ResourceVersion string            `json:"resourceVersion"`
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
}

// PodSpec holds what rules read of a pod template's spec.
type PodSpec struct {
	InitContainers []Container `json:"initContainers"`
	Containers     []Container `json:"containers"`
	// Resources are the pod-level resources; nil where left out.
	Resources *Resources `json:"resources"`
}

// Container holds what rules read of a container.
type Container struct {
	Name          string                         `json:"name"`
	Image         string                         `json:"image"`
	RestartPolicy *corev1.ContainerRestartPolicy `json:"restartPolicy"`
	Env           []EnvVar                       `json:"env"`
	// Resources is nil where the key is absent, which decides how a patch has to add to it.
	Resources *Resources `json:"resources"`
}

// Resources are a container's or pod's requests and limits. A nil list is absent, an empty one is there and empty.
type Resources struct {
	Requests corev1.ResourceList `json:"requests"`
	Limits   corev1.ResourceList `json:"limits"`
}

// EnvVar is an environment variable; ValueFrom is not nil where the value comes from elsewhere.
type EnvVar struct {
	Name      string    `json:"name"`
	Value     string    `json:"value"`
	ValueFrom *struct{} `json:"valueFrom"`
}

// Literal tells whether the value can be read from the manifest alone: it neither comes from elsewhere nor refers to
// another variable.
func (e EnvVar) Literal() bool { return e.ValueFrom == nil && !strings.Contains(e.Value, "$(") }

// DecodeDeployment decodes what rules read of an apps/v1 Deployment's JSON. It keeps raw, which must not be changed.
func DecodeDeployment(raw []byte) (*Deployment, error) {
	d := &Deployment{raw: raw}
	if err := json.Unmarshal(raw, d); err != nil {
		return nil, fmt.Errorf("decode Deployment: %w", err)
	}
	if err := checkProportions(d.Pod()); err != nil {
		return nil, fmt.Errorf("decode Deployment: %w", err)
	}
	return d, nil
}

// checkProportions refuses quantities that no rule could compare within the life of a request.
func checkProportions(pod *PodSpec) error {
	if at := pod.Resources.unreasonable(); at != "" {
		return fmt.Errorf("pod: %s is out of all proportion", at)
	}
	for _, c := range AllContainers(pod) {
		if at := c.Resources.unreasonable(); at != "" {
			return fmt.Errorf("container %q: %s is out of all proportion", c.Name, at)
		}
	}
	return nil
}

// Keep says what FromDeployment keeps of the environment.
type Keep interface {
	// ReadsEnv tells whether the environment variable of that name is looked at.
	ReadsEnv(name string) bool
}

// FromDeployment strips a typed Deployment to what rules read. Annotations of others are dropped; the result is not to
// be held against one that was decoded from JSON.
func FromDeployment(in *appsv1.Deployment, keep Keep) *Deployment {
	out := &Deployment{Metadata: Metadata{
		Name: in.Name, Namespace: Intern(in.Namespace), UID: in.UID, ResourceVersion: in.ResourceVersion, Labels: internAll(in.Labels),
	}}
	for k, v := range in.Annotations {
		if strings.HasPrefix(k, AnnotationPrefix) {
			if out.Metadata.Annotations == nil {
				out.Metadata.Annotations = map[string]string{}
			}
			out.Metadata.Annotations[k] = v
		}
	}
	out.Spec.Replicas = in.Spec.Replicas
	pod := &in.Spec.Template.Spec
	out.Spec.Template.Spec = PodSpec{
		InitContainers: fromContainers(pod.InitContainers, keep),
		Containers:     fromContainers(pod.Containers, keep),
	}
	if pod.Resources != nil {
		out.Spec.Template.Spec.Resources = &Resources{Requests: pod.Resources.Requests, Limits: pod.Resources.Limits}
	}
	return out
}

func fromContainers(in []corev1.Container, keep Keep) []Container {
	if len(in) == 0 {
		return nil
	}
	out := make([]Container, len(in))
	for i := range in {
		c := &in[i]
		out[i] = Container{Name: Intern(c.Name), Image: Intern(c.Image), RestartPolicy: c.RestartPolicy}
		if len(c.Resources.Requests) > 0 || len(c.Resources.Limits) > 0 {
			out[i].Resources = &Resources{Requests: c.Resources.Requests, Limits: c.Resources.Limits}
		}
		for _, e := range c.Env {
			if !keep.ReadsEnv(e.Name) {
				continue
			}
			kept := EnvVar{Name: Intern(e.Name), Value: Intern(e.Value)}
			if e.ValueFrom != nil {
				kept.ValueFrom = &struct{}{}
			}
			out[i].Env = append(out[i].Env, kept)
		}
	}
	return out
}

// Intern returns a string equal to s that all callers share: objects in a cache repeat the same few names.
func Intern(s string) string { return unique.Make(s).Value() }

func internAll(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[Intern(k)] = Intern(v)
	}
	return out
}

// Replicas returns spec.replicas, 1 where it was left out, as the API server defaults it.
func (d *Deployment) Replicas() int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// Key returns the Deployment's target key.
func (d *Deployment) Key() TargetKey { return DeploymentKey(d.Metadata.Namespace, d.Metadata.Name) }

// Pod returns the pod template's spec.
func (d *Deployment) Pod() *PodSpec { return &d.Spec.Template.Spec }

// DeepCopy returns a copy whose containers, resources and annotations can be changed without touching d.
func (d *Deployment) DeepCopy() *Deployment {
	out := *d
	out.Metadata.Labels = maps.Clone(d.Metadata.Labels)
	out.Metadata.Annotations = maps.Clone(d.Metadata.Annotations)
	if d.Spec.Replicas != nil {
		replicas := *d.Spec.Replicas
		out.Spec.Replicas = &replicas
	}
	pod := out.Pod()
	pod.InitContainers = copyContainers(pod.InitContainers)
	pod.Containers = copyContainers(pod.Containers)
	pod.Resources = pod.Resources.DeepCopy()
	return &out
}

func copyContainers(in []Container) []Container {
	out := slices.Clone(in)
	for i := range out {
		out[i].Resources = out[i].Resources.DeepCopy()
	}
	return out
}

// DeepCopy returns a copy; nil of nil.
func (r *Resources) DeepCopy() *Resources {
	if r == nil {
		return nil
	}
	return &Resources{Requests: r.Requests.DeepCopy(), Limits: r.Limits.DeepCopy()}
}

// LastAppliedReplicas returns the replicas that the manifest last given to client-side `kubectl apply` asked for.
func (d *Deployment) LastAppliedReplicas() (int32, bool) {
	manifest, ok := d.Metadata.Annotations[LastAppliedAnnotation]
	if !ok {
		return 0, false
	}
	var applied struct {
		Spec struct {
			Replicas *int32 `json:"replicas"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(manifest), &applied); err != nil || applied.Spec.Replicas == nil {
		return 0, false
	}
	return *applied.Spec.Replicas, true
}

// SameTemplate tells whether two decoded Deployments have the same pod template, apart from the container resources
// for which ignore returns true in either. The API server encodes both sides of an update alike, so that equal bytes
// are the common case; objects that were not decoded from JSON never have the same template.
func SameTemplate(a, b *Deployment, ignore func(d *Deployment, container, list, resource string) bool) (bool, error) {
	ta, err := a.rawTemplate()
	if err != nil {
		return false, err
	}
	tb, err := b.rawTemplate()
	if err != nil {
		return false, err
	}
	if ta == nil || tb == nil {
		return false, nil
	}
	if bytes.Equal(ta, tb) {
		return true, nil
	}
	ga, err := genericTemplate(a, ta, ignore)
	if err != nil {
		return false, err
	}
	gb, err := genericTemplate(b, tb, ignore)
	if err != nil {
		return false, err
	}
	return reflect.DeepEqual(ga, gb), nil
}

func (d *Deployment) rawTemplate() (json.RawMessage, error) {
	if d.raw == nil {
		return nil, nil
	}
	var o struct {
		Spec struct {
			Template json.RawMessage `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(d.raw, &o); err != nil {
		return nil, fmt.Errorf("decode pod template: %w", err)
	}
	return o.Spec.Template, nil
}

// genericTemplate decodes a template, dropping ignored resources and the empty maps that this leaves behind.
func genericTemplate(d *Deployment, raw json.RawMessage, ignore func(*Deployment, string, string, string) bool) (map[string]any, error) {
	var template map[string]any
	if err := json.Unmarshal(raw, &template); err != nil {
		return nil, fmt.Errorf("decode pod template: %w", err)
	}
	spec, _ := template["spec"].(map[string]any)
	for _, field := range []string{"containers", "initContainers"} {
		containers, _ := spec[field].([]any)
		for _, item := range containers {
			c, _ := item.(map[string]any)
			name, _ := c["name"].(string)
			resources, _ := c["resources"].(map[string]any)
			for _, list := range []string{"requests", "limits"} {
				values, _ := resources[list].(map[string]any)
				for resource := range values {
					if ignore(d, name, list, resource) {
						delete(values, resource)
					}
				}
				if len(values) == 0 {
					delete(resources, list)
				}
			}
			if len(resources) == 0 {
				delete(c, "resources")
			}
		}
	}
	return template, nil
}
