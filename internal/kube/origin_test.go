package kube_test

import (
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// metricsPath is an HPA's spec.metrics.
var metricsPath = fieldpath.MakePathOrDie("spec", "metrics")

func TestOriginOf(t *testing.T) {
	const (
		applyWith = `
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
spec: {replicas: 1}`
		applyWithout = `
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:template": {}}}}
spec: {replicas: 1}`
		twoManagers = `
metadata:
  managedFields:
    - {manager: argocd, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
    - {manager: helm, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:template": {}}}}
spec: {replicas: 1}`
		scaleEntry = `
metadata:
  managedFields:
    - {manager: kubectl, operation: Update, subresource: scale, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
    - {manager: kubectl, operation: Apply, subresource: scale, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
    - {manager: kubectl, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:template": {}}}}
spec: {replicas: 1}`
		update = `
metadata:
  managedFields:
    - {manager: kubectl-create, operation: Update, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
spec: {replicas: 1}`
		hollow = `
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: apps/v1}
spec: {replicas: 1}`
		garbledFields = `
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": 3}}
spec: {replicas: 1}`
		lastAppliedWith = `
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":1}}'}
  managedFields:
    - {manager: kubectl-client-side-apply, operation: Update, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}
spec: {replicas: 1}`
		lastAppliedWithout = `
metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"template":{}}}'}}
spec: {replicas: 1}`
		lastAppliedNull = `
metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"replicas":null}}'}}
spec: {replicas: 1}`
		lastAppliedMetrics = `
metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"metrics":[]}}'}}
spec: {maxReplicas: 1}`
		lastAppliedGarbled = `
metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"spec":'}}
spec: {replicas: 1}`
		applyMetrics = `
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: autoscaling/v2, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:metrics": {}, "f:maxReplicas": {}}}}
spec: {maxReplicas: 1}`
		applyScalarMetrics = `
apiVersion: autoscaling/v2
metadata:
  managedFields:
    - {manager: helm, operation: Apply, apiVersion: autoscaling/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:targetCPUUtilizationPercentage": {}}}}
spec: {maxReplicas: 1}`
	)
	tests := map[string]struct {
		object, manager string
		path            fieldpath.Path
		want            kube.Origin
	}{
		"server-side apply with the field":                                           {object: applyWith, manager: "helm", path: kube.ReplicasPath, want: kube.Explicit},
		"server-side apply without the field":                                        {object: applyWithout, manager: "helm", path: kube.ReplicasPath, want: kube.Defaulted},
		"two managers, the one that wrote left the field out":                        {object: twoManagers, manager: "helm", path: kube.ReplicasPath, want: kube.Defaulted},
		"two managers, the one that wrote gave the field":                            {object: twoManagers, manager: "argocd", path: kube.ReplicasPath, want: kube.Explicit},
		"an entry of the scale subresource is another write's":                       {object: scaleEntry, manager: "kubectl", path: kube.ReplicasPath, want: kube.Defaulted},
		"a client-side create lists what was defaulted too":                          {object: update, manager: "kubectl-create", path: kube.ReplicasPath, want: kube.Unknown},
		"a manager without any entry":                                                {object: applyWith, manager: "kubectl-edit", path: kube.ReplicasPath, want: kube.Unknown},
		"no manager":                                                                 {object: applyWith, manager: "", path: kube.ReplicasPath, want: kube.Unknown},
		"an entry without fields":                                                    {object: hollow, manager: "helm", path: kube.ReplicasPath, want: kube.Unknown},
		"an entry whose fields cannot be read":                                       {object: garbledFields, manager: "helm", path: kube.ReplicasPath, want: kube.Unknown},
		"client-side apply with the field":                                           {object: lastAppliedWith, manager: "kubectl-client-side-apply", path: kube.ReplicasPath, want: kube.Explicit},
		"client-side apply without the field":                                        {object: lastAppliedWithout, manager: "kubectl-client-side-apply", path: kube.ReplicasPath, want: kube.Defaulted},
		"client-side apply with the field null":                                      {object: lastAppliedNull, manager: "kubectl-client-side-apply", path: kube.ReplicasPath, want: kube.Defaulted},
		"client-side apply of an HPA with an empty list":                             {object: lastAppliedMetrics, manager: "kubectl-client-side-apply", path: metricsPath, want: kube.Explicit},
		"client-side apply whose manifest was not kept":                              {object: update, manager: "kubectl-client-side-apply", path: kube.ReplicasPath, want: kube.Unknown},
		"client-side apply whose manifest cannot be read":                            {object: lastAppliedGarbled, manager: "kubectl-client-side-apply", path: kube.ReplicasPath, want: kube.Unknown},
		"an edit of what client-side apply wrote":                                    {object: lastAppliedWith, manager: "kubectl-edit", path: kube.ReplicasPath, want: kube.Unknown},
		"server-side apply of an HPA with metrics":                                   {object: applyMetrics, manager: "helm", path: metricsPath, want: kube.Explicit},
		"server-side apply of an autoscaling/v1 HPA says nothing about v2's metrics": {object: applyScalarMetrics, manager: "helm", path: metricsPath, want: kube.Unknown},
		"an object that is no JSON":                                                  {object: "", manager: "helm", path: kube.ReplicasPath, want: kube.Unknown},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			raw, err := yaml.YAMLToJSON([]byte(tt.object))
			if err != nil {
				t.Fatal(err)
			}
			if tt.object == "" {
				raw = []byte(`{"metadata":`)
			}
			if got := kube.OriginOf(raw, tt.manager, tt.path); got != tt.want {
				t.Errorf("OriginOf = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestFieldManagerOf(t *testing.T) {
	tests := map[string]struct{ options, want string }{
		"named":           {options: `{"kind":"UpdateOptions","fieldManager":"kubectl-edit"}`, want: "kubectl-edit"},
		"left out":        {options: `{"kind":"UpdateOptions"}`},
		"no options":      {options: ``},
		"options garbled": {options: `{"fieldManager":3}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := kube.FieldManagerOf([]byte(tt.options)); got != tt.want {
				t.Errorf("FieldManagerOf = %q, want %q", got, tt.want)
			}
		})
	}
}
