//! The types against the documents in the design: documents survive a round trip, and defaults
//! agree with serde's.

use super::{
    approval::{McpApproval, McpApprovalStatus},
    policy::{ApprovalRule, LabelSelector, McpPolicy, McpPolicyStatus, ToolSelector},
    server::*,
    *,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, time::Duration};

fn default_is_what_an_empty_object_reads_as<
    T: Default + DeserializeOwned + PartialEq + Debug + Serialize,
>() {
    let read: T = serde_json::from_value(json!({})).unwrap();
    assert_eq!(read, T::default());
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        json!({}),
        "an empty object reads back empty"
    );
}

#[test]
fn derived_defaults_agree_with_serde_defaults() {
    default_is_what_an_empty_object_reads_as::<Upstream>();
    default_is_what_an_empty_object_reads_as::<UpstreamTls>();
    default_is_what_an_empty_object_reads_as::<ClientFeatures>();
    default_is_what_an_empty_object_reads_as::<Counters>();
    default_is_what_an_empty_object_reads_as::<LocalCounters>();
    default_is_what_an_empty_object_reads_as::<Audit>();
    default_is_what_an_empty_object_reads_as::<Authentication>();
    default_is_what_an_empty_object_reads_as::<ServiceAccounts>();
    default_is_what_an_empty_object_reads_as::<Jwks>();
    default_is_what_an_empty_object_reads_as::<Gateway>();
    default_is_what_an_empty_object_reads_as::<GatewayService>();
    default_is_what_an_empty_object_reads_as::<PodOptions>();
    default_is_what_an_empty_object_reads_as::<McpServerStatus>();
    default_is_what_an_empty_object_reads_as::<McpPolicyStatus>();
    default_is_what_an_empty_object_reads_as::<McpApprovalStatus>();
    default_is_what_an_empty_object_reads_as::<LabelSelector>();
    default_is_what_an_empty_object_reads_as::<ToolSelector>();
    default_is_what_an_empty_object_reads_as::<ApprovalRule>();
}

/// The McpServer of the design with every field written.
fn whole_server() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "McpServer",
        "metadata": { "name": "mlflow", "namespace": "ml" },
        "spec": {
            "upstream": {
                "http": {
                    "url": "http://mlflow-mcp.ml.svc:8080/mcp",
                    "headers": [{ "name": "Authorization",
                        "valueFrom": { "secretKeyRef": { "name": "mlflow-mcp", "key": "token" } } }],
                    "tls": { "caSecretRef": { "name": "mlflow-ca", "key": "ca.crt" } }
                },
                "stdio": {
                    "image": "localhost/mlflow-mcp:0.4.1", "command": ["mlflow-mcp"], "args": ["-v"],
                    "env": [{ "name": "MLFLOW_TRACKING_URI", "value": "http://mlflow.ml.svc:5000" }],
                    "envFrom": [{ "configMapRef": { "name": "settings" } }],
                    "sessions": "Shared", "runAsUser": 65532, "serviceAccountName": "mlflow",
                    "volumes": [{ "name": "data", "emptyDir": {} }],
                    "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    "resources": { "limits": { "memory": "512Mi" } },
                    "imagePullSecrets": [{ "name": "pull" }],
                    "pod": { "labels": { "a": "b" } }
                },
                "timeout": "60s", "maxRequestBytes": "4Mi"
            },
            "enforcement": "Enforce", "catalog": "MLflow",
            "tools": [{ "name": "set_model_alias", "risk": "Write", "severity": "Critical",
                "definitionDigest": format!("sha256:{}", "0".repeat(64)), "redact": ["/description"] }],
            "clientFeatures": { "sampling": "Deny", "elicitation": "Deny", "roots": "Deny" },
            "authentication": {
                "serviceAccounts": { "audiences": ["portcullis:ml/mlflow"] },
                "jwt": [{ "name": "corp", "issuer": "https://sso.example", "audiences": ["mlflow-gateway"],
                    "jwks": { "url": "https://sso.example/jwks" }, "grantClaim": "sub" }],
                "apiKeys": { "secretRef": { "name": "mlflow-agents" } }, "anonymous": "Deny"
            },
            "counters": { "local": { "persistentVolumeClaim": { "claimName": "mlflow-counters" } },
                "redis": { "urlSecretRef": { "name": "valkey", "key": "url" }, "onUnavailable": "Deny",
                "caSecretRef": { "name": "valkey", "key": "ca.crt" } } },
            "audit": { "arguments": "Keys" },
            "gateway": {
                "replicas": 1, "port": 8080, "publicUrl": "https://mcp.example/mlflow",
                "allowedOrigins": ["https://app.example"], "allowedHosts": ["mcp.example"],
                "tls": { "secretRef": { "name": "mlflow-gateway-tls" } },
                "service": { "type": "ClusterIP", "annotations": { "a": "b" } },
                "resources": { "requests": { "cpu": "50m" } }, "imagePullSecrets": [{ "name": "pull" }],
                "pod": { "labels": { "a": "b" }, "annotations": { "a": "b" }, "nodeSelector": { "a": "b" },
                    "tolerations": [{ "key": "a", "operator": "Exists" }], "affinity": { "podAffinity": {} },
                    "priorityClassName": "high" },
                "autoscaling": { "minReplicas": 2, "maxReplicas": 8, "targetCPUUtilizationPercentage": 70 }
            }
        }
    })
}

