//! Objects that are nested deeper than the operator reads: the API server stores them, where
//! unknown fields are preserved.

use std::path::Path;

use kube::Api;
use kube::api::DeleteParams;
use portcullis::api::condition::ConditionType;
use serde_json::{Value, json};

use k8s_openapi::api::core::v1::Pod;

use super::leader::holder;
use super::rig::{Room, SYSTEM, allow, call, deny, pod_ready, policy, server};
use crate::support::wire::upstream::Fake;
use crate::support::{eventually, tool};

/// A list so many lists deep, as text: serde_json writes no deeper than the stack is.
fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Creates an object in which "DEEP" stands for a deep list.
fn create(room: &Room, document: &Value, levels: usize) {
    let text = document.to_string().replace("\"DEEP\"", &deep(levels));
    let arguments = ["create", "--validate=false", "-n", room.name(), "-f", "-"];
    room.cluster.kubectl_with(arguments, &text).ok();
}

/// The condition Accepted of an object that typed clients cannot read: its status, reason and
/// message.
async fn refused(room: &Room, resource: &str) -> String {
    let path = "jsonpath={range .status.conditions[?(@.type==\"Accepted\")]}{.status} {.reason}: {.message}{end}";
    eventually(&format!("{resource} is refused"), || async {
        let arguments = ["get", resource, "-n", room.name(), "-o", path];
        let told = room.cluster.kubectl(arguments).ok();
        if told.starts_with("False Invalid: ") {
            Ok(told)
        } else {
            Err(told)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deeply_nested_object_stops_nobody_else() {
    let Some(room) = Room::open("deeply nested objects").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    for name in ["well", "sick", "blocked"] {
        let mut document = server(name, &fake);
        if name == "sick" {
            document["spec"]["tools"] = json!([{"name": "get_run", "junk": "DEEP"}]);
        }
        create(&room, &document, 5_000);
    }
    room.apply(&policy("p", "well", json!([allow("reads", &["get_*"])])));
    let mut rule = allow("reads", &["get_*"]);
    rule["junk"] = json!("DEEP");
    create(&room, &policy("q", "blocked", json!([rule])), 200);

    let told = refused(&room, "mcppolicies.portcullis.dev/q").await;
    assert!(
        told.contains("spec.rules[0].junk: this is nested too deeply"),
        "{told}"
    );
    let told = refused(&room, "mcpservers.portcullis.dev/sick").await;
    assert!(
        told.contains("spec.tools[0].junk: this is nested too deeply"),
        "{told}"
    );
    // Nor does it stop the command line.
    let printed = tool::run(
        Path::new(env!("CARGO_BIN_EXE_portcullis")),
        room.cluster.admin_kubeconfig(),
        ["status", "--context=", "-n", room.name()],
        "",
    );
    assert!(printed.err.contains("sick is left out"), "{}", printed.err);
    let shown = printed.ok();
    assert!(
        shown.contains("well") && shown.contains("blocked"),
        "{shown}"
    );
    // What the policy would have said is unknown: its server is closed.
    room.server_is("blocked", ConditionType::Ready, "False", "Closed")
        .await;
    let why = call(&room.agent("blocked").await, "get_run")
        .await
        .unwrap_err();
    assert!(why.contains("(blocked)") && why.contains('q'), "{why}");
    // Others are what they were before.
    room.ready("well").await;
    let agent = room.agent("well").await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));

    // A replica that lists everything anew becomes ready: the one that does not lead, as other
    // tests go on.
    let pods: Api<Pod> = Api::namespaced(room.client.clone(), SYSTEM);
    let leads = holder(&room).await;
    let operators = || async {
        let labels =
            kube::api::ListParams::default().labels("app.kubernetes.io/component=operator");
        pods.list(&labels).await.unwrap().items
    };
    let names = |pods: &[Pod]| -> Vec<String> {
        let names = pods.iter().map(|pod| pod.metadata.name.clone().unwrap());
        names.collect()
    };
    let before = names(&operators().await);
    for name in before.iter().filter(|name| **name != leads) {
        pods.delete(name, &DeleteParams::default()).await.unwrap();
    }
    eventually("a new replica that is ready", || async {
        let now = operators().await;
        let fresh = now.iter().any(|pod| {
            let name = pod.metadata.name.clone().unwrap();
            !before.contains(&name) && pod_ready(pod)
        });
        fresh.then_some(()).ok_or_else(|| names(&now))
    })
    .await;
    // And goes on to work, also for the policy that is put right.
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    let mended = policy(
        "q",
        "blocked",
        json!([deny("reads", &["get_*"], "Mended.")]),
    );
    let arguments = ["replace", "-n", room.name(), "-f", "-"];
    room.cluster
        .kubectl_with(arguments, &mended.to_string())
        .ok();
    room.policy_is("q", ConditionType::Accepted, "True", "Accepted")
        .await;
}
