//! What real clients vary is accepted, and opens no way around a rule: each test names the attack
//! that the leniency was checked against.

use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

const PAGE: &str = "https://app.example";

fn keyed(fake: &Fake) -> (Value, Held) {
    let secrets = Held::default();
    secrets.set("agents", "a", "key-of-agent-a-1234");
    let mut spec = open_to_all(fake);
    spec["gateway"] = json!({"allowedOrigins": [PAGE]});
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
    (spec, secrets)
}

async fn options(client: &Client, origin: &str, asked: &[(&str, &str)]) -> Reply {
    let client = asked
        .iter()
        .fold(client.with("Origin", origin), |client, (name, value)| {
            client.with(name, value)
        });
    client.send("OPTIONS", None).await
}

fn cors(reply: &Reply) -> Vec<&str> {
    let names = reply.headers.iter().map(|(name, _)| name.as_str());
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call_and_read_and_no_other_page_may() {
    let fake = Fake::start(&["echo"]).await;
    let (spec, secrets) = keyed(&fake);
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let bare = Client::new(rig.addr, "/fake/mcp");
    let asked = [
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "authorization, content-type, Mcp-Param-Name, x-evil",
        ),
    ];
    let reply = options(&bare, PAGE, &asked).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    assert_eq!(reply.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(
        reply.header("access-control-allow-methods"),
        Some("GET, POST, DELETE")
    );
    let headers = reply.header("access-control-allow-headers").unwrap();
    for name in [
        "authorization",
        "content-type",
        "accept",
        "mcp-session-id",
        "mcp-protocol-version",
        "last-event-id",
        "mcp-param-name",
    ] {
        assert!(headers.split(", ").any(|allowed| allowed == name), "{name}");
    }
    assert!(!headers.contains("x-evil"), "{headers}");
    assert!(reply.headers.contains(&("vary".into(), "Origin".into())));
    // With a browser's own credentials a page could act as whoever is logged in.
    assert_eq!(reply.header("access-control-allow-credentials"), None);

    // What comes after it can be read by the page: a refusal with its challenge, and the session.
    let page = bare.with("Origin", PAGE);
    let refused = page.initialize("2025-11-25", json!({})).await;
    assert_eq!(refused.status, 401);
    let known = page.with("Authorization", "Bearer key-of-agent-a-1234");
    let opened = known.initialize("2025-11-25", json!({})).await;
    assert_eq!(opened.status, 200);
    for reply in [&refused, &opened] {
        assert_eq!(reply.header("access-control-allow-origin"), Some(PAGE));
        let exposed = reply.header("access-control-expose-headers").unwrap();
        for name in ["mcp-session-id", "www-authenticate"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }

    // Attack: a page of another site, one that hides its origin, a rebound name, no preflight.
    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "http://app.example",
        "https://app.example:8443",
    ] {
        let reply = options(&bare, origin, &asked).await;
        assert_eq!((reply.status, cors(&reply)), (403, vec![]), "{origin}");
    }
    let rebound = options(&bare.with("Host", "evil.example"), PAGE, &asked).await;
    assert_eq!(rebound.status, 403);
    let plain = options(&bare, PAGE, &[]).await;
    assert_eq!(plain.status, 401, "not a preflight request");
    // Two origins are none.
    let mut two = bare.with("Origin", PAGE);
    two.headers.push(("Origin".to_owned(), PAGE.to_owned()));
    let reply = two.with(asked[0].0, asked[0].1).send("OPTIONS", None).await;
    assert_eq!((reply.status, cors(&reply)), (403, vec![]));
    assert_eq!(
        fake.got("initialize").len(),
        2,
        "the inventory and the page"
    );
}

#[tokio::test]
async fn any_version_that_is_spoken_may_be_named_and_what_goes_upstream_is_the_sessions() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    for header in ["2025-03-26", "2026-07-28", "1999-01-01", "a, b"] {
        let client = rig.client.with("MCP-Protocol-Version", header);
        let reply = client.initialize("2025-11-25", json!({})).await;
        assert_eq!(
            reply.json()["result"]["protocolVersion"],
            "2025-11-25",
            "the body negotiates: {header}"
        );
    }
    let client = rig.client.session().await;
    for header in ["2025-06-18", "2025-03-26", "2025-11-25, 2025-11-25"] {
        let reply = client
            .with("MCP-Protocol-Version", header)
            .call("echo", json!({"text": "x"}))
            .await;
        assert!(!reply.tool().0, "{header}");
        // Attack: a server that reads calls by the rules of another version.
        let got = fake.got("tools/call").pop().unwrap();
        assert_eq!(got.header("mcp-protocol-version"), Some("2025-11-25"));
    }
    for header in ["2025-11-25, 2025-06-18", "2024-01-01", "2026-07-28"] {
        let reply = client
            .with("MCP-Protocol-Version", header)
            .call("echo", json!({}))
            .await;
        assert_eq!(reply.status, 400, "{header}");
    }
    assert_eq!(fake.calls(), 3);
}

