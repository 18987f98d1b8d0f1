//! The table of answers: what the client is told, word for word, and whether the server was asked.

use serde_json::{Value, json};

use crate::support::client::names;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

fn rules(rules: Value) -> Value {
    json!({"rules": rules, "defaultAction": "Hide"})
}

#[tokio::test]
async fn a_hidden_tool_and_one_that_does_not_exist_get_the_same_bytes() {
    let fake = Fake::start(&["echo", "secret_tool"]).await;
    let policy = rules(json!([{"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow"}]));
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["echo"]);
    let hidden = client.call("secret_tool", json!({})).await;
    let absent = client.call("absent_tool", json!({})).await;
    assert_eq!(hidden.status, 200);
    assert_eq!(
        hidden.text(),
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"Unknown tool: secret_tool"}}"#
    );
    assert_eq!(hidden.text().replace("secret", "absent"), absent.text());
    let shape = |reply: &crate::support::client::Reply| {
        let headers = reply.headers.iter().filter(|(name, _)| name != "date");
        // Every decision has a number of its own.
        let same = headers.map(|(name, value)| match &**name {
            "portcullis-decision-id" => (name.clone(), value.len().to_string()),
            _ => (name.clone(), value.clone()),
        });
        same.collect::<Vec<_>>()
    };
    assert_eq!(shape(&hidden), shape(&absent));
    assert_eq!(fake.calls(), 0);
    assert_eq!(rig.audit_outcomes(2).await, ["hidden", "unknown"]);
    // Neither is a variant of a name: names are compared byte for byte.
    for name in ["Echo", "echo ", "echo\0", "ECHO", "ec\u{200b}ho"] {
        assert_eq!(
            client.call(name, json!({})).await.error().0,
            -32602,
            "{name:?}"
        );
    }
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn a_denied_call_is_told_why_as_a_result_that_the_model_reads() {
    let fake = Fake::start(&["echo", "other"]).await;
    let policy = rules(json!([
        {"name": "no-other", "tools": {"names": ["other"]}, "action": "Deny", "reason": "Other is for people."},
        {"name": "short", "tools": {"names": ["echo"]}, "action": "Allow", "when": "size(args.text) < 4"},
    ]));
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["echo", "other"]);
    let reply = client.call("other", json!({})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.text(),
        r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"Denied by policy p0, rule no-other: Other is for people. Do not retry. To ask about this, quote decision test-0."}],"isError":true,"_meta":{"portcullis.dev/decisionId":"test-0"}}}"#
    );
    assert_eq!(reply.header("portcullis-decision-id"), Some("test-0"));
    rig.audit_outcomes(1).await;
    let line = rig.audit.all().remove(0);
    assert_eq!(line["decisionId"], "test-0");
    assert_eq!(line["reason"], "Other is for people.");
    // Of a call that no rule matched, the rules whose condition did not hold.
    let refused = client.call("echo", json!({"text": "long text"})).await;
    rig.audit_outcomes(2).await;
    let line = rig.audit.all().remove(1);
    assert_eq!(line["rule"], "(default)");
    assert_eq!(line["near"], json!(["p0/short"]));
    let (error, text) = refused.tool();
    assert!(
        error && text.starts_with("Denied by policy p0, rule (default): "),
        "{text}"
    );
    // A rule reads the text, so it must be one.
    let (error, text) = client.call("echo", json!({"text": 7})).await.tool();
    assert!(
        error && text.contains("text") && text.contains("string"),
        "{text}"
    );
    let (error, text) = client.call("echo", json!({"Text": "abc"})).await.tool();
    assert!(error && text.contains("Text"), "{text}");
    // The condition cannot be read without the text.
    let (error, _) = client.call("echo", json!({})).await.tool();
    assert!(error);
    assert_eq!(fake.calls(), 0);
    assert_eq!(
        client.call("echo", json!({"text": "abc"})).await.tool(),
        (false, r#"{"text":"abc"}"#.to_owned())
    );
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn answers_name_no_hidden_tool_or_resource_where_a_client_would_follow_it() {
    let fake = Fake::start(&["echo", "purge"]).await;
    let link = |uri: &str| json!({"type": "resource_link", "uri": uri, "name": "n"});
    let (good, bad) = (link("file:///good/a"), link("file:///bad/a"));
    fake.on("completion/complete", |got| {
        Answer::result(
            got,
            json!({"completion": {"values": ["echo", "purge", " purge", "no tool", "file:///bad/a"]}}),
        )
    });
    let answered = json!({"content": [good, bad], "structuredContent": {"result": [good, bad]}, "_meta": {"from": bad}});
    fake.on("tools/call", move |got| {
        Answer::result(got, answered.clone())
    });
    let policy = json!({
        "rules": [
            {"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow"},
            {"name": "purge", "tools": {"names": ["purge"]}, "action": "Hide"},
        ],
        "prompts": [{"name": "good", "names": ["good"], "action": "Allow"}],
        "resources": [{"name": "good", "uris": ["file:///good/*"], "action": "Allow"}],
    });
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["echo"]);
    let asked = json!({"ref": {"type": "ref/prompt", "name": "good"}, "argument": {"name": "a", "value": ""}});
    let reply = client.request("completion/complete", asked).await.json();
    assert_eq!(
        reply["result"],
        json!({"completion": {"values": ["echo", "no tool"]}})
    );
    let reply = client.call("echo", json!({})).await.json();
    assert_eq!(
        reply["result"],
        json!({"content": [good], "structuredContent": {"result": [good]}, "_meta": {}})
    );
}

