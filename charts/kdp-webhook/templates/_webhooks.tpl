{{- /*
The webhooks of both configurations; only path and reinvocation differ. Input: dict of root, path and mutating.
caBundle is left out on purpose: the process writes it, and an upgrade must not take it away.
*/ -}}
{{- define "kdp-webhook.webhooks" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- if or (lt (int $values.timeoutSeconds) 1) (gt (int $values.timeoutSeconds) 5) -}}
{{- fail (printf "timeoutSeconds: must be 1 to 5, got %v" $values.timeoutSeconds) -}}
{{- end -}}
{{- if not (has $values.failurePolicy (list "Fail" "Ignore")) -}}
{{- fail (printf "failurePolicy: must be Fail or Ignore, got %v" $values.failurePolicy) -}}
{{- end -}}
{{- $common := dict "root" $root "path" .path "mutating" .mutating -}}
- name: deployments.kdp-webhook.io
  {{- include "kdp-webhook.webhook" $common | nindent 2 }}
  failurePolicy: {{ $values.failurePolicy }}
  rules:
    - apiGroups: [apps]
      apiVersions: [v1]
      resources: [deployments]
      operations: [CREATE, UPDATE]
      scope: Namespaced
  matchConditions:
    - name: not-own-service-account
      expression: {{ include "kdp-webhook.cel.notOwnServiceAccount" $root }}
    # What the cluster's own controllers note on an admitted Deployment (revision, owner references) waits for nobody.
    - name: not-bookkeeping
      expression: |-
        !(request.operation == "UPDATE" && request.userInfo.username in [
          "system:serviceaccount:kube-system:deployment-controller",
          "system:serviceaccount:kube-system:generic-garbage-collector",
          "system:kube-controller-manager"] && object.spec == oldObject.spec)
    - name: data-plane
      expression: |-
        {{- include "kdp-webhook.cel.dataPlane" $root | nindent 8 }}
- name: horizontalpodautoscalers.kdp-webhook.io
  {{- include "kdp-webhook.webhook" $common | nindent 2 }}
  failurePolicy: Ignore
  rules:
    # matchPolicy Equivalent brings autoscaling/v1 here too, converted.
    - apiGroups: [autoscaling]
      apiVersions: [v2]
      resources: [horizontalpodautoscalers]
      operations: [CREATE, UPDATE]
      scope: Namespaced
  matchConditions:
    - name: not-own-service-account
      expression: {{ include "kdp-webhook.cel.notOwnServiceAccount" $root }}
    # The HPA controller goes by group and kind, whatever the version.
    - name: targets-deployment
      expression: |-
        object.spec.scaleTargetRef.kind == "Deployment" &&
        object.spec.scaleTargetRef.?apiVersion.orValue("").startsWith("apps/")
- name: scales.kdp-webhook.io
  {{- include "kdp-webhook.webhook" $common | nindent 2 }}
  failurePolicy: Ignore
  rules:
    - apiGroups: [apps]
      apiVersions: [v1]
      resources: [deployments/scale]
      operations: [UPDATE]
      scope: Namespaced
  matchConditions:
    - name: not-own-service-account
      expression: {{ include "kdp-webhook.cel.notOwnServiceAccount" $root }}
    - name: not-autoscaler
      expression: |-
        !(request.userInfo.username in {{ include "kdp-webhook.cel.strings" (list $values.autoscalers "autoscalers") }})
    # 0 is left out of a Scale.
    - name: changes-replicas
      expression: object.spec.?replicas.orValue(0) != oldObject.spec.?replicas.orValue(0)
{{- end -}}

{{- define "kdp-webhook.webhook" -}}
admissionReviewVersions: [v1]
sideEffects: NoneOnDryRun
matchPolicy: Equivalent
{{- if .mutating }}
reinvocationPolicy: IfNeeded
{{- end }}
timeoutSeconds: {{ .root.Values.timeoutSeconds }}
clientConfig:
  {{- if .root.Values.webhook.url }}
  url: {{ printf "%s%s" (trimSuffix "/" .root.Values.webhook.url) .path | quote }}
  {{- else }}
  service:
    namespace: {{ .root.Release.Namespace }}
    name: {{ include "kdp-webhook.fullname" .root }}
    path: {{ .path }}
    port: 443
  {{- end }}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- concat (.root.Values.excludedNamespaces | default list) (list .root.Release.Namespace) | uniq | toYaml | nindent 8 }}
{{- end -}}

{{- define "kdp-webhook.cel.notOwnServiceAccount" -}}
request.userInfo.username != "system:serviceaccount:{{ .Release.Namespace }}:{{ include "kdp-webhook.fullname" . }}"
{{- end -}}
