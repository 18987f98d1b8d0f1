//! A stdio server under the gateway: the same answers, and units that follow what became of the
//! process.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::rig::{Held, Rig, allow_all};

async fn rig(sessions: &str, features: &str, policy: Value) -> Rig {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/gateway/fixtures/scripted_server.py"
    );
    let spec = json!({
        "upstream": {"stdio": {"image": "unused:1", "command": ["python3", "-u", script], "sessions": sessions,
            "env": [{"name": "TOOLS", "value": "echo,crash,ask,progress,secret_tool"}]}},
        "authentication": {"apiKeys": {"secretRef": {"name": "keys"}}, "anonymous": "Allow"},
        "clientFeatures": {"sampling": features},
    });
    let keys = Held::default();
    keys.set("keys", "greedy", "the-key-of-the-greedy-one");
    Rig::with(spec, keys, &[policy]).await
}

/// Clients that never end a session, as most do not: they can open others without end, and end
/// nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_nobody_uses_make_room_and_one_caller_does_not_end_anothers() {
    for (sessions, most) in [("Shared", 256), ("PerSession", 16)] {
        let rig = rig(sessions, "Deny", limited(1_000)).await;
        let calm = rig.client.session().await;
        let greedy = rig
            .client
            .with("Authorization", "Bearer the-key-of-the-greedy-one");
        let mut opened = Vec::new();
        for _ in 0..most + 4 {
            let client = greedy.session().await;
            assert!(
                !client.call("echo", json!({"text": "x"})).await.tool().0,
                "{sessions}"
            );
            opened.push(client);
        }
        let reply = opened[0].call("echo", json!({"text": "x"})).await;
        // Its oldest made room. A shared server has no state of it, so that it opens again, at the
        // cost of the next one.
        let status = if sessions == "Shared" { 200 } else { 404 };
        assert_eq!(reply.status, status, "{sessions}");
        // Those that are listened to stay, and then one more is one too many.
        let mut streams = Vec::new();
        for client in &opened[opened.len() - most / 2..] {
            streams.push(client.listen().await);
        }
        let (_, refused) = greedy.initialize("2025-11-25", json!({})).await.error();
        let share = format!("This caller has {} sessions", most / 2);
        assert!(refused.starts_with(&share), "{sessions}: {refused}");
        for client in [calm, rig.client.session().await] {
            assert!(
                !client.call("echo", json!({"text": "x"})).await.tool().0,
                "{sessions}"
            );
        }
        drop(streams);
        rig.gateway.shutdown().await;
    }
}

fn limited(max: u64) -> Value {
    json!({"rules": [{"name": "all", "tools": {"names": ["*"], "exceptNames": ["secret_tool"]}, "action": "Allow",
        "limits": [{"counter": "calls", "max": max, "window": "1h"}]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_keeps_the_unit_and_calls_that_found_no_server_return_theirs() {
    let rig = rig("Shared", "Deny", limited(2)).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["ask", "crash", "echo", "progress"]);
    let (code, _) = client.call("crash", json!({})).await.error();
    assert_eq!(code, -32603);
    let mut refused = 0;
    let text = loop {
        let reply = client.call("echo", json!({"text": "back"})).await;
        let answer = reply.messages().pop().unwrap();
        match answer["result"]["content"][0]["text"].as_str() {
            Some(text) => break text.to_owned(),
            None => assert_eq!(answer["error"]["code"], -32603, "{answer}"),
        }
        refused += 1;
        assert!(refused < 100_000, "the server does not come back");
    };
    assert_eq!(text, "back", "after {refused} calls that found no server");
    let (error, text) = client.call("echo", json!({"text": "more"})).await.tool();
    assert!(error && text.starts_with("Limit of 2"), "{text}");
    rig.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_mode_serves_calls_with_progress_and_refuses_hidden_tools() {
    for sessions in ["Shared", "PerSession"] {
        let rig = rig(sessions, "Deny", limited(100)).await;
        let (one, two) = (rig.client.session().await, rig.client.session().await);
        for client in [&one, &two] {
            let (error, text) = client.call("echo", json!({"text": "hello"})).await.tool();
            assert_eq!((error, text.as_str()), (false, "hello"), "{sessions}");
            let hidden = client.call("secret_tool", json!({})).await.error();
            assert_eq!(hidden, (-32602, "Unknown tool: secret_tool".to_owned()));
            let params = json!({"name": "progress", "arguments": {"steps": 3}, "_meta": {"progressToken": "t"}});
            let messages = client.request("tools/call", params).await.messages();
            let steps: Vec<_> = messages
                .iter()
                .filter(|message| message["method"] == "notifications/progress")
                .map(|message| message["params"].clone())
                .collect();
            assert_eq!(
                steps,
                [0, 1, 2].map(|n| json!({"progressToken": "t", "progress": n})),
                "{sessions}"
            );
        }
        assert_eq!(one.send("DELETE", None).await.status, 204);
        assert_eq!(one.call("echo", json!({})).await.status, 404);
        assert!(!two.call("echo", json!({"text": "x"})).await.tool().0);
        rig.gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stdio_server_asks_the_client_only_where_the_spec_allows() {
    let rig = rig("PerSession", "Allow", allow_all()).await;
    let client = rig
        .client
        .session_of("2025-11-25", json!({"sampling": {}}))
        .await;
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "ask", "arguments": {"method": "sampling/createMessage"}}});
    let mut call = client
        .start("POST", Some(body.to_string().as_bytes()))
        .await;
    assert_eq!(call.head().await.status, 200);
    let asked = call.event().await.unwrap().json();
    assert_eq!(asked["method"], "sampling/createMessage");
    assert_ne!(asked["id"], "server-1");
    let reply = client
        .post(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"role": "assistant"}}))
        .await;
    assert_eq!(reply.status, 202);
    let answer = call.event().await.unwrap().json();
    assert_eq!(
        answer["result"]["content"][0]["text"],
        r#"{"result": {"role": "assistant"}}"#
    );
    // Denied: the server is told at once, and the client hears nothing.
    let denied = self::rig("PerSession", "Deny", allow_all()).await;
    let client = denied
        .client
        .session_of("2025-11-25", json!({"sampling": {}}))
        .await;
    let (_, text) = client
        .call("ask", json!({"method": "sampling/createMessage"}))
        .await
        .tool();
    assert!(text.contains("-32601"), "{text}");
    eventually("nothing is held", || denied.gateway.held() == 0).await;
    rig.gateway.shutdown().await;
    denied.gateway.shutdown().await;
}
