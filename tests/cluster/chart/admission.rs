//! The three ValidatingAdmissionPolicies, asked by everybody who might want to get around them.
//!
//! All users here may write every resource of Portcullis, so that what refuses is the policy and
//! not a missing role.

mod approvals;
mod servers;

use std::sync::OnceLock;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use portcullis::api::approval::McpApproval;
use portcullis::api::server::McpServer;
use serde_json::{Value, json};

use super::helm::{CHART, Objects};
use crate::support::control_plane::Options;
use crate::support::{Cluster, eventually, tool, wire};

const SYSTEM: &str = "portcullis-system";

/// Writing every resource of Portcullis, for the group `writers`; and rights that some tests give.
const ROLES: &str = r#"
{ "apiVersion": "v1", "kind": "List", "items": [
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "writer" },
    "rules": [{ "apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["*"] }] },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "writer" },
    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer" },
    "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "writers" }] },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "server-writer" },
    "rules": [{ "apiGroups": ["portcullis.dev"], "resources": ["mcpservers"], "verbs": ["*"] }] },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "pod-creator" },
    "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["create"] }] },
  { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "secret-reader" },
    "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }] }
] }
"#;

/// A cluster of these tests' own with the chart in it, once its policies are in force.
pub async fn guarded(what: &str) -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    wire::installed("PORTCULLIS_TEST_CONTROLPLANE", what)?;
    let cluster = SHARED
        .get_or_init(|| {
            let cluster = Cluster::start(what, &Options::default())?;
            let values = "approvals: { serviceAccounts: [ops/approver-bot, ops/mlflow-gateway] }\n\
                          admissionPolicies: { lockedLabels: [team, example.com/tier] }";
            let arguments = [
                "install",
                "portcullis",
                CHART,
                "--namespace",
                SYSTEM,
                "--create-namespace",
                "--values",
                "-",
            ];
            tool::run(
                &cluster.program("helm"),
                cluster.admin_kubeconfig(),
                arguments,
                values,
            )
            .ok();
            cluster
                .kubectl_with(["apply", "--filename", "-"], ROLES)
                .ok();
            Some(cluster)
        })
        .as_ref()?;
    // Definitions and policies take a moment to get into force. Each policy is asked what it must
    // refuse.
    let gateway = account(cluster, "default", "probe-gateway");
    eventually("an approval can be made", || async {
        match create(&gateway, "default", &approval("probe", "probe", "key:a")).await {
            Ok(()) => Ok(()),
            Err(told) if told.contains("already exists") => Ok(()),
            told => told,
        }
    })
    .await;
    let user = writer(cluster, "probe");
    let probes = [
        "portcullis-mcpservers",
        "portcullis-mcpapprovals",
        "portcullis-decisions",
    ];
    for policy in probes {
        eventually(&format!("{policy} is in force"), || async {
            let answer = match policy {
                "portcullis-mcpservers" => {
                    let spec =
                        json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } });
                    pretend_create(&user, "default", &server("probe", &spec)).await
                }
                "portcullis-mcpapprovals" => {
                    pretend_create(&user, "default", &approval("other", "probe", "key:a")).await
                }
                _ => decide(&user, "default", "probe", "somebody-else", true).await,
            };
            match answer {
                Err(told) if told.starts_with(policy) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
    Some(cluster)
}

/// Somebody who may write every resource of Portcullis, and nothing else.
fn writer(cluster: &Cluster, name: &str) -> Client {
    cluster.impersonate(name, &["writers"])
}

/// A service account that may write every resource of Portcullis, more than its own roles give it.
fn account(cluster: &Cluster, namespace: &str, name: &str) -> Client {
    let own = format!("system:serviceaccounts:{namespace}");
    let user = format!("system:serviceaccount:{namespace}:{name}");
    cluster.impersonate(&user, &["system:serviceaccounts", &own, "writers"])
}

fn server(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": { "name": name }, "spec": spec })
}

/// A time as resources have it. The operator that runs beside the tests removes approvals some days
/// after they expire, so theirs are counted from now.
fn time_after(delay: Duration) -> String {
    let time = Timestamp::now() + delay;
    time.round(Unit::Second).unwrap().to_string()
}

