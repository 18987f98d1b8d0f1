//! Objects with every field of their specs set, so that every place of a schema can be reached from
//! one of them.

use portcullis::api::API_VERSION;
use serde_json::{Value, json};

fn whole(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Several for a kind where fields exclude each other.
pub fn all() -> Vec<Value> {
    let secret = json!({"name": "s", "key": "k"});
    let pod = json!({"labels": {"team": "ml"}, "annotations": {"a": "b"}, "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}], "affinity": {}, "priorityClassName": "high"});
    let digest = format!("sha256:{}", "0".repeat(64));
    vec![
        whole(
            "McpServer",
            "http",
            json!({
                "upstream": {
                    "http": {
                        "url": "https://mlflow-mcp.ml.svc:8443/mcp",
                        "headers": [
                            {"name": "Authorization", "valueFrom": {"secretKeyRef": secret}},
                            {"name": "X-Team", "value": "ml"},
                        ],
                        "tls": {"caSecretRef": secret},
                        "host": "mlflow.example:8443",
                        "proxy": {"url": "http://proxy.example:3128", "credentialsSecretRef": secret},
                        "credentials": [{"callers": ["serviceaccount:ml/trainer"],
                            "headers": [{"name": "Authorization", "valueFrom": {"secretKeyRef": secret}}, {"name": "X-Team", "value": "ml"}]}],
                    },
                    "timeout": "60s", "maxRequestBytes": "4Mi",
                },
                "enforcement": "Enforce", "catalog": "MLflow",
                "tools": [{"name": "set_model_alias", "risk": "Write", "severity": "Critical", "definitionDigest": digest,
                    "redact": ["/description"], "arguments": {"version": {"pattern": "0|[1-9][0-9]*"}}}],
                "instructions": "Drop",
                "clientFeatures": {"sampling": "Deny", "elicitation": "Deny", "roots": "Deny"},
                "authentication": {
                    "serviceAccounts": {"audiences": ["portcullis:ml/mlflow"]},
                    "jwt": [
                        {"name": "corp", "issuer": "https://sso.example", "audiences": ["mlflow"],
                            "jwks": {"url": "https://sso.example/jwks", "caSecretRef": secret},
                            "grantClaim": "sub", "requiredScopes": ["mcp"]},
                        {"name": "other", "issuer": "https://sso2.example", "audiences": ["mlflow"],
                            "jwks": {"secretKeyRef": secret}},
                    ],
                    "apiKeys": {"secretRef": {"name": "agents"}},
                    "anonymous": "Deny",
                },
                "counters": {"local": {"persistentVolumeClaim": {"claimName": "mlflow-counters"}}},
                "audit": {"arguments": "Keys", "onFailure": "Deny"},
                "gateway": {
                    "replicas": 1, "port": 8080, "publicUrl": "https://mcp.example/mlflow",
                    "allowedOrigins": ["https://a.example"], "allowedHosts": ["a.example"],
                    "tls": {"secretRef": {"name": "tls"}},
                    "service": {"type": "ClusterIP", "annotations": {"a": "b"}, "appProtocol": "http"},
                    "networkPolicy": {
                        "enabled": true,
                        "from": [{"namespaceSelector": {"matchLabels": {"agents": "yes"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
                        "ports": [{"port": 15008}, {"port": 15000, "endPort": 15010, "protocol": "TCP"}],
                    },
                    "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "64Mi"}},
                    "imagePullSecrets": [{"name": "pull"}],
                    "pod": pod,
                },
            }),
        ),
        whole(
            "McpServer",
            "stdio",
            json!({
                "upstream": {
                    "stdio": {
                        "image": "localhost/mlflow-mcp:0.4.1", "command": ["mlflow-mcp"], "args": ["-v"],
                        "env": [{"name": "A", "value": "b"}], "envFrom": [{"configMapRef": {"name": "c"}}],
                        "sessions": "PerSession", "sessionIdleTimeout": "30m",
                        "credentials": [{"callers": ["key:a"], "env": [{"name": "A", "valueFrom": {"secretKeyRef": secret}}]}],
                        "runAsUser": 65532, "serviceAccountName": "mlflow",
                        "volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                        "resources": {"requests": {"cpu": "50m"}}, "imagePullSecrets": [{"name": "pull"}], "pod": pod,
                    },
                },
                "counters": {"redis": {"urlSecretRef": secret, "onUnavailable": "Deny", "caSecretRef": secret}},
                "approvals": {"notify": [{"webhook": {
                    "urlSecretRef": secret, "format": "Slack", "hmacSecretRef": secret, "caSecretRef": secret,
                    "includeArguments": true,
                }}]},
                "gateway": {
                    "autoscaling": {"minReplicas": 2, "maxReplicas": 8, "targetCPUUtilizationPercentage": 70},
                },
            }),
        ),
        whole(
            "McpPolicy",
            "by-name",
            json!({
                "targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "mlflow"}],
                "mode": "Enforce", "defaultAction": "Hide",
                "rules": [
                    {
                        "name": "tags", "action": "Allow",
                        "tools": {"names": ["set_*_tag"], "exceptNames": ["set_x"], "risks": ["Write"], "minSeverity": "Low"},
                        "callers": ["key:*"], "exceptCallers": ["key:admin"], "when": "true", "reason": "so it is",
                        "limits": [{"counter": "tags", "max": 30, "window": "1m", "scope": "Grant", "cost": "1"}],
                    },
                    {
                        "name": "promote", "action": "RequireApproval", "tools": {"names": ["set_model_alias"]},
                        "approval": {"expiresAfter": "30m", "waitUpTo": "15s", "approvers": 2, "redact": ["/description"],
                            "observe": {"tool": "get_model_version_by_alias", "args": {"name": "args.name"}, "onToolError": "Show", "ignore": ["/last_updated_timestamp"], "redact": ["/tags"]}},
                    },
                ],
                "prompts": [{"name": "all", "action": "Allow", "names": ["*"], "exceptNames": ["x"], "callers": ["key:*"],
                    "exceptCallers": ["key:admin"], "reason": "so it is"}],
                "resources": [{"name": "all", "action": "Allow", "uris": ["*"], "exceptUris": ["x:y"], "callers": ["key:*"],
                    "exceptCallers": ["key:admin"], "reason": "so it is"}],
            }),
        ),
        whole(
            "McpPolicy",
            "by-label",
            json!({"targetSelector": {"matchLabels": {"team": "ml"}}, "namespaceSelector": {"matchLabels": {"tier": "test"}}}),
        ),
        whole(
            "McpApproval",
            "mlflow-00000000000000000000-0",
            json!({
                "serverRef": {"name": "mlflow"}, "grant": "serviceaccount:ml/trainer", "tool": "set_model_alias",
                "argumentsDigest": digest, "argumentsPreview": "{}", "upstream": "https://mlflow.example/mcp", "policy": "mlflow-default", "rule": "promote", "approvers": 2,
                "decisionId": "4cbdc2f09d42-35", "observed": {"tool": "get_model_version_by_alias", "preview": "{}", "digest": digest},
                "requestedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:30:00Z",
            }),
        ),
    ]
}

/// Parts whose type is one of Kubernetes' own: not ours to bound.
pub fn is_core(path: &str) -> bool {
    let own = [
        "affinity",
        "env",
        "envFrom",
        "from",
        "imagePullSecrets",
        "ports",
        "tolerations",
        "volumeMounts",
        "volumes",
    ];
    let below =
        |name: &str| path.contains(&format!(".{name}[]")) || path.contains(&format!(".{name}."));
    own.iter().any(|name| below(name))
        || ["stdio.resources.", "gateway.resources."]
            .iter()
            .any(|p| path.contains(p))
}
