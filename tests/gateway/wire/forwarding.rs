//! What the server gets: the message written anew, and no header of the client's that is not on the
//! list.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

#[tokio::test]
async fn only_listed_headers_reach_the_server_and_the_servers_own_are_added() {
    let fake = Fake::start(&["echo"]).await;
    let secrets = Held::default();
    secrets.set("upstream", "token", "Bearer up-stream-secret\n");
    secrets.set("keys", "agent", "the-agents-long-key");
    let mut spec = open_to_all(&fake);
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "keys"}}});
    spec["upstream"]["http"]["headers"] = json!([
        {"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "upstream", "key": "token"}}},
        {"name": "X-Team", "value": "ml"},
    ]);
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let client = rig
        .client
        .with("Authorization", "Bearer the-agents-long-key")
        .with("Cookie", "session=1")
        .with("X-Forwarded-For", "10.0.0.1")
        .with("X-Team", "evil")
        .with("Mcp-Param-Region", "eu")
        .with("User-Agent", "agent/1")
        .with("Origin", "http://localhost")
        .with(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .with("tracestate", "a=b")
        .session()
        .await;
    client.call("echo", json!({})).await.tool();
    let got = fake.got("tools/call").pop().unwrap();
    let mut names: Vec<(&str, &str)> = got
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    // Not the name of the server, nor its UID.
    let hops = got.header("portcullis-hops").unwrap();
    assert!(
        hops.len() == 16 && hops.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{hops}"
    );
    names.retain(|(name, _)| *name != "portcullis-hops");
    names.sort_unstable();
    let (host, length) = (fake.addr.to_string(), got.body.len().to_string());
    assert_eq!(
        names,
        [
            ("accept", "application/json, text/event-stream"),
            ("accept-encoding", "identity"),
            ("authorization", "Bearer up-stream-secret"),
            ("content-length", &length),
            ("content-type", "application/json"),
            ("host", &host),
            ("mcp-protocol-version", "2025-11-25"),
            ("mcp-session-id", "upstream-1"),
            (
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            ),
            ("tracestate", "a=b"),
            ("x-team", "ml"),
        ]
    );
    // Neither secret shows in what is recorded.
    let recorded = format!("{:?}", rig.audit.all());
    assert!(
        !recorded.contains("the-agents-long-key") && !recorded.contains("up-stream"),
        "{recorded}"
    );
    // A trace context that is none is dropped.
    client
        .with("traceparent", "nonsense")
        .call("echo", json!({}))
        .await
        .tool();
    let got = fake.got("tools/call").pop().unwrap();
    assert_eq!(
        (got.header("traceparent"), got.header("tracestate")),
        (None, None)
    );
}

#[tokio::test]
async fn a_message_is_written_anew_with_its_arguments_as_they_were() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let body = "  {\"params\" : {\"arguments\": {\"count\": 1.50e2, \"text\":\"\\u0041\\/\"} , \"na\\u006de\":\"ech\\u006f\", \"task\":{\"ttl\":5}, \"_meta\":{\"progressToken\":\"p\"}},\n\"method\":\"tools/c\\u0061ll\",\"extra\":[1], \"id\":\"\\u0061\",\"jsonrpc\":\"2.0\"}  ";
    let reply = client.post_raw(body).await;
    assert_eq!(reply.json()["id"], "a");
    let got = fake.got("tools/call").pop().unwrap();
    let text = String::from_utf8(got.body.clone()).unwrap();
    assert!(
        text.contains(r#"{"count": 1.50e2, "text":"\u0041\/"}"#),
        "{text}"
    );
    assert!(!text.contains("task") && !text.contains("extra"), "{text}");
    assert_eq!(
        got.json()["params"],
        json!({"name": "echo", "arguments": {"count": 150.0, "text": "A/"}, "_meta": {"progressToken": "p"}})
    );
}

#[tokio::test]
async fn what_no_rule_sees_does_not_reach_the_server() {
    let fake = Fake::start(&["echo"]).await;
    let policy = json!({
        "rules": [{"name": "all", "tools": {"names": ["*"]}, "action": "Allow"}],
        "prompts": [{"name": "all", "names": ["*"], "action": "Allow"}],
        "resources": [{"name": "all", "uris": ["*"], "action": "Allow"}],
    });
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let kept =
        json!({"progressToken": 3, "traceparent": trace, "tracestate": "a=b", "baggage": "k=v"});
    let prompt = json!({"type": "ref/prompt", "name": "p"});
    let cases = [
        (
            "tools/call",
            json!({"name": "echo", "arguments": {"text": "x"}}),
        ),
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("prompts/get", json!({"name": "p", "arguments": {"a": "b"}})),
        ("resources/read", json!({"uri": "file:///a"})),
        ("resources/subscribe", json!({"uri": "file:///a"})),
        ("resources/unsubscribe", json!({"uri": "file:///a"})),
        (
            "completion/complete",
            json!({"ref": prompt, "argument": {"name": "a", "value": ""}, "context": {"arguments": {"b": "c"}}}),
        ),
        ("logging/setLevel", json!({"level": "info"})),
        ("ping", json!({})),
    ];
    for (method, known) in cases {
        let mut sent = known.clone();
        for (key, value) in [
            ("input", json!({"stage": "Production"})),
            ("requestState", json!("state")),
            ("inputResponses", json!({"a": {}})),
            ("task", json!({"ttl": 1})),
            ("args", json!([1])),
            ("x", json!(null)),
        ] {
            sent[key] = value;
        }
        if method == "completion/complete" {
            // The same in the reference, which is decided on.
            sent["ref"]["uri"] = json!("file:///secret");
            sent["ref"]["title"] = json!("t");
        }
        sent["_meta"] = kept.clone();
        sent["_meta"]["com.example/user"] = json!("admin");
        sent["_meta"]["io.modelcontextprotocol/related-task"] = json!({"taskId": "t"});
        client.request(method, sent).await;
        let mut expected = known;
        expected["_meta"] = kept.clone();
        assert_eq!(
            fake.got(method).pop().unwrap().json()["params"],
            expected,
            "{method}"
        );
    }
    let told = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {
        "progressToken": 1, "progress": 2, "x": 3, "_meta": {"y": 4}}});
    client.post(&told).await;
    assert_eq!(
        fake.got("notifications/progress").pop().unwrap().json()["params"],
        json!({"progressToken": 1, "progress": 2, "_meta": {}})
    );
}

