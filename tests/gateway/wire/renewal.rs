//! Servers that forget their sessions: another one is opened there, and the client's continues;
//! nothing is carried out twice, and nothing is opened without end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::client::Exchange;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake, Got};

/// A server that knows the sessions from a number on, and counts the calls that it makes.
#[derive(Clone)]
pub struct Forgetful {
    pub fake: Fake,
    known_from: Arc<AtomicUsize>,
    executed: Arc<AtomicUsize>,
}

type Words = fn(&Got) -> Answer;

fn not_found(_: &Got) -> Answer {
    let body =
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
    Answer::Status(404, "application/json", body.into())
}

impl Forgetful {
    pub async fn start() -> Self {
        let forgetful = Forgetful {
            fake: Fake::start(&["echo"]).await,
            known_from: Arc::default(),
            executed: Arc::default(),
        };
        forgetful.says(not_found);
        forgetful
    }

    /// How it refuses what names a session that it does not know, from now on.
    fn says(&self, words: Words) {
        for what in ["tools/call", "tools/list", "GET", "notifications/cancelled"] {
            let server = self.clone();
            self.fake.on(what, move |got| {
                if !server.knows(got) {
                    return words(got);
                }
                match got.what().as_str() {
                    "tools/call" => {
                        server.executed.fetch_add(1, Ordering::SeqCst);
                        let session = got.header("mcp-session-id").unwrap();
                        Answer::result(got, json!({"content": [{"type": "text", "text": session}]}))
                    }
                    "tools/list" => {
                        let tools = [crate::support::upstream::tool("echo")];
                        Answer::result(got, json!({"tools": tools}))
                    }
                    "GET" => Answer::pieces([Answer::event(
                        &json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
                    )]),
                    _ => Answer::Status(202, "text/plain", Vec::new()),
                }
            });
        }
    }

    fn knows(&self, got: &Got) -> bool {
        let session = got.header("mcp-session-id").unwrap_or_default();
        let number = session.strip_prefix("upstream-").unwrap_or_default();
        let number: usize = number.parse().unwrap();
        number >= self.known_from.load(Ordering::SeqCst)
    }

    /// It is restarted.
    pub fn forgets(&self) {
        self.known_from.store(self.fake.opened(), Ordering::SeqCst);
    }

    fn executed(&self) -> usize {
        self.executed.load(Ordering::SeqCst)
    }

    /// The handshakes in the name of the client, which the gateway's own are not.
    fn handshakes(&self) -> Vec<Got> {
        let all = self.fake.got("initialize").into_iter();
        all.filter(|got| got.json()["params"]["clientInfo"]["name"] == "test")
            .collect()
    }
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_opened_again_and_the_call_is_made_once() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    let ways: [Words; 7] = [
        not_found,
        |_| Answer::Status(404, "text/plain", Vec::new()),
        |_| {
            let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;
            Answer::Status(400, "application/json", body.into())
        },
        |_| {
            let body = r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32000,"message":"Bad Request: Server not initialized"}}"#;
            Answer::Status(400, "application/json", body.into())
        },
        |_| {
            Answer::Json(
                json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Session terminated"}}),
            )
        },
        |_| {
            Answer::Json(
                json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": "Unknown session"}}),
            )
        },
        |_| Answer::Status(400, "text/plain", b"No valid session ID provided".into()),
    ];
    for (at, words) in ways.into_iter().enumerate() {
        let client = rig
            .client
            .session_of("2025-06-18", json!({"sampling": {}}))
            .await;
        assert!(!client.call("echo", json!({})).await.tool().0);
        let (before, opened) = (server.executed(), server.handshakes().len());
        server.says(words);
        server.forgets();
        let (error, session) = client.call("echo", json!({})).await.tool();
        assert!(!error, "{at}");
        assert_eq!(server.executed(), before + 1, "{at}");
        // In the client's name, with what the spec allows of what it declared.
        let handshakes = server.handshakes();
        assert_eq!(handshakes.len(), opened + 1, "{at}");
        let last = handshakes.last().unwrap();
        let params = &last.json()["params"];
        assert_eq!(params["protocolVersion"], "2025-06-18");
        assert_eq!(params["capabilities"], json!({}), "{at}");
        assert_eq!(last.header("mcp-session-id"), None);
        let told = server.fake.got("notifications/initialized").pop().unwrap();
        assert_eq!(told.header("mcp-session-id"), Some(&*session), "{at}");
        // It goes on there, on other connections too.
        assert_eq!(
            client.call("echo", json!({})).await.tool(),
            (false, session)
        );
        assert_eq!(server.handshakes().len(), opened + 1, "{at}");
    }
    crate::support::eventually("every call has an end", || rig.audit.ends().len() >= 21).await;
    let ends = rig.audit.ends();
    assert_eq!(
        (rig.audit.all().len(), ends.len()),
        (21, 21),
        "one for a call"
    );
    assert!(
        ends.iter().all(|end| end["upstream"]["status"] == "result"),
        "{ends:?}"
    );
}