#[tokio::test]
async fn prompts_resources_and_completions_are_under_policy() {
    let fake = Fake::start(&["echo"]).await;
    fake.on("prompts/list", |got| {
        Answer::result(
            got,
            json!({"prompts": [{"name": "good"}, {"name": "bad"}], "nextCursor": "c"}),
        )
    });
    fake.on("resources/list", |got| {
        Answer::result(got, json!({"resources": [{"uri": "file:///good/a", "name": "a"}, {"uri": "file:///bad/a", "name": "b"}]}))
    });
    fake.on("resources/templates/list", |got| {
        Answer::result(got, json!({"resourceTemplates": [{"uriTemplate": "file:///good/{x}", "name": "a"}, {"uriTemplate": "file:///{x}", "name": "b"}]}))
    });
    let policy = json!({
        "prompts": [{"name": "good", "names": ["good"], "action": "Allow"}],
        "resources": [{"name": "good", "uris": ["file:///good/*"], "action": "Allow"}],
    });
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let list = |method: &'static str, key: &'static str| {
        let client = client.clone();
        async move {
            let answer = client.request(method, json!({})).await.json();
            (
                names(&answer["result"][key]),
                answer["result"]["nextCursor"].clone(),
            )
        }
    };
    assert_eq!(
        list("prompts/list", "prompts").await.0,
        vec!["good".to_owned()]
    );
    assert_eq!(
        list("resources/list", "resources").await.0,
        ["file:///good/a"]
    );
    assert_eq!(
        list("resources/templates/list", "resourceTemplates")
            .await
            .0,
        ["file:///good/{x}"]
    );

    let allowed = [
        ("prompts/get", json!({"name": "good"})),
        ("resources/read", json!({"uri": "file:///good/a"})),
        ("resources/subscribe", json!({"uri": "file:///good/a"})),
        ("resources/unsubscribe", json!({"uri": "file:///good/a"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "good"}, "argument": {"name": "a", "value": ""}}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "file:///good/{x}"}, "argument": {"name": "a", "value": ""}}),
        ),
    ];
    for (method, params) in allowed {
        let reply = client.request(method, params.clone()).await;
        assert_eq!(reply.json()["result"], json!({}), "{method} {params}");
        assert_eq!(fake.got(method).pop().unwrap().json()["params"], params);
    }
    let before = fake.all().len();
    let refused = [
        ("prompts/get", json!({"name": "bad"}), "Unknown prompt: bad"),
        (
            "resources/read",
            json!({"uri": "file:///bad/a"}),
            "Unknown resource: file:///bad/a",
        ),
        (
            "resources/read",
            json!({"uri": "file:///good/../bad/a"}),
            "it has dot segments",
        ),
        (
            "resources/read",
            json!({"uri": "file:///good/%2E%2E/bad"}),
            "it encodes characters that need no encoding",
        ),
        (
            "resources/read",
            json!({"uri": "file:///good/..%2Fbad"}),
            "it has an encoded separator",
        ),
        (
            "resources/subscribe",
            json!({"uri": "file:///bad/a"}),
            "Unknown resource: file:///bad/a",
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "bad"}, "argument": {"name": "a", "value": ""}}),
            "Unknown prompt: bad",
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "file:///{x}"}, "argument": {"name": "a", "value": ""}}),
            "Unknown resource: file:///{x}",
        ),
    ];
    for (method, params, says) in refused {
        let reply = client.request(method, params).await;
        let (code, message) = reply.error();
        assert_eq!((reply.status, code), (200, -32602), "{method}");
        let malformed = message.starts_with("Invalid params: ") && message.contains(says);
        assert!(message == says || malformed, "{method}: {message}");
    }
    for (method, params) in [
        (
            "completion/complete",
            json!({"ref": {"type": "ref/tool", "name": "good"}}),
        ),
        ("completion/complete", json!({"ref": "good"})),
        ("resources/read", json!({"uri": 7})),
        ("prompts/get", json!({})),
    ] {
        assert_eq!(
            client.request(method, params).await.error().0,
            -32602,
            "{method}"
        );
    }
    assert_eq!(fake.all().len(), before);
}

