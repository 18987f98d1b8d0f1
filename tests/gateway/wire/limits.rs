//! Limits over real sockets: exact, and given back only where the call was certainly not made.

use serde_json::{Value, json};

use crate::support::rig::{Held, Rig, open_to_all};
use crate::support::upstream::{Answer, Fake};

fn limited(max: u64) -> Value {
    json!({"rules": [{"name": "echo", "tools": {"names": ["*"]}, "action": "Allow",
        "limits": [{"counter": "calls", "max": max, "window": "1h"}]}]})
}

type Case = fn(&crate::support::upstream::Got) -> Answer;

async fn passes(client: &crate::support::client::Client) -> bool {
    let answer = client
        .call("echo", json!({}))
        .await
        .messages()
        .pop()
        .unwrap();
    !answer["result"]["_meta"]["portcullis.dev/retryAfterMs"].is_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_as_many_calls_pass_as_the_limit_says_however_many_come_at_once() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[limited(30)]).await;
    let client = rig.client.session().await;
    // Sessions are cheap: another one is no other caller.
    let other = rig.client.session().await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100 {
        let client = if n % 2 == 0 {
            client.clone()
        } else {
            other.clone()
        };
        calls.spawn(async move { client.call("echo", json!({})).await });
    }
    let mut passed = 0;
    while let Some(reply) = calls.join_next().await {
        let (error, text) = reply.unwrap().tool();
        if error {
            assert!(
                text.starts_with("Limit of 30 per 1h reached (rule echo). Retry after "),
                "{text}"
            );
        } else {
            passed += 1;
        }
    }
    assert_eq!((passed, fake.calls()), (30, 30));
    let answer = client.call("echo", json!({})).await.json();
    let wait = answer["result"]["_meta"]["portcullis.dev/retryAfterMs"]
        .as_u64()
        .unwrap();
    assert!(wait > 0 && wait <= 3_600_000, "{wait}");
}

#[tokio::test]
async fn each_grant_has_its_own_units() {
    let fake = Fake::start(&["echo"]).await;
    let secrets = Held::default();
    secrets.set("keys", "a", "the-long-key-of-a");
    secrets.set("keys", "b", "the-long-key-of-b");
    let mut spec = open_to_all(&fake);
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "keys"}}});
    let rig = Rig::with(spec, secrets, &[limited(1)]).await;
    for key in ["Bearer the-long-key-of-a", "Bearer the-long-key-of-b"] {
        let client = rig.client.with("Authorization", key).session().await;
        assert_eq!(
            (passes(&client).await, passes(&client).await),
            (true, false)
        );
    }
}

#[tokio::test]
async fn units_come_back_only_where_the_call_was_certainly_not_made() {
    let fake = Fake::start(&["echo"]).await;
    let keeps: Vec<(&str, Case)> = vec![
        ("a result", |got| {
            Answer::result(got, json!({"content": []}))
        }),
        ("isError", |got| {
            Answer::result(got, json!({"content": [], "isError": true}))
        }),
        ("unreadable", |_| {
            Answer::Status(200, "application/json", b"{".to_vec())
        }),
        ("closed after the request", |_| Answer::Raw(Vec::new())),
        ("HTTP error", |_| {
            Answer::Status(500, "text/plain", Vec::new())
        }),
        ("HTTP error with a message", |got| {
            let body = json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": 1, "message": "x"}});
            Answer::Status(500, "application/json", body.to_string().into())
        }),
        ("another id", |_| {
            Answer::Json(json!({"jsonrpc": "2.0", "id": 99, "error": {"code": 1, "message": "x"}}))
        }),
        ("session forgotten", |_| {
            Answer::Status(404, "text/plain", Vec::new())
        }),
        ("stream that breaks off", |_| Answer::pieces([": x\n\n"])),
        ("isError on a stream", |got| {
            Answer::pieces([Answer::event(
                &json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": {"content": [], "isError": true}}),
            )])
        }),
    ];
    for (what, answer) in keeps {
        let rig = Rig::new(&fake, &[limited(1)]).await;
        let client = rig.client.session().await;
        fake.on("tools/call", answer);
        client.call("echo", json!({})).await;
        fake.as_usual("tools/call");
        assert!(!passes(&client).await, "{what} must keep the unit");
    }
    let returns: Vec<(&str, Case)> = vec![
        ("a JSON-RPC error", |got| {
            Answer::rpc_error(got, -32000, "no")
        }),
        ("a JSON-RPC error on a stream", |got| {
            Answer::pieces([Answer::event(
                &json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": 1, "message": "no"}}),
            )])
        }),
    ];
    for (what, answer) in returns {
        let rig = Rig::new(&fake, &[limited(1)]).await;
        let client = rig.client.session().await;
        fake.on("tools/call", answer);
        assert_eq!(client.call("echo", json!({})).await.error().1, "no");
        fake.as_usual("tools/call");
        assert!(passes(&client).await, "{what} must return the unit");
        assert!(!passes(&client).await);
    }
}