#[tokio::test]
async fn what_a_tool_may_have_said_after_it_ran_is_not_asked_again() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    let attacks: [Words; 5] = [
        |got| Answer::rpc_error(got, -32001, "Session not found"),
        |_| Answer::Status(404, "application/json", b"gone".into()),
        |_| {
            let body = br#"{"detail": {"error": "session expired"}}"#;
            Answer::Status(410, "application/json", body.into())
        },
        |got| {
            let id = &got.json()["id"];
            let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "no run 5"}});
            Answer::Status(404, "application/json", body.to_string().into())
        },
        |got| {
            let id = &got.json()["id"];
            let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "x".repeat(5_000)}});
            Answer::Status(404, "application/json", body.to_string().into())
        },
    ];
    for words in attacks {
        let client = rig.client.session().await;
        let (sent, opened) = (server.fake.calls(), server.handshakes().len());
        server.fake.on("tools/call", words);
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        assert_eq!(server.fake.calls(), sent + 1, "it is not sent again");
        assert_eq!(server.handshakes().len(), opened);
    }
}

#[tokio::test]
async fn requests_that_come_together_open_one_session() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    // One connection has used the session and goes on with it.
    let mut kept = Exchange::open(rig.addr).await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    let bytes = client.bytes("POST", Some(call.to_string().as_bytes()));
    kept.write(&bytes).await;
    assert!(!kept.next_reply().await.tool().0);
    let opened = server.handshakes().len();
    server.forgets();
    let calls = (0..8).map(|_| client.call("echo", json!({})));
    for reply in futures::future::join_all(calls).await {
        assert!(!reply.tool().0, "{}", reply.text());
    }
    let sent = server.fake.calls();
    kept.write(&bytes).await;
    assert!(!kept.next_reply().await.tool().0);
    assert_eq!(
        server.fake.calls(),
        sent + 1,
        "it knows the new session at once"
    );
    assert_eq!(server.handshakes().len(), opened + 1);
    assert_eq!(server.executed(), 10);
}

#[tokio::test]
async fn a_server_that_forgets_for_ever_is_not_asked_for_sessions_for_ever() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    // It does not know the session that it has just opened.
    let client = rig.client.session().await;
    let opened = server.handshakes().len();
    server.fake.on("tools/call", not_found);
    for sent in [2, 3, 4] {
        let reply = client.call("echo", json!({})).await;
        assert_eq!((reply.status, reply.json()["id"].clone()), (404, json!(7)));
        assert_eq!(
            server.fake.calls(),
            sent,
            "twice for the first, once for others"
        );
    }
    assert_eq!(server.handshakes().len(), opened + 1);
    assert_eq!(server.executed(), 0);

    // It forgets after each call.
    server.says(not_found);
    let client = rig.client.session().await;
    let opened = server.handshakes().len();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        server.forgets();
        statuses.push(client.call("echo", json!({})).await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 404, 404, 404]);
    assert_eq!(server.handshakes().len(), opened + 3);
}

