//! Clients that ask for progress hear that their call waits for a person; to others nothing
//! changes.

use std::time::Duration;

use jiff::Timestamp;
use portcullis::api::approval::Verdict;
use portcullis::gateway::approvals::NewDecision;
use serde_json::{Value, json};

use crate::support::client::{Client, Exchange, Head};
use crate::support::rig::Rig;
use crate::support::upstream::{Answer, Fake};
use crate::support::{eventually, soon};

fn held(wait: &str) -> Value {
    json!({"rules": [
        {"name": "promote", "tools": {"names": ["promote"]}, "action": "RequireApproval",
            "approval": {"waitUpTo": wait, "expiresAfter": "1h"}},
        {"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow"},
    ]})
}

/// A call of `promote` with these members of `_meta`.
fn call(text: &str, meta: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": "promote", "arguments": {"text": text}, "_meta": meta}})
    .to_string()
}

/// The call's answer, as far as its head.
async fn start(client: &Client, text: &str, meta: &Value) -> (Exchange, Head) {
    let body = call(text, meta);
    let mut exchange = client.start("POST", Some(body.as_bytes())).await;
    let head = exchange.head().await;
    (exchange, head)
}

fn header<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    let found = head.headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// The name of the newest request, and until when it is open.
async fn newest(rig: &Rig) -> (String, String) {
    eventually("it is held", || rig.gateway.held() > 0).await;
    let all = rig.approvals.list(Timestamp::now());
    let newest = all.iter().max_by_key(|one| one.spec.requested_at.0);
    let newest = newest.unwrap();
    let until = newest.spec.expires_at.0.strftime("%Y-%m-%dT%H:%M:%SZ");
    (newest.metadata.name.clone().unwrap(), until.to_string())
}

fn decide(rig: &Rig, name: &str, verdict: Verdict) {
    let decided = NewDecision {
        verdict,
        by: "joe",
        reason: Some("because".to_owned()),
        digest: None,
    };
    rig.approvals
        .decide(name, decided, Timestamp::now())
        .unwrap();
}

#[tokio::test]
async fn a_held_call_tells_its_progress_until_it_is_approved_and_answers_on_the_same_stream() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("60s")]).await;
    let client = rig.client.session().await;
    for (text, token) in [("a", json!("tok\"en")), ("b", json!(-3))] {
        let (mut answer, head) = start(&client, text, &json!({"progressToken": token})).await;
        assert_eq!(
            (
                head.status,
                header(&head, "content-type"),
                header(&head, "cache-control")
            ),
            (
                200,
                Some("text/event-stream"),
                Some("no-cache, no-transform")
            )
        );
        let (name, until) = newest(&rig).await;
        let mut before = 0.0;
        for _ in 0..2 {
            let told = answer.event().await.unwrap().json();
            let progress = told["params"]["progress"].as_f64().unwrap();
            assert_eq!(
                told,
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {
                    "progressToken": token, "progress": progress,
                    "message": format!("waiting for approval {name} until {until}")}})
            );
            assert!(progress > before && progress < 1.0, "{progress}");
            before = progress;
        }
        decide(&rig, &name, Verdict::Approved);
        let mut last = answer.event().await.unwrap().json();
        while last["method"] == "notifications/progress" {
            last = answer.event().await.unwrap().json();
        }
        assert_eq!(
            (&last["id"], &last["result"]["content"][0]["text"]),
            (&json!(7), &json!(format!(r#"{{"text":"{text}"}}"#)))
        );
        assert_eq!(
            answer.event().await,
            None,
            "the stream ends with the answer"
        );
        let decision = header(&head, "portcullis-decision-id").unwrap().to_owned();
        eventually("the line of the call names the decision", || {
            rig.audit
                .all()
                .iter()
                .any(|line| line["decisionId"] == decision && line["outcome"] == "allowed")
        })
        .await;
    }
    assert_eq!(fake.calls(), 2);
}

#[tokio::test]
async fn the_progress_of_the_server_goes_on_from_that_of_the_wait() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("60s")]).await;
    let client = rig.client.session().await;
    fake.on("tools/call", |got| {
        let progress = |value: f64| {
            Answer::event(
                &json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": "t", "progress": value, "total": 3}}),
            )
        };
        let result = json!({"jsonrpc": "2.0", "id": got.json()["id"],
            "result": {"content": [{"type": "text", "text": "done"}]}});
        Answer::pieces([
            progress(0.0),
            progress(1.0),
            progress(2.0),
            Answer::event(&result),
        ])
    });
    let (mut answer, _) = start(&client, "a", &json!({"progressToken": "t"})).await;
    let (name, _) = newest(&rig).await;
    answer.event().await.unwrap();
    decide(&rig, &name, Verdict::Approved);
    let mut values = Vec::new();
    let last = loop {
        let event = answer.event().await.unwrap().json();
        match event["params"]["progress"].as_f64() {
            Some(value) => values.push(value),
            None => break event,
        }
    };
    assert_eq!(last["result"]["content"][0]["text"], "done");
    assert!(values.is_sorted_by(|one, next| one < next), "{values:?}");
    assert!(values.ends_with(&[1.0, 2.0]), "{values:?}");
    // A call that does not wait is told what the server tells.
    rig.apply(&[
        json!({"rules": [{"name": "all", "tools": {"names": ["promote"]}, "action": "Allow"}]}),
    ])
    .unwrap();
    let reply = client
        .post_raw(call("b", &json!({"progressToken": "t"})))
        .await;
    let told: Vec<Value> = reply
        .messages()
        .iter()
        .map(|message| message["params"]["progress"].clone())
        .collect();
    assert_eq!(told, [json!(0.0), json!(1.0), json!(2.0), Value::Null]);
}

