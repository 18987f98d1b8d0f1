//! Two replicas, one leader.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use portcullis::api::condition::ConditionType;
use serde_json::json;

use super::rig::{Room, SYSTEM, allow, call, deny, policy};
use crate::support::audit::Write;
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

pub async fn holder(room: &Room) -> String {
    let leases: Api<Lease> = Api::namespaced(room.client.clone(), SYSTEM);
    eventually("somebody holds the Lease", || async {
        let lease = leases.get_opt("portcullis-operator").await.unwrap();
        lease
            .and_then(|lease| lease.spec?.holder_identity)
            .filter(|holder| !holder.is_empty())
            .ok_or("nobody")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_takes_over_and_nothing_is_written_again() {
    let Some(room) = Room::open("takeover").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    // Everything that the first leader has to write is written.
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    let agent = room.agent("mlflow").await;
    let first = holder(&room).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(room.client.clone(), SYSTEM);
    let written = |room: &Room| {
        room.cluster
            .writes()
            .into_iter()
            .filter(|write| {
                write.namespace == room.name()
                    && write.user.ends_with(":portcullis-operator")
                    && write.code < 300
            })
            .collect::<Vec<_>>()
    };
    let before = written(&room);
    pods.delete(&first, &DeleteParams::default()).await.unwrap();
    eventually("another holder", || async {
        let now = holder(&room).await;
        if now == first { Err(now) } else { Ok(()) }
    })
    .await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    // The new leader works: what it does next is the first that it does here.
    room.apply(&policy(
        "p",
        "mlflow",
        json!([deny("reads", &["get_*"], "Taken over.")]),
    ));
    eventually("the new verdict", || async {
        match call(&agent, "get_run").await {
            Err(why) if why.contains("Taken over.") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let after = written(&room);
    let new: Vec<_> = after[before.len()..]
        .iter()
        .filter(|write| write.resource != "events.k8s.io/events")
        .collect();
    // The bundle, and that it is on its way and in force; on a slow machine the policy says before
    // that that it was read. A child that was written again, or a status, would be one more.
    let times = |resource: &str, name: &str| {
        let this = |write: &&&Write| write.resource == resource && write.name == name;
        new.iter().filter(this).count()
    };
    let bundle = times("configmaps", "mlflow-gateway");
    let server = times("portcullis.dev/mcpservers/status", "mlflow");
    let policy = times("portcullis.dev/mcppolicies/status", "p");
    assert_eq!(bundle, 1, "{new:?}");
    assert!(server <= 2 && policy <= 3, "{new:?}");
    assert_eq!(bundle + server + policy, new.len(), "{new:?}");
}
