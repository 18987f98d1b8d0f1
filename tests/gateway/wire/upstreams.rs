//! Servers as they are: each variation is served, and opens nothing.

use serde_json::json;

use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

fn status(
    code: u16,
    kind: &'static str,
    body: &str,
) -> impl Fn() -> Answer + Send + Sync + 'static {
    let body = body.as_bytes().to_vec();
    move || Answer::Status(code, kind, body.clone())
}

#[tokio::test]
async fn a_server_that_forgot_the_session_has_the_client_start_anew_however_it_says_so() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let error = |code: i64, message: &str| {
        json!({"jsonrpc": "2.0", "id": null, "error": {"code": code, "message": message}})
            .to_string()
    };
    let json = "application/json";
    for (what, answer) in [
        (404, error(-32001, "Session not found")),
        (404, "gone".to_owned()),
        (
            400,
            error(-32000, "Bad Request: No valid session ID provided"),
        ),
        (400, error(-32000, "Bad Request: Server not initialized")),
        (200, error(-32600, "Session terminated")),
        (200, error(-32001, "Unknown session")),
        (400, r#"{"error": "Invalid session ID"}"#.to_owned()),
        (400, "No valid session ID provided".to_owned()),
        (
            410,
            r#"{"detail": {"error": "session expired"}}"#.to_owned(),
        ),
    ] {
        let says = status(what, json, &answer);
        fake.on("tools/call", move |_| says());
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.status, 404, "{what} {answer}: {}", reply.text());
        assert_eq!(reply.json()["id"], 7);
    }
    // Attack: an agent has a tool say it, so that a limit forgets the call.
    fake.on("tools/call", |got| {
        Answer::rpc_error(got, -32603, "session not found")
    });
    assert_eq!(client.call("echo", json!({})).await.error().0, -32603);
    // What only mentions a session, or is another error, is passed on.
    fake.on("tools/call", |got| {
        Answer::rpc_error(got, -32000, "no run in this session")
    });
    assert_eq!(client.call("echo", json!({})).await.error().0, -32000);
    fake.as_usual("tools/call");
    assert!(!client.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn what_a_server_refuses_is_told_with_its_status_and_its_words_and_no_secret() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["upstream"]["http"]["headers"] = json!([{"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "mlflow", "key": "token"}}}]);
    let secrets = Held::default();
    secrets.set("mlflow", "token", "Bearer secret-of-the-server");
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let client = rig.client.session().await;
    let html =
        "<html><head><title>413 Request Entity Too Large</title></head>\n<body>nginx</body></html>";
    for (code, kind, body, words) in [
        (
            401,
            "application/json",
            r#"{"detail": "token expired"}"#,
            "401 Unauthorized: token expired",
        ),
        (
            403,
            "text/plain",
            "not  for\nyou",
            "403 Forbidden: not for you",
        ),
        (
            413,
            "text/html",
            html,
            "413 Payload Too Large: 413 Request Entity Too Large nginx",
        ),
        (
            400,
            "application/json",
            r#"{"error": {"message": "bad host"}}"#,
            "400 Bad Request: bad host",
        ),
        (422, "text/plain", "", "422 Unprocessable Entity"),
    ] {
        let says = status(code, kind, body);
        fake.on("tools/call", move |_| says());
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.status, 200, "{code}");
        let (_, message) = reply.error();
        assert!(message.contains(words), "{message}");
        assert!(message.contains("Do not retry unchanged"), "{message}");
        assert!(reply.json()["error"].get("data").is_none());
    }
    for (code, body, words) in [
        (429, "slow down", "429 Too Many Requests: slow down"),
        (503, "", "503 Service Unavailable"),
    ] {
        let says = status(code, "text/plain", body);
        fake.on("tools/call", move |_| says());
        let reply = client.call("echo", json!({})).await;
        assert!(reply.error().1.contains(words), "{}", reply.text());
        assert_eq!(reply.json()["error"]["data"]["retryAfterMs"], 2000);
    }
    let raw = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n";
    fake.on("tools/call", move |_| Answer::Raw(raw.into()));
    let reply = client.call("echo", json!({})).await;
    assert_eq!(reply.json()["error"]["data"]["retryAfterMs"], 120_000);
    // Attack: an error page that repeats the credential, or writes to a terminal.
    let says = status(401, "text/plain", "invalid token secret-of-the-server");
    fake.on("tools/call", move |_| says());
    let reply = client.call("echo", json!({})).await;
    assert!(!reply.text().contains("secret-of"), "{}", reply.text());
    let says = status(500, "text/plain", "\u{1b}[31mred\u{202e}");
    fake.on("tools/call", move |_| says());
    let (_, message) = client.call("echo", json!({})).await.error();
    assert!(
        !message.contains('\u{1b}') && !message.contains('\u{202e}'),
        "{message}"
    );
}

#[tokio::test]
async fn an_id_that_came_back_as_text_or_with_a_fraction_is_the_one_that_was_sent() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let answer = |id: String| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"ok"}}]}}}}"#
        )
    };
    for form in ["\"@\"", "@.0", "@"] {
        fake.on("tools/call", move |got| {
            let id = form.replace('@', &got.json()["id"].to_string());
            Answer::Status(200, "application/json", answer(id).into_bytes())
        });
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.tool(), (false, "ok".to_owned()), "{form}");
        assert_eq!(reply.json()["id"], 7);
    }
    // Attack: the answer to another call. Both ids are named.
    for form in ["\"0@\"", "@1", "\" @\"", "@.5", "true"] {
        fake.on("tools/call", move |got| {
            let id = form.replace('@', &got.json()["id"].to_string());
            Answer::Status(200, "application/json", answer(id).into_bytes())
        });
        let (_, message) = client.call("echo", json!({})).await.error();
        let named = message.contains("the request had the id") || message.contains("id must be");
        assert!(named, "{form}: {message}");
    }
}

