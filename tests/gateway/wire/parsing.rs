//! Each way in which two parsers could read the same bytes differently is refused, and the server
//! never hears of it.

use serde_json::json;

use crate::support::client::Exchange;
use crate::support::rig::{Rig, allow_all};
use crate::support::upstream::Fake;

/// A call of the tool `echo` with something put in.
fn call(envelope: &str, params: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call"{envelope},"params":{{"name":"echo","arguments":{{"text":"x"{arguments}}}{params}}}}}"#
    )
}

fn nested(depth: usize) -> String {
    format!(
        r#","deep":{}{}{}"#,
        r#"{"a":"#.repeat(depth),
        "1",
        "}".repeat(depth)
    )
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_never_reaches_the_server() {
    let fake = Fake::start(&["echo", "other"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    let good = call("", "", "");

    let parse = -32700;
    let invalid = -32600;
    let mut cases: Vec<(&str, Vec<u8>, i64)> = [
        (
            "duplicate method",
            call(r#","method":"tools/list""#, "", ""),
            parse,
        ),
        ("duplicate id", call(r#","id":2"#, "", ""), parse),
        ("duplicate name", call("", r#","name":"other""#, ""), parse),
        (
            "duplicate name, escaped",
            call("", r#","\u006eame":"other""#, ""),
            parse,
        ),
        (
            "duplicate arguments",
            call("", r#","arguments":{}"#, ""),
            parse,
        ),
        (
            "duplicate key in arguments",
            call("", "", r#","text":"y""#),
            parse,
        ),
        (
            "duplicate key deep down",
            call("", "", r#","deep":{"a":[{"b":1,"b":2}]}"#),
            parse,
        ),
        (
            "duplicate key in _meta",
            call("", r#","_meta":{"a":1,"a":2}"#, ""),
            parse,
        ),
        (
            "case variant of method",
            call(r#","Method":"tools/list""#, "", ""),
            invalid,
        ),
        (
            "case variant of params",
            call(r#","PARAMS":{}"#, "", ""),
            invalid,
        ),
        (
            "case variant of name",
            call("", r#","Name":"other""#, ""),
            invalid,
        ),
        (
            "case variant of arguments",
            call("", r#","argumentS":{}"#, ""),
            invalid,
        ),
        (
            "Unicode case variant",
            call("", r#","argument\u017f":{}"#, ""),
            invalid,
        ),
        (
            "unknown keys that are variants of each other",
            call("", r#","zzz":1,"ZZZ":2"#, ""),
            invalid,
        ),
        (
            "case variant in _meta",
            call("", r#","_meta":{"PROGRESSTOKEN":1}"#, ""),
            invalid,
        ),
        (
            "key that ends in NUL",
            call("", r#","name\u0000":"other""#, ""),
            invalid,
        ),
        (
            "envelope key that ends in NUL",
            call(r#","method\u0000":"tools/list""#, "", ""),
            invalid,
        ),
        ("NaN", call("", "", r#","count":NaN"#), parse),
        ("Infinity", call("", "", r#","count":Infinity"#), parse),
        ("-Infinity", call("", "", r#","count":-Infinity"#), parse),
        (
            "number beyond a double",
            call("", "", r#","count":1e999"#),
            parse,
        ),
        (
            "unpaired surrogate",
            call("", "", r#","t":"\ud800""#),
            parse,
        ),
        (
            "low surrogate alone",
            call("", "", r#","t":"\udc00""#),
            parse,
        ),
        (
            "control character in a string",
            call("", "", ",\"t\":\"\n\""),
            parse,
        ),
        ("single quotes", call("", "", r#",'t':1"#), parse),
        ("comment", call("", "", r#"/**/"#), parse),
        ("trailing comma", call("", "", ","), parse),
        ("leading zero", call("", "", r#","count":01"#), parse),
        ("too deep", call("", "", &nested(64)), parse),
        ("trailing bytes", format!("{good} {{}}"), parse),
        ("trailing NUL", format!("{good}\0"), parse),
        (
            "two messages on two lines",
            format!("{good}\n{good}"),
            parse,
        ),
        ("truncated", good[..good.len() - 1].to_owned(), parse),
        ("empty", String::new(), parse),
        ("batch", format!("[{good}]"), invalid),
        ("batch of two", format!("[{good},{good}]"), invalid),
        ("empty batch", "[]".to_owned(), invalid),
        ("not an object", "\"tools/call\"".to_owned(), invalid),
        ("null", "null".to_owned(), invalid),
        (
            "null id",
            good.replace(r#""id":1"#, r#""id":null"#),
            invalid,
        ),
        (
            "fractional id",
            good.replace(r#""id":1"#, r#""id":1.5"#),
            invalid,
        ),
        (
            "id with exponent",
            good.replace(r#""id":1"#, r#""id":1e0"#),
            invalid,
        ),
        (
            "object id",
            good.replace(r#""id":1"#, r#""id":{}"#),
            invalid,
        ),
        (
            "boolean id",
            good.replace(r#""id":1"#, r#""id":true"#),
            invalid,
        ),
        ("no id", good.replace(r#""id":1,"#, ""), invalid),
        ("other jsonrpc", good.replace("2.0", "1.0"), invalid),
        ("jsonrpc as number", good.replace("\"2.0\"", "2.0"), invalid),
        (
            "no jsonrpc",
            good.replace(r#""jsonrpc":"2.0","#, ""),
            invalid,
        ),
        (
            "method and result",
            call(r#","result":{}"#, "", ""),
            invalid,
        ),
        (
            "method and error",
            call(r#","error":{"code":1,"message":""}"#, "", ""),
            invalid,
        ),
        (
            "method as array",
            good.replace(r#""tools/call""#, r#"["tools/call"]"#),
            invalid,
        ),
        (
            "notification with an id",
            r#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#.to_owned(),
            invalid,
        ),
        (
            "response with result and error",
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#.to_owned(),
            invalid,
        ),
        (
            "neither of all",
            r#"{"jsonrpc":"2.0","id":1}"#.to_owned(),
            invalid,
        ),
    ]
    .into_iter()
    .map(|(what, text, code)| (what, text.into_bytes(), code))
    .collect();
    let mut bom = b"\xef\xbb\xbf".to_vec();
    bom.extend(good.as_bytes());
    cases.push(("byte order mark", bom, parse));
    let mut latin = call("", "", r#","t":"@""#).into_bytes();
    let at = latin.iter().position(|byte| *byte == b'@').unwrap();
    latin[at] = 0xe9;
    cases.push(("invalid UTF-8", latin, parse));
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    cases.push(("UTF-16", utf16, parse));

    for (what, body, code) in cases {
        let reply = client.post_raw(&body).await;
        // Under the id of the request, where that stood before what is wrong.
        let status = if reply.json()["id"].is_null() {
            400
        } else {
            200
        };
        assert_eq!(
            (reply.status, reply.error().0),
            (status, code),
            "{what}: {}",
            reply.text()
        );
    }
    // Shapes of params are told under the request's id, as a JSON-RPC error without an HTTP one.
    for (what, body) in [
        (
            "array arguments",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":[1]}}"#,
        ),
        (
            "string arguments",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":"{}"}}"#,
        ),
        (
            "name is no string",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["echo"]}}"#,
        ),
        (
            "no name",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        ),
        (
            "no params",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        ),
    ] {
        let reply = client.post_raw(body).await;
        assert_eq!(
            (reply.status, reply.error().0),
            (200, -32602),
            "{what}: {}",
            reply.text()
        );
        assert_eq!(reply.json()["id"], 1, "{what}");
    }
    for (what, body) in [
        (
            "array params",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}"#,
        ),
        (
            "_meta is no object",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","_meta":[]}}"#,
        ),
    ] {
        let reply = client.post_raw(body).await;
        assert!(reply.error().0 <= -32600, "{what}: {}", reply.text());
    }
    assert_eq!(fake.all().len(), before, "{:?}", &fake.all()[before..]);

    // None of them spoilt anything.
    assert_eq!(
        client.post_raw(&good).await.tool(),
        (false, r#"{"text":"x"}"#.to_owned())
    );
    assert_eq!(fake.all().len(), before + 1);
}

#[tokio::test]
async fn headers_that_mislabel_a_body_never_reach_the_server() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    let good = call("", "", "");
    for (name, value, status) in [
        ("Content-Type", "", 415),
        ("Content-Type", "text/plain", 415),
        ("Content-Type", "application/json; charset=utf-16", 415),
        ("Content-Type", "application/x-www-form-urlencoded", 415),
        ("Content-Type", "text/event-stream", 415),
        ("Content-Encoding", "gzip", 415),
        ("Content-Encoding", "identity", 415),
        ("Accept", "text/html", 406),
        ("Accept", "*/*;q=0", 406),
        ("MCP-Protocol-Version", "1999-01-01", 400),
        ("MCP-Protocol-Version", "2026-07-28", 400),
        ("Mcp-Session-Id", "garbage", 404),
        ("Mcp-Session-Id", "", 400),
        ("Host", "evil.example", 403),
        ("Host", "", 403),
        ("Origin", "https://evil.example", 403),
        ("Origin", "null", 403),
    ] {
        let reply = client.with(name, value).post_raw(&good).await;
        assert_eq!(reply.status, status, "{name}: {value}: {}", reply.text());
    }
    // Twice the same header is not one of the two.
    for name in ["Content-Type", "Host", "Origin", "Mcp-Session-Id"] {
        let value = match name {
            "Content-Type" => "application/json".to_owned(),
            "Host" => rig.addr.to_string(),
            "Origin" => "http://localhost".to_owned(),
            _ => client
                .headers
                .iter()
                .find(|(key, _)| key == name)
                .unwrap()
                .1
                .clone(),
        };
        let mut twice = client.with(name, &value);
        twice.headers.push((name.to_owned(), value));
        let reply = twice.post_raw(&good).await;
        assert!(
            (400..500).contains(&reply.status),
            "{name} twice: {}",
            reply.status
        );
    }
    for method in ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"] {
        let mut exchange = client.start(method, None).await;
        assert_eq!(exchange.head().await.status, 405, "{method}");
    }
    assert_eq!(fake.all().len(), before);
    let reply = client
        .with("Content-Type", "application/json; charset=UTF-8")
        .with("Accept", "*/*")
        .with("Host", "localhost")
        .with("Origin", "http://localhost:3000")
        .post_raw(&good)
        .await;
    assert!(!reply.tool().0);
}

#[tokio::test]
async fn bodies_that_are_too_large_or_broken_off_are_not_forwarded() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = crate::support::rig::open_to_all(&fake);
    spec["upstream"]["maxRequestBytes"] = json!("1Ki");
    let rig = Rig::with(spec, Default::default(), &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    let just = |length: usize| {
        let empty = call("", "", r#","t":"""#).len();
        call("", "", &format!(r#","t":"{}""#, "x".repeat(length - empty)))
    };
    assert_eq!(client.post_raw(just(1024)).await.status, 200);
    assert_eq!(client.post_raw(just(1025)).await.status, 413);
    // Announced, but never sent: refused before a byte of it.
    let mut exchange = Exchange::open(rig.addr).await;
    let huge = client
        .with("Content-Length", "1000000000")
        .bytes("POST", None);
    exchange.write(&huge).await;
    assert_eq!(exchange.head().await.status, 413);
    // In chunks, so that nothing is announced.
    let mut exchange = Exchange::open(rig.addr).await;
    exchange
        .write(
            &client
                .with("Transfer-Encoding", "chunked")
                .bytes("POST", None),
        )
        .await;
    for _ in 0..3 {
        exchange
            .write(format!("200\r\n{}\r\n", " ".repeat(512)).as_bytes())
            .await;
    }
    assert_eq!(exchange.head().await.status, 413);
    // Two lengths, or a length and chunks, are how requests are smuggled.
    for (name, value) in [("Content-Length", "5"), ("Transfer-Encoding", "chunked")] {
        let body = call("", "", "");
        let mut client = client.with("Content-Length", &body.len().to_string());
        client.headers.push((name.to_owned(), value.to_owned()));
        let mut exchange = client.start("POST", Some(body.as_bytes())).await;
        assert_eq!(exchange.head().await.status, 400, "{name}");
    }
    // The client goes away in the middle of the body.
    let mut exchange = Exchange::open(rig.addr).await;
    let body = call("", "", "");
    exchange
        .write(&client.bytes("POST", Some(body.as_bytes()))[..250])
        .await;
    drop(exchange);
    assert_eq!(client.post_raw(&body).await.status, 200);
    assert_eq!(fake.all().len(), before + 2);
}

#[tokio::test]
async fn a_2026_client_is_told_which_versions_are_spoken() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let before = fake.all().len();
    for (method, params) in [
        ("server/discover", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({"name": "echo", "arguments": {}})),
    ] {
        let mut params = params;
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let client = rig
            .client
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", method);
        let reply = client.request(method, params).await;
        assert_eq!(reply.status, 400);
        assert_eq!(
            reply.json(),
            json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -32022, "message": "Unsupported protocol version",
                "data": {"supported": ["2025-11-25", "2025-06-18", "2025-03-26"], "requested": "2026-07-28"}}})
        );
    }
    assert_eq!(fake.all().len(), before);
}

#[tokio::test]
async fn the_head_of_a_request_is_bounded_and_names_one_host() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let before = fake.all().len();
    let body = call("", "", "");
    let huge = client.with("X-Large", &"x".repeat(300_000));
    let mut exchange = huge.start("POST", Some(body.as_bytes())).await;
    assert_eq!(exchange.head().await.status, 431);
    // An absolute target overrules Host (RFC 9112, section 3.2.2).
    let mut absolute = client.clone();
    absolute.path = "http://evil.example/fake/mcp".to_owned();
    assert_eq!(absolute.post_raw(&body).await.status, 403);
    for line in [
        "Host : localhost",
        " folded: x",
        "no-colon",
        "Bad\u{7f}Name: x",
    ] {
        let mut bytes = client.bytes("POST", Some(body.as_bytes()));
        let at = bytes.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
        bytes.splice(at..at, format!("{line}\r\n").into_bytes());
        let mut exchange = Exchange::open(rig.addr).await;
        exchange.write(&bytes).await;
        assert_eq!(exchange.head().await.status, 400, "{line}");
    }
    assert_eq!(fake.all().len(), before);
    // What a client appends to the address does not reach the server.
    let mut query = client.clone();
    query.path = "/fake/mcp?tool=other".to_owned();
    assert!(!query.post_raw(&body).await.tool().0);
    assert_eq!(fake.got("tools/call").pop().unwrap().path, "/mcp");
}

#[tokio::test]
async fn a_path_that_nobody_serves_is_not_found() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    for path in [
        "/",
        "/fake",
        "/fake/mcp//",
        "/FAKE/mcp",
        "/other/mcp",
        "/fake/../fake/mcp",
    ] {
        let mut client = rig.client.clone();
        client.path = path.to_owned();
        assert_eq!(
            client.initialize("2025-11-25", json!({})).await.status,
            404,
            "{path}"
        );
    }
}
