//! Each reported violation counts exactly once, whatever restarts.

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use super::rig::{Room, SYSTEM, allow, call, deny, policy};
use crate::support::wire::upstream::Fake;

#[tokio::test(flavor = "multi_thread")]
async fn violations_answered_are_violations_in_status_across_restarts_of_both_sides() {
    let Some(room) = Room::open("accounting").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy(
        "p",
        "mlflow",
        json!([
            allow("reads", &["get_*"]),
            {"name": "deletions", "tools": {"names": ["delete_*"]}, "action": "Hide"},
        ]),
    ));
    room.ready("mlflow").await;
    let mut answered = 0;
    let mut hide = async |times: usize| {
        let agent = room.agent("mlflow").await;
        for _ in 0..times {
            assert!(call(&agent, "delete_run").await.is_err());
            answered += 1;
        }
        answered
    };
    let total = hide(7).await;
    room.violations("mlflow", total).await;
    // The gateway goes before it was asked: it waits for that.
    let total = hide(5).await;
    room.replace_gateway("mlflow").await;
    room.violations("mlflow", total).await;
    // The operator crashes, both of its replicas.
    let total = hide(3).await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(room.client.clone(), SYSTEM);
    let labels = ListParams::default().labels("app.kubernetes.io/component=operator");
    for pod in pods.list(&labels).await.unwrap() {
        room.kubelet().crash(SYSTEM, &pod.name_any());
    }
    let more = hide(4).await;
    assert!(more > total);
    let server = room.violations("mlflow", more).await;
    assert_eq!(
        server.status.unwrap().violations.unwrap().counts.hidden,
        more
    );
    let policy = crate::support::eventually("the policy says the same", || async {
        let policy = room.policies().get("p").await.unwrap();
        let violations = policy
            .status
            .and_then(|status| status.violations)
            .unwrap_or_default();
        if violations.counts.total == more {
            Ok(violations)
        } else {
            Err(violations.counts)
        }
    })
    .await;
    assert_eq!(policy.by_rule[0].count, more);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_deleted_and_made_again_neither_doubles_nor_inherits_violations() {
    let Some(room) = Room::open("accounting").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy(
        "reads",
        "mlflow",
        json!([allow("reads", &["get_*"])]),
    ));
    let denying = policy("p", "mlflow", json!([deny("no", &["delete_*"], "never")]));
    room.apply(&denying);
    room.ready("mlflow").await;
    room.holds("mlflow", &["p", "reads"]).await;
    let agent = room.agent("mlflow").await;
    let denied = async |times: usize| {
        for _ in 0..times {
            let why = call(&agent, "delete_run").await.unwrap_err();
            assert!(why.contains("never"), "{why}");
        }
    };
    denied(3).await;
    room.violations("mlflow", 3).await;
    room.cluster
        .kubectl(["delete", "mcppolicy", "p", "-n", room.name()])
        .ok();
    room.holds("mlflow", &["reads"]).await;
    room.apply(&denying);
    room.holds("mlflow", &["p", "reads"]).await;
    denied(2).await;
    // What the gateway has counted is looked at anew with these, so nothing else can come to the
    // sum unseen.
    let server = room.violations("mlflow", 5).await;
    assert_eq!(server.status.unwrap().violations.unwrap().recent.len(), 5);
    let second = crate::support::eventually("only its own", || async {
        let policy = room.policies().get("p").await.unwrap();
        let violations = policy.status.and_then(|status| status.violations);
        let violations = violations.unwrap_or_default();
        if violations.counts.total == 2 {
            Ok(violations)
        } else {
            Err(violations.counts)
        }
    })
    .await;
    assert_eq!(second.recent.len(), 2);
}
