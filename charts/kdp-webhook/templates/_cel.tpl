{{- /*
CEL for matchConditions. Three rules hold everywhere below:
- A string of the user's becomes a literal by %+q alone: Go's ASCII escapes are all valid in CEL and in YAML. It must be a
  string, though (%q of a number is a character).
- Every optional field is guarded: an error in a condition is decided by failurePolicy, that is, it may refuse a write that is
  no business of ours. Containers that are left out are null, not absent.
- All conditions of a webhook are evaluated, none short-circuits another; within an expression, cheap terms stand first.
*/ -}}

{{- /* A CEL string literal. Input: list of the value and the name to call it by when it is no string. */ -}}
{{- define "kdp-webhook.cel.string" -}}
{{- $value := index . 0 -}}
{{- if not (kindIs "string" $value) -}}
{{- fail (printf "%s: must be a string, got %v" (index . 1) $value) -}}
{{- end -}}
{{- printf "%+q" $value -}}
{{- end -}}

{{- /* A CEL list of string literals. Input: list of the values and their name. */ -}}
{{- define "kdp-webhook.cel.strings" -}}
{{- $name := index . 1 -}}
{{- $items := list -}}
{{- range $i, $value := index . 0 -}}
{{- $items = append $items (include "kdp-webhook.cel.string" (list $value (printf "%s[%d]" $name $i))) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- end -}}

{{- /* A metav1.LabelSelector over the map l. Input: list of the selector and its name. */ -}}
{{- define "kdp-webhook.cel.labels" -}}
{{- $selector := index . 0 -}}
{{- $name := index . 1 -}}
{{- $terms := list -}}
{{- range $key, $value := $selector.matchLabels -}}
{{- $k := printf "%+q" $key -}}
{{- $terms = append $terms (printf "%s in l && l[%s] == %s" $k $k (include "kdp-webhook.cel.string" (list $value (printf "%s.matchLabels[%s]" $name $key)))) -}}
{{- end -}}
{{- range $i, $expression := $selector.matchExpressions -}}
{{- $at := printf "%s.matchExpressions[%d]" $name $i -}}
{{- $k := include "kdp-webhook.cel.string" (list $expression.key (printf "%s.key" $at)) -}}
{{- if has $expression.operator (list "In" "NotIn") -}}
{{- if not $expression.values -}}
{{- fail (printf "%s.values: required for operator %s" $at $expression.operator) -}}
{{- end -}}
{{- $in := printf "%s in l && l[%s] in %s" $k $k (include "kdp-webhook.cel.strings" (list $expression.values (printf "%s.values" $at))) -}}
{{- $terms = append $terms (eq $expression.operator "In" | ternary $in (printf "!(%s)" $in)) -}}
{{- else if has $expression.operator (list "Exists" "DoesNotExist") -}}
{{- if $expression.values -}}
{{- fail (printf "%s.values: must be empty for operator %s" $at $expression.operator) -}}
{{- end -}}
{{- $terms = append $terms (eq $expression.operator "Exists" | ternary (printf "%s in l" $k) (printf "!(%s in l)" $k)) -}}
{{- else -}}
{{- fail (printf "%s.operator: must be In, NotIn, Exists or DoesNotExist, got %v" $at $expression.operator) -}}
{{- end -}}
{{- end -}}
{{- if not $terms -}}
{{- fail (printf "%s: an empty selector would make every Deployment a data plane" $name) -}}
{{- end -}}
({{ join " && " $terms }})
{{- end -}}

{{- /* A glob as an anchored regular expression, as a CEL string literal. Input: list of the glob and its name. */ -}}
{{- define "kdp-webhook.cel.glob" -}}
{{- $glob := index . 0 -}}
{{- if not (kindIs "string" $glob) -}}
{{- fail (printf "%s: must be a string, got %v" (index . 1) $glob) -}}
{{- end -}}
{{- if regexMatch "^[*?]*$" $glob -}}
{{- fail (printf "%s: must hold more than wildcards, got %q" (index . 1) $glob) -}}
{{- end -}}
{{- printf "%+q" (printf "^(?s:%s)$" ($glob | regexQuoteMeta | replace "\\*" ".*" | replace "\\?" ".")) -}}
{{- end -}}

{{- /*
Is the Deployment a data plane, before or after the write? Entries of one kind share one traversal of the pod template.
*/ -}}
{{- define "kdp-webhook.cel.dataPlane" -}}
{{- $env := list -}}
{{- $image := list -}}
{{- $labels := list -}}
{{- if not .Values.dataPlanes -}}
{{- fail "dataPlanes: at least one entry is required" -}}
{{- end -}}
{{- range $i, $entry := .Values.dataPlanes -}}
{{- $at := printf "dataPlanes[%d]" $i -}}
{{- if not (kindIs "map" $entry) -}}
{{- fail (printf "%s: must be a map with one of env, labels and image, got %v" $at $entry) -}}
{{- end -}}
{{- if or (ne (len $entry) 1) (not (or (hasKey $entry "env") (hasKey $entry "labels") (hasKey $entry "image"))) -}}
{{- fail (printf "%s: must have exactly one of env, labels and image, got %s" $at (keys $entry | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if hasKey $entry "env" -}}
{{- $e := $entry.env | default dict -}}
{{- if not (and $e.name $e.value) -}}
{{- fail (printf "%s.env: name and value are required" $at) -}}
{{- end -}}
{{- $name := include "kdp-webhook.cel.string" (list $e.name (printf "%s.env.name" $at)) -}}
{{- $value := include "kdp-webhook.cel.string" (list $e.value (printf "%s.env.value" $at)) -}}
{{- $env = append $env (printf `e.name == %s && (has(e.valueFrom) || e.?value.orValue("") == %s || e.?value.orValue("").contains("$("))` $name $value) -}}
{{- end -}}
{{- if hasKey $entry "labels" -}}
{{- $labels = append $labels (include "kdp-webhook.cel.labels" (list ($entry.labels | default dict) (printf "%s.labels" $at))) -}}
{{- end -}}
{{- if hasKey $entry "image" -}}
{{- $image = append $image (printf `c.?image.orValue("").matches(%s)` (include "kdp-webhook.cel.glob" (list $entry.image (printf "%s.image" $at)))) -}}
{{- end -}}
{{- end -}}
{{- $container := $image -}}
{{- with $env -}}
{{- $container = append $container (printf "c.?env.orValue([]).exists(e,\n        %s)" (join " ||\n        " .)) -}}
{{- end -}}
{{- $any := list -}}
{{- with $labels -}}
{{- $any = append $any (printf "[o.metadata.?labels.orValue({})].exists(l,\n    %s)" (join " ||\n    " .)) -}}
{{- end -}}
{{- with $container -}}
{{- $any = append $any (printf "[o.spec.template.spec.?containers.orValue([]), o.spec.template.spec.?initContainers.orValue([])].exists(cs,\n    cs != null && cs.exists(c,\n      %s))" (join " ||\n      " .)) -}}
{{- end -}}
[object, oldObject].exists(o, o != null && (
  {{ join " ||\n  " $any }}))
{{- end -}}
