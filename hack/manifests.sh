#!/bin/sh
# Renders the chart into plain manifests: hack/manifests.sh [FOLDER], config/ by default. HELM names the helm binary.
# The same input gives the same bytes, so that CI can compare.
set -eu

: "${HELM:?name the helm binary}"
cd "$(dirname "$0")/.."
out=${1:-config}
namespace=kdp-system

mkdir -p "$out"
# Beside its target and renamed at the end: a chart that does not render leaves the last manifest as it was.
tmp=$(mktemp "$out/install.yaml.XXXXXX")
trap 'rm -f "$tmp"' EXIT
chmod 644 "$tmp"

cat >"$tmp" <<EOF
# Rendered from charts/kdp-webhook by hack/manifests.sh; do not edit.
---
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
EOF
"$HELM" template kdp-webhook charts/kdp-webhook --namespace "$namespace" >>"$tmp"
mv "$tmp" "$out/install.yaml"