#[tokio::test]
async fn a_resource_is_named_in_one_spelling_in_every_method_and_the_answer_says_which() {
    let fake = Fake::start(&["echo"]).await;
    let policy = json!({"resources": [
        {"name": "all", "uris": ["*"], "action": "Allow"},
        {"name": "etc", "uris": ["file:///etc/*"], "action": "Hide"},
    ]});
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    for (uri, write) in [
        ("file:/etc/passwd", "write file:///a/b"),
        ("file://localhost/etc/passwd", "write file:///a/b"),
        ("file:////etc/passwd", "write file:///a/b"),
        ("file:///etc//passwd", "write single slashes"),
        ("file:///a/../etc/passwd", "write the path"),
        ("FILE:///etc/passwd", "write file:"),
        ("file:///\tetc/passwd", "leave them out"),
        ("file:///\u{e9}", "write %C3%A9"),
        ("file:///%c3%a9", "upper case"),
        ("file:///%65tc/passwd", "write e"),
    ] {
        for (method, params) in [
            ("resources/read", json!({"uri": uri})),
            ("resources/subscribe", json!({"uri": uri})),
            ("resources/unsubscribe", json!({"uri": uri})),
            (
                "completion/complete",
                json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "a", "value": ""}}),
            ),
        ] {
            let (code, message) = client.request(method, params).await.error();
            assert_eq!(code, -32602);
            assert!(message.contains(write), "{method} {uri}: {message}");
        }
    }
    assert_eq!(fake.all().len(), before);
    let plain = json!({"uri": "file:///%C3%A9"});
    client.request("resources/read", plain.clone()).await;
    assert_eq!(
        fake.got("resources/read").pop().unwrap().json()["params"],
        plain
    );
    // The spellings are refused in rules, too.
    let error = rig
        .apply(&[
            json!({"resources": [{"name": "etc", "uris": ["file:/etc/*"], "action": "Hide"}]}),
        ])
        .unwrap_err()
        .to_string();
    assert!(error.contains("write file:///a/b"), "{error}");
}

#[tokio::test]
async fn methods_that_nobody_thought_about_are_refused() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    for method in [
        "tools/delete",
        "Tools/call",
        "tools/call ",
        "tools/call\0",
        "",
        "resources/write",
        "sampling/createMessage",
        "roots/list",
        "elicitation/create",
        "tasks/list",
        "tasks/get",
        "tasks/result",
        "tasks/cancel",
        "server/discover",
        "subscriptions/listen",
        "rpc.discover",
    ] {
        let reply = client.request(method, json!({"taskId": "x"})).await;
        assert_eq!((reply.status, reply.error().0), (200, -32601), "{method:?}");
    }
    // A second handshake inside of a session is a new session, and unknown notifications are
    // dropped.
    for method in [
        "notifications/tools/list_changed",
        "notifications/message",
        "notifications/unheard_of",
    ] {
        let reply = client
            .post(&json!({"jsonrpc": "2.0", "method": method}))
            .await;
        assert_eq!(reply.status, 202, "{method}");
    }
    assert_eq!(fake.all().len(), before);
    assert_eq!(
        client.request("ping", json!({})).await.json()["result"],
        json!({})
    );
    assert_eq!(
        client
            .request("logging/setLevel", json!({"level": "info"}))
            .await
            .json()["result"],
        json!({})
    );
}

