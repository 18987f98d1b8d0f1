//! Each caller's own credential at the upstream: what goes there with it, what never does, and what
//! ends when it changes.

use std::sync::Arc;

use portcullis::api::approval::Verdict;
use portcullis::gateway::approvals::NewDecision;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::rig::{Held, Rig, allow_all};
use crate::support::upstream::{Answer, Fake, Got, tool};

const CALLERS: [&str; 4] = ["alice", "bob", "carol", "stranger"];

fn key(name: &str) -> String {
    format!("the-api-key-of-{name}")
}

fn secrets() -> Held {
    let held = Held::default();
    for name in CALLERS {
        held.set("agents", name, &key(name));
    }
    for name in ["alice", "bob"] {
        held.set(name, "token", &format!("Bearer {name}-at-mlflow"));
        held.set(name, "password", &format!("password-of-{name}"));
    }
    held.set("shared", "token", "Bearer shared-at-mlflow");
    held.set("shared", "password", "password-of-all");
    held
}

fn from(name: &str, of: &str) -> Value {
    json!({"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": if name == "Authorization" { "token" } else { "password" }}}})
}

fn entry(callers: &[&str], of: &str) -> Value {
    json!({"callers": callers, "headers": [from("Authorization", of)]})
}

fn http(fake: &Fake, credentials: Value) -> Value {
    json!({
        "upstream": {"http": {"url": format!("http://{}/mcp", fake.addr),
            "headers": [from("Authorization", "shared"), {"name": "X-Shared", "value": "shared"}],
            "credentials": credentials}},
        "authentication": {"apiKeys": {"secretRef": {"name": "agents"}}, "anonymous": "Allow"},
    })
}

fn stdio(credentials: Value) -> Value {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/gateway/fixtures/scripted_server.py"
    );
    json!({
        "upstream": {"stdio": {"image": "unused:1", "command": ["python3", "-u", script], "sessions": "PerSession",
            "env": [{"name": "TOOLS", "value": "variables,echo"}, from("PASSWORD", "shared")],
            "credentials": credentials}},
        "authentication": {"apiKeys": {"secretRef": {"name": "agents"}}, "anonymous": "Allow"},
    })
}

fn as_caller(rig: &Rig, name: &str) -> Client {
    rig.client
        .with("Authorization", &format!("Bearer {}", key(name)))
}

fn authorization(got: &Got) -> &str {
    got.header("authorization").unwrap_or("none")
}

/// What requests since then carried.
fn carried(fake: &Fake, since: usize) -> Vec<String> {
    let mut carried: Vec<String> = fake.all()[since..]
        .iter()
        .map(|got| authorization(got).to_owned())
        .collect();
    carried.dedup();
    carried
}

