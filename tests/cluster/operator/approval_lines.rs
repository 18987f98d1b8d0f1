//! What becomes of approvals in the audit logs of a server's gateways: one line for each step,
//! whatever the number of gateways, and whichever of them dies.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use portcullis::api::approval::{McpApproval, Phase};
use portcullis::api::condition::ConditionType;
use serde_json::{Value, json};

use super::approved_calls::{agents, approvals, asking, listed, phase_is, promote};
use super::rig::{Room, call, find, pod_ready, server};
use crate::support::eventually;
use crate::support::wire::upstream::{Answer, Fake};

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

/// A receiver that answers every POST with this status, behind a Secret `hook`.
async fn receiver(room: &Room, status: u16) -> Fake {
    let receiver = Fake::start(&[]).await;
    receiver.on("response", move |_| {
        Answer::Status(status, "text/plain", Vec::new())
    });
    let url = format!("http://{}/hook", receiver.addr);
    room.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "stringData": {"url": url}}));
    receiver
}

/// The server announces requests to the receiver.
fn announcing(fake: &Fake, replicas: u32) -> Value {
    let mut object = server("mlflow", fake);
    object["spec"]["gateway"] = json!({ "replicas": replicas });
    object["spec"]["approvals"] =
        json!({"notify": [{"webhook": {"urlSecretRef": {"name": "hook", "key": "url"}}}]});
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_an_event_and_one_announcement_even_if_the_gateway_that_asked_is_gone() {
    let Some(room) = Room::open("announced approvals").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    let hook = receiver(&room, 500).await;
    asking(
        &room,
        &fake,
        2,
        json!({"expiresAfter": "10m", "waitUpTo": "0s"}),
    )
    .await;
    room.apply(&announcing(&fake, 2));
    eventually("the webhook is in the bundle of both", || async {
        let server = room.servers().get("mlflow").await.unwrap();
        let status = server.status.unwrap_or_default();
        let replicas = status.replicas.unwrap_or_default();
        let pods = room.gateway_pods("mlflow").await;
        let mounted = pods.len() == 2
            && pods.iter().all(|pod| {
                pod_ready(pod)
                    && serde_json::to_string(&pod.spec)
                        .unwrap()
                        .contains("\"hook\"")
            });
        match mounted && replicas.programmed == 2 {
            true => Ok(()),
            false => Err(format!("{replicas:?}, {}", pods.len())),
        }
    })
    .await;
    let agents = agents(&room, 2).await;
    promote(&agents[0], "v7").await.unwrap();
    let name = waiting(&room, "v7").await;
    // Where people look.
    let described = eventually("an Event", || async {
        let events = room
            .cluster
            .kubectl(["get", "events", "-n", room.name()])
            .ok();
        let line = events
            .lines()
            .find(|line| line.contains(&name))
            .map(str::to_owned);
        line.ok_or(events)
    })
    .await;
    assert!(
        described.contains("ApprovalRequested") && described.contains(&format!("show {name}")),
        "{described}"
    );
    // The webhook fails: the server says so in words, and serves.
    let failing = room
        .server_is(
            "mlflow",
            ConditionType::NotifyFailing,
            "True",
            "WebhookFailing",
        )
        .await;
    let status = serde_json::to_string(&failing.status).unwrap();
    assert!(
        status.contains("spec.approvals.notify[0].webhook: it answered HTTP 500")
            && !status.contains("/hook"),
        "{status}"
    );
    assert_eq!(call(&agents[1], "get").await, Ok(()));
    // The gateway that asked goes away, and then the webhook works again: another one announces it.
    let asked = approvals(&room)
        .get(&name)
        .await
        .unwrap()
        .spec
        .decision_id
        .unwrap();
    let run = asked.rsplit_once('-').unwrap().0.to_owned();
    for pod in room.gateway_pods("mlflow").await {
        let pod = pod.name_any();
        if room
            .kubelet()
            .log(room.name(), &pod, "gateway")
            .contains(&run)
        {
            room.kubelet().crash(room.name(), &pod);
        }
    }
    hook.on("response", |_| {
        Answer::Status(200, "text/plain", Vec::new())
    });
    let before = hook.got("response").len();
    let announced = eventually("it is announced", || async {
        let found = approvals(&room).get(&name).await.unwrap();
        let status = found.status.clone().unwrap_or_default();
        match status.notified_at {
            Some(_) => Ok(status),
            None => Err(status),
        }
    })
    .await;
    assert_eq!(hook.got("response").len(), before + 1);
    assert!(announced.notifying.is_some_and(|by| by.by != run));
    // A second request goes out once, although both know it.
    promote(&agents[1], "v8").await.unwrap();
    promote(&agents[1], "v8").await.unwrap();
    eventually("the second one too", || async {
        let posts = hook.got("response");
        match posts
            .iter()
            .filter(|got| got.json()["approval"]["name"] != name)
            .count()
        {
            1 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    eventually("the condition is gone", || async {
        let server = room.servers().get("mlflow").await.unwrap();
        let conditions = server.status.unwrap_or_default().conditions;
        match find(&conditions, ConditionType::NotifyFailing) {
            None => Ok(()),
            Some(still) => Err(still.clone()),
        }
    })
    .await;
}