/// What a gateway writes when a call needs approval.
fn approval(name: &str, server: &str, grant: &str) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "McpApproval",
        "metadata": { "name": name },
        "spec": {
            "serverRef": { "name": server },
            "grant": grant,
            "tool": "set_model_alias",
            "argumentsDigest": format!("sha256:{}", "0".repeat(64)),
            "argumentsPreview": r#"{"name":"churn","alias":"champion","version":"7"}"#,
            "policy": "mlflow-recommended",
            "rule": "promotions",
            "requestedAt": time_after(Duration::ZERO),
            "expiresAt": time_after(Duration::from_secs(30 * 60)),
        },
    })
}

fn objects(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let resource = match kind {
        "McpServer" => ApiResource::erase::<McpServer>(&()),
        _ => ApiResource::erase::<McpApproval>(&()),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// `policy: message` where a policy refused, the whole message where something else did.
fn told<T>(answer: Result<T, Error>) -> Result<(), String> {
    let message = match answer {
        Ok(_) => return Ok(()),
        Err(Error::Api(status)) => status.message.clone(),
        Err(other) => other.to_string(),
    };
    let Some((before, after)) = message.split_once(" denied request: ") else {
        return Err(message);
    };
    let policy = before.split('\'').nth(1).unwrap_or_default();
    Err(format!("{policy}: {after}"))
}

async fn create(client: &Client, namespace: &str, object: &Value) -> Result<(), String> {
    create_as(client, namespace, object, &PostParams::default()).await
}

/// All that a creation goes through but the writing.
async fn pretend_create(client: &Client, namespace: &str, object: &Value) -> Result<(), String> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    create_as(client, namespace, object, &params).await
}

async fn create_as(
    client: &Client,
    namespace: &str,
    object: &Value,
    params: &PostParams,
) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap();
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    told(
        objects(client, namespace, kind)
            .create(params, &object)
            .await,
    )
}

async fn patch(
    client: &Client,
    namespace: &str,
    kind: &str,
    name: &str,
    change: Value,
) -> Result<(), String> {
    let change = Patch::Merge(change);
    told(
        objects(client, namespace, kind)
            .patch(name, &PatchParams::default(), &change)
            .await,
    )
}

async fn patch_status(
    client: &Client,
    namespace: &str,
    kind: &str,
    name: &str,
    status: Value,
) -> Result<(), String> {
    let change = Patch::Merge(json!({ "status": status }));
    told(
        objects(client, namespace, kind)
            .patch_status(name, &PatchParams::default(), &change)
            .await,
    )
}

async fn decide(
    client: &Client,
    namespace: &str,
    name: &str,
    by: &str,
    pretend: bool,
) -> Result<(), String> {
    let params = PatchParams {
        dry_run: pretend,
        ..PatchParams::default()
    };
    let change =
        Patch::Merge(json!({ "spec": { "decisions": [{ "verdict": "Approved", "by": by }] } }));
    told(
        objects(client, namespace, "McpApproval")
            .patch(name, &params, &change)
            .await,
    )
}

/// The API server judges the types of an expression beside the definitions; a misspelt field would
/// fail closed, but for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn the_expressions_agree_with_the_definitions() {
    let Some(cluster) = guarded("the types in admission policies").await else {
        return;
    };
    let text = tool::run(
        &cluster.program("helm"),
        cluster.admin_kubeconfig(),
        ["get", "manifest", "portcullis", "-n", SYSTEM],
        "",
    )
    .ok();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, object) in Objects::read(&text).0 {
        let Some(name) = name.strip_prefix("ValidatingAdmissionPolicy ") else {
            continue;
        };
        seen += 1;
        // A copy, bound to nothing: the original may have been judged before the definitions were
        // there. A second one has a mistake, to show that somebody looks.
        for (copy, mistake) in [
            (format!("copy-{name}"), false),
            (format!("mistake-{name}"), true),
        ] {
            let mut policy = json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": { "name": copy }, "spec": object["spec"],
            });
            if mistake {
                policy["spec"]["validations"][0]["expression"] = json!("object.spec.nope == 1");
            }
            cluster
                .kubectl_with(["apply", "--filename", "-"], &policy.to_string())
                .ok();
            let checked = eventually("its types are judged", || async {
                let printed = cluster
                    .kubectl([
                        "get",
                        "validatingadmissionpolicies",
                        &copy,
                        "--output",
                        "json",
                    ])
                    .ok();
                let found: Value = serde_json::from_str(&printed).unwrap();
                found["status"].get("typeChecking").cloned().ok_or(printed)
            })
            .await;
            let warned = checked["expressionWarnings"]
                .as_array()
                .is_some_and(|warnings| !warnings.is_empty());
            if warned != mistake {
                wrong.push(format!("{copy}: {checked}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 4);
}