async fn refused(client: &Client, says: &str) {
    let (code, text) = client.initialize("2025-11-25", json!({})).await.error();
    assert!(code == -32600 && text.contains(says), "{text}");
    for method in ["tools/list", "resources/list", "ping"] {
        let (_, text) = client.request(method, json!({})).await.error();
        assert!(text.contains(says), "{method}: {text}");
    }
    for name in ["echo", "no_such_tool"] {
        let (is_error, text) = client.call(name, json!({"text": "x"})).await.tool();
        assert!(is_error && text.contains(says), "{text}");
    }
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(client.post(&notification).await.status, 202);
    for method in ["GET", "DELETE"] {
        let reply = client.send(method, None).await;
        assert!(
            reply.status == 403 && reply.text().contains(says),
            "{}",
            reply.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_its_own_credential_and_one_without_reaches_nothing() {
    let fake = Fake::start(&["echo"]).await;
    let credentials = json!([
        entry(&["key:alice"], "alice"),
        // The first match counts, whatever comes after.
        entry(&["key:alice", "key:b*"], "bob"),
        {"callers": ["anonymous"], "headers": [{"name": "X-Team", "value": "nobody"}]},
    ]);
    let rig = Rig::with(http(&fake, credentials), secrets(), &[allow_all()]).await;
    // The gateway's own listing, and nothing else, has the shared headers.
    assert_eq!(carried(&fake, 0), ["Bearer shared-at-mlflow"]);
    assert!(
        fake.all()
            .iter()
            .all(|got| got.header("x-shared").is_some())
    );
    for (client, has) in [
        (as_caller(&rig, "alice"), "Bearer alice-at-mlflow"),
        (as_caller(&rig, "bob"), "Bearer bob-at-mlflow"),
        (rig.client.clone(), "none"),
    ] {
        let before = fake.all().len();
        let client = client.session().await;
        assert_eq!(client.tools().await, ["echo"]);
        assert!(!client.call("echo", json!({"text": "x"})).await.tool().0);
        let stream = client.listen().await;
        drop(stream);
        assert_eq!(client.send("DELETE", None).await.status, 204);
        let requests = &fake.all()[before..];
        let own = requests
            .iter()
            .filter(|got| got.header("x-shared").is_none());
        assert!(own.clone().count() >= 6, "{requests:?}");
        for got in own {
            assert_eq!(authorization(got), has, "{}", got.what());
        }
        // A listing of the gateway's own may have come in between.
        for got in requests
            .iter()
            .filter(|got| got.header("x-shared").is_some())
        {
            assert_eq!(authorization(got), "Bearer shared-at-mlflow");
        }
    }
    let anonymous = fake.got("tools/call").pop().unwrap();
    assert_eq!(anonymous.header("x-team"), Some("nobody"));
    let calls = fake.calls();
    let before = fake.all().len();
    let says = "McpServer ml/fake has no credential for key:stranger. Nothing was sent to the server. Ask the administrator of this McpServer to name this caller in spec.upstream.http.credentials";
    refused(&as_caller(&rig, "stranger"), says).await;
    // Not even with the session of somebody else.
    let bob = as_caller(&rig, "bob").session().await;
    let token = &bob
        .headers
        .iter()
        .find(|(name, _)| name == "Mcp-Session-Id")
        .unwrap()
        .1;
    let with_session = as_caller(&rig, "stranger").with("Mcp-Session-Id", token);
    refused(&with_session, says).await;
    assert_eq!(fake.calls(), calls);
    let sent = carried(&fake, before);
    assert!(
        sent.iter()
            .all(|has| has.contains("bob") || has.contains("shared")),
        "{sent:?}"
    );
    let denied = || -> Vec<Value> {
        let lines = rig.audit.all().into_iter();
        lines.filter(|line| line["outcome"] == "denied").collect()
    };
    eventually("the calls are recorded", || denied().len() == 4).await;
    let denied = denied();
    assert_eq!(
        [&denied[0]["rule"], &denied[0]["grant"]],
        ["(credentials)", "key:stranger"]
    );
    let report = serde_json::to_value(rig.gateway.report()).unwrap();
    assert_eq!(report["violations"][0]["rule"], "(credentials)");
    let said = format!("{} {report}", rig.audit.text());
    assert!(!said.contains("at-mlflow"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_refuses_its_callers_and_nobody_else() {
    let fake = Fake::start(&["echo"]).await;
    let credentials = json!([entry(&["key:carol"], "carol"), entry(&["key:*"], "bob")]);
    let rig = Rig::with(http(&fake, credentials), secrets(), &[allow_all()]).await;
    assert_eq!(rig.gateway.missing_secrets(), ["carol/token"]);
    assert_eq!(rig.gateway.unready(), None);
    let before = fake.all().len();
    refused(
        &as_caller(&rig, "carol"),
        "The credential of key:carol for McpServer ml/fake is missing or cannot be used",
    )
    .await;
    let bob = as_caller(&rig, "bob").session().await;
    assert!(!bob.call("echo", json!({"text": "x"})).await.tool().0);
    assert!(!carried(&fake, before).concat().contains("carol"));
    rig.secrets.set("carol", "token", "Bearer carol-at-mlflow");
    rig.gateway.refresh(None).unwrap();
    let carol = as_caller(&rig, "carol").session().await;
    assert!(!carol.call("echo", json!({"text": "x"})).await.tool().0);
    assert_eq!(
        authorization(&fake.got("tools/call").pop().unwrap()),
        "Bearer carol-at-mlflow"
    );
    assert!(
        !bob.call("echo", json!({"text": "x"})).await.tool().0,
        "nothing changed for others"
    );
    // A value that cannot be sent is no credential either.
    rig.secrets.set("carol", "token", "two\nlines");
    rig.gateway.refresh(None).unwrap();
    refused(&as_caller(&rig, "carol"), "is missing or cannot be used").await;
    assert!(!bob.call("echo", json!({"text": "x"})).await.tool().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_streams_end_with_the_credential_that_they_were_opened_with() {
    let fake = Fake::start(&["echo"]).await;
    let by_name = || json!([entry(&["key:alice"], "alice"), entry(&["key:bob"], "bob")]);
    let mut rig = Rig::with(http(&fake, by_name()), secrets(), &[allow_all()]).await;
    let alice = as_caller(&rig, "alice").session().await;
    let bob = as_caller(&rig, "bob").session().await;
    let mut listening = alice.listen().await;
    let mut others = bob.listen().await;
    // The Secret rotates.
    rig.secrets.set("alice", "token", "Bearer alice-rotated");
    rig.gateway.refresh(None).unwrap();
    assert_eq!(listening.event().await, None, "the stream ends");
    let before = fake.all().len();
    for reply in [
        alice.call("echo", json!({"text": "x"})).await,
        alice.request("tools/list", json!({})).await,
        alice.send("GET", None).await,
        alice.send("DELETE", None).await,
    ] {
        assert_eq!(
            reply.status,
            404,
            "its client initializes again: {}",
            reply.text()
        );
    }
    assert!(!carried(&fake, before).concat().contains("alice"));
    let alice = as_caller(&rig, "alice").session().await;
    assert!(!alice.call("echo", json!({"text": "x"})).await.tool().0);
    assert_eq!(
        authorization(&fake.got("tools/call").pop().unwrap()),
        "Bearer alice-rotated"
    );
    assert!(
        !bob.call("echo", json!({"text": "x"})).await.tool().0,
        "another's goes on"
    );
    // The same Secret by another entry is the same credential.
    let mut listening = alice.listen().await;
    let moved = json!([entry(&["key:bob"], "bob"), entry(&["key:a*"], "alice")]);
    rig.apply_spec(http(&fake, moved), &[allow_all()]).unwrap();
    assert!(!alice.call("echo", json!({"text": "x"})).await.tool().0);
    // From now on she is somebody else there.
    let changed = json!([entry(&["key:alice"], "bob"), entry(&["key:bob"], "bob")]);
    rig.apply_spec(http(&fake, changed), &[allow_all()])
        .unwrap();
    assert_eq!(listening.event().await, None);
    assert_eq!(alice.call("echo", json!({"text": "x"})).await.status, 404);
    let alice = as_caller(&rig, "alice").session().await;
    // And now nobody: the model reads why, and the session of common clients goes on.
    rig.apply_spec(
        http(&fake, json!([entry(&["key:bob"], "bob")])),
        &[allow_all()],
    )
    .unwrap();
    let (is_error, text) = alice.call("echo", json!({"text": "x"})).await.tool();
    assert!(
        is_error && text.contains("has no credential for key:alice"),
        "{text}"
    );
    fake.tell(&json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}));
    assert!(
        others.event().await.is_some(),
        "bob's stream was open all the time"
    );
    // Credentials that are taken away altogether: sessions of then do not go on with what all have.
    let mut shared = http(&fake, json!([]));
    shared["upstream"]["http"]
        .as_object_mut()
        .unwrap()
        .remove("credentials");
    rig.apply_spec(shared.clone(), &[allow_all()]).unwrap();
    assert_eq!(bob.call("echo", json!({"text": "x"})).await.status, 404);
    let bob = as_caller(&rig, "bob").session().await;
    assert!(!bob.call("echo", json!({"text": "x"})).await.tool().0);
    rig.apply_spec(http(&fake, by_name()), &[allow_all()])
        .unwrap();
    assert_eq!(bob.call("echo", json!({"text": "x"})).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_the_callers_own_credential_lists() {
    let fake = Fake::start(&["echo", "of_alice", "of_bob"]).await;
    fake.on("tools/list", |got| {
        let mut tools = vec![tool("echo")];
        for name in ["alice", "bob"] {
            if authorization(got).contains(name) || authorization(got).contains("shared") {
                tools.push(tool(&format!("of_{name}")));
            }
        }
        Answer::result(got, json!({ "tools": tools }))
    });
    let credentials = json!([entry(&["key:alice"], "alice"), entry(&["key:bob"], "bob")]);
    let rig = Rig::with(http(&fake, credentials), secrets(), &[allow_all()]).await;
    let alice = as_caller(&rig, "alice").session().await;
    let bob = as_caller(&rig, "bob").session().await;
    for _ in 0..3 {
        assert_eq!(alice.tools().await, ["echo", "of_alice"]);
        assert_eq!(bob.tools().await, ["echo", "of_bob"]);
    }
}

async fn variables(client: &Client) -> Value {
    let names = json!({"names": ["USER", "PASSWORD"]});
    let (is_error, text) = client.call("variables", names).await.tool();
    assert!(!is_error, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn process(callers: &[&str], of: &str) -> Value {
    json!({"callers": callers, "env": [{"name": "USER", "value": of}, from("PASSWORD", of)]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_a_session_has_its_callers_variables() {
    let credentials = || {
        json!([
            process(&["key:carol"], "carol"),
            process(&["key:alice"], "alice"),
            process(&["key:*b*"], "bob")
        ])
    };
    let mut rig = Rig::with(stdio(credentials()), secrets(), &[allow_all()]).await;
    let alice = as_caller(&rig, "alice").session().await;
    let bob = as_caller(&rig, "bob").session().await;
    let of = |name: &str| json!({"USER": name, "PASSWORD": format!("password-of-{name}")});
    assert_eq!(
        [variables(&alice).await, variables(&bob).await],
        [of("alice"), of("bob")]
    );
    refused(
        &as_caller(&rig, "stranger"),
        "to name this caller in spec.upstream.stdio.credentials",
    )
    .await;
    refused(&rig.client, "has no credential for anonymous").await;
    refused(&as_caller(&rig, "carol"), "The credential of key:carol").await;
    assert_eq!(rig.gateway.missing_secrets(), ["carol/password"]);
    let mut listening = alice.listen().await;
    rig.secrets.set("alice", "password", "rotated");
    rig.gateway.refresh(None).unwrap();
    assert_eq!(listening.event().await, None);
    assert_eq!(alice.call("echo", json!({"text": "x"})).await.status, 404);
    let alice = as_caller(&rig, "alice").session().await;
    assert_eq!(variables(&alice).await["PASSWORD"], "rotated");
    assert_eq!(
        variables(&bob).await,
        of("bob"),
        "the process of another goes on"
    );
    // Without credentials all have what the gateway has, in sessions of their own.
    let mut spec = stdio(json!([]));
    spec["upstream"]["stdio"]
        .as_object_mut()
        .unwrap()
        .remove("credentials");
    rig.apply_spec(spec, &[allow_all()]).unwrap();
    assert_eq!(bob.call("echo", json!({"text": "x"})).await.status, 404);
    let stranger = as_caller(&rig, "stranger").session().await;
    assert_eq!(variables(&stranger).await["PASSWORD"], "password-of-all");
    rig.apply_spec(stdio(credentials()), &[allow_all()])
        .unwrap();
    let (is_error, text) = stranger
        .call("variables", json!({"names": ["PASSWORD"]}))
        .await
        .tool();
    assert!(is_error && text.contains("has no credential"), "{text}");
    rig.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_asks_is_answered_with_the_credential_of_its_session() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::with(
        http(&fake, json!([entry(&["key:alice"], "alice")])),
        secrets(),
        &[allow_all()],
    )
    .await;
    let alice = as_caller(&rig, "alice").session().await;
    let mut listening = alice.listen().await;
    // Denied by clientFeatures: the gateway refuses by itself, in the session.
    fake.tell(
        &json!({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {}}),
    );
    eventually("the refusal has come", || {
        let refusals = fake.got("response");
        let own = refusals
            .iter()
            .filter(|got| got.header("x-shared").is_none());
        own.clone().count() == 1
            && own
                .clone()
                .all(|got| authorization(got) == "Bearer alice-at-mlflow")
    })
    .await;
    fake.tell(&json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}));
    assert!(listening.event().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_the_callers_credential_and_approves_for_no_other() {
    let fake = Fake::start(&["promote"]).await;
    let credentials = |of: &str| json!([entry(&["key:bob"], "bob"), entry(&["key:alice"], of)]);
    let policy = json!({"rules": [{"name": "promote", "tools": {"names": ["promote"]}, "action": "RequireApproval",
        "approval": {"waitUpTo": "0s"}}]});
    let policies = [policy];
    let mut rig = Rig::with(http(&fake, credentials("alice")), secrets(), &policies).await;
    let alice = as_caller(&rig, "alice").session().await;
    let arguments = json!({"text": "7"});
    assert!(alice.call("promote", arguments.clone()).await.tool().0);
    let asked = rig.approvals.list(jiff::Timestamp::now());
    let shown = asked[0].spec.upstream.as_deref().unwrap();
    assert!(
        shown.ends_with("/mcp with Authorization from Secret alice/token"),
        "{shown}"
    );
    let name = asked[0].metadata.name.clone().unwrap();
    let decided = NewDecision {
        verdict: Verdict::Approved,
        by: "joe",
        reason: None,
        digest: None,
    };
    let now = jiff::Timestamp::now();
    rig.approvals.decide(&name, decided, now).unwrap();
    rig.apply_spec(http(&fake, credentials("bob")), &policies)
        .unwrap();
    let alice = as_caller(&rig, "alice").session().await;
    let (is_error, text) = alice.call("promote", arguments).await.tool();
    assert!(is_error && !text.contains(&name), "asked again: {text}");
    assert_eq!(fake.calls(), 0);
}

/// Speaks TLS in front of the fake server; its port and its certificate.
pub(super) async fn over_tls(fake: &Fake) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), fake.addr);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(stream).await.unwrap();
                let mut inside = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (port, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_tls_is_reached_with_each_callers_credential() {
    let fake = Fake::start(&["echo"]).await;
    let (port, certificate) = over_tls(&fake).await;
    let credentials = json!([entry(&["key:alice"], "alice"), entry(&["key:bob"], "bob")]);
    let mut spec = http(&fake, credentials);
    spec["upstream"]["http"]["url"] = json!(format!("https://localhost:{port}/mcp"));
    spec["upstream"]["http"]["tls"] = json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}});
    let held = secrets();
    held.set("ca", "ca.crt", &certificate);
    let rig = Rig::with(spec, held, &[allow_all()]).await;
    for name in ["alice", "bob", "alice"] {
        let client = as_caller(&rig, name).session().await;
        assert!(!client.call("echo", json!({"text": "x"})).await.tool().0);
        let call = fake.got("tools/call").pop().unwrap();
        assert_eq!(authorization(&call), format!("Bearer {name}-at-mlflow"));
    }
}
