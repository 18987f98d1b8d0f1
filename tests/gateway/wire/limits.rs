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
        ("a server's own error", |got| {
            Answer::rpc_error(got, -32000, "no")
        }),
        ("an internal error", |got| {
            Answer::rpc_error(got, -32603, "no")
        }),
        ("code 0", |got| Answer::rpc_error(got, 0, "no")),
        ("unknown resource", |got| {
            Answer::rpc_error(got, -32002, "no")
        }),
        ("an internal error on a stream", |got| {
            Answer::pieces([Answer::event(
                &json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32603, "message": "no"}}),
            )])
        }),
        ("invalid params after progress", |got| {
            let refused = json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32602, "message": "no"}});
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
            Answer::pieces([Answer::event(&progress), Answer::event(&refused)])
        }),
        ("the marker of a bridge", |got| {
            Answer::Json(
                json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32603, "message": "no",
                "data": {"source": "bridge", "delivered": false}}}),
            )
        }),
        ("the header of a bridge", |got| {
            let body = json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32603, "message": "no"}}).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nPortcullis-Unserved: undelivered\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            Answer::Raw([head.into_bytes(), body.into_bytes()].concat())
        }),
        ("the event of a bridge", |got| {
            let error = json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32603, "message": "no"}});
            Answer::pieces([format!("event: portcullis-undelivered\ndata: {error}\n\n")])
        }),
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
        ("invalid request", |got| {
            Answer::rpc_error(got, -32600, "no")
        }),
        ("unknown method", |got| Answer::rpc_error(got, -32601, "no")),
        ("invalid params", |got| Answer::rpc_error(got, -32602, "no")),
        ("unreadable request", |got| {
            Answer::rpc_error(got, -32700, "no")
        }),
        ("invalid params on a stream", |got| {
            Answer::pieces([Answer::event(
                &json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32602, "message": "no"}}),
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
        "limits": [{"counter": "units", "max": 10, "window": "1h", "cost": "args.count"}],
        "reason": "Ask for more units."}]});
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let call = |count: i64| {
        let client = client.clone();
        async move { client.call("echo", json!({"count": count})).await.tool() }
    };
    assert!(!call(6).await.0);
    let (_, text) = call(5).await;
    assert!(
        text.starts_with("Limit of 10 per 1h reached (rule ")
            && text.contains("): Ask for more units. Retry after "),
        "{text}"
    );
    assert!(!call(4).await.0);
    assert!(!call(0).await.0);
    let (error, text) = call(11).await;
    assert!(error && text.contains("ever allows"), "{text}");
    let (error, _) = call(-1).await;
    assert!(error);
    assert_eq!(fake.calls(), 3);
}

/// A server that has carried a call out when it is cancelled, and then says that it was invalid.
/// The call is made under the number 7, and `cancel` is what the client then sends with
/// `requestId`.
async fn cancelled_with(request_id: &str, same_session: bool) -> (Fake, bool) {
    let fake = Fake::start(&["echo"]).await;
    // A server that keeps no sessions: it knows requests by their ids alone.
    fake.on("initialize", |got| {
        let body = json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": {"protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}}, "serverInfo": {"name": "fake", "version": "1"}}});
        Answer::Status(200, "application/json", body.to_string().into())
    });
    let rig = Rig::new(&fake, &[limited(1)]).await;
    let client = rig.client.session().await;
    let (answer, answers) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Mutex::new(Some(answers));
    let finish = answer.clone();
    let id = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let asked = std::sync::Arc::clone(&id);
    fake.on("tools/call", move |got| {
        *asked.lock().unwrap() = got.json()["id"].clone();
        Answer::Stream(answers.lock().unwrap().take().unwrap())
    });
    let refusal = |id: &Value| {
        Answer::event(
            &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "Request cancelled"}}),
        )
    };
    let running = std::sync::Arc::clone(&id);
    fake.on("notifications/cancelled", move |_| {
        answer.send(refusal(&running.lock().unwrap())).unwrap();
        Answer::Status(202, "text/plain", Vec::new())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move {
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
        caller.post(&call).await
    });
    crate::support::eventually("the call is under way", || fake.calls() == 1).await;
    let canceller = if same_session {
        client.clone()
    } else {
        rig.client.session().await
    };
    let cancel = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{request_id},"reason":"x"}}}}"#
    );
    let reply = canceller.post_raw(&cancel).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    if fake.got("notifications/cancelled").is_empty() {
        let result =
            json!({"jsonrpc": "2.0", "id": *id.lock().unwrap(), "result": {"content": []}});
        finish.send(Answer::event(&result)).unwrap();
    }
    let reply = call.await.unwrap();
    assert_eq!(reply.messages()[0]["id"], 7);
    fake.as_usual("tools/call");
    let returned = passes(&client).await;
    (fake, returned)
}

