//! Sealed session ids, event ids and resumption.

use serde_json::{Value, json};

use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

fn session_id(client: &crate::support::client::Client) -> String {
    let found = client
        .headers
        .iter()
        .find(|(name, _)| name == "Mcp-Session-Id");
    found.unwrap().1.clone()
}

#[tokio::test]
async fn the_client_gets_a_sealed_id_and_the_server_its_own() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let (one, two) = (rig.client.session().await, rig.client.session().await);
    assert!(!session_id(&one).contains("upstream") && session_id(&one) != session_id(&two));
    one.call("echo", json!({})).await.tool();
    two.call("echo", json!({})).await.tool();
    let ids: Vec<_> = fake
        .got("tools/call")
        .iter()
        .map(|got| got.header("mcp-session-id").unwrap().to_owned())
        .collect();
    // The gateway's own is the first.
    assert_eq!(ids, ["upstream-1", "upstream-2"]);
    // Both are still known after a change of policy.
    rig.apply(&[
        allow_all(),
        json!({"rules": [{"name": "x", "tools": {"names": ["x"]}, "action": "Deny"}]}),
    ])
    .unwrap();
    assert!(!one.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn an_id_that_was_changed_is_unknown_and_the_server_is_not_asked() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let id = session_id(&client);
    let before = fake.all().len();
    let mut changed: Vec<String> = (0..id.len())
        .step_by(7)
        .map(|at| {
            let mut bytes = id.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        })
        .collect();
    changed.extend(["upstream-1", "x", "../../etc/passwd"].map(str::to_owned));
    changed.extend([
        id[1..].to_owned(),
        id[..id.len() - 1].to_owned(),
        format!("{id}A"),
        "x".repeat(9000),
    ]);
    for id in changed {
        let client = client.with("Mcp-Session-Id", &id);
        for reply in [
            client.call("echo", json!({})).await,
            client.send("GET", None).await,
            client.send("DELETE", None).await,
        ] {
            assert_eq!((reply.status, reply.error().0), (404, -32001), "{id}");
        }
    }
    // Another gateway's session, even of the same server, sealed with other keys.
    let other = Rig::new(&fake, &[allow_all()]).await;
    let theirs = other.client.session().await;
    let after = fake.all().len();
    assert_eq!(
        client
            .with("Mcp-Session-Id", &session_id(&theirs))
            .call("echo", json!({}))
            .await
            .status,
        404
    );
    assert_eq!(fake.all().len(), after);
    assert!(fake.calls() == 0 && before <= after);
    assert_eq!(
        client
            .without("Mcp-Session-Id")
            .call("echo", json!({}))
            .await
            .status,
        400
    );
    assert!(!client.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn a_session_that_was_ended_is_gone_and_the_server_is_told() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let (client, other) = (rig.client.session().await, rig.client.session().await);
    assert_eq!(client.send("DELETE", None).await.status, 204);
    assert_eq!(
        fake.got("DELETE").pop().unwrap().header("mcp-session-id"),
        Some("upstream-1")
    );
    assert_eq!(client.call("echo", json!({})).await.status, 404);
    assert_eq!(client.send("DELETE", None).await.status, 404);
    assert!(!other.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn every_request_of_a_connection_is_held_to_its_own_session() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let (one, two) = (rig.client.session().await, rig.client.session().await);
    let id = session_id(&one);
    let longer = one.with("Mcp-Session-Id", &format!("{id}A"));
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    let mut connection = one.start("POST", Some(body)).await;
    assert_eq!(connection.next_reply().await.status, 200);
    let mut statuses = Vec::new();
    for client in [&one, &two, &longer, &one] {
        connection.write(&client.bytes("POST", Some(body))).await;
        statuses.push(connection.next_reply().await.status);
    }
    assert_eq!(statuses, [200, 200, 404, 200]);
    let ids: Vec<_> = fake
        .got("tools/call")
        .iter()
        .map(|got| got.header("mcp-session-id").unwrap().to_owned())
        .collect();
    let (first, second) = ("upstream-1", "upstream-2");
    assert_eq!(ids, [first, first, second, first]);
    // Ended on another connection.
    assert_eq!(one.send("DELETE", None).await.status, 204);
    for (client, status) in [(&one, 404), (&two, 200)] {
        connection.write(&client.bytes("POST", Some(body))).await;
        assert_eq!(connection.next_reply().await.status, status);
    }
}

#[tokio::test]
async fn a_server_without_sessions_gets_none_and_its_clients_still_have_one() {
    let fake = Fake::start(&["echo"]).await;
    fake.on("initialize", |got| {
        let answer = json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": {"protocolVersion": "2025-03-26",
            "capabilities": {"tools": {}, "tasks": {"list": {}}}, "serverInfo": {"name": "f", "version": "1"}}});
        Answer::Status(200, "application/json", answer.to_string().into())
    });
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let reply = rig.client.initialize("2025-11-25", json!({})).await;
    // The server settled on an older version; what the gateway does not carry is not promised.
    assert_eq!(reply.json()["result"]["protocolVersion"], "2025-03-26");
    assert_eq!(reply.json()["result"]["capabilities"], json!({"tools": {}}));
    let client = rig
        .client
        .with("Mcp-Session-Id", reply.header("mcp-session-id").unwrap());
    client.call("echo", json!({})).await.tool();
    let got = fake.got("tools/call").pop().unwrap();
    assert_eq!(
        (
            got.header("mcp-session-id"),
            got.header("mcp-protocol-version")
        ),
        (None, None)
    );
    let secret = client
        .with("Mcp-Session-Id", "x")
        .call("echo", json!({}))
        .await;
    assert_eq!(secret.status, 404);
}