#[tokio::test]
async fn the_end_of_a_wait_is_told_on_the_stream() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("60s")]).await;
    let client = rig.client.session().await;
    let token = json!({"progressToken": 1});
    // Denied.
    let (mut answer, _) = start(&client, "a", &token).await;
    let (name, _) = newest(&rig).await;
    answer.event().await.unwrap();
    decide(&rig, &name, Verdict::Denied);
    let last = answer.event().await.unwrap().json();
    let text = last["result"]["content"][0]["text"].as_str().unwrap();
    let refused = format!(
        "Approval denied: McpApproval {name} was refused: because. Do not repeat the call unchanged."
    );
    assert!(text.starts_with(&refused), "{text}");
    assert_eq!(answer.event().await, None);
    // Cancelled: no answer is owed.
    let (mut answer, _) = start(&client, "b", &token).await;
    answer.event().await.unwrap();
    client
        .post(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}))
        .await;
    assert_eq!(answer.event().await, None);
    // The client went away: nobody executes it.
    let (answer, _) = start(&client, "c", &token).await;
    let (name, _) = newest(&rig).await;
    drop(answer);
    eventually("the gateway lets go", || rig.gateway.held() == 0).await;
    decide(&rig, &name, Verdict::Approved);
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert_eq!(fake.calls(), 1);
    // The time is up.
    rig.apply(&[held("1s")]).unwrap();
    let (mut answer, _) = start(&client, "d", &token).await;
    let mut last = answer.event().await.unwrap().json();
    assert_eq!(last["method"], "notifications/progress");
    while last["method"] == "notifications/progress" {
        last = answer.event().await.unwrap().json();
    }
    let text = last["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("Approval pending: "), "{text}");
}

#[tokio::test]
async fn without_a_progress_token_or_a_place_for_it_the_answer_is_one_message() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("200ms")]).await;
    let client = rig.client.session().await;
    let json_alone = client.with("Accept", "application/json");
    let no_token = json!({});
    let token = json!({"progressToken": "t"});
    let long = json!({"progressToken": "t".repeat(300)});
    let cases = [
        ("no token", &client, &no_token),
        ("no token", &client, &json!({"progressToken": null})),
        ("not a token", &client, &json!({"progressToken": 1.5})),
        ("not a token", &client, &json!({"progressToken": {"a": 1}})),
        ("not a token", &client, &long),
        ("JSON alone", &json_alone, &token),
    ];
    for (what, client, meta) in cases {
        let reply = client.post_raw(call("a", meta)).await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("application/json")),
            "{what}: {meta}"
        );
        assert!(reply.tool().1.starts_with("Approval pending"), "{what}");
    }
    // Approved before it came: nothing to tell.
    let all = rig.approvals.list(Timestamp::now());
    decide(
        &rig,
        all[0].metadata.name.as_deref().unwrap(),
        Verdict::Approved,
    );
    let reply = client.post_raw(call("a", &token)).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.tool(), (false, r#"{"text":"a"}"#.to_owned()));
    // A client that takes events alone gets them.
    let events_alone = client.with("Accept", "text/event-stream");
    let (mut answer, head) = start(&events_alone, "b", &token).await;
    assert_eq!(header(&head, "content-type"), Some("text/event-stream"));
    let first = answer.event().await.unwrap().json();
    assert_eq!(first["method"], "notifications/progress");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_approval_is_one_execution_among_calls_that_are_told_of_it() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let calls: Vec<_> = (0..8)
        .map(|n| {
            let client = client.clone();
            let meta = if n % 2 == 0 {
                json!({"progressToken": n})
            } else {
                json!({})
            };
            tokio::spawn(async move { client.post_raw(call("a", &meta)).await.tool() })
        })
        .collect();
    let (name, _) = newest(&rig).await;
    eventually("all are held", || rig.gateway.held() == 8).await;
    decide(&rig, &name, Verdict::Approved);
    eventually("one is executed", || fake.calls() == 1).await;
    // What the others ask for now is denied.
    let denying = async {
        loop {
            for other in rig.approvals.list(Timestamp::now()) {
                if other.spec.decisions.is_empty() {
                    decide(
                        &rig,
                        other.metadata.name.as_deref().unwrap(),
                        Verdict::Denied,
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let executed = async {
        let mut executed = 0;
        for call in calls {
            executed += usize::from(!soon("an answer", call).await.unwrap().0);
        }
        executed
    };
    let executed = tokio::select! {
        executed = executed => executed,
        () = denying => unreachable!(),
    };
    assert_eq!((executed, fake.calls()), (1, 1));
}
