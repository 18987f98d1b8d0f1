//! HTTP rules, in memory and over a real socket.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::gateway::bridge::{Bearer, BearerError, Sessions};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::harness::{Rig, call, eventually, group_lives};

const SECRET: &str = "a-secret-of-more-than-16-characters";

#[tokio::test(flavor = "multi_thread")]
async fn only_the_bearer_is_admitted() {
    let rig = Rig::new(Sessions::PerSession, |config| {
        config.bearer = Some(Bearer::new(SECRET).unwrap());
    })
    .await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}})
    .to_string();
    let longer = format!("Bearer {SECRET}x");
    let shorter = format!("Bearer {}", &SECRET[1..]);
    let basic = format!("Basic {SECRET}");
    for wrong in ["", "Bearer", "Bearer ", SECRET, &longer, &shorter, &basic] {
        for method in [Method::POST, Method::GET, Method::DELETE, Method::PUT] {
            let headers = [("authorization", wrong)];
            let reply = rig
                .send(method.clone(), Some("x"), &headers, body.clone())
                .await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {wrong}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    let reply = rig.send(Method::POST, None, &[], body.clone()).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(rig.log().is_empty(), "no child was started for them");
    let right = format!("bearer {SECRET}");
    let reply = rig
        .send(Method::POST, None, &[("authorization", &right)], body)
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    rig.bridge.shutdown().await;
}

#[test]
fn a_weak_bearer_is_refused_and_none_is_ever_shown() {
    for weak in ["", "short", "with spaces in between", "exactly-15-long"] {
        assert_eq!(Bearer::new(weak).unwrap_err(), BearerError::Weak, "{weak}");
    }
    assert_eq!(format!("{:?}", Bearer::new(SECRET).unwrap()), "Bearer(…)");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_mcp_get_a_status_that_says_so_and_never_reach_the_child() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"x":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, StatusCode, i32);
    let cases: &[Case] = &[
        (&[], ping, StatusCode::OK, 0),
        (
            &[("mcp-protocol-version", "2025-03-26")],
            ping,
            StatusCode::OK,
            0,
        ),
        (
            &[("content-type", "application/json; charset=utf-8")],
            ping,
            StatusCode::OK,
            0,
        ),
        (&[("content-type", "text/plain")], ping, unsupported, -32600),
        (&[("content-encoding", "gzip")], ping, unsupported, -32600),
        (
            &[("accept", "text/html")],
            ping,
            StatusCode::NOT_ACCEPTABLE,
            -32600,
        ),
        (
            &[("origin", "http://127.0.0.1")],
            ping,
            StatusCode::FORBIDDEN,
            -32600,
        ),
        (
            &[("mcp-protocol-version", "2026-07-28")],
            ping,
            StatusCode::BAD_REQUEST,
            -32022,
        ),
        (
            &[("mcp-protocol-version", "")],
            ping,
            StatusCode::BAD_REQUEST,
            -32022,
        ),
        (
            &[],
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
            StatusCode::BAD_REQUEST,
            -32022,
        ),
        (&[], &long, StatusCode::PAYLOAD_TOO_LARGE, -32600),
        (&[], "", StatusCode::BAD_REQUEST, -32700),
        (&[], "{", StatusCode::BAD_REQUEST, -32700),
        (
            &[],
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
            StatusCode::BAD_REQUEST,
            -32700,
        ),
        (&[], "[]", StatusCode::BAD_REQUEST, -32600),
        (&[], &format!("[{ping}]"), StatusCode::BAD_REQUEST, -32600),
        (
            &[],
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            StatusCode::BAD_REQUEST,
            -32600,
        ),
        (
            &[],
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#,
            StatusCode::BAD_REQUEST,
            -32600,
        ),
    ];
    for (headers, body, status, code) in cases {
        let reply = rig
            .send(Method::POST, Some(&session), headers, body.to_string())
            .await;
        assert_eq!(reply.status, *status, "{headers:?} {:.80}", body);
        if *code != 0 {
            let answer = reply.json().await;
            assert_eq!(answer["error"]["code"], *code, "{headers:?} {:.80}", body);
            assert!(answer.get("id").is_none());
        }
    }
    let reply = rig.send(Method::POST, None, &[], ping).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let reply = rig.send(Method::POST, Some("unknown"), &[], ping).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let reply = rig.send(Method::PUT, Some(&session), &[], ping).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.headers["allow"], "POST, GET, DELETE");
    let reply = rig
        .send(
            Method::GET,
            Some(&session),
            &[("accept", "application/json")],
            "",
        )
        .await;
    assert_eq!(reply.status, StatusCode::NOT_ACCEPTABLE);
    // The child reads in order: once it has answered this call, its log holds all that came before.
    assert_eq!(rig.text(&session, "echo", json!({"text": "x"})).await, "x");
    let got: Vec<Value> = rig
        .log()
        .iter()
        .filter(|entry| entry["got"].is_object())
        .map(|entry| entry["got"]["method"].clone())
        .collect();
    assert_eq!(
        got,
        ["initialize", "notifications/initialized", "tools/call"],
        "none of the requests above"
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unsupported_version_is_answered_with_those_that_are() {
    let rig = Rig::shared().await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    let reply = rig
        .send(
            Method::POST,
            None,
            &[("mcp-protocol-version", "2026-07-28")],
            ping,
        )
        .await;
    assert_eq!(
        reply.json().await["error"]["data"],
        json!({"supported": ["2025-03-26", "2025-06-18", "2025-11-25"], "requested": "2026-07-28"})
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_an_answer_follows_accept() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let echo = call(1, "echo", json!({"text": "x"})).to_string();
    let mut reply = rig
        .send(
            Method::POST,
            Some(&session),
            &[("accept", "text/event-stream")],
            echo.clone(),
        )
        .await;
    assert!(reply.is_stream());
    assert_eq!(
        reply.body.next().await.unwrap().unwrap()["result"]["content"][0]["text"],
        "x"
    );
    assert_eq!(reply.body.next().await.unwrap(), None);
    let progress =
        super::harness::call_with_token(2, "progress", json!({"steps": 3}), 1).to_string();
    let reply = rig
        .send(
            Method::POST,
            Some(&session),
            &[("accept", "application/json")],
            progress,
        )
        .await;
    assert!(!reply.is_stream());
    assert_eq!(reply.json().await["result"]["content"][0]["text"], "done");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_streams_are_kept_alive_by_comments() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.limits.keep_alive = Duration::from_millis(20);
    })
    .await;
    let session = rig.open().await;
    let mut stream = rig.listen(&session).await;
    assert_eq!(stream.piece().await, ": open\n\n");
    assert_eq!(stream.piece().await, ": keep-alive\n\n");
    assert_eq!(stream.piece().await, ": keep-alive\n\n");
    // An answer that takes long becomes a stream, too.
    let mut reply = rig.post(&session, &call(1, "never", json!({}))).await;
    assert!(reply.is_stream());
    assert_eq!(reply.body.piece().await, ": open\n\n");
    assert_eq!(reply.body.piece().await, ": keep-alive\n\n");
    rig.bridge.shutdown().await;
    // A shutdown answers what is left.
    let lost = reply.body.next().await.unwrap().unwrap();
    assert_eq!(lost["id"], 1);
    assert_eq!(lost["error"]["code"], -32603);
}

