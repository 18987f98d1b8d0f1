//! Approvals: their phases, their end.

use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::PostParams;
use portcullis::api::approval::{McpApproval, Phase};
use serde_json::{Value, json};

use super::rig::Room;
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

fn approval(name: &str, expires: Timestamp) -> McpApproval {
    let document: Value = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval", "metadata": {"name": name},
        "spec": {
            "serverRef": {"name": "mlflow"}, "grant": "key:a", "tool": "t", "argumentsDigest": format!("sha256:{}", "0".repeat(64)),
            "argumentsPreview": "{}", "policy": "p", "rule": "r",
            "requestedAt": Timestamp::now().to_string(), "expiresAt": expires.to_string(),
        },
    });
    serde_json::from_value(document).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_says_where_it_stands() {
    let Some(room) = Room::open("approvals").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    room.ready("mlflow").await;
    let gateway = room
        .cluster
        .impersonate_account(room.name(), "mlflow-gateway");
    let made: Api<McpApproval> = Api::namespaced(gateway, room.name());
    let all: Api<McpApproval> = Api::namespaced(room.client.clone(), room.name());
    let phase = async |name: &str, wanted: Phase| {
        eventually(&format!("{name} is {wanted:?}"), || async {
            let phase = all
                .get(name)
                .await
                .unwrap()
                .status
                .and_then(|status| status.phase);
            if phase == Some(wanted) {
                Ok(())
            } else {
                Err(phase)
            }
        })
        .await;
    };
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    made.create(&PostParams::default(), &approval("mlflow-a", later))
        .await
        .unwrap();
    phase("mlflow-a", Phase::Pending).await;
    let soon = Timestamp::now() + SignedDuration::from_secs(2);
    made.create(&PostParams::default(), &approval("mlflow-b", soon))
        .await
        .unwrap();
    phase("mlflow-b", Phase::Expired).await;
    // A person decides, by their own name.
    let mut decided = all.get("mlflow-a").await.unwrap();
    decided.spec.decisions =
        serde_json::from_value(json!([{"verdict": "Approved", "by": "alice"}])).unwrap();
    let alice: Api<McpApproval> = Api::namespaced(
        room.cluster.impersonate("alice", &["system:masters"]),
        room.name(),
    );
    alice
        .replace("mlflow-a", &PostParams::default(), &decided)
        .await
        .unwrap();
    phase("mlflow-a", Phase::Approved).await;
    // The gateway uses it.
    let mut used = all.get("mlflow-a").await.unwrap();
    used.status = serde_json::from_value(
        json!({"phase": "Approved", "consumedAt": Timestamp::now().to_string()}),
    )
    .unwrap();
    made.replace_status("mlflow-a", &PostParams::default(), &used)
        .await
        .unwrap();
    phase("mlflow-a", Phase::Consumed).await;
    // Where the calls of others go has changed, and one is not asked for any more.
    for (name, field, wanted) in [
        ("mlflow-c", "staleAt", Phase::Stale),
        ("mlflow-d", "withdrawnAt", Phase::Withdrawn),
    ] {
        let mut over = made
            .create(&PostParams::default(), &approval(name, later))
            .await
            .unwrap();
        over.status = serde_json::from_value(json!({field: Timestamp::now().to_string()})).unwrap();
        // The operator writes its phase meanwhile.
        let mut write = made
            .replace_status(name, &PostParams::default(), &over)
            .await;
        for _ in 0..50 {
            if write.is_ok() {
                break;
            }
            let status = over.status.take();
            over = made.get(name).await.unwrap();
            over.status = status;
            write = made
                .replace_status(name, &PostParams::default(), &over)
                .await;
        }
        write.unwrap();
        phase(name, wanted).await;
    }
}
