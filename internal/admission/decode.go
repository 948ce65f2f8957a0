package admission

import (
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kdp-webhook/kdp-webhook/internal/evaluate"
	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// The kinds that rules know. The API server converts what it sends to the version that the webhook's rule names.
var (
	deploymentKind = metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	hpaKind        = metav1.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}
	scaleKind      = metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
)

// decode reads what rules ask of a review.
func decode(in *admissionv1.AdmissionRequest) (evaluate.Request, error) {
	out := evaluate.Request{
		Namespace: in.Namespace, Name: in.Name, User: in.UserInfo.Username, Object: in.Object.Raw,
		FieldManager: kube.FieldManagerOf(in.Options.Raw),
	}
	var err error
	switch in.Kind {
	case deploymentKind:
		if out.Deployment, err = kube.DecodeDeployment(in.Object.Raw); err != nil {
			return out, err
		}
		if len(in.OldObject.Raw) > 0 {
			out.OldDeployment, err = kube.DecodeDeployment(in.OldObject.Raw)
		}
	case hpaKind:
		out.HPA, out.OldHPA, err = decodePair[autoscalingv2.HorizontalPodAutoscaler](in)
	case scaleKind:
		out.Scale, out.OldScale, err = decodePair[autoscalingv1.Scale](in)
	default:
		err = fmt.Errorf("no rule knows %s", in.Kind.String())
	}
	// The namespace of an object that is being created may be in the request only.
	if out.HPA != nil {
		out.HPA.Namespace = in.Namespace
	}
	if out.Deployment != nil {
		out.Deployment.Metadata.Namespace = in.Namespace
	}
	return out, err
}

func decodePair[T any](in *admissionv1.AdmissionRequest) (object, old *T, err error) {
	object = new(T)
	if err := json.Unmarshal(in.Object.Raw, object); err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", in.Kind.Kind, err)
	}
	if len(in.OldObject.Raw) == 0 {
		return object, nil, nil
	}
	old = new(T)
	if err := json.Unmarshal(in.OldObject.Raw, old); err != nil {
		return nil, nil, fmt.Errorf("decode old %s: %w", in.Kind.Kind, err)
	}
	return object, old, nil
}

// deploymentAskedAbout returns the name of the Deployment that rules will ask the facts about, "" where there is none.
func deploymentAskedAbout(req *evaluate.Request) string {
	switch {
	case req.HPA != nil:
		if target := kube.HPATarget(req.HPA); target.IsDeployment() {
			return target.Name
		}
	case req.Scale != nil:
		return req.Name
	}
	return ""
}

// references names the objects that an Event about a write is about: the object written, by its UID; for a scale write
// the Deployment, whose UID the Scale carries; and for a create, where there is no UID yet, the Namespace.
func references(in *admissionv1.AdmissionRequest, req *evaluate.Request) (regarding, related corev1.ObjectReference) {
	kind := in.Kind
	if kind == scaleKind {
		kind = deploymentKind
	}
	object := corev1.ObjectReference{
		APIVersion: schema.GroupVersion{Group: kind.Group, Version: kind.Version}.String(), Kind: kind.Kind,
		Namespace: in.Namespace, Name: in.Name,
	}
	switch {
	case req.OldDeployment != nil:
		object.UID, object.ResourceVersion = req.OldDeployment.Metadata.UID, req.OldDeployment.Metadata.ResourceVersion
	case req.OldHPA != nil:
		object.UID, object.ResourceVersion = req.OldHPA.UID, req.OldHPA.ResourceVersion
	case req.OldScale != nil:
		object.UID, object.ResourceVersion = req.OldScale.UID, req.OldScale.ResourceVersion
	default:
		// The API refuses an Event in a namespace about that Namespace unless regarding says the namespace.
		return corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Namespace: in.Namespace, Name: in.Namespace}, object
	}
	return object, corev1.ObjectReference{}
}