/// The McpPolicy of the design with every field written.
fn whole_policy() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "McpPolicy",
        "metadata": { "name": "mlflow-default", "namespace": "ml" },
        "spec": {
            "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "mlflow" }],
            "targetSelector": { "matchLabels": { "team": "ml" } },
            "mode": "Enforce", "defaultAction": "Hide",
            "rules": [
                { "name": "deletions", "tools": { "risks": ["Destructive"] }, "action": "Hide",
                  "exceptCallers": ["key:mlops-admin"], "reason": "Deletions go through the platform team." },
                { "name": "tag-writes",
                  "tools": { "names": ["set_*_tag"], "exceptNames": ["set_x_tag"], "minSeverity": "Medium" },
                  "action": "Allow",
                  "limits": [{ "counter": "tag-writes", "max": 30, "window": "1m", "scope": "Grant", "cost": "2" }] },
                { "name": "promote", "tools": { "names": ["set_model_alias"] },
                  "callers": ["serviceaccount:ml/*", "key:ci-*"],
                  "when": "args.alias in [\"champion\", \"production\"]", "action": "RequireApproval",
                  "approval": { "expiresAfter": "30m", "waitUpTo": "15s" } },
                { "name": "reads", "tools": {"names": ["*"]}, "action": "Allow" }
            ],
            "prompts": [{ "name": "all", "names": ["*"], "exceptNames": ["x"], "action": "Allow", "callers": ["*"],
                "exceptCallers": ["key:x"], "reason": "r" }],
            "resources": [{ "name": "all", "uris": ["*"], "exceptUris": ["x"], "action": "Allow", "callers": ["*"],
                "exceptCallers": ["key:x"], "reason": "r" }]
        },
        "status": {
            "observedGeneration": 1,
            "targets": { "matched": 3, "programmed": 3, "summary": "3/3" },
            "violations": { "total": 1, "hidden": 0, "denied": 1, "limited": 0, "unapproved": 0, "audited": 0,
                "lastTime": "2026-01-01T00:00:00Z",
                "byRule": [{ "rule": "deletions", "count": 1, "lastTime": "2026-01-01T00:00:00Z" }],
                "recent": [{ "time": "2026-01-01T00:00:00Z", "tool": "t", "grant": "anonymous",
                    "policy": "ml/mlflow-default", "rule": "deletions", "outcome": "Denied" }] }
        }
    })
}

fn whole_approval() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "McpApproval",
        "metadata": { "name": "mlflow-0123456789abcdef0123-0", "namespace": "ml" },
        "spec": {
            "serverRef": { "name": "mlflow" }, "grant": "serviceaccount:ml/trainer", "tool": "set_model_alias",
            "argumentsDigest": format!("sha256:{}", "0".repeat(64)), "argumentsPreview": "{}",
            "policy": "mlflow-default", "rule": "promote",
            "requestedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:30:00Z",
            "approvers": 2,
            "decisions": [{ "verdict": "Approved", "by": "alice@corp", "reason": "ok", "at": "2026-01-01T00:01:00Z" }]
        },
        "status": { "phase": "Pending", "consumedAt": "2026-01-01T00:02:00Z", "consumedBy": "4cbdc2f09d42-35" }
    })
}

#[test]
fn every_document_reads_back_as_it_was_written() {
    let server = serde_json::from_value::<McpServer>(whole_server()).unwrap();
    assert_eq!(serde_json::to_value(&server).unwrap(), whole_server());
    assert_eq!(server.spec.unknown_fields(), vec![]);

    let policy = serde_json::from_value::<McpPolicy>(whole_policy()).unwrap();
    assert_eq!(serde_json::to_value(&policy).unwrap(), whole_policy());
    assert_eq!(policy.spec.unknown_fields(), vec![]);

    let approval = serde_json::from_value::<McpApproval>(whole_approval()).unwrap();
    assert_eq!(serde_json::to_value(&approval).unwrap(), whole_approval());
}

#[test]
fn nothing_is_added_to_the_smallest_documents() {
    let server = json!({ "apiVersion": API_VERSION, "kind": "McpServer", "metadata": { "name": "a" },
        "spec": { "upstream": { "http": { "url": "http://a/mcp" } } } });
    let read: McpServer = serde_json::from_value(server.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), server);

    let policy = json!({ "apiVersion": API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" }, "spec": {} });
    let read: McpPolicy = serde_json::from_value(policy.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), policy);
}