#[tokio::test]
async fn a_list_ends_at_an_empty_cursor_and_at_one_that_comes_again() {
    let fake = Fake::start(&["echo"]).await;
    for (cursor, pages) in [("", 1), ("same", 2)] {
        fake.on("tools/list", move |got| {
            let tools = [crate::support::upstream::tool("echo")];
            Answer::result(got, json!({"tools": tools, "nextCursor": cursor}))
        });
        let before = fake.got("tools/list").len();
        let rig = Rig::new(&fake, &[allow_all()]).await;
        assert_eq!(fake.got("tools/list").len() - before, pages, "{cursor:?}");
        let client = rig.client.session().await;
        let listed = client.request("tools/list", json!({})).await.json();
        assert_eq!(listed["result"]["tools"][0]["name"], "echo");
        assert_eq!(
            listed["result"].get("nextCursor").is_some(),
            !cursor.is_empty()
        );
        assert!(!client.call("echo", json!({})).await.tool().0, "served");
    }
}

#[tokio::test]
async fn a_server_of_the_first_version_is_served_and_one_of_later_ones_only_is_told_so() {
    let fake = Fake::start(&["echo"]).await;
    let chooses = |version: &'static str| {
        move |got: &crate::support::upstream::Got| {
            Answer::result(
                got,
                json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "f", "version": "1"}}),
            )
        }
    };
    fake.on("initialize", chooses("2024-11-05"));
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let reply = rig.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(reply.json()["result"]["protocolVersion"], "2025-03-26");
    let client = rig.client.session_of("2025-03-26", json!({})).await;
    assert_eq!(client.tools().await, ["echo"]);
    assert!(!client.call("echo", json!({})).await.tool().0);
    let got = fake.got("tools/call").pop().unwrap();
    assert_eq!(got.header("mcp-protocol-version"), None);

    let advice = "speaks protocol version 2026-07-28 only; use a release of it that speaks";
    fake.on("initialize", chooses("2026-07-28"));
    let reply = rig.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(reply.status, 502);
    assert!(reply.error().1.contains(advice), "{}", reply.text());
    fake.on("initialize", |got| {
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"}}}))
    });
    let reply = rig.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(reply.status, 502);
    assert!(reply.error().1.contains(advice), "{}", reply.text());
}
