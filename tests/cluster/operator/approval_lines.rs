//! What becomes of approvals in the audit logs of a server's gateways: one line for each step,
//! whatever the number of gateways, and whichever of them dies.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use portcullis::api::approval::{McpApproval, Phase};
use serde_json::{Value, json};

use super::approved_calls::{agents, approvals, asking, listed, phase_is, promote};
use super::rig::Room;
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

/// The lines about approvals of all gateways of the server.
async fn lines(room: &Room) -> Vec<Value> {
    let mut logged = String::new();
    for pod in room.gateway_pods("mlflow").await {
        logged += &room.kubelet().log(room.name(), &pod.name_any(), "gateway");
    }
    let lines = logged.lines();
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == "approval").collect()
}

/// Waits for these steps of an approval, in any order of the gateways.
async fn steps_are(room: &Room, name: &str, wanted: &[&str]) -> Vec<Value> {
    eventually(&format!("the lines of {name}: {wanted:?}"), || async {
        let mut lines = lines(room).await;
        lines.retain(|line| line["approval"] == name);
        lines.sort_by_key(|line| line["time"].as_str().unwrap().to_owned());
        let steps: Vec<&str> = lines
            .iter()
            .map(|line| line["step"].as_str().unwrap())
            .collect();
        if steps == wanted {
            Ok(lines)
        } else {
            Err(steps.join(", "))
        }
    })
    .await
}

async fn decide(room: &Room, name: &str, who: &str, verdict: &str) {
    let person = room.cluster.impersonate(who, &["system:masters"]);
    let all: Api<McpApproval> = Api::namespaced(person, room.name());
    let mut decisions = approvals(room).get(name).await.unwrap().spec.decisions;
    decisions.push(
        serde_json::from_value(json!({"verdict": verdict, "by": who, "reason": "as said"}))
            .unwrap(),
    );
    let change = json!({"spec": {"decisions": decisions}});
    all.patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

/// The name of the one that waits with these arguments.
async fn waiting(room: &Room, text: &str) -> String {
    eventually(&format!("{text} is asked for"), || async {
        let all = approvals(room).list(&Default::default()).await.unwrap();
        let found = all.items.into_iter().find(|one| {
            one.phase_at(Timestamp::now()) == Phase::Pending
                && one.spec.arguments_preview.contains(text)
        });
        found.map(|one| one.name_any()).ok_or("not yet")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_an_approval_is_one_line_whatever_the_number_of_gateways() {
    let Some(room) = Room::open("lines about approvals").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    let rule = |expires: &str| json!({"expiresAfter": expires, "waitUpTo": "1s", "approvers": 2});
    asking(&room, &fake, 2, rule("10m")).await;
    let agents = agents(&room, 2).await;
    // Both gateways know of it and ask for it.
    for agent in &agents {
        promote(agent, "used").await.unwrap();
        promote(agent, "refused").await.unwrap();
    }
    let used = waiting(&room, ":\"used").await;
    let refused = waiting(&room, "refused").await;
    let made = approvals(&room).get(&used).await.unwrap();
    let asked = made.spec.decision_id.clone().unwrap();
    decide(&room, &used, "alice", "Approved").await;
    decide(&room, &refused, "bob", "Denied").await;
    let denied = steps_are(&room, &refused, &["requested", "denied"]).await;
    assert_eq!(
        (&denied[1]["by"], &denied[1]["reason"], &denied[1]["digest"]),
        (&json!("bob"), &json!("as said"), &denied[0]["digest"])
    );
    steps_are(&room, &used, &["requested", "approved"]).await;
    // The second approval and its use are of one write.
    decide(&room, &used, "bob", "Approved").await;
    let (error, text) = promote(&agents[1], "used").await.unwrap();
    assert!(!error, "{text}");
    let all = steps_are(
        &room,
        &used,
        &["requested", "approved", "approved", "consumed"],
    )
    .await;
    let told: Vec<Value> = all
        .iter()
        .map(|line| json!([line["decisionId"], line["by"], line["approvers"]]))
        .collect();
    let by = phase_is(&room, &used, Phase::Consumed)
        .await
        .status
        .unwrap();
    let by = by.consumed_by.unwrap();
    assert_ne!(by, asked);
    assert_eq!(
        told,
        [
            json!([asked, null, null]),
            json!([asked, "alice", null]),
            json!([asked, "bob", null]),
            json!([by, "bob", ["alice", "bob"]]),
        ]
    );
    // Withdrawn: nobody else asks.
    let session = agents[0].session_of("2025-11-25", json!({})).await;
    promote(&session, "given up").await.unwrap();
    let given_up = waiting(&room, "given up").await;
    session.send("DELETE", None).await;
    steps_are(&room, &given_up, &["requested", "withdrawn"]).await;
    // Expired: told by each gateway once, and recorded by one.
    room.apply(&super::rig::policy(
        "p",
        "mlflow",
        json!([{"name": "ask", "tools": {"names": ["promote"]}, "action": "RequireApproval", "approval": rule("4s")}]),
    ));
    let late = eventually("the short rule is in force", || async {
        let (_, text) = promote(&agents[0], "late").await.unwrap();
        let late = waiting(&room, "late").await;
        let made = approvals(&room).get(&late).await.unwrap().spec;
        let open = made.expires_at.0.duration_since(made.requested_at.0);
        if open.as_secs() == 4 {
            Ok(late)
        } else {
            Err(text)
        }
    })
    .await;
    steps_are(&room, &late, &["requested", "expired"]).await;
    let (_, text) = promote(&agents[0], "late").await.unwrap();
    assert!(
        text.starts_with("Approval expired: ") && text.contains(&late),
        "{text}"
    );
    let (_, text) = promote(&agents[0], "late").await.unwrap();
    assert!(text.starts_with("Approval pending: "), "{text}");
    // Nothing was written twice meanwhile.
    steps_are(
        &room,
        &used,
        &["requested", "approved", "approved", "consumed"],
    )
    .await;
    steps_are(&room, &refused, &["requested", "denied"]).await;
    steps_are(&room, &late, &["requested", "expired"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gateway_records_what_the_one_that_asked_cannot() {
    let Some(room) = Room::open("lines that others write").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(
        &room,
        &fake,
        1,
        json!({"expiresAfter": "10m", "waitUpTo": "0s"}),
    )
    .await;
    let agent = room.living_agent("mlflow").await;
    promote(&agent, "v7").await.unwrap();
    let name = listed(&room, 1).await.remove(0).name_any();
    let asked = approvals(&room).get(&name).await.unwrap().spec.decision_id;
    // Nobody is there when the person decides, and nobody asks again.
    let pod = room.gateway_pods("mlflow").await.remove(0).name_any();
    room.kubelet().crash(room.name(), &pod);
    decide(&room, &name, "alice", "Denied").await;
    room.living_agent("mlflow").await;
    let lines = steps_are(&room, &name, &["requested", "denied"]).await;
    assert_eq!(lines[1]["decisionId"], json!(asked));
    assert_eq!(lines[1]["by"], "alice");
}
