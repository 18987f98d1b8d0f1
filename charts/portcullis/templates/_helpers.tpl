{{/*
Beginning of all names: the release's name if it contains the chart's, else both. Cut so that suffixes fit 63 characters.
*/}}
{{- define "portcullis.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The operator's Deployment, service account, Lease and roles. */}}
{{- define "portcullis.operator" -}}
{{- printf "%s-operator" (include "portcullis.fullname" .) -}}
{{- end -}}

{{/* The service on the operator's metrics and health. */}}
{{- define "portcullis.metrics" -}}
{{- printf "%s-metrics" (include "portcullis.operator" .) -}}
{{- end -}}

{{/* The Secret with the operator's key. */}}
{{- define "portcullis.keySecret" -}}
{{- default (printf "%s-key" (include "portcullis.operator" .)) .Values.operatorKey.existingSecret -}}
{{- end -}}

{{- define "portcullis.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portcullis.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "portcullis.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "portcullis.operatorSelector" -}}
{{ include "portcullis.selectorLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "portcullis.testSelector" -}}
{{ include "portcullis.selectorLabels" . }}
app.kubernetes.io/component: test
{{- end -}}

{{/* An image: a list of the root and one of the `image` values. A digest says all, so the tag is left out beside it. */}}
{{- define "portcullis.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* `namespace/name` as the user name of that service account. */}}
{{- define "portcullis.serviceAccountUser" -}}
{{- printf "system:serviceaccount:%s" (replace "/" ":" .) -}}
{{- end -}}

{{/* The user names of the operators: this one, and those of other releases; a CEL list. */}}
{{- define "portcullis.operatorUsers" -}}
{{- $users := list (include "portcullis.serviceAccountUser" (printf "%s/%s" .Release.Namespace (include "portcullis.operator" .))) -}}
{{- range .Values.admissionPolicies.otherOperators -}}
{{- $users = append $users (include "portcullis.serviceAccountUser" .) -}}
{{- end -}}
['{{ join "', '" $users }}']
{{- end -}}

{{/* The user names of the service accounts that may decide approvals; a CEL list. */}}
{{- define "portcullis.approverUsers" -}}
{{- $users := list -}}
{{- range .Values.approvals.serviceAccounts -}}
{{- $users = append $users (printf "'%s'" (include "portcullis.serviceAccountUser" .)) -}}
{{- end -}}
[{{ join ", " $users }}]
{{- end -}}

{{/* Who may reach the admin port of gateways: the operator's pods, and those that scrape. NetworkPolicyPeers as JSON. */}}
{{- define "portcullis.adminFrom" -}}
{{- $operator := dict
      "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace))
      "podSelector" (dict "matchLabels" (include "portcullis.operatorSelector" . | fromYaml)) -}}
{{- concat (list $operator) .Values.metricsFrom | toJson -}}
{{- end -}}