/// One request over a real socket.
async fn send(
    address: std::net::SocketAddr,
    request: http::request::Builder,
    body: &str,
) -> (StatusCode, Bytes) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = request
        .header("host", "bridge")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}

fn post() -> http::request::Builder {
    Request::post("/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_listener_it_serves_mcp_and_probes_and_finishes_calls_before_it_stops() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.bearer = Some(Bearer::new(SECRET).unwrap());
        config.limits.request_bytes = 4096;
    })
    .await;
    rig.bridge.ready().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(rig.bridge.clone().serve(listener, async {
        let _ = stopped.await;
    }));
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/", 404), ("/mcp", 401)] {
        let (got, _) = send(address, Request::get(path), "").await;
        assert_eq!(got.as_u16(), status, "{path}");
    }
    let large = "x".repeat(5000);
    let (status, _) = send(
        address,
        post().header("authorization", format!("Bearer {SECRET}")),
        &large,
    )
    .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = send(address, post(), &large).await;
    assert_eq!(
        status,
        StatusCode::UNAUTHORIZED,
        "the body of a stranger is not even measured"
    );

    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let authorized = |builder: http::request::Builder, body: String| {
        let builder = builder
            .uri(format!("http://{address}/mcp"))
            .header("authorization", format!("Bearer {SECRET}"));
        builder.body(Full::new(Bytes::from(body))).unwrap()
    };
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}});
    let response = sender
        .send_request(authorized(post(), initialize.to_string()))
        .await
        .unwrap();
    let session = response.headers()["mcp-session-id"].clone();
    let get = Request::get("/mcp")
        .header("accept", "text/event-stream")
        .header("mcp-session-id", session.clone());
    let mut listening = sender
        .send_request(authorized(get, String::new()))
        .await
        .unwrap()
        .into_body();
    let open = listening
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(open, ": open\n\n");

    let gate = rig.path("gate");
    let slow = call(2, "wait_for", json!({"file": gate})).to_string();
    let held = sender.send_request(authorized(post().header("mcp-session-id", session), slow));
    let stopper = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        stop.send(()).unwrap();
        // Open streams end first, and cleanly.
        let rest = (&mut listening).collect().await.unwrap().to_bytes();
        assert_eq!(rest, "");
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(held, stopper);
    let answer = held
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["result"]["content"][0]["text"], "found");
    drop(sender);
    tokio::time::timeout(super::harness::PATIENCE, serving)
        .await
        .unwrap()
        .unwrap();
    assert!(!group_lives(rig.pids()[0]));
}
