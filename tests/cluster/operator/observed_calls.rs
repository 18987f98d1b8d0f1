//! Calls that a person approves with their current state, on the real API: shown, bound, and stale
//! once the state has changed, whichever replica asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use portcullis::api::approval::{McpApproval, Phase};
use portcullis::api::condition::ConditionType;
use serde_json::json;

use super::approved_calls::{agents, approvals, decide, forge, listed, next_of, phase_is, promote};
use super::rig::{Room, find, policy, server};
use crate::support::eventually;
use crate::support::wire::upstream::{Answer, Fake};

const SERVER: &str = "mlflow";

/// The state that `look` reads, and how often `promote` ran.
struct World {
    state: Arc<Mutex<String>>,
    promotions: Arc<AtomicUsize>,
}

impl World {
    async fn new(room: &Room, fake: &Fake, observed: &str) -> World {
        let world = World {
            state: Arc::new(Mutex::new(r#"{"version":6}"#.to_owned())),
            promotions: Arc::default(),
        };
        let (state, promotions) = (Arc::clone(&world.state), Arc::clone(&world.promotions));
        fake.on("tools/call", move |got| {
            let text = if got.json()["params"]["name"] == "look" {
                state.lock().clone()
            } else {
                promotions.fetch_add(1, Ordering::SeqCst);
                "done".to_owned()
            };
            Answer::result(got, json!({"content": [{"type": "text", "text": text}]}))
        });
        let mut object = server(SERVER, fake);
        object["spec"]["gateway"] = json!({ "replicas": 2 });
        object["spec"]["tools"] =
            json!([{"name": "look", "risk": "Read"}, {"name": "promote", "risk": "Write"}]);
        room.apply(&object);
        let observe = json!({"tool": observed, "args": {"text": "args.text"}});
        let rules = json!([
            {"name": "ask", "tools": {"names": ["promote"]}, "action": "RequireApproval",
                "approval": {"expiresAfter": "10m", "waitUpTo": "1s", "observe": observe}},
            {"name": "reads", "tools": {"names": ["look"]}, "action": "Allow"},
        ]);
        room.apply(&policy("p", SERVER, rules));
        world
    }

    fn promoted(&self) -> usize {
        self.promotions.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_call_is_forwarded_only_in_the_state_that_was_approved() {
    let Some(room) = Room::open("observed calls").await else {
        return;
    };
    let fake = Fake::start(&["promote", "look"]).await;
    let world = World::new(&room, &fake, "look").await;
    room.ready(SERVER).await;
    room.holds(SERVER, &["p"]).await;
    let agents = agents(&room, 2).await;

    let (error, text) = promote(&agents[0], "v7").await.unwrap();
    assert!(error && text.starts_with("Approval pending"), "{text}");
    let asked = listed(&room, 1).await.remove(0);
    let observed = asked.spec.observed.clone().unwrap();
    assert_eq!(
        (observed.tool.as_str(), observed.preview.as_str()),
        ("look", r#"{"version":6}"#)
    );
    // The other replica finds the same request.
    let (_, text) = promote(&agents[1], "v7").await.unwrap();
    assert!(text.contains(&asked.name_any()), "{text}");

    *world.state.lock() = r#"{"version":9}"#.to_owned();
    decide(&room, &asked.name_any(), "Approved", None).await;
    let (error, text) = promote(&agents[1], "v7").await.unwrap();
    assert!(error && text.starts_with("Approval stale"), "{text}");
    let stale = phase_is(&room, &asked.name_any(), Phase::Stale).await;
    assert!(stale.status.unwrap().stale_at.is_some());
    assert_eq!(world.promoted(), 0);

    // It asks again about the current state, and both replicas forward it once.
    let next = eventually("it is asked again", || async {
        let (_, text) = promote(&agents[0], "v7").await.unwrap();
        match text.starts_with("Approval pending") {
            true => Ok(listed(&room, 2).await.remove(1)),
            false => Err(text),
        }
    })
    .await;
    assert_eq!(
        next.spec.observed.as_ref().unwrap().preview,
        r#"{"version":9}"#
    );
    assert_ne!(next.spec.arguments_digest, asked.spec.arguments_digest);
    decide(&room, &next.name_any(), "Approved", None).await;
    eventually("it is made", || async {
        let calls = [promote(&agents[0], "v7"), promote(&agents[1], "v7")];
        for call in calls {
            call.await.unwrap();
        }
        match world.promoted() {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    })
    .await;
    phase_is(&room, &next.name_any(), Phase::Consumed).await;
    assert_eq!(world.promoted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_shows_another_state_is_not_believed() {
    let Some(room) = Room::open("forged states").await else {
        return;
    };
    let fake = Fake::start(&["promote", "look"]).await;
    let world = World::new(&room, &fake, "look").await;
    room.ready(SERVER).await;
    room.holds(SERVER, &["p"]).await;
    let agent = room.agent(SERVER).await;
    promote(&agent, "v7").await.unwrap();
    let real = listed(&room, 1).await.remove(0);
    let all: Api<McpApproval> = approvals(&room);
    let change = |change: fn(&mut McpApproval)| {
        let mut forged = real.clone();
        change(&mut forged);
        forged
    };
    for forged in [
        change(|one| one.spec.observed.as_mut().unwrap().preview = r#"{"version":7}"#.to_owned()),
        change(|one| {
            one.spec.observed.as_mut().unwrap().digest = format!("sha256:{}", "0".repeat(64))
        }),
        change(|one| one.spec.observed.as_mut().unwrap().tool = "other".to_owned()),
        change(|one| one.spec.observed = None),
    ] {
        let name = real.name_any();
        all.delete(&name, &Default::default()).await.unwrap();
        forge(&room, &forged).await;
        let (error, text) = promote(&agent, "v7").await.unwrap();
        assert!(error && text.starts_with("Approval pending"), "{text}");
        let next = next_of(&name);
        assert!(text.contains(&next), "{text}");
        all.delete(&next, &Default::default()).await.unwrap();
    }
    assert_eq!(world.promoted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_observes_a_tool_that_writes_is_not_accepted_and_says_why() {
    let Some(room) = Room::open("observed writes").await else {
        return;
    };
    let fake = Fake::start(&["promote", "look"]).await;
    let world = World::new(&room, &fake, "promote").await;
    let others = json!([{"name": "reads", "tools": {"names": ["look"]}, "action": "Allow"}]);
    room.apply(&policy("other", SERVER, others));
    let refused = room
        .policy_is("p", ConditionType::Accepted, "False", "Invalid")
        .await;
    let conditions = refused.status.unwrap().conditions;
    let message = &find(&conditions, ConditionType::Accepted).unwrap().message;
    assert!(
        message.contains("Rule ask observes promote, whose risk is Write"),
        "{message}"
    );
    // The other policy is enforced, and nothing is admitted that the refused one would ask about.
    room.ready(SERVER).await;
    room.holds(SERVER, &["other", "p"]).await;
    let agent = room.agent(SERVER).await;
    assert!(!agent.call("look", json!({})).await.tool().0);
    let (error, text) = promote(&agent, "v7").await.unwrap();
    assert!(error, "{text}");
    assert_eq!(world.promoted(), 0);
}