#[tokio::test]
async fn an_error_of_the_server_does_not_read_as_one_of_the_gateways() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    fake.on("tools/call", |got| {
        let data = json!({"source": "bridge", "delivered": false, "more": [1, {"source": "bridge"}]});
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32603, "message": "m", "data": data}}))
    });
    let answer = client.call("echo", json!({})).await.json();
    assert_eq!(
        answer["error"],
        json!({"code": -32603, "message": "m", "data": {"more": [1, {"source": "bridge"}]}})
    );
    // What it is recorded as is what it was: an answer.
    crate::support::eventually("the end of the call", || rig.audit.ends().len() == 1).await;
    assert_eq!(rig.audit.ends()[0]["upstream"]["status"], "error");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((any::<String>(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// JSON text of a value with random spaces and escapes, so that it is not what a writer would
/// write.
fn loosely(value: &Value, noise: &mut impl Iterator<Item = u8>, out: &mut String) {
    let space = |out: &mut String, byte: Option<u8>| {
        out.push_str(["", "", " ", "\n\t", "\r\n"][usize::from(byte.unwrap_or(0)) % 5]);
    };
    match value {
        Value::String(text) => string(text, noise, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                space(out, noise.next());
                loosely(item, noise, out);
                space(out, noise.next());
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (at, (key, item)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                space(out, noise.next());
                string(key, noise, out);
                space(out, noise.next());
                out.push(':');
                loosely(item, noise, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn string(text: &str, noise: &mut impl Iterator<Item = u8>, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let escape = noise.next().unwrap_or(0).is_multiple_of(3);
        if escape || c < ' ' || c == '"' || c == '\\' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.push('"');
}

#[test]
fn what_is_forwarded_reads_with_another_parser_as_what_was_decided_on() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (fake, rig, client) = runtime.block_on(async {
        let fake = Fake::start(&["echo"]).await;
        let mut spec = open_to_all(&fake);
        // The audit log tells what was decided on.
        spec["audit"] = json!({"arguments": "Full"});
        let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
        let client = rig.client.session().await;
        (fake, rig, client)
    });
    let arguments = proptest::collection::vec((any::<String>(), value()), 0..6)
        .prop_map(|members| Value::Object(members.into_iter().collect()));
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(arguments in arguments, noise in proptest::collection::vec(any::<u8>(), 64))| {
        let mut noise = noise.into_iter().cycle();
        let mut text = String::new();
        loosely(&arguments, &mut noise, &mut text);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"arguments":{text},"name":"echo"}}}}"#);
        let before = fake.calls();
        let reply = runtime.block_on(client.post_raw(&body));
        prop_assert_eq!(reply.status, 200, "{}", reply.text());
        prop_assert_eq!(fake.calls(), before + 1, "{}", reply.text());
        let got = fake.got("tools/call").pop().unwrap();
        // Parsed once more by serde_json, from the text of the client and from what the server got.
        let meant: Value = serde_json::from_str(&text).unwrap();
        let got: Value = serde_json::from_slice(&got.body).unwrap();
        prop_assert_eq!(&got["params"]["name"], "echo");
        prop_assert_eq!(&got["params"]["arguments"], &meant);
    });
    drop(rig);
}
