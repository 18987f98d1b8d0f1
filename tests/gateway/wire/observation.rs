//! What is approved is a state: what a rule observes is shown, bound, and read again before the
//! call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use portcullis::api::approval::{McpApproval, Phase, Verdict};
use portcullis::gateway::approvals::NewDecision;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::rig::{Held, Rig, open_to_all};
use crate::support::upstream::{Answer, Fake, Got};
use crate::support::{eventually, soon};

fn policy(wait: &str, observe: Value) -> Value {
    json!({"rules": [
        {"name": "promote", "tools": {"names": ["promote"]}, "action": "RequireApproval",
            "approval": {"waitUpTo": wait, "expiresAfter": "1h", "observe": observe}},
        {"name": "reads", "tools": {"names": ["look"]}, "action": "Allow",
            "limits": [{"counter": "reads", "max": 2, "window": "1h"}]},
    ]})
}

fn look() -> Value {
    json!({"tool": "look", "args": {"text": "args.text"}})
}

/// A server with the tools `promote` and `look`, which a spec declares to read.
struct World {
    fake: Fake,
    rig: Rig,
    client: Client,
    /// What `look` answers.
    state: Arc<Mutex<Value>>,
    looks: Arc<AtomicUsize>,
    promotions: Arc<AtomicUsize>,
}