#[tokio::test]
async fn null_in_the_place_of_params_is_absent_and_never_reaches_the_server() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#;
    assert_eq!(client.post_raw(ping).await.json()["result"], json!({}));
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":null}}"#;
    let listed = client.post_raw(list).await.json();
    assert_eq!(listed["result"]["tools"][0]["name"], "echo");
    let call = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo","arguments":null}}"#;
    assert!(!client.post_raw(call).await.tool().0);
    for what in ["ping", "tools/list", "tools/call"] {
        let got = fake.got(what).pop().unwrap();
        assert!(!got.json().to_string().contains("null"), "{}", got.json());
    }
    // Attack: a rule that asks for an argument is passed by a null in the place of all of them.
    let asks = json!({"rules": [{"name": "r", "tools": {"names": ["echo"]}, "action": "Allow", "when": "args.text == 'ok'"}]});
    rig.apply(&[asks]).unwrap();
    assert!(client.post_raw(call).await.tool().0);
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn a_body_that_is_refused_is_answered_under_its_id_within_the_session() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let twice = r#"{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"echo","arguments":{"a":1,"a":2}}}"#;
    let reply = client.post_raw(twice).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["id"], "q");
    assert_eq!(reply.error().0, -32700);
    // No id to answer under, or no session that an HTTP error could end.
    let late = r#"{"method":"tools/call","params":{"a":1,"a":2},"jsonrpc":"2.0","id":"q"}"#;
    let reply = client.post_raw(late).await;
    assert_eq!((reply.status, &reply.json()["id"]), (400, &Value::Null));
    for sessionless in [
        client.without("Mcp-Session-Id"),
        client.with("Mcp-Session-Id", "forged"),
    ] {
        assert_eq!(sessionless.post_raw(twice).await.status, 400);
    }
    // Attack: the server executes what was refused.
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn an_answer_to_no_open_request_is_accepted_and_dropped() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    for answer in [
        json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
        json!({"jsonrpc": "2.0", "id": "x", "error": {"code": -1, "message": "no"}}),
    ] {
        let reply = client.post(&answer).await;
        assert_eq!((reply.status, reply.body.len()), (202, 0));
    }
    // Attack: it answers a question that the server asked somebody else.
    assert_eq!(fake.all().len(), before);
}