#[tokio::test]
async fn versions_are_negotiated_and_held_to() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    for (asked, offered) in [
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2024-11-05", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1.0", "2025-11-25"),
    ] {
        let reply = rig.client.initialize(asked, json!({})).await;
        assert_eq!(
            reply.json()["result"]["protocolVersion"],
            offered,
            "{asked}"
        );
        assert_eq!(
            fake.got("initialize").pop().unwrap().json()["params"]["protocolVersion"],
            offered
        );
    }
    let old = rig.client.session_of("2025-06-18", json!({})).await;
    assert!(!old.call("echo", json!({})).await.tool().0);
    assert!(
        !old.without("MCP-Protocol-Version")
            .call("echo", json!({}))
            .await
            .tool()
            .0
    );
    // A server that answers with a version that nobody speaks is of no use.
    fake.on("initialize", |got| Answer::result(got, json!({"protocolVersion": "2023-01-01", "capabilities": {}, "serverInfo": {"name": "f", "version": "1"}})));
    assert_eq!(
        rig.client.initialize("2025-11-25", json!({})).await.status,
        502
    );
    fake.on("initialize", |got| {
        Answer::rpc_error(got, -32600, "not today")
    });
    let reply = rig.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(
        (reply.error(), reply.header("mcp-session-id")),
        ((-32600, "not today".to_owned()), None)
    );
}

#[tokio::test]
async fn a_stream_is_resumed_from_its_last_event_by_its_own_session_only() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let (client, other) = (rig.client.session().await, rig.client.session().await);
    fake.on("tools/call", |_| Answer::pieces(["id: up-41\ndata:\n\n", "id: up-42\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n"]));
    let mut call = client.start("POST", Some(json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "echo"}}).to_string().as_bytes())).await;
    assert_eq!(call.head().await.status, 200);
    let first = call.event().await.unwrap();
    let second = call.event().await.unwrap();
    // The server ended the stream before its answer, and the client can come back for it.
    assert_eq!(call.event().await, None);
    let (first, id) = (first.id.unwrap(), second.id.unwrap());
    assert!(first != id && !id.contains("up-"), "{id}");
    assert_eq!(
        second.data,
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}"
    );

    // The answer to this request alone passes, under the client's id; and on from an event of this
    // stream, too.
    let asked = fake.id_of("tools/call");
    let others = client.call("echo", json!({}));
    others.await;
    let other_id = fake.id_of("tools/call");
    fake.on("GET", move |got| {
        let answer = |id: &Value, text: &str| {
            json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
        };
        let answers = match got.header("last-event-id") {
            Some("up-42") => [answer(&other_id, "other"), answer(&json!(5), "guessed"), answer(&asked, "one")],
            Some("up-43") => [answer(&other_id, "other"), answer(&json!(5), "guessed"), answer(&asked, "two")],
            got => panic!("{got:?}"),
        };
        Answer::pieces(answers.map(|answer| {
            format!("id: up-43\nretry: 1\nevent: endpoint\ndata: {answer}\n\n")
        }))
    });
    let mut resumed = client.with("Last-Event-ID", &id).listen().await;
    let event = resumed.event().await.unwrap();
    assert_eq!(event.kind, None, "types of events are not the server's");
    assert_eq!(event.json()["id"], 5);
    assert_eq!(event.json()["result"]["content"][0]["text"], "one");
    let again = event.id.unwrap();
    let mut resumed = client.with("Last-Event-ID", &again).listen().await;
    assert_eq!(
        resumed.event().await.unwrap().json()["result"]["content"][0]["text"],
        "two"
    );
    let before = fake.all().len();
    for id in ["up-42", "", "x", &id[1..]] {
        let mut client = client.without("Last-Event-ID");
        client.headers.push((
            "Last-Event-ID".to_owned(),
            format!("{id} ").trim().to_owned() + if id.is_empty() { "x" } else { "" },
        ));
        assert_eq!(client.send("GET", None).await.status, 400, "{id}");
    }
    assert_eq!(
        other
            .with("Last-Event-ID", &id)
            .send("GET", None)
            .await
            .status,
        400
    );
    assert_eq!(fake.all().len(), before);
}

#[tokio::test]
async fn a_server_without_a_stream_of_its_own_is_told_as_405() {
    let fake = Fake::start(&["echo"]).await;
    fake.on("GET", |_| Answer::Status(405, "text/plain", Vec::new()));
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    assert_eq!(client.send("GET", None).await.status, 405);
    assert_eq!(
        client
            .with("Accept", "application/json")
            .send("GET", None)
            .await
            .status,
        406
    );
}

/// Clients that never end a session must not have the server keep them all.
#[tokio::test]
async fn of_too_many_sessions_at_a_server_the_callers_oldest_is_ended_there() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["authentication"]["apiKeys"] = json!({"secretRef": {"name": "keys"}});
    let keys = Held::default();
    keys.set("keys", "greedy", "the-key-of-the-greedy-one");
    let rig = Rig::with(spec, keys, &[allow_all()]).await;
    let calm = rig.client.session().await;
    let greedy = rig
        .client
        .with("Authorization", "Bearer the-key-of-the-greedy-one");
    let mut sessions = Vec::new();
    for _ in 0..70 {
        sessions.push(greedy.session().await);
    }
    assert_eq!(fake.got("DELETE").len(), 6);
    for (number, session) in sessions.iter().enumerate() {
        let reply = session.call("echo", json!({})).await;
        assert_eq!(reply.status, if number < 6 { 404 } else { 200 }, "{number}");
    }
    assert!(!calm.call("echo", json!({})).await.tool().0);
}