#[tokio::test]
async fn a_refused_connection_returns_the_unit() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[limited(1)]).await;
    let client = rig.client.session().await;
    fake.stop().await;
    for _ in 0..3 {
        let (code, message) = client.call("echo", json!({})).await.error();
        assert!(
            code == -32603 && message.contains("cannot be reached"),
            "{message}"
        );
    }
    fake.start_again().await;
    assert_eq!(
        (passes(&client).await, passes(&client).await),
        (true, false)
    );
}

#[tokio::test]
async fn counts_survive_a_change_of_policy() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[limited(3)]).await;
    let client = rig.client.session().await;
    for _ in 0..3 {
        assert!(passes(&client).await);
    }
    assert!(!passes(&client).await);
    rig.apply(&[limited(4)]).unwrap();
    assert_eq!(
        (passes(&client).await, passes(&client).await),
        (true, false)
    );
    rig.apply(&[limited(2)]).unwrap();
    assert!(!passes(&client).await);
}

#[tokio::test]
async fn a_cost_is_counted_in_full_or_not_at_all() {
    let fake = Fake::start(&["echo"]).await;
    let policy = json!({"rules": [{"name": "echo", "tools": {"names": ["*"]}, "action": "Allow",
        "limits": [{"counter": "units", "max": 10, "window": "1h", "cost": "args.count"}]}]});
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let call = |count: i64| {
        let client = client.clone();
        async move { client.call("echo", json!({"count": count})).await.tool() }
    };
    assert!(!call(6).await.0);
    assert!(call(5).await.1.starts_with("Limit of 10"));
    assert!(!call(4).await.0);
    assert!(!call(0).await.0);
    let (error, text) = call(11).await;
    assert!(error && text.contains("ever allows"), "{text}");
    let (error, _) = call(-1).await;
    assert!(error);
    assert_eq!(fake.calls(), 3);
}

#[tokio::test]
async fn a_client_cannot_get_the_unit_of_a_call_that_was_made_back_by_cancelling_it() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[limited(1)]).await;
    let client = rig.client.session().await;
    let (answer, answers) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Mutex::new(Some(answers));
    fake.on("tools/call", move |_| {
        Answer::Stream(answers.lock().unwrap().take().unwrap())
    });
    // As the Python SDK's server does: a cancelled call is answered with an error, whatever it has done by then.
    fake.on("notifications/cancelled", move |got| {
        let id = got.json()["params"]["requestId"].clone();
        let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": 0, "message": "Request cancelled"}});
        answer.send(Answer::event(&error)).unwrap();
        Answer::Status(202, "text/plain", Vec::new())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move {
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
        caller.post(&call).await
    });
    crate::support::eventually("the call is under way", || fake.calls() == 1).await;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
    client.post(&cancel).await;
    assert_eq!(call.await.unwrap().error().1, "Request cancelled");
    fake.as_usual("tools/call");
    assert!(!passes(&client).await, "the unit must stay used");
}

#[tokio::test]
async fn an_error_that_may_be_another_requests_answer_keeps_the_unit() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(
        &fake,
        &[
            limited(1),
            json!({"prompts": [{"name": "p", "names": ["p"], "action": "Allow"}]}),
        ],
    )
    .await;
    let client = rig.client.session().await;
    fake.on("prompts/get", |_| Answer::Silence);
    fake.on("tools/call", |got| {
        Answer::rpc_error(got, -32000, "of the prompt")
    });
    let prompt =
        json!({"jsonrpc": "2.0", "id": 7, "method": "prompts/get", "params": {"name": "p"}});
    let _waiting = client
        .start("POST", Some(prompt.to_string().as_bytes()))
        .await;
    crate::support::eventually("the prompt is asked for", || {
        fake.got("prompts/get").len() == 1
    })
    .await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    assert_eq!(client.post(&call).await.error().1, "of the prompt");
    fake.as_usual("tools/call");
    assert!(!passes(&client).await, "the unit must stay used");
}
