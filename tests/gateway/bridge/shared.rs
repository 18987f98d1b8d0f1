//! One child for all sessions.

use http::{Method, StatusCode};
use portcullis::gateway::bridge::Sessions;
use serde_json::{Value, json};

use portcullis::gateway::upstream::Unserved;

use super::harness::{Rig, call, call_with_token, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn initialize_is_answered_from_what_the_child_told_the_bridge() {
    let rig = Rig::shared().await;
    let reply = rig.initialize("2025-06-18").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.headers.contains_key("mcp-session-id"));
    assert_eq!(
        reply.json().await,
        json!({"jsonrpc": "2.0", "id": "init", "result": {
            "protocolVersion": "2025-06-18",
            // Neither tasks nor logging, which the child declares: both would be seen across
            // sessions.
            "capabilities": {
                "tools": {"listChanged": true},
                "resources": {"subscribe": true, "listChanged": true}
            },
            "serverInfo": {"name": "scripted", "version": "1"},
            "instructions": format!(r#"{{"name": "portcullis", "version": "{}"}}"#, env!("CARGO_PKG_VERSION"))
        }})
    );
    rig.open().await;
    let asked = rig.got("initialize");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["params"]["capabilities"], json!({}));
    assert_eq!(asked[0]["params"]["protocolVersion"], "2025-11-25");
    eventually("initialized", || {
        rig.got("notifications/initialized").len() == 1
    })
    .await;
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_newer_client_is_the_version_of_an_older_child() {
    for (child, asked, answered) in [
        ("2025-03-26", "2025-11-25", "2025-03-26"),
        ("2024-11-05", "2025-06-18", "2025-03-26"),
        ("2025-11-25", "1999-01-01", "2025-11-25"),
    ] {
        let rig = Rig::new(Sessions::Shared, |config| {
            config.env.push(("VERSION".into(), child.into()));
        })
        .await;
        let reply = rig.initialize(asked).await.json().await;
        assert_eq!(
            reply["result"]["protocolVersion"], answered,
            "{child} {asked}"
        );
        rig.bridge.shutdown().await;
    }
}

/// A server that prints what it is given lets one caller write lines that look like answers to
/// another's call.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_one_caller_has_the_server_print_answers_no_other_callers_call() {
    let rig = Rig::shared().await;
    let (victim, attacker) = (rig.open().await, rig.open().await);
    let gate = rig.path("gate");
    let slow = call(7, "wait_for", json!({"file": gate}));
    let held = rig.post(&victim, &slow);
    let other = async {
        // What the server calls requests is no secret to callers: it may tell.
        let own = rig.text(&attacker, "own_id", json!({})).await;
        let near: Vec<String> = match own.parse::<i64>() {
            Ok(own) => (own.saturating_sub(300)..own.saturating_add(300))
                .map(|id| id.to_string())
                .collect(),
            Err(_) => vec![own],
        };
        let guessed = (0..300).map(|id| id.to_string());
        let lines: Vec<String> = guessed
            .chain(near)
            .flat_map(|id| [id.clone(), format!("{id}.0"), format!("\"{id}\"").replace("\"\"", "\"")])
            .map(|id| {
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"forged"}}]}}}}"#
                )
            })
            .collect();
        let printed = rig.text(&attacker, "print", json!({"lines": lines})).await;
        assert_eq!(printed, "printed");
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(held, other);
    let held = held.json().await;
    assert_eq!(held["id"], 7);
    assert_eq!(held["result"]["content"][0]["text"], "found");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_use_the_same_ids_at_once_each_get_their_own_answer() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let gate = rig.path("gate");
    let slow = call(1, "wait_for", json!({"file": gate}));
    let held = rig.post(&one, &slow);
    let other = async {
        for count in 0..20 {
            let text = format!("two {count}");
            let answer = rig.call(&two, 1, "echo", json!({"text": text})).await;
            assert_eq!(answer["id"], 1);
            assert_eq!(answer["result"]["content"][0]["text"], text.as_str());
        }
        let text = rig
            .call(&two, "1", "echo", json!({"text": "string id"}))
            .await;
        assert_eq!(text["id"], "1");
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(held, other);
    let held = held.json().await;
    assert_eq!(held["id"], 1);
    assert_eq!(held["result"]["content"][0]["text"], "found");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_in_use_in_the_session_is_refused() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let gate = rig.path("gate");
    let held = call(5, "wait_for", json!({"file": gate}));
    let again = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        let answer = rig.call(&session, 5, "echo", json!({"text": "x"})).await;
        assert_eq!(answer["error"]["code"], -32600);
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(rig.post(&session, &held), again);
    assert_eq!(held.json().await["result"]["content"][0]["text"], "found");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_streams_live_under_the_token_of_its_client() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let gate = rig.path("gate");
    let progress =
        |token: Value| call_with_token(1, "progress", json!({"steps": 2, "until": gate}), token);
    let mut first = rig.post(&one, &progress(json!("tok"))).await;
    let mut second = rig.post(&two, &progress(json!(7))).await;
    assert!(first.is_stream() && second.is_stream());
    for (reply, token) in [(&mut first, json!("tok")), (&mut second, json!(7))] {
        for step in 0..2 {
            let message = reply.body.next().await.unwrap().unwrap();
            assert_eq!(
                message,
                json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step}})
            );
        }
    }
    // The answers are still to come: what was read above came before them.
    std::fs::write(&gate, "").unwrap();
    for reply in [&mut first, &mut second] {
        let answer = reply.body.next().await.unwrap().unwrap();
        assert_eq!(answer["id"], 1);
        assert_eq!(answer["result"]["content"][0]["text"], "done");
        assert_eq!(reply.body.next().await.unwrap(), None);
    }
    let tokens: Vec<Value> = rig
        .got("tools/call")
        .iter()
        .map(|call| call["params"]["_meta"]["progressToken"].clone())
        .collect();
    assert!(tokens[0].is_i64() && tokens[1].is_i64() && tokens[0] != tokens[1]);
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_child_under_the_id_that_it_knows() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9, "reason": "enough"}});
    let held = call(9, "never", json!({}));
    let canceller = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        // Somebody else's id of the same name cancels nothing.
        assert_eq!(rig.post(&two, &cancel).await.status, StatusCode::ACCEPTED);
        assert_eq!(rig.post(&one, &cancel).await.status, StatusCode::ACCEPTED);
    };
    let (held, ()) = tokio::join!(rig.post(&one, &held), canceller);
    assert_eq!(held.unserved, Some(Unserved::Lost));
    let held = held.json().await;
    assert_eq!(
        held,
        json!({"jsonrpc": "2.0", "id": 9, "error": {"code": -32603, "message": "Cancelled by the client."}})
    );
    eventually("cancelled", || {
        !rig.got("notifications/cancelled").is_empty()
    })
    .await;
    let cancelled = rig.got("notifications/cancelled");
    assert_eq!(cancelled.len(), 1);
    assert_eq!(
        cancelled[0]["params"],
        json!({"requestId": rig.got("tools/call")[0]["id"], "reason": "enough"})
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_does_not_cancel_its_call() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let gate = rig.path("gate");
    {
        let message = call(1, "wait_for", json!({"file": gate}));
        let held = rig.post(&session, &message);
        let called = eventually("called", || rig.got("tools/call").len() == 1);
        tokio::select! {
            _ = held => panic!("it must still wait"),
            () = called => {}
        }
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(
        rig.text(&session, "echo", json!({"text": "next"})).await,
        "next"
    );
    assert!(rig.got("notifications/cancelled").is_empty());
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_changes_reach_the_get_stream_of_every_session() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let mut streams = [rig.listen(&one).await, rig.listen(&two).await];
    rig.text(&one, "announce", json!({})).await;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().unwrap(), changed);
    }
    rig.bridge.shutdown().await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_updates_reach_only_their_subscribers_and_the_last_one_unsubscribes() {
    let rig = Rig::shared().await;
    let (one, two, three) = (rig.open().await, rig.open().await, rig.open().await);
    let about = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": "a:b"}});
    for session in [&one, &two] {
        let reply = rig
            .post(session, &about("resources/subscribe"))
            .await
            .json()
            .await;
        assert_eq!(reply["result"], json!({}));
    }
    let mut streams = [
        rig.listen(&one).await,
        rig.listen(&two).await,
        rig.listen(&three).await,
    ];
    rig.text(&three, "update", json!({"uri": "a:b"})).await;
    rig.text(&three, "announce", json!({})).await;
    let updated = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a:b"}});
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    for (stream, expected) in streams.iter_mut().zip([&updated, &updated, &changed]) {
        assert_eq!(&stream.next().await.unwrap().unwrap(), expected);
    }
    for session in [&one, &three] {
        let reply = rig
            .post(session, &about("resources/unsubscribe"))
            .await
            .json()
            .await;
        assert_eq!(reply["result"], json!({}));
    }
    assert_eq!(rig.got("resources/unsubscribe").len(), 0);
    // The last one leaves by ending its session.
    let reply = rig.send(Method::DELETE, Some(&two), &[], "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    eventually("unsubscribed", || {
        rig.got("resources/unsubscribe").len() == 1
    })
    .await;
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_child_are_refused_and_its_pings_answered() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let refused: Value = serde_json::from_str(
        &rig.text(&session, "ask", json!({"method": "sampling/createMessage"}))
            .await,
    )
    .unwrap();
    assert_eq!(refused["error"]["code"], -32601);
    assert_eq!(
        rig.text(&session, "ask", json!({"method": "ping"})).await,
        r#"{"result": {}}"#
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_levels_and_pings_and_tasks_stay_at_the_bridge() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let ask = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}});
    for method in ["ping", "logging/setLevel"] {
        assert_eq!(
            rig.post(&session, &ask(method)).await.json().await["result"],
            json!({})
        );
    }
    let tasks = rig.post(&session, &ask("tasks/list")).await.json().await;
    assert_eq!(tasks["error"]["code"], -32601);
    let mut as_task = call(2, "echo", json!({"text": "x"}));
    as_task["params"]["task"] = json!({"ttl": 1});
    rig.post(&session, &as_task).await;
    assert_eq!(rig.text(&session, "log", json!({})).await, "logged");
    let methods: Vec<Value> = rig
        .log()
        .iter()
        .filter(|entry| entry["got"].is_object())
        .map(|entry| entry["got"]["method"].clone())
        .collect();
    assert_eq!(
        methods,
        [
            "initialize",
            "notifications/initialized",
            "tools/call",
            "tools/call"
        ]
    );
    assert_eq!(
        rig.got("tools/call")[0]["params"],
        json!({"name": "echo", "arguments": {"text": "x"}})
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_reach_the_child_and_results_the_client_as_they_were_written() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    // The line break between tokens must not end the line of the child.
    let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\n \"params\":{\"name\":\"echo\",\r\n\"arguments\":{\"text\":\"a\\nb\\u00e9\"}}}";
    let reply = rig.send(Method::POST, Some(&session), &[], body).await;
    assert_eq!(reply.json().await["result"]["content"][0]["text"], "a\nbé");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_its_stream_and_delays_nobody_else() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.limits.stream_bytes = 64 << 10
    })
    .await;
    let (slow, other) = (rig.open().await, rig.open().await);
    let flood = call_with_token(1, "flood", json!({"count": 5000}), 1);
    let mut unread = rig.post(&slow, &flood).await;
    assert!(unread.is_stream());
    assert_eq!(
        rig.text(&other, "echo", json!({"text": "quick"})).await,
        "quick"
    );
    eventually("overflow", || rig.got("tools/call").len() == 2).await;
    let broken = loop {
        match unread.body.next().await {
            Ok(Some(message)) => {
                assert!(message.get("id").is_none(), "the flood was read to its end")
            }
            Ok(None) => panic!("the stream must not end as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(broken.contains("too slow"), "{broken}");
    assert_eq!(
        rig.text(&slow, "echo", json!({"text": "again"})).await,
        "again"
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cannot_have_more_calls_in_flight_than_it_may() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.limits.calls_per_session = 1
    })
    .await;
    let (one, two) = (rig.open().await, rig.open().await);
    let gate = rig.path("gate");
    let held = call(1, "wait_for", json!({"file": gate}));
    let flooder = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        let refused = call(2, "echo", json!({"text": "x"}));
        let refused = rig.post(&one, &refused).await;
        assert_eq!(refused.unserved, Some(Unserved::Undelivered));
        let refused = refused.json().await;
        assert_eq!(refused["error"]["code"], -32603);
        assert_eq!(refused["error"]["data"], json!({"retryAfterMs": 1000}));
        assert_eq!(
            rig.text(&two, "echo", json!({"text": "fine"})).await,
            "fine"
        );
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(rig.post(&one, &held), flooder);
    assert_eq!(held.json().await["result"]["content"][0]["text"], "found");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_child_writes_that_is_no_message_stays_in_the_log() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.limits.child.line_bytes = 1 << 20
    })
    .await;
    let session = rig.open().await;
    assert_eq!(rig.text(&session, "garbage", json!({})).await, "still here");
    assert_eq!(
        rig.text(&session, "long_line", json!({"bytes": 20 << 20}))
            .await,
        "after the long line"
    );
    assert_eq!(rig.text(&session, "stderr", json!({})).await, "written");
    for (tool, args) in [
        ("bad_answer", json!({})),
        ("wrong_answer", json!({})),
        ("long_answer", json!({"bytes": 2 << 20})),
    ] {
        let reply = rig.post(&session, &call(1, tool, args)).await;
        assert_eq!(reply.unserved, Some(Unserved::Lost), "{tool}");
        let answer = reply.json().await;
        assert_eq!(answer["error"]["code"], -32603, "{tool}: {answer}");
        let why = answer["error"]["message"].as_str().unwrap();
        assert!(
            why.starts_with("The server's answer cannot be passed on: "),
            "{why}"
        );
        assert!(answer["error"].get("data").is_none(), "{answer}");
    }
    assert_eq!(rig.pids().len(), 1);
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_ends_its_call_wherever_its_id_stands() {
    for sessions in [Sessions::Shared, Sessions::PerSession] {
        let rig = Rig::new(sessions, |config| config.limits.child.line_bytes = 1 << 20).await;
        let session = rig.open().await;
        for (form, fill) in [
            (r#"{"jsonrpc":"2.0","result":{"x":NaN},"id":ID}"#, 0),
            (
                r#"{"result":{"text":"FILL"},"id":ID,"jsonrpc":"2.0"}"#,
                2 << 20,
            ),
            (
                r#"{"result":{"id":1,"text":"FILL","id":2},"id":ID}"#,
                3 << 20,
            ),
            (r#"[{"jsonrpc":"2.0","id":ID,"result":{}}]"#, 0),
            (r#"{"jsonrpc":"2.0","result":{},"id":ID,"Result":{}}"#, 0),
            (r#"{"jsonrpc":"2.0","id":ID,"result":{"text":"FILL"#, 10),
        ] {
            let args = json!({"form": form, "fill": fill});
            let reply = rig.post(&session, &call(1, "bad_answer", args)).await;
            assert_eq!(reply.unserved, Some(Unserved::Lost), "{form}");
            let answer = reply.json().await;
            let why = answer["error"]["message"].as_str().unwrap();
            assert!(why.contains("cannot be passed on: "), "{form}: {why}");
        }
        rig.bridge.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_child_made_a_text_of_is_the_one_that_it_got() {
    for sessions in [Sessions::Shared, Sessions::PerSession] {
        let rig = Rig::new(sessions, |_| {}).await;
        let session = rig.open().await;
        for form in [
            r#"{"jsonrpc":"2.0","id":"ID","result":{"fine":true}}"#,
            r#"{"jsonrpc":"2.0","id":ID.0,"result":{"fine":true}}"#,
        ] {
            let args = json!({"form": form});
            let reply = rig.post(&session, &call(1, "bad_answer", args)).await;
            let answer = reply.json().await;
            assert_eq!(answer["result"], json!({"fine": true}), "{form}: {answer}");
            assert_eq!(answer["id"], 1);
        }
        rig.bridge.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_answers_its_calls_and_late_answers_harm_nobody() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let gate = rig.path("gate");
    let held = call(1, "wait_for", json!({"file": gate}));
    let ender = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        rig.send(Method::DELETE, Some(&one), &[], "").await
    };
    let (held, _) = tokio::join!(rig.post(&one, &held), ender);
    let held = held.json().await;
    assert_eq!(held["id"], 1);
    assert_eq!(
        held["error"]["message"],
        "The session was ended before the answer."
    );
    std::fs::write(&gate, "").unwrap();
    assert_eq!(rig.text(&two, "echo", json!({"text": "x"})).await, "x");
    assert!(rig.got("notifications/cancelled").is_empty());
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_the_child_refuses_is_none() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let mut stream = rig.listen(&session).await;
    let about = |uri: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
    let refused = rig.post(&session, &about("refuse:it")).await.json().await;
    assert_eq!(
        refused["error"],
        json!({"code": -32002, "message": "Resource not found"})
    );
    let agreed = rig.post(&session, &about("a:b")).await.json().await;
    assert_eq!(agreed["result"], json!({}));
    for uri in ["refuse:it", "a:b"] {
        rig.text(&session, "update", json!({"uri": uri})).await;
    }
    assert_eq!(
        stream.next().await.unwrap().unwrap()["params"]["uri"],
        "a:b"
    );
    rig.bridge.shutdown().await;
}