impl World {
    async fn new(policies: &[Value]) -> Self {
        let fake = Fake::start(&["promote", "look"]).await;
        let mut spec = open_to_all(&fake);
        spec["tools"] = json!([{"name": "look", "risk": "Read"}]);
        let rig = Rig::with(spec, Held::default(), policies).await;
        let client = rig.client.session().await;
        let world = World {
            fake,
            rig,
            client,
            state: Arc::new(Mutex::new(text(r#"{"version":"6"}"#))),
            looks: Arc::default(),
            promotions: Arc::default(),
        };
        world.answers(Answer::result);
        world
    }

    /// Answers reads in that way.
    fn answers(&self, look: impl Fn(&Got, Value) -> Answer + Send + Sync + 'static) {
        let state = Arc::clone(&self.state);
        let (looks, promotions) = (Arc::clone(&self.looks), Arc::clone(&self.promotions));
        self.fake.on("tools/call", move |got| {
            if got.json()["params"]["name"] == "look" {
                looks.fetch_add(1, Ordering::SeqCst);
                look(got, state.lock().clone())
            } else {
                promotions.fetch_add(1, Ordering::SeqCst);
                Answer::result(got, text("done"))
            }
        });
    }

    fn list(&self) -> Vec<McpApproval> {
        self.rig.approvals.list(Timestamp::now())
    }

    fn only(&self) -> McpApproval {
        let all = self.list();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    fn approve(&self, by: &str) {
        let pending = self
            .list()
            .into_iter()
            .find(|one| phase(one) == Phase::Pending);
        let decided = NewDecision {
            verdict: Verdict::Approved,
            by,
            reason: None,
            digest: None,
        };
        let name = pending.unwrap().metadata.name.unwrap();
        let decided = self.rig.approvals.decide(&name, decided, Timestamp::now());
        decided.unwrap();
    }

    async fn promote(&self) -> (bool, String) {
        let call = self.client.call("promote", json!({"text": "churn"}));
        soon("an answer", call).await.tool()
    }

    fn counts(&self) -> (usize, usize) {
        (
            self.looks.load(Ordering::SeqCst),
            self.promotions.load(Ordering::SeqCst),
        )
    }
}

fn phase(approval: &McpApproval) -> Phase {
    approval.status.as_ref().unwrap().phase.unwrap()
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

#[tokio::test]
async fn people_approve_a_change_of_what_they_were_shown() {
    let world = World::new(&[policy("0s", look())]).await;
    let (error, said) = world.promote().await;
    assert!(error && said.starts_with("Approval pending"), "{said}");
    let asked = world.only();
    let observed = asked.spec.observed.unwrap();
    assert_eq!(
        (observed.tool.as_str(), observed.preview.as_str()),
        ("look", r#"{"version":"6"}"#)
    );
    let read = world.fake.got("tools/call").remove(0);
    assert_eq!(
        read.json()["params"],
        json!({"name": "look", "arguments": {"text": "churn"}})
    );
    assert_eq!(read.header("mcp-session-id"), Some("upstream-1"));
    // Repeating the call reads nothing: the request is there.
    world.promote().await;
    assert_eq!(world.counts(), (1, 0));
    world.approve("joe");
    assert_eq!(world.promote().await, (false, "done".to_owned()));
    assert_eq!(world.counts(), (2, 1));
    // The caller's own budget of reads is untouched.
    for _ in 0..2 {
        assert!(!world.client.call("look", json!({})).await.tool().0);
    }
    assert!(world.client.call("look", json!({})).await.tool().0);
}

#[tokio::test]
async fn an_approval_is_stale_once_what_was_shown_has_changed() {
    for repeat in ["repeated", "held"] {
        let wait = if repeat == "held" { "20s" } else { "0s" };
        let world = World::new(&[policy(wait, look())]).await;
        let said = if repeat == "held" {
            let client = world.client.clone();
            let call = tokio::spawn(async move {
                client
                    .call("promote", json!({"text": "churn"}))
                    .await
                    .tool()
            });
            eventually("it is held", || !world.list().is_empty()).await;
            *world.state.lock() = text(r#"{"version":"9"}"#);
            world.approve("joe");
            soon("the answer", call).await.unwrap()
        } else {
            world.promote().await;
            *world.state.lock() = text(r#"{"version":"9"}"#);
            world.approve("joe");
            world.promote().await
        };
        let name = world.only().metadata.name.unwrap();
        assert_eq!(
            said,
            (
                true,
                format!(
                    "Approval stale: the server that the call of McpApproval {name} would go to, or the state that it shows, has changed. Read the state again, then repeat the call unchanged to ask again."
                )
            )
        );
        assert_eq!(phase(&world.only()), Phase::Stale);
        assert_eq!(world.counts(), (2, 0));
        // The next call asks again, about the current state, and is another call to who decides.
        if repeat == "repeated" {
            let (error, said) = world.promote().await;
            assert!(error && said.starts_with("Approval pending"), "{said}");
            let all = world.list();
            let now = all.iter().find(|one| phase(one) == Phase::Pending).unwrap();
            let was = all.iter().find(|one| phase(one) == Phase::Stale).unwrap();
            assert_eq!(
                now.spec.observed.as_ref().unwrap().preview,
                r#"{"version":"9"}"#
            );
            assert_ne!(now.spec.arguments_digest, was.spec.arguments_digest);
            world.approve("joe");
            assert!(!world.promote().await.0);
            assert_eq!(world.counts(), (4, 1));
        }
        eventually("the step is recorded with what it was about", || {
            let steps = world.rig.audit.steps();
            let mut stale = steps.iter().filter(|step| step["step"] == "stale");
            stale.any(|step| {
                step["observed"]
                    .as_str()
                    .is_some_and(|digest| digest.starts_with("sha256:"))
            })
        })
        .await;
    }
}

#[tokio::test]
async fn with_several_approvers_the_state_is_read_again_after_the_last() {
    let mut policy = policy("0s", look());
    policy["rules"][0]["approval"]["approvers"] = json!(2);
    let world = World::new(&[policy]).await;
    world.promote().await;
    world.approve("joe");
    world.promote().await;
    assert_eq!(world.counts(), (1, 0));
    *world.state.lock() = text("other");
    world.approve("ann");
    let (error, said) = world.promote().await;
    assert!(error && said.starts_with("Approval stale"), "{said}");
    assert_eq!(world.counts(), (2, 0));
}

#[tokio::test]
async fn a_state_that_cannot_be_read_denies_and_asks_nobody() {
    let world = World::new(&[policy("0s", look())]).await;
    type Look = fn(&Got, Value) -> Answer;
    let failures: [(Look, &str); 7] = [
        (
            |got, _| {
                let mut failed = text("alias champion not found");
                failed["isError"] = json!(true);
                Answer::result(got, failed)
            },
            "it answered with an error: alias champion not found",
        ),
        (
            |got, _| Answer::rpc_error(got, -32000, "no"),
            "the server refused to say: error -32000",
        ),
        (
            |got, _| Answer::result(got, json!({"content": []})),
            "its result is empty",
        ),
        (
            |got, _| Answer::result(got, json!({"content": [{"type": "image", "data": "AA=="}]})),
            "its result holds a block of type image, which a person cannot be shown",
        ),
        (
            |got, _| Answer::result(got, text(&"x".repeat(1 << 20))),
            "the server cannot be asked: ",
        ),
        (
            |got, _| Answer::Json(json!({"jsonrpc": "2.0", "id": 1, "result": got.json()["id"]})),
            "the server cannot be asked: ",
        ),
        (
            |_, _| Answer::Raw(Vec::new()),
            "the server cannot be asked: ",
        ),
    ];
    for (look, why) in failures {
        world.answers(look);
        let (error, said) = world.promote().await;
        let whole = format!(
            "Approval not asked for: policy p0, rule promote asks a person about this call and shows what it changes, and that could not be read: {why}"
        );
        assert!(error && said.starts_with(&whole), "{said}");
        assert!(world.list().is_empty());
    }
    // Nor is an approved call forwarded while it cannot be read; the approval is still good.
    world.answers(Answer::result);
    world.promote().await;
    world.approve("joe");
    world.answers(|got, _| Answer::rpc_error(got, -32000, "no"));
    let (error, said) = world.promote().await;
    assert!(
        error && said.starts_with("Approval not asked for"),
        "{said}"
    );
    assert_eq!(world.counts().1, 0);
    world.answers(Answer::result);
    assert!(!world.promote().await.0);
}

#[tokio::test]
async fn a_server_that_never_answers_the_read_does_not_hold_the_call_for_ever() {
    let world = World::new(&[policy("0s", look())]).await;
    world.answers(|_, _| Answer::Silence);
    let (error, said) = world.promote().await;
    assert!(
        error && said.contains("the server did not answer in 10 s"),
        "{said}"
    );
    assert!(world.list().is_empty());
}

#[tokio::test]
async fn what_policy_does_not_let_the_caller_read_is_not_read_for_the_caller() {
    let mut denied = policy("0s", look());
    denied["rules"].as_array_mut().unwrap().push(Value::Null);
    let refusals = [
        json!({"name": "r", "tools": {"names": ["look"]}, "action": "Deny"}),
        json!({"name": "r", "tools": {"names": ["look"]}, "action": "Hide"}),
        json!({"name": "r", "tools": {"names": ["look"]}, "action": "RequireApproval"}),
        json!({"name": "r", "tools": {"names": ["look"]}, "action": "Deny", "when": "args.text == 'churn'"}),
    ];
    for refusal in refusals {
        denied["rules"][2] = refusal.clone();
        let world = World::new(&[denied.clone()]).await;
        let (error, said) = world.promote().await;
        assert!(
            error && said.contains("policy does not let this caller read it without approval"),
            "{refusal}: {said}"
        );
        assert_eq!((world.counts(), world.list().len()), ((0, 0), 0));
    }
    // It was allowed when it was asked for, and is not when it is approved.
    let world = World::new(&[policy("0s", look())]).await;
    world.promote().await;
    world.approve("joe");
    world.rig.apply(&[denied]).unwrap();
    assert!(world.promote().await.0);
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test]
async fn only_a_listed_tool_that_reads_is_called_for_an_approval() {
    // Compiled policies get here only past the operator's acceptance; the gateway looks again.
    for (tool, why) in [
        ("absent", "the server does not list the tool that reads it"),
        ("promote", "the tool that reads it may do more than read"),
    ] {
        let observe = json!({"tool": tool, "args": {}});
        let world = World::new(&[policy("0s", observe)]).await;
        let (error, said) = world.promote().await;
        assert!(error && said.contains(why), "{said}");
        assert_eq!((world.counts(), world.list().len()), ((0, 0), 0));
    }
}

#[tokio::test]
async fn arguments_of_a_read_that_cannot_be_made_deny_in_words() {
    for (source, why) in [
        ("args.deep.name", "there is no `deep`"),
        ("1 / 0", "approval.observe.args.text"),
    ] {
        let observe = json!({"tool": "look", "args": {"text": source}});
        let world = World::new(&[policy("0s", observe)]).await;
        let (error, said) = world.promote().await;
        assert!(
            error && said.contains("the current state could not be read") && said.contains(why),
            "{said}"
        );
        assert_eq!((world.counts(), world.list().len()), ((0, 0), 0));
    }
    // Two rules that observe different things would be shown as one.
    let mut other = policy("0s", json!({"tool": "look", "args": {"text": "'other'"}}));
    other["rules"].as_array_mut().unwrap().truncate(1);
    let world = World::new(&[policy("0s", look()), other]).await;
    let (error, said) = world.promote().await;
    assert!(error && said.contains("observes something else"), "{said}");
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_the_state_is_read_again_is_not_forwarded() {
    let world = World::new(&[policy("0s", look())]).await;
    world.promote().await;
    world.approve("joe");
    world.answers(|_, _| Answer::Silence);
    let message = json!({"jsonrpc": "2.0", "id": 77, "method": "tools/call",
        "params": {"name": "promote", "arguments": {"text": "churn"}}});
    let client = world.client.clone();
    let call = tokio::spawn(async move { client.post(&message).await });
    eventually("the state is read again", || world.counts().0 == 2).await;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}});
    world.client.post(&cancel).await;
    soon("it ends", call).await.unwrap();
    assert_eq!(world.counts(), (2, 0));
    // Nothing was used up.
    world.answers(Answer::result);
    assert!(!world.promote().await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_race_while_the_state_changes_execute_at_most_once() {
    let world = World::new(&[policy("20s", look())]).await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let client = world.client.clone();
            tokio::spawn(async move {
                client
                    .call("promote", json!({"text": "churn"}))
                    .await
                    .tool()
            })
        })
        .collect();
    eventually("they are held", || !world.list().is_empty()).await;
    *world.state.lock() = text("moved");
    world.approve("joe");
    eventually("it is stale", || {
        world.list().iter().any(|one| phase(one) == Phase::Stale)
    })
    .await;
    for call in calls {
        call.abort();
    }
    assert_eq!(world.counts().1, 0);
}

#[tokio::test]
async fn secrets_and_times_in_a_result_are_kept_out_of_what_is_shown_and_compared() {
    let mut observe = look();
    observe["redact"] = json!(["/token"]);
    observe["ignore"] = json!(["/readAt"]);
    let world = World::new(&[policy("0s", observe)]).await;
    let reads = AtomicUsize::new(0);
    world.answers(move |got, _| {
        let at = reads.fetch_add(1, Ordering::SeqCst);
        Answer::result(
            got,
            json!({"content": [], "structuredContent": {"readAt": at, "version": "6\u{202e}", "token": "hush"}}),
        )
    });
    world.promote().await;
    let observed = world.only().spec.observed.unwrap();
    assert_eq!(
        observed.preview,
        r#"{"token":"[redacted]","version":"6\u202e"}"#
    );
    world.approve("joe");
    assert!(!world.promote().await.0);
}