#[tokio::test]
async fn a_session_is_not_renewed_where_the_client_could_not_know_it_any_more() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    // Another version was agreed on.
    let client = rig.client.session().await;
    server.fake.on("initialize", |got| {
        Answer::result(got, json!({"protocolVersion": "2025-03-26", "capabilities": {"tools": {}}, "serverInfo": {"name": "f", "version": "1"}}))
    });
    server.forgets();
    assert_eq!(client.call("echo", json!({})).await.status, 404);
    server.fake.as_usual("initialize");
    // More was said in its handshake than is kept.
    let long = json!({"experimental": {"x": "y".repeat(5_000)}});
    let client = rig.client.session_of("2025-11-25", long).await;
    let opened = server.handshakes().len();
    server.forgets();
    assert_eq!(client.call("echo", json!({})).await.status, 404);
    assert_eq!(server.handshakes().len(), opened);
    // It was ended.
    let client = rig.client.session().await;
    assert_eq!(client.send("DELETE", None).await.status, 204);
    let opened = server.handshakes().len();
    assert_eq!(client.call("echo", json!({})).await.status, 404);
    // Attack: another caller's session, by its token.
    let mut spec = open_to_all(&server.fake);
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
    let secrets = Held::default();
    for (name, key) in [("a", "key-of-agent-a-1234"), ("b", "key-of-agent-b-1234")] {
        secrets.set("agents", name, key);
    }
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let keyed = |key: &str| rig.client.with("Authorization", &format!("Bearer {key}"));
    let owner = keyed("key-of-agent-a-1234").session().await;
    server.forgets();
    let thief = owner.with("Authorization", "Bearer key-of-agent-b-1234");
    assert_eq!(thief.call("echo", json!({})).await.status, 404);
    assert_eq!(server.handshakes().len(), opened + 1, "the owner's own");
    assert_eq!(server.executed(), 0);
    assert!(!owner.call("echo", json!({})).await.tool().0);
}

#[tokio::test]
async fn a_call_that_is_made_in_a_renewed_session_uses_one_unit() {
    let server = Forgetful::start().await;
    let limited = json!({"rules": [{"name": "few", "tools": {"names": ["*"]}, "action": "Allow",
        "limits": [{"counter": "c", "max": 2, "window": "1h"}]}]});
    let rig = Rig::new(&server.fake, &[limited]).await;
    let client = rig.client.session().await;
    server.forgets();
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert!(!client.call("echo", json!({})).await.tool().0);
    let (error, text) = client.call("echo", json!({})).await.tool();
    assert!(error && text.starts_with("Limit of 2"), "{text}");
    assert_eq!(server.executed(), 2);
}

#[tokio::test]
async fn streams_lists_notifications_and_the_end_go_to_the_session_that_took_its_place() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    server.forgets();
    // What has no answer opens nothing, and does not end the client's session.
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    server
        .fake
        .on("notifications/roots/list_changed", not_found);
    assert_eq!(client.post(&cancelled).await.status, 202);
    assert_eq!(server.handshakes().len(), 1);
    assert_eq!(client.tools().await, ["echo"]);
    assert_eq!(server.handshakes().len(), 2);
    let session = |what: &str| -> Value {
        let got = server.fake.got(what).pop().unwrap();
        json!(got.header("mcp-session-id"))
    };
    let now = session("tools/list");
    let mut stream = client.listen().await;
    let event = stream.event().await.unwrap();
    assert_eq!(event.json()["method"], "notifications/tools/list_changed");
    assert_eq!(session("GET"), now);
    assert_eq!(client.send("DELETE", None).await.status, 204);
    assert_eq!(session("DELETE"), now);
}