#[tokio::test]
async fn without_authentication_nobody_is_let_in() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec.as_object_mut().unwrap().remove("authentication");
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    let before = fake.all().len();
    for client in [
        rig.client.clone(),
        rig.client.with("Authorization", "Bearer x"),
    ] {
        let reply = client.initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, 401);
        assert!(
            reply
                .header("www-authenticate")
                .unwrap()
                .starts_with("Bearer"),
            "{reply:?}"
        );
        for method in ["GET", "DELETE"] {
            assert_eq!(client.send(method, None).await.status, 401);
        }
    }
    assert_eq!(fake.all().len(), before);
}

#[tokio::test]
async fn keys_name_grants_and_a_wrong_one_is_never_anonymous() {
    let fake = Fake::start(&["echo", "trainer_tool"]).await;
    let secrets = Held::default();
    secrets.set("keys", "trainer", "the-long-key-of-trainer");
    let mut spec = open_to_all(&fake);
    spec["authentication"] =
        json!({"apiKeys": {"secretRef": {"name": "keys"}}, "anonymous": "Allow"});
    let policy = rules(json!([
        {"name": "all", "tools": {"names": ["echo"]}, "action": "Allow"},
        {"name": "trainer", "tools": {"names": ["trainer_tool"]}, "action": "Allow", "callers": ["key:trainer"]},
    ]));
    let rig = Rig::with(spec, secrets.clone(), &[policy]).await;
    let anonymous = rig.client.session().await;
    let trainer = rig
        .client
        .with("Authorization", "Bearer the-long-key-of-trainer")
        .session()
        .await;
    assert_eq!(anonymous.tools().await, ["echo"]);
    assert_eq!(trainer.tools().await, ["echo", "trainer_tool"]);
    assert_eq!(
        anonymous.call("trainer_tool", json!({})).await.error().0,
        -32602
    );
    assert!(!trainer.call("trainer_tool", json!({})).await.tool().0);
    for bad in [
        "Bearer the-long-key-of-traine",
        "Bearer ",
        "Basic the-long-key-of-trainer",
        "the-long-key-of-trainer",
        "Bearer the-long-key-of-trainer x",
    ] {
        let reply = rig
            .client
            .with("Authorization", bad)
            .initialize("2025-11-25", json!({}))
            .await;
        assert_eq!(reply.status, 401, "{bad}");
    }
    // One grant's session is nobody else's.
    let id = &trainer
        .headers
        .iter()
        .find(|(name, _)| name == "Mcp-Session-Id")
        .unwrap()
        .1;
    let before = fake.all().len();
    assert_eq!(
        anonymous
            .with("Mcp-Session-Id", id)
            .call("echo", json!({}))
            .await
            .status,
        404
    );
    assert_eq!(fake.all().len(), before);
    // A key that is taken away ends its streams and its sessions.
    let mut stream = trainer.listen().await;
    secrets.set("keys", "trainer", "another-key");
    rig.gateway.refresh(None).unwrap();
    assert_eq!(stream.event().await, None);
    assert_eq!(trainer.call("echo", json!({})).await.status, 401);
    assert!(!anonymous.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn a_missing_secret_keeps_the_gateway_closed_until_it_is_there() {
    let fake = Fake::start(&["echo"]).await;
    let secrets = Held::default();
    let mut spec = open_to_all(&fake);
    spec["upstream"]["http"]["headers"] = json!([{"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "upstream", "key": "token"}}}]);
    let rig = Rig::unlisted(spec, secrets.clone(), &[allow_all()]).await;
    assert_eq!(rig.gateway.missing_secrets(), ["upstream/token"]);
    assert!(rig.gateway.unready().is_some());
    assert_eq!(
        rig.client.initialize("2025-11-25", json!({})).await.status,
        503
    );
    assert!(fake.all().is_empty());
    secrets.set("upstream", "token", "t");
    rig.gateway.refresh(None).unwrap();
    crate::support::soon("a listing", rig.gateway.inventory.first()).await;
    assert_eq!(rig.gateway.unready(), None);
    assert_eq!(rig.client.session().await.tools().await, ["echo"]);
}

#[tokio::test]
async fn a_server_that_is_down_is_told_in_the_way_of_each_moment() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    // Nobody listens there.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut spec = open_to_all(&fake);
    spec["upstream"]["http"]["url"] = json!(format!("http://{gone}/mcp"));
    let down = Rig::with(spec, Held::default(), &[allow_all()]).await;
    assert_eq!(
        down.client.initialize("2025-11-25", json!({})).await.status,
        502
    );

    for (what, answer) in hostile() {
        fake.on("tools/call", move |_| answer());
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.status, 200, "{what}");
        let message = reply.messages().pop().unwrap();
        assert_eq!(message["error"]["code"], -32603, "{what}: {message}");
        assert_eq!(
            message["error"]["data"],
            json!({"retryAfterMs": 2000}),
            "{what}"
        );
        assert_eq!(message["id"], 7, "{what}");
        // Only an HTTP error is quoted.
        let text = message.to_string();
        let quoted = text.contains("it answered HTTP 5");
        assert!(quoted || !text.contains("boo"), "{what}: {text}");
    }
    fake.as_usual("tools/call");
    assert!(!client.call("echo", json!({})).await.tool().0);
    // The server has forgotten the session: the client has to start anew.
    fake.on("tools/call", |_| {
        Answer::Status(404, "text/plain", Vec::new())
    });
    assert_eq!(client.call("echo", json!({})).await.status, 404);
}

/// Answers that must not be passed on.
type Hostile = fn() -> Answer;

fn hostile() -> Vec<(&'static str, Hostile)> {
    fn result(extra: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"result":{{"content":[{{"type":"text","text":"boo"}}]}}{extra}}}"#
        )
    }
    fn json(text: impl Into<Vec<u8>>) -> Answer {
        Answer::Status(200, "application/json", text.into())
    }
    fn raw(head: &str, body: &str) -> Answer {
        let length = body.len();
        Answer::Raw(
            format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes(),
        )
    }
    vec![
        ("no JSON", || json("boo")),
        ("duplicate keys", || {
            json(result(r#","result":{"content":[]}"#))
        }),
        ("case variant", || {
            json(result(r#","Result":{"content":[]}"#))
        }),
        ("trailing bytes", || json(result("") + "boo")),
        ("NaN", || {
            json(r#"{"jsonrpc":"2.0","id":7,"result":{"boo":NaN}}"#)
        }),
        ("byte order mark", || {
            json(format!("\u{feff}{}", result("")))
        }),
        ("another id", || {
            json(r#"{"jsonrpc":"2.0","id":8,"result":{"boo":1}}"#)
        }),
        ("the id as a string", || {
            json(r#"{"jsonrpc":"2.0","id":"7","result":{"boo":1}}"#)
        }),
        ("batch", || json(format!("[{}]", result("")))),
        ("a request instead", || {
            json(r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#)
        }),
        ("empty", || json("")),
        ("text", || {
            Answer::Status(200, "text/plain", result("").into())
        }),
        ("HTML", || {
            Answer::Status(502, "text/html", b"<p>boo</p>".to_vec())
        }),
        ("accepted only", || {
            Answer::Status(202, "text/plain", Vec::new())
        }),
        ("gzip", || {
            raw(
                "200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip",
                &result(""),
            )
        }),
        ("redirect", || {
            raw(
                "307 X\r\nLocation: http://127.0.0.1:1/boo\r\nContent-Type: application/json",
                &result(""),
            )
        }),
        ("two content types", || {
            raw(
                "200 OK\r\nContent-Type: application/json\r\nContent-Type: text/event-stream",
                &result(""),
            )
        }),
        ("no content type", || raw("200 OK", &result(""))),
        ("broken off", || {
            Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"boo\"".to_vec())
        }),
        ("no HTTP", || Answer::Raw(b"boo\r\n\r\n".to_vec())),
        ("closed", || Answer::Raw(Vec::new())),
        ("stream without an answer", || {
            Answer::pieces(Vec::<String>::new())
        }),
        ("stream with no JSON", || Answer::pieces(["data: boo\n\n"])),
        ("stream that splits a message", || {
            Answer::pieces([
                "data: {\"jsonrpc\":\"2.0\",\"id\":7,\ndata: \"result\":{},\"result\":{\"boo\":1}}\n\n",
            ])
        }),
        ("stream that ends within an event", || {
            Answer::pieces([format!("data: {}\n", result(""))])
        }),
        ("stream with another answer only", || {
            Answer::pieces(["data: {\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{\"boo\":1}}\n\n"])
        }),
    ]
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended_and_the_server_is_told() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["upstream"]["timeout"] = json!("1s");
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    let client = rig.client.session().await;
    fake.on("tools/call", |_| Answer::Silence);
    let (code, message) = client.call("echo", json!({})).await.error();
    assert!(
        code == -32603 && message.contains("did not answer"),
        "{message}"
    );
    crate::support::eventually("the server is told", || {
        fake.got("notifications/cancelled")
            .iter()
            .any(|got| got.json()["params"]["requestId"] == fake.id_of("tools/call"))
    })
    .await;
    // A stream that goes silent before its answer ends too, keep-alives notwithstanding.
    let (keep, pieces) = tokio::sync::mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    fake.on("tools/call", move |_| {
        Answer::Stream(pieces.lock().unwrap().take().unwrap())
    });
    let reply = client.call("echo", json!({})).await;
    assert_eq!(reply.error().0, -32603, "{}", reply.text());
    drop(keep);
}

/// A stream of pieces, one every tenth of a second, until its reader has gone.
fn trickle(piece: impl Fn(usize) -> String + Send + 'static) -> Answer {
    let (sender, pieces) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            if sender.send(piece(number)).is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    Answer::Stream(pieces)
}

#[tokio::test]
async fn a_server_that_only_keeps_the_stream_alive_does_not_answer_and_one_that_reports_progress_may()
 {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["upstream"]["timeout"] = json!("1s");
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    let client = rig.client.session().await;
    let progress = || {
        Answer::event(
            &json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": "t", "progress": 1}}),
        )
    };
    type Piece = fn(usize) -> String;
    let silent: [(&str, Piece); 4] = [
        ("comments", |_| ": still here\n\n".to_owned()),
        ("events without data", |n| format!("id: {n}\ndata: \n\n")),
        ("retry lines", |_| "retry: 1000\n\n".to_owned()),
        ("answers to others", |n| {
            Answer::event(&json!({"jsonrpc": "2.0", "id": 1_000 + n, "result": {}}))
        }),
    ];
    for (name, piece) in silent {
        fake.on("tools/call", move |_| trickle(piece));
        let reply = client.call("echo", json!({})).await;
        let (code, message) = reply.error();
        assert!(
            code == -32603 && message.contains("did not answer in time"),
            "{name}: {message}"
        );
    }
    crate::support::eventually("the server is told", || {
        fake.got("notifications/cancelled").len() == silent.len()
    })
    .await;
    let ends = || rig.audit.ends().len() == silent.len();
    crate::support::eventually("every end is recorded", ends).await;
    assert!(
        rig.audit
            .ends()
            .iter()
            .all(|line| line["upstream"]["status"] == "timeout")
    );
    // More than its time-out in all, and never as much without a message.
    fake.on("tools/call", move |got| {
        let answer = Answer::event(&json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": {"content": [{"type": "text", "text": "done"}]}}));
        let progress = progress();
        trickle(move |n| if n < 15 { progress.clone() } else { answer.clone() })
    });
    let reply = client.call("echo", json!({})).await;
    assert_eq!(reply.tool(), (false, "done".to_owned()));
    // And not for ever.
    fake.on("tools/call", move |_| {
        let progress = progress();
        trickle(move |_| progress.clone())
    });
    let reply = client.call("echo", json!({})).await;
    assert!(
        reply.error().1.contains("did not answer in time"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn audit_mode_forwards_everything_and_records_what_it_would_refuse() {
    let fake = Fake::start(&["echo", "secret_tool"]).await;
    let policy = rules(json!([
        {"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow", "limits": [{"counter": "c", "max": 1, "window": "1h"}]},
    ]));
    let mut spec = open_to_all(&fake);
    spec["enforcement"] = json!("Audit");
    let rig = Rig::with(spec, Held::default(), &[policy]).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["echo", "secret_tool"]);
    for tool in ["echo", "echo", "secret_tool"] {
        assert!(!client.call(tool, json!({})).await.tool().0);
    }
    assert_eq!(fake.calls(), 3);
    assert_eq!(
        rig.audit_outcomes(3).await,
        ["allowed", "audited", "audited"]
    );
    assert!(
        rig.audit
            .all()
            .iter()
            .all(|line| line["enforced"] == (line["outcome"] == "allowed"))
    );

    // The same as an Audit policy beside one that allows all.
    let mut audit =
        rules(json!([{"name": "hide", "tools": {"names": ["secret_tool"]}, "action": "Hide"}]));
    audit["mode"] = json!("Audit");
    let rig = Rig::new(&fake, &[allow_all(), audit]).await;
    let client = rig.client.session().await;
    assert_eq!(client.tools().await, ["echo", "secret_tool"]);
    assert!(!client.call("secret_tool", json!({})).await.tool().0);
    assert_eq!(rig.audit_outcomes(1).await, ["audited"]);
}
