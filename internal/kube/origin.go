package kube

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Origin says where a value in a write came from.
type Origin string

const (
	// Unknown means: a value that was asked for and one that the API server defaulted look the same in this write.
	Unknown Origin = "unknown"
	// Explicit means: whoever wrote the object asked for the value.
	Explicit Origin = "explicit"
	// Defaulted means: whoever wrote the object left the value out.
	Defaulted Origin = "defaulted"
)

// ReplicasPath is a Deployment's spec.replicas.
var ReplicasPath = fieldpath.MakePathOrDie("spec", "replicas")

// clientSideApply is the field manager of `kubectl apply`; it leaves what it was given in LastAppliedAnnotation.
const clientSideApply = "kubectl-client-side-apply"

// OriginOf tells whether the field manager that wrote the object (JSON, as admission sees it) asked for the value at
// path. The object alone cannot tell, since defaulting comes before admission; what can are the managedFields of a
// server-side apply, which list exactly the fields that were applied, and the manifest that a client-side apply leaves
// in an annotation. All else, like a client-side create, lists every defaulted field as its own and is Unknown.
func OriginOf(object []byte, fieldManager string, path fieldpath.Path) Origin {
	var o struct {
		APIVersion string `json:"apiVersion"`
		Metadata   struct {
			Annotations   map[string]string           `json:"annotations"`
			ManagedFields []metav1.ManagedFieldsEntry `json:"managedFields"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return Unknown
	}
	for _, entry := range o.Metadata.ManagedFields {
		if entry.Manager != fieldManager || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" ||
			entry.FieldsV1 == nil {
			continue
		}
		// The fields are those of the version that was applied, which the object may have been converted from.
		if o.APIVersion != "" && entry.APIVersion != o.APIVersion {
			return Unknown
		}
		set := &fieldpath.Set{}
		if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
			return Unknown
		}
		return originBy(set.Has(path))
	}
	if fieldManager == clientSideApply {
		manifest, ok := o.Metadata.Annotations[LastAppliedAnnotation]
		if !ok {
			return Unknown
		}
		asked, err := hasPath([]byte(manifest), path)
		if err != nil {
			return Unknown
		}
		return originBy(asked)
	}
	return Unknown
}

func originBy(asked bool) Origin {
	if asked {
		return Explicit
	}
	return Defaulted
}

// hasPath tells whether the JSON document has a value other than null at a path of field names.
func hasPath(doc []byte, path fieldpath.Path) (bool, error) {
	var node any
	if err := json.Unmarshal(doc, &node); err != nil {
		return false, fmt.Errorf("decode last applied manifest: %w", err)
	}
	for _, element := range path {
		m, ok := node.(map[string]any)
		if !ok || element.FieldName == nil {
			return false, nil
		}
		node = m[*element.FieldName]
	}
	return node != nil, nil
}

// FieldManagerOf returns the field manager named by an admission request's options (JSON), or "".
func FieldManagerOf(options []byte) string {
	var o struct {
		FieldManager string `json:"fieldManager"`
	}
	if err := json.Unmarshal(options, &o); err != nil {
		return ""
	}
	return strings.TrimSpace(o.FieldManager)
}
