//! The CEL rules, by the API server itself.

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use portcullis::api::{API_VERSION, approval::McpApproval, policy::McpPolicy, server::McpServer};
use serde_json::{Value, json};

use super::cases::{Case, approval, cases};
use super::{api, object, objects, verdict};
use crate::support::{Cluster, Namespace};

#[tokio::test]
async fn each_rule_refuses_a_bad_object_with_its_sentence_and_accepts_a_good_one() {
    let Some(cluster) = Cluster::get("rules on objects") else {
        return;
    };
    let namespace = cluster.namespace("rules").await;
    let client = cluster.admin_client();
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.before.is_none()) {
        match verdict(&client, &namespace.name, &case.refused).await {
            Err(status) if status.message.contains(case.sentence) => {}
            other => wrong.push(format!("{}: {other:?}: {}", case.sentence, case.refused)),
        }
        if let Err(status) = verdict(&client, &namespace.name, &case.accepted).await {
            wrong.push(format!("{}: the good object: {status}", case.sentence));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// An approval as it is in a case, made in the steps in which gateways and people make it.
async fn bring_about(approvals: &Api<DynamicObject>, name: &str, wanted: &Value) {
    let mut request = wanted.clone();
    request["metadata"]["name"] = json!(name);
    let decisions = request["spec"].as_object_mut().unwrap().remove("decisions");
    approvals
        .create(&PostParams::default(), &object(&request))
        .await
        .unwrap();
    if let Some(decisions) = decisions {
        let patch = Patch::Merge(json!({"spec": {"decisions": decisions}}));
        approvals
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    if let Some(status) = wanted.get("status") {
        let patch = Patch::Merge(json!({ "status": status }));
        approvals
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

/// Puts the whole object, by the main resource where its spec is another one and by its status
/// where it is not.
async fn put(approvals: &Api<DynamicObject>, name: &str, wanted: &Value) -> Result<(), String> {
    let now = approvals.get(name).await.unwrap();
    let spec = now.data["spec"] != wanted["spec"];
    let mut wanted = object(wanted);
    wanted.metadata.name = Some(name.to_owned());
    wanted.metadata.resource_version = now.resource_version();
    let params = PostParams::default();
    let answer = if spec {
        approvals.replace(name, &params, &wanted).await
    } else {
        approvals.replace_status(name, &params, &wanted).await
    };
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

async fn check_change(
    client: &Client,
    namespace: &Namespace,
    at: usize,
    case: &Case,
) -> Option<String> {
    let approvals = api(client, &namespace.name, case.kind);
    let name = format!("a{at}");
    bring_about(&approvals, &name, case.before.as_ref()?).await;
    let before = approvals.get(&name).await.unwrap();
    match put(&approvals, &name, &case.refused).await {
        Err(message) if message.contains(case.sentence) => {}
        other => return Some(format!("{} (case {at}): {other:?}", case.sentence)),
    }
    let after = approvals.get(&name).await.unwrap();
    if after != before {
        return Some(format!(
            "{} (case {at}): refused and yet stored",
            case.sentence
        ));
    }
    match put(&approvals, &name, &case.accepted).await {
        Ok(()) => None,
        Err(message) => Some(format!(
            "{} (case {at}): the good change: {message}",
            case.sentence
        )),
    }
}

#[tokio::test]
async fn a_request_a_decision_and_a_consumption_cannot_be_changed() {
    let Some(cluster) = Cluster::get("rules on changes") else {
        return;
    };
    let namespace = cluster.namespace("changes").await;
    let client = cluster.admin_client();
    let mut wrong = Vec::new();
    for (at, case) in cases()
        .iter()
        .enumerate()
        .filter(|(_, case)| case.before.is_some())
    {
        wrong.extend(check_change(&client, &namespace, at, case).await);
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test]
async fn an_approval_cannot_be_created_decided_and_is_decided_by_an_update() {
    let Some(cluster) = Cluster::get("decisions at creation") else {
        return;
    };
    let namespace = cluster.namespace("decided").await;
    let client = cluster.admin_client();
    let approvals = api(&client, &namespace.name, "McpApproval");
    let decided =
        approval(json!({"spec": {"decisions": [{"verdict": "Approved", "by": "alice"}]}}));
    let refused = verdict(&client, &namespace.name, &decided)
        .await
        .unwrap_err();
    let sentence = "a new request carries no decisions; people add them afterwards";
    assert!(refused.message.contains(sentence), "{}", refused.message);
    // An apply creates too.
    let params = PatchParams::apply("portcullis-tests");
    let applied = approvals
        .patch("a", &params, &Patch::Apply(object(&decided)))
        .await;
    assert!(applied.unwrap_err().to_string().contains(sentence));

    bring_about(&approvals, "a", &decided).await;
    assert_eq!(
        approvals.get("a").await.unwrap().data["spec"],
        decided["spec"]
    );
    for (field, bad) in [
        (
            "spec.decisions[0].verdict",
            json!({"verdict": "Maybe", "by": "alice"}),
        ),
        (
            "spec.decisions[0].by",
            json!({"verdict": "Approved", "by": ""}),
        ),
        ("spec.decisions[0].by", json!({"verdict": "Approved"})),
        ("spec.decisions[0].verdict", json!({"by": "alice"})),
        (
            "spec.decisions[0].reason",
            json!({"verdict": "Denied", "by": "alice", "reason": "a".repeat(1025)}),
        ),
        (
            "spec.decisions[0].at",
            json!({"verdict": "Denied", "by": "alice", "at": "yesterday"}),
        ),
    ] {
        approvals
            .delete("a", &kube::api::DeleteParams::default())
            .await
            .unwrap();
        bring_about(&approvals, "a", &approval(json!({}))).await;
        let patch = Patch::Merge(json!({"spec": {"decisions": [bad]}}));
        match approvals.patch("a", &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) => {
                let fields: Vec<_> = status
                    .details
                    .iter()
                    .flat_map(|d| &d.causes)
                    .map(|c| c.field.as_str())
                    .collect();
                assert!(fields.contains(&field), "{bad}: {}", status.message);
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn where_an_approved_call_goes_cannot_be_changed_afterwards() {
    let Some(cluster) = Cluster::get("where approved calls go") else {
        return;
    };
    let namespace = cluster.namespace("destination").await;
    let approvals = api(&cluster.admin_client(), &namespace.name, "McpApproval");
    let asked = approval(json!({"spec": {"upstream": "https://mlflow.example/mcp"}}));
    bring_about(&approvals, "a", &asked).await;
    for changed in [json!("https://elsewhere.example"), json!(null)] {
        let patch = Patch::Merge(json!({"spec": {"upstream": changed}}));
        let refused = approvals
            .patch("a", &PatchParams::default(), &patch)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("a request cannot be changed"),
            "{refused}"
        );
    }
}

/// A writer that forgets the status, as `kubectl replace` does, must not undo a consumption.
#[tokio::test]
async fn a_consumption_outlives_a_put_without_status() {
    let Some(cluster) = Cluster::get("a put without status") else {
        return;
    };
    let namespace = cluster.namespace("consumed").await;
    let approvals = api(&cluster.admin_client(), &namespace.name, "McpApproval");
    let status = json!({"phase": "Consumed", "consumedAt": "2026-01-01T00:02:00Z"});
    bring_about(&approvals, "a", &approval(json!({ "status": status }))).await;
    let mut bare = object(&approval(json!({})));
    bare.metadata.resource_version = approvals.get("a").await.unwrap().resource_version();
    bare.metadata.labels = Some([("touched".to_owned(), "yes".to_owned())].into());
    approvals
        .replace("a", &PostParams::default(), &bare)
        .await
        .unwrap();
    let stored = approvals.get("a").await.unwrap();
    assert_eq!(
        (&stored.data["status"], stored.labels().len()),
        (&status, 1)
    );
    for gone in [
        json!({"status": null}),
        json!({"status": {"consumedAt": null}}),
    ] {
        let answer = approvals
            .patch_status("a", &PatchParams::default(), &Patch::Merge(&gone))
            .await;
        assert!(
            answer
                .unwrap_err()
                .to_string()
                .contains("consumedAt is permanent"),
            "{gone}"
        );
    }
}

/// Stores a document of this kind and spec and reads the spec that the server made of it.
async fn stored(
    client: &Client,
    namespace: &Namespace,
    name: &str,
    kind: &str,
    spec: &Value,
) -> Value {
    let document =
        json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec});
    let objects = api(client, &namespace.name, kind);
    let stored = objects
        .create(&PostParams::default(), &object(&document))
        .await
        .unwrap();
    stored.data["spec"].clone()
}

#[tokio::test]
async fn the_server_fills_in_the_defaults_of_the_design_and_nothing_else() {
    let Some(cluster) = Cluster::get("defaults") else {
        return;
    };
    let namespace = cluster.namespace("defaults").await;
    let client = cluster.admin_client();
    let server = json!({
        "upstream": {"stdio": {"image": "i", "command": ["c"]}},
        "clientFeatures": {}, "audit": {}, "authentication": {}, "gateway": {"service": {}, "autoscaling": {}},
        "counters": {"redis": {"urlSecretRef": {"name": "s", "key": "k"}}},
    });
    assert_eq!(
        stored(&client, &namespace, "a", "McpServer", &server).await,
        json!({
            "upstream": {
                "stdio": {"image": "i", "command": ["c"], "sessions": "Shared",
                    "sessionIdleTimeout": "30m", "runAsUser": 65532},
                "timeout": "60s", "maxRequestBytes": "4Mi",
            },
            "enforcement": "Enforce", "catalog": "MLflow",
            "clientFeatures": {"sampling": "Deny", "elicitation": "Deny", "roots": "Deny"},
            "audit": {"arguments": "Keys", "onFailure": "Deny"}, "authentication": {"anonymous": "Deny"},
            "gateway": {"port": 8080, "service": {"type": "ClusterIP"}, "autoscaling": {
                "minReplicas": 2, "maxReplicas": 8, "targetCPUUtilizationPercentage": 70}},
            "counters": {"redis": {"urlSecretRef": {"name": "s", "key": "k"}, "onUnavailable": "Deny"}},
        })
    );
    // An operator sees the port even where nobody wrote `gateway`.
    let bare = json!({"upstream": {"http": {"url": "http://a/mcp"}}});
    let bare = stored(&client, &namespace, "b", "McpServer", &bare).await;
    assert_eq!(bare["gateway"], json!({"port": 8080}));
    let rules = json!([
        {"name": "r", "action": "Allow", "tools": {"names": ["*"]}, "limits": [{"counter": "c", "max": 1, "window": "1m"}]},
        {"name": "s", "action": "RequireApproval", "tools": {"names": ["*"]}, "approval": {}},
    ]);
    // Nothing is added inside of lists: tools that compare lists as a whole would see a difference.
    let policy = json!({"targetSelector": {}, "rules": rules});
    assert_eq!(
        stored(&client, &namespace, "a", "McpPolicy", &policy).await,
        json!({"targetSelector": {}, "mode": "Enforce", "rules": rules})
    );
}

/// Every field that there is, with a value.
#[tokio::test]
async fn what_was_written_is_stored_and_our_types_read_all_of_it() {
    let Some(cluster) = Cluster::get("whole objects") else {
        return;
    };
    let namespace = cluster.namespace("whole").await;
    let client = cluster.admin_client();
    for document in objects::all() {
        let (kind, name) = (&document["kind"], &document["metadata"]["name"]);
        let (kind, name) = (kind.as_str().unwrap(), name.as_str().unwrap());
        let spec = stored(&client, &namespace, name, kind, &document["spec"]).await;
        assert_eq!(kept(&document["spec"], &spec), document["spec"], "{name}");
        let mut whole = document.clone();
        whole["spec"] = spec.clone();
        let read: Value = match kind {
            "McpServer" => json!(serde_json::from_value::<McpServer>(whole).unwrap().spec),
            "McpPolicy" => json!(serde_json::from_value::<McpPolicy>(whole).unwrap().spec),
            _ => json!(serde_json::from_value::<McpApproval>(whole).unwrap().spec),
        };
        assert_eq!(read, spec, "{name}");
    }
}

/// The part of `stored` whose fields are in `given`.
fn kept(given: &Value, stored: &Value) -> Value {
    match (given, stored) {
        (Value::Object(given), Value::Object(_)) => given
            .iter()
            .map(|(name, given)| (name.clone(), kept(given, &stored[name])))
            .collect(),
        (Value::Array(given), Value::Array(stored)) if given.len() == stored.len() => given
            .iter()
            .zip(stored)
            .map(|(given, stored)| kept(given, stored))
            .collect(),
        _ => stored.clone(),
    }
}
