{{/*
What the operator may do in each namespace that it watches. docs/rbac.md says the same in a table; a test compares them.
*/}}
{{- define "portcullis.rules" -}}
# What people write. The operator changes only their status, which is a subresource.
- apiGroups: [portcullis.dev]
  resources: [mcpservers, mcppolicies]
  verbs: [get, list, watch]
- apiGroups: [portcullis.dev]
  resources: [mcpservers/status, mcppolicies/status]
  verbs: [update]
# Finished approvals are removed after approvals.retention.
- apiGroups: [portcullis.dev]
  resources: [mcpapprovals]
  verbs: [get, list, watch, delete]
# Their phase.
- apiGroups: [portcullis.dev]
  resources: [mcpapprovals/status]
  verbs: [update]
# Gateways, and the servers that speak only stdio. Created once, then server-side applied (patch); those of a server go
# away when it turns from stdio to http (delete).
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Only where a server asks for replicas or autoscaling, so deleted when it does no more.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Bundles and ledgers, written by PUT with the resourceVersion that was read (update), so that a leader that was paused
# cannot put an old one back. Deleted only where another writer has made one of them immutable: it could not be written
# any more. RBAC cannot say "only those that I made", and their names are not known beforehand, so this covers every
# ConfigMap of the namespaces that are watched.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update, delete]
# The identity of each gateway. No token of theirs can be asked for with these verbs.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
# RBAC lets no one grant a right that they do not have. The operator holds exactly those of gateways' Roles (the
# last three), and neither `escalate` nor `bind`.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
# Reports are read from the pods of the ReplicaSets of gateways' Deployments.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
# Guardrails may select servers by the labels of their namespaces. In a Role this gives `get` of its own namespace, and no more.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
# The sealing keys and the bridge's bearer: written once under a name with the server's UID, never read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# What was accepted, refused and newly violated, for `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{ include "portcullis.gatewayRules" . }}
{{- end -}}

{{/* Verbatim, but for the names, the rules that the operator puts into a gateway's Role. */}}
{{- define "portcullis.gatewayRules" -}}
# The rules of gateways' Roles, verbatim (there the ConfigMap is named).
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, watch]
- apiGroups: [portcullis.dev]
  resources: [mcpapprovals]
  verbs: [get, list, watch, create]
- apiGroups: [portcullis.dev]
  resources: [mcpapprovals/status]
  verbs: [update]
{{- end -}}

{{/* Policies of the operator's own namespace apply to all servers that they select, so it reads them there in any case. */}}
{{- define "portcullis.guardrailRules" -}}
- apiGroups: [portcullis.dev]
  resources: [mcppolicies]
  verbs: [get, list, watch]
- apiGroups: [portcullis.dev]
  resources: [mcppolicies/status]
  verbs: [update]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