/// Two replicas behind one address that take requests in turns, and each know their own sessions.
fn alternates(fake: &Fake) {
    let (turns, places) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(vec![])));
    for what in [
        "initialize",
        "notifications/initialized",
        "tools/list",
        "tools/call",
        "GET",
    ] {
        let (turns, places) = (Arc::clone(&turns), Arc::clone(&places));
        let opened = fake.opened();
        fake.on(what, move |got| {
            let here = turns.fetch_add(1, Ordering::SeqCst) % 2;
            if got.what() == "initialize" {
                places.lock().unwrap().push(here);
                return Answer::result(got, json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "f", "version": "1"}}));
            }
            let session = got.header("mcp-session-id").unwrap_or_default();
            let number = session.strip_prefix("upstream-").unwrap_or_default();
            let number: usize = number.parse().unwrap();
            let known = number.checked_sub(opened).is_some_and(|at| places.lock().unwrap()[at] == here);
            match (known, got.what().as_str()) {
                (false, _) => not_found(got),
                (true, "tools/list") => Answer::result(got, json!({"tools": []})),
                (true, "tools/call") => Answer::result(got, json!({"content": []})),
                (true, _) => Answer::Status(202, "text/plain", Vec::new()),
            }
        });
    }
}

#[tokio::test]
async fn a_server_with_several_replicas_that_share_no_sessions_is_named_as_the_cause() {
    let says = "set `sessionAffinity: ClientIP` on its Service";
    let fake = Fake::start(&["echo"]).await;
    alternates(&fake);
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let error = rig.gateway.inventory.latest().error.unwrap_or_default();
    assert!(error.contains(says), "{error}");

    // The listing keeps to one connection, and so to one replica; only calls see the other.
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    assert_eq!(rig.gateway.report().upstream_note, None);
    alternates(&fake);
    assert_eq!(client.call("echo", json!({})).await.status, 404);
    let note = rig.gateway.report().upstream_note.unwrap_or_default();
    assert!(note.contains(says), "{note}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_is_ended_while_it_is_opened_again_is_ended_at_the_server_too() {
    let server = Forgetful::start().await;
    let rig = Rig::new(&server.fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    server.forgets();
    let (asked, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, free) = (Arc::clone(&asked), Arc::clone(&go_on));
    server.fake.on("notifications/initialized", move |_| {
        seen.store(1, Ordering::SeqCst);
        // Only this connection of the fake server waits.
        tokio::task::block_in_place(|| {
            while free.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
        });
        Answer::Status(202, "text/plain", Vec::new())
    });
    let (call, ()) = tokio::join!(client.call("echo", json!({})), async {
        crate::support::eventually("the session is opened again", || {
            asked.load(Ordering::SeqCst) == 1
        })
        .await;
        assert_eq!(client.send("DELETE", None).await.status, 204);
        go_on.store(1, Ordering::SeqCst);
    });
    assert_eq!(call.status, 404, "the client has ended it");
    assert_eq!(server.executed(), 0);
    let opened = format!("upstream-{}", server.fake.opened() - 1);
    crate::support::eventually("it is ended at the server", || {
        let ended = server.fake.got("DELETE");
        ended
            .iter()
            .any(|got| got.header("mcp-session-id") == Some(&*opened))
    })
    .await;
    assert_eq!(rig.gateway.report().upstream_note, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_is_not_sent_again_under_rules_or_credentials_that_are_gone() {
    let key = "key-of-agent-a-1234";
    for withdrawn in ["the rule", "the key"] {
        let server = Forgetful::start().await;
        let mut spec = open_to_all(&server.fake);
        spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
        let secrets = Held::default();
        secrets.set("agents", "a", key);
        let rig = Arc::new(Rig::with(spec, secrets.clone(), &[allow_all()]).await);
        let keyed = rig.client.with("Authorization", &format!("Bearer {key}"));
        let client = keyed.session().await;
        server.forgets();
        let changing = Arc::clone(&rig);
        server.fake.on("notifications/initialized", move |_| {
            let deny =
                json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]});
            match withdrawn {
                "the rule" => changing.apply(&[deny]).unwrap(),
                _ => {
                    secrets.set("agents", "a", "another-key-of-agent-a");
                    changing.apply(&[allow_all()]).unwrap();
                }
            }
            Answer::Status(202, "text/plain", Vec::new())
        });
        let status = client.call("echo", json!({})).await.status;
        assert_eq!((status, server.executed()), (404, 0), "{withdrawn}");
    }
}

#[tokio::test]
async fn an_answer_that_may_tell_of_a_call_that_was_made_is_not_followed_by_another() {
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    let cut = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{result}"
    );
    let broken = Answer::Raw(cut.into_bytes());
    let unread = |status, kind, body: &str| Answer::Status(status, kind, body.as_bytes().to_vec());
    for answer in [
        broken,
        unread(404, "text/event-stream", &format!("data: {result}\n\n")),
        unread(404, "application/json", &format!("[{result}]")),
        unread(404, "application/json", &format!("\u{feff}{result}")),
        unread(404, "application/json", r#"{"id":7,"result":{}}"#),
        unread(
            404,
            "text/plain",
            "the run was written, its session was not found",
        ),
        unread(
            400,
            "application/json",
            r#"{"detail":"session to the database expired while committing"}"#,
        ),
        unread(400, "text/event-stream", "data: db session closed\n\n"),
    ] {
        let fake = Fake::start(&["echo"]).await;
        let rig = Rig::new(&fake, &[allow_all()]).await;
        let client = rig.client.session().await;
        let first = Mutex::new(Some(answer));
        fake.on("tools/call", move |got| {
            let first = first.lock().unwrap().take();
            first.unwrap_or_else(|| Answer::result(got, json!({"content": []})))
        });
        client.call("echo", json!({})).await;
        assert_eq!(fake.calls(), 1);
    }
}

#[tokio::test]
async fn an_error_of_a_tools_own_session_reaches_the_client_and_ends_nothing() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    fake.on("tools/call", |got| {
        let error = json!({"code": -32000, "message": "Browser session abc not found; create one with new_session"});
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": error}))
    });
    for _ in 0..3 {
        let reply = client.call("echo", json!({})).await;
        assert_eq!(reply.status, 200);
        let text = reply.json()["error"]["message"].to_string();
        assert!(text.contains("create one with new_session"), "{text}");
    }
    // What another status says counts for more than its words.
    fake.on("tools/call", |_| {
        let body =
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"session expired"}}"#;
        Answer::Status(503, "application/json", body.into())
    });
    let reply = client.call("echo", json!({})).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("HTTP 503"), "{}", reply.text());
}

#[tokio::test]
async fn an_answer_to_a_question_of_a_session_that_is_forgotten_answers_no_other() {
    let server = Forgetful::start().await;
    let mut spec = open_to_all(&server.fake);
    spec["clientFeatures"] = json!({"roots": "Allow"});
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    server.fake.on("GET", |_| {
        let question = json!({"jsonrpc": "2.0", "id": 0, "method": "roots/list"});
        Answer::pieces([Answer::event(&question)])
    });
    let declared = json!({"roots": {}});
    let client = rig.client.session_of("2025-11-25", declared).await;
    let answer = async || {
        let mut stream = client.listen().await;
        let sealed = stream.event().await.unwrap().json()["id"].clone();
        json!({"jsonrpc": "2.0", "id": sealed, "result": {"roots": []}})
    };
    let first = answer().await;
    server.forgets();
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert_eq!(client.post(&first).await.status, 202);
    assert_eq!(server.fake.got("response").len(), 0);
    let second = answer().await;
    assert_eq!(client.post(&second).await.status, 202);
    assert_eq!(server.fake.got("response").len(), 1);
}
