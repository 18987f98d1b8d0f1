//! A stdio server under the gateway: the same answers, and units that follow what became of the process.

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
        "authentication": {"anonymous": "Allow"},
        "clientFeatures": {"sampling": features},
    });
    Rig::with(spec, Held::default(), &[policy]).await
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