#[tokio::test]
async fn a_client_cannot_get_the_unit_of_a_call_that_was_made_back_by_cancelling_it() {
    let (fake, returned) = cancelled_with("7", true).await;
    assert!(!returned, "the unit must stay used");
    let cancelled = fake.got("notifications/cancelled").pop().unwrap().json();
    assert_eq!(cancelled["params"]["reason"], "x");
    assert_eq!(
        cancelled["params"]["requestId"],
        fake.got("tools/call")[0].json()["id"]
    );
}

#[tokio::test]
async fn only_the_id_of_a_call_under_way_of_the_same_type_and_session_is_cancelled() {
    for id in [
        r#""7""#,
        "7.0",
        "7e0",
        "70e-1",
        "-7",
        "8",
        r#""7.0""#,
        r#"" 7""#,
        "null",
        "[7]",
        r#"{"id":7}"#,
        "true",
    ] {
        let (fake, returned) = cancelled_with(id, true).await;
        assert!(fake.got("notifications/cancelled").is_empty(), "{id}");
        assert!(!returned, "{id}");
    }
    let (fake, _) = cancelled_with("7", false).await;
    assert!(
        fake.got("notifications/cancelled").is_empty(),
        "another session's call must not be cancelled"
    );
}

#[tokio::test]
async fn a_call_that_asked_the_client_something_keeps_its_unit_whatever_it_is_answered_with() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["clientFeatures"] = json!({"elicitation": "Allow"});
    let rig = Rig::with(spec, Held::default(), &[limited(1)]).await;
    let client = rig
        .client
        .session_of("2025-11-25", json!({"elicitation": {}}))
        .await;
    let mut stream = client.listen().await;
    let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Mutex::new(Some(answers));
    fake.on("tools/call", move |_| {
        Answer::Stream(answers.lock().unwrap().take().unwrap())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("echo", json!({})).await });
    crate::support::eventually("the call is under way", || fake.calls() == 1).await;
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}});
    fake.tell(&ask);
    assert_eq!(
        stream.event().await.unwrap().json()["method"],
        "elicitation/create"
    );
    let id = fake.got("tools/call")[0].json()["id"].clone();
    let refused = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "no"}});
    sender.send(Answer::event(&refused)).unwrap();
    assert_eq!(call.await.unwrap().error().0, -32602);
    fake.as_usual("tools/call");
    assert!(!passes(&client).await, "the unit must stay used");
}

#[tokio::test]
async fn requests_of_one_id_reach_the_server_as_different_requests() {
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
    let prompt =
        json!({"jsonrpc": "2.0", "id": "7", "method": "prompts/get", "params": {"name": "p"}});
    let _waiting = client
        .start("POST", Some(prompt.to_string().as_bytes()))
        .await;
    crate::support::eventually("the prompt is asked for", || {
        fake.got("prompts/get").len() == 1
    })
    .await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    // An answer to the other request is none to this one.
    let of_prompt = fake.got("prompts/get")[0].json()["id"].clone();
    fake.on("tools/call", move |_| {
        Answer::Json(json!({"jsonrpc": "2.0", "id": of_prompt, "error": {"code": -32602, "message": "of the prompt"}}))
    });
    let (code, message) = client.post(&call).await.error();
    assert!(code == -32603 && !message.contains("prompt"), "{message}");
    let (prompt, call) = (&fake.got("prompts/get")[0], &fake.got("tools/call")[0]);
    assert!(prompt.json()["id"].is_i64() && call.json()["id"].is_i64());
    assert_ne!(prompt.json()["id"], call.json()["id"]);
    fake.as_usual("tools/call");
    assert!(!passes(&client).await, "the unit must stay used");
}