#[test]
fn accessors_give_the_documented_defaults() {
    let server: McpServerSpec = serde_json::from_value(
        json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } }),
    )
    .unwrap();
    assert_eq!(
        server.upstream.timeout().parse(),
        Ok(Duration::from_secs(60))
    );
    assert_eq!(server.upstream.max_request_bytes().parse(), Ok(4 << 20));
    let stdio = server.upstream.stdio.clone().unwrap();
    assert_eq!(
        (stdio.sessions(), stdio.run_as_user()),
        (Sessions::Shared, 65532)
    );
    assert_eq!(
        (server.enforcement(), server.catalog()),
        (Enforcement::Enforce, Catalog::MLflow)
    );
    let features = server.client_features();
    assert_eq!(
        [
            features.sampling(),
            features.elicitation(),
            features.roots()
        ],
        [Switch::Deny; 3]
    );
    assert_eq!(server.audit_arguments(), AuditArguments::Keys);
    assert_eq!(
        (server.gateway().replicas(), server.gateway().port()),
        (1, 8080)
    );
    assert_eq!(Authentication::default().anonymous(), Switch::Deny);
}

#[test]
fn misspelt_keys_are_kept_and_named_with_their_path() {
    let policy: McpPolicy = serde_json::from_value(json!({
        "apiVersion": API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" },
        "spec": {
            "targetRefs": [{ "group": "g", "kind": "k", "name": "n", "sectionName": "x" }],
            "targetSelector": { "matchExpressions": [] },
            "rules": [
                { "name": "a", "tools": {"names": ["*"]}, "action": "Allow" },
                { "name": "b", "tools": { "nmaes": ["x"] }, "action": "Allow", "callrs": [],
                  "limits": [{ "counter": "c", "max": 1, "window": "1m", "scop": "Server" }],
                  "approval": { "expires": "1m" } }
            ],
            "prompts": [{ "name": "p", "names": ["*"], "action": "Allow", "when": "true" }],
            "resources": [{ "name": "r", "uris": ["*"], "action": "Allow", "limits": [] }]
        }
    }))
    .unwrap();
    let paths: Vec<String> = policy
        .spec
        .unknown_fields()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        paths,
        [
            "spec.targetRefs[0].sectionName",
            "spec.targetSelector.matchExpressions",
            "spec.rules[1].callrs",
            "spec.rules[1].tools.nmaes",
            "spec.rules[1].limits[0].scop",
            "spec.rules[1].approval.expires",
            "spec.prompts[0].when",
            "spec.resources[0].limits",
        ]
    );

    let server: McpServerSpec = serde_json::from_value(json!({
        "upstream": {}, "tools": [{ "name": "a", "serverity": "Low" }]
    }))
    .unwrap();
    assert_eq!(
        server.unknown_fields(),
        vec![UnknownField {
            path: "spec.tools[0].serverity".to_owned()
        }]
    );
}

#[test]
fn durations_follow_gep_2257_with_days() {
    for (text, expected) in [
        ("90s", Duration::from_secs(90)),
        ("1h30m", Duration::from_secs(5400)),
        ("31d", Duration::from_secs(31 * 86_400)),
        ("1s500ms", Duration::from_millis(1500)),
        ("0s", Duration::ZERO),
        ("10s30m1h", Duration::from_secs(10 + 1800 + 3600)),
    ] {
        assert_eq!(DurationString::from(text).parse(), Ok(expected), "{text}");
    }
    for text in [
        "",
        "1",
        "s",
        "1.5s",
        "-1s",
        "100000s",
        "1y",
        "1s1s1s1s1s1s",
        " 1s",
        "1 s",
        "1S",
        "٣s",
    ] {
        assert_eq!(
            DurationString::from(text).parse(),
            Err(DurationError(text.to_owned())),
            "{text}"
        );
    }
}

#[test]
fn sizes_are_whole_numbers_of_bytes() {
    for (text, expected) in [("1", 1), ("4Mi", 4 << 20), ("2k", 2000), ("1Gi", 1 << 30)] {
        assert_eq!(
            ByteQuantity(text.to_owned()).parse(),
            Ok(expected),
            "{text}"
        );
    }
    for text in ["", "0", "Mi", "4mb", "-1", "1.5Mi", "99999999999999999999"] {
        assert!(ByteQuantity(text.to_owned()).parse().is_err(), "{text}");
    }
}

#[test]
fn the_strictest_action_is_the_greatest() {
    use super::policy::{Action, DefaultAction};
    assert!(
        Action::Hide > Action::Deny
            && Action::Deny > Action::RequireApproval
            && Action::RequireApproval > Action::Allow
    );
    assert!(
        DefaultAction::Hide > DefaultAction::Deny && DefaultAction::Deny > DefaultAction::Allow
    );
    assert!(
        Severity::Critical > Severity::High
            && Severity::High > Severity::Medium
            && Severity::Medium > Severity::Low
    );
}
