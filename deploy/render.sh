#!/usr/bin/env bash
# Renders the chart with its defaults as one file for `kubectl apply`, with the namespace, on standard output.
#
#   deploy/render.sh > deploy/portcullis.yaml
#
# Takes: HELM, the helm to use (default: the one on PATH).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

helm=${HELM:-helm}
command -v "$helm" >/dev/null || { echo "error: helm is missing: put Helm 3 on PATH or name it with HELM=" >&2; exit 1; }

namespace=portcullis-system
cat <<YAML
# Portcullis for \`kubectl apply --server-side -f\`: rendered from charts/portcullis with its defaults by deploy/render.sh.
# docs/install.md says how to put your registry into it.
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
YAML
# What says that Helm manages it, and what only Helm reads, is left out. Nothing here is a secret or differs from run to run.
"$helm" template portcullis charts/portcullis --namespace "$namespace" --skip-tests --set crds.keep=false \
  | sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^ *app\.kubernetes\.io\/managed-by: Helm$/d'
