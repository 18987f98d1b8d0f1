//! What users write, and what they get.

/// Every value that is not the default.
pub const EVERYTHING: &str = "
imageRegistry: registry.example/platform/
imagePullSecrets: [{ name: pull }]
operator:
  image: { digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000' }
  replicas: 3
  logFormat: text
  env: [{ name: HTTPS_PROXY, value: 'http://proxy.example:3128' }]
  lease: { duration: 30s }
  podAnnotations: { example.com/note: a }
  podLabels: { team: platform }
  nodeSelector: { kubernetes.io/os: linux }
  tolerations: [{ key: control, operator: Exists, effect: NoSchedule }]
  affinity: { podAntiAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [
    { weight: 1, podAffinityTerm: { topologyKey: zone, labelSelector: { matchLabels: { a: b } } } }] } }
  topologySpreadConstraints: [{ maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule }]
  priorityClassName: system-cluster-critical
gateway: { image: { repository: gw, tag: v9, pullPolicy: Always } }
operatorKey: { existingSecret: our-key, key: hmac }
approvals: { retention: 24h, serviceAccounts: [ops/approver-bot] }
admissionPolicies: { otherOperators: [team-b/b-portcullis-operator] }
serviceAccount: { annotations: { example.com/role: reader } }
metricsFrom: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }]
serviceMonitor: { enabled: true, labels: { release: prometheus } }
podMonitor: { enabled: true, interval: 1m }
prometheusRule: { enabled: true, violationsPerHour: 7 }
dashboard: { enabled: true, annotations: { grafana_folder: MCP } }
";

/// What every user gets who switches nothing off.
pub const ALWAYS: &[&str] = &[
    "ClusterRole portcullis-admin",
    "ClusterRole portcullis-approver",
    "ClusterRole portcullis-operator",
    "ClusterRole portcullis-view",
    "ClusterRoleBinding portcullis-operator",
    "CustomResourceDefinition mcpapprovals.portcullis.dev",
    "CustomResourceDefinition mcppolicies.portcullis.dev",
    "CustomResourceDefinition mcpservers.portcullis.dev",
    "Deployment portcullis-system/portcullis-operator",
    "NetworkPolicy portcullis-system/portcullis-operator",
    "Pod portcullis-system/portcullis-operator-test",
    "PodDisruptionBudget portcullis-system/portcullis-operator",
    "Role portcullis-system/portcullis-operator-own",
    "RoleBinding portcullis-system/portcullis-operator-own",
    "Service portcullis-system/portcullis-operator-metrics",
    "ServiceAccount portcullis-system/portcullis-operator",
    "ValidatingAdmissionPolicy portcullis-decisions",
    "ValidatingAdmissionPolicy portcullis-mcpapprovals",
    "ValidatingAdmissionPolicy portcullis-mcpservers",
    "ValidatingAdmissionPolicyBinding portcullis-decisions",
    "ValidatingAdmissionPolicyBinding portcullis-mcpapprovals",
    "ValidatingAdmissionPolicyBinding portcullis-mcpservers",
];