#[tokio::test]
async fn a_client_that_takes_one_type_gets_its_answer_in_that_type() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let usual = client.call("echo", json!({"text": "x"})).await.messages();
    for (accept, kind) in [
        ("application/json", "application/json"),
        ("text/event-stream", "text/event-stream"),
    ] {
        let one = client.with("Accept", accept);
        let reply = one.call("echo", json!({"text": "x"})).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some(kind));
        assert_eq!(reply.messages(), usual);
        assert!(reply.header("portcullis-decision-id").is_some());
        // What the gateway itself answers, too.
        let unknown = one.call("absent", json!({})).await;
        assert_eq!(unknown.header("content-type"), Some(kind));
        assert_eq!(unknown.error().0, -32602);
    }
    // The server streams, with something before its answer.
    fake.on("tools/call", |got| {
        let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "on it"}});
        let answer = json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": {"content": [{"type": "text", "text": "done"}]}});
        Answer::pieces([Answer::event(&log), Answer::event(&answer)])
    });
    let json_only = client.with("Accept", "application/json");
    let reply = json_only.call("echo", json!({})).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.tool(), (false, "done".to_owned()));
    // Attack: hidden tools are listed in the type that is not filtered.
    fake.set_tools(vec![
        crate::support::upstream::tool("echo"),
        crate::support::upstream::tool("purge"),
    ]);
    let only_echo =
        json!({"rules": [{"name": "r", "tools": {"names": ["echo"]}, "action": "Allow"}]});
    rig.apply(&[only_echo]).unwrap();
    for accept in ["application/json", "text/event-stream"] {
        let one = client.with("Accept", accept);
        let listed = one.request("tools/list", json!({})).await;
        let text = listed.text();
        assert!(text.contains("echo") && !text.contains("purge"), "{text}");
    }
    let html = client.with("Accept", "text/html");
    assert_eq!(html.call("echo", json!({})).await.status, 406);
    let reply = client.without("Accept").call("echo", json!({})).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_path_may_end_in_a_slash_or_be_that_of_the_public_url() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["gateway"] = json!({"publicUrl": "https://gate.example/team-a/mlflow/"});
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    for path in [
        "/fake/mcp",
        "/fake/mcp/",
        "/team-a/mlflow",
        "/team-a/mlflow/",
    ] {
        let client = Client::new(rig.addr, path);
        let reply = client.initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    // Attack: another path that only looks like it.
    for path in [
        "/mcp//",
        "/MCP",
        "/team-a/mlflow/x",
        "/team-a",
        "//mcp",
        "/",
    ] {
        let client = Client::new(rig.addr, path);
        let reply = client.initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, 404, "{path}");
    }
    let health = Client::new(rig.addr, "/healthz").send("GET", None).await;
    assert_eq!((health.status, health.text()), (200, "ok\n"));
}

#[tokio::test]
async fn who_forgot_the_key_reads_how_to_send_one_wherever_a_client_looks() {
    let fake = Fake::start(&["echo"]).await;
    let (spec, secrets) = keyed(&fake);
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let hint = "Authorization: Bearer KEY";
    let refused = Client::new(rig.addr, "/fake/mcp")
        .initialize("2025-11-25", json!({}))
        .await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains(hint), "{}", refused.text());
    for (method, path) in [
        ("POST", "/register"),
        ("GET", "/authorize"),
        ("POST", "/mcp/token"),
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-protected-resource/fake/mcp"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/oauth-authorization-server/mcp"),
        ("GET", "/.well-known/openid-configuration"),
    ] {
        let reply = Client::new(rig.addr, path).send(method, None).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.text().contains(hint), "{path}: {}", reply.text());
        // Attack: the hint names what is served, or a key.
        assert!(!reply.text().contains("agent"), "{path}");
    }
    let elsewhere = Client::new(rig.addr, "/other").send("GET", None).await;
    assert_eq!(elsewhere.status, 404);
    assert!(elsewhere.text().contains("it is /NAME/mcp"));
}

#[tokio::test]
async fn a_server_without_a_stream_may_say_so_as_it_likes() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    for status in [400, 404, 405, 406, 501] {
        fake.on("GET", move |_| {
            Answer::Status(status, "text/plain", b"no".to_vec())
        });
        assert_eq!(client.send("GET", None).await.status, 405, "{status}");
    }
    fake.on("GET", |_| Answer::Json(json!({"service": "mlflow"})));
    let reply = client.send("GET", None).await;
    assert_eq!(reply.status, 405);
    // Attack: what such an answer holds reaches the client.
    assert!(!reply.text().contains("mlflow"), "{}", reply.text());
    fake.on("GET", |_| Answer::Status(503, "text/plain", Vec::new()));
    assert_eq!(client.send("GET", None).await.status, 502);
    assert!(!client.call("echo", json!({})).await.tool().0);
}
