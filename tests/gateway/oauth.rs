//! The OAuth clients of the SDKs, and tokens of a real OpenID provider: an agent that has no
//! credential yet finds the provider by the gateway's answers, and calls with the token that it got
//! there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::client::Client;
use crate::support::rig::{Held, Rig, allow_all};
use crate::support::upstream::Fake;
use crate::support::{installed, node, soon};

/// Identifies a client that does not register; the provider knows its document.
const CLIENT_ID: &str = "https://agent.example/client.json";
const KEY: &str = "the-api-key-of-the-trainer";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/gateway")
        .join(path)
}

struct Provider {
    issuer: String,
    addr: SocketAddr,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Provider {
    async fn start(what: &str) -> Option<Self> {
        let modules = installed("PORTCULLIS_TEST_NODE_MODULES", what)?;
        let mut process = Command::new(node(&modules))
            .arg(file("fixtures/oidc_provider.mjs"))
            .arg(&modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let issuer = soon("the provider starts", said.next_line()).await;
        let issuer = issuer.unwrap().expect("the provider ended");
        Some(Provider {
            addr: issuer.strip_prefix("http://").unwrap().parse().unwrap(),
            issuer,
            orders,
            said,
            _process: process,
        })
    }

    /// Another signing key from now on.
    async fn rotate(&mut self) {
        self.orders.write_all(b"rotate\n").await.unwrap();
        let done = soon("the provider rotates its key", self.said.next_line()).await;
        assert_eq!(done.unwrap().as_deref(), Some("rotated"));
    }

    /// What was asked of it so far.
    async fn requests(&self) -> Vec<String> {
        let reply = Client::new(self.addr, "/requests").send("GET", None).await;
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// A token of a program that has a secret, for this resource.
    async fn token(&self, resource: &str, scope: &str) -> String {
        let secret = STANDARD.encode("robot:the-secret-of-the-robot");
        let client = Client::new(self.addr, "/token")
            .with("Authorization", &format!("Basic {secret}"))
            .with("Content-Type", "application/x-www-form-urlencoded")
            .with("Accept", "application/json");
        let scope = match scope {
            "" => String::new(),
            scope => format!("&scope={scope}"),
        };
        let form = format!("grant_type=client_credentials&resource={resource}{scope}");
        let reply = client.post_raw(form).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// A gateway whose callers come with tokens of this provider, or with an API key.
async fn gateway(provider: &Provider, fake: &Fake) -> Rig {
    let secrets = Held::default();
    secrets.set("agents", "trainer", KEY);
    let spec = |authentication: Value| {
        json!({
            "upstream": {"http": {"url": format!("http://{}/mcp", fake.addr)}},
            "authentication": authentication,
        })
    };
    let keys = json!({"secretRef": {"name": "agents"}});
    let first = spec(json!({ "apiKeys": keys }));
    let mut rig = Rig::with(first, secrets, &[allow_all()]).await;
    // Tokens are for this very gateway, whose port is known only now.
    let jwt = json!({"name": "corp", "issuer": provider.issuer, "audiences": [rig.url()],
        "jwks": {"url": format!("{}/jwks", provider.issuer)}, "requiredScopes": ["mcp"]});
    let both = spec(json!({"apiKeys": keys, "jwt": [jwt]}));
    rig.apply_spec(both, &[allow_all()]).unwrap();
    rig
}

async fn output(what: &str, command: &mut Command) -> Value {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output();
    let limit = std::time::Duration::from_secs(120);
    let output = tokio::time::timeout(limit, output).await;
    let output = output.expect("the client does not end").unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {err}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {err}"))
}

/// The whole flow, once with registration and once with a client-id document.
async fn completes_the_flow(what: &str, client: impl Fn() -> Option<Command>) {
    let Some(provider) = Provider::start(what).await else {
        return;
    };
    let fake = Fake::start(&["echo"]).await;
    let rig = gateway(&provider, &fake).await;
    let mut before = 0;
    for document in [None, Some(CLIENT_ID)] {
        let Some(mut command) = client() else {
            return;
        };
        command.arg(rig.url()).args(document);
        let got = output(what, &mut command).await;
        assert_eq!(got["tools"], json!(["echo"]), "{what}");
        assert!(got["text"].as_str().unwrap().contains("hello"), "{what}");
        let scope = got["scope"].as_str().unwrap();
        let required = scope.split(' ').any(|scope| scope == "mcp");
        assert!(
            required,
            "{what}: the scope that the gateway requires: {scope}"
        );
        let asked = provider.requests().await.split_off(before);
        before += asked.len();
        let registered = asked.iter().any(|request| request == "POST /reg");
        assert_eq!(registered, document.is_none(), "{what}: {asked:?}");
        if let Some(document) = document {
            assert_eq!(got["client"], document, "{what}");
        }
        for step in ["GET /auth", "GET /interaction", "POST /token"] {
            assert!(
                asked.iter().any(|request| request == step),
                "{what}: {asked:?}"
            );
        }
    }
    let lines = rig.audit.all();
    let grants: Vec<&Value> = lines.iter().map(|line| &line["grant"]).collect();
    assert!(
        grants.iter().all(|grant| **grant == "jwt:corp/alice"),
        "{grants:?}"
    );
    // Nothing of what the agents presented reached the server.
    assert!(
        fake.all()
            .iter()
            .all(|got| got.header("authorization").is_none())
    );
    // Who has an API key needs none of that.
    let keyed = rig.client.with("Authorization", &format!("Bearer {KEY}"));
    let keyed = keyed.session().await;
    assert!(!keyed.call("echo", json!({"text": "x"})).await.tool().0);
}

fn python(variable: &'static str, what: &'static str) -> impl Fn() -> Option<Command> {
    move || {
        let mut command = Command::new(installed(variable, what)?);
        command.arg(file("clients/oauth.py"));
        Some(command)
    }
}

fn typescript(which: &'static str, what: &'static str) -> impl Fn() -> Option<Command> {
    move || {
        let modules = installed("PORTCULLIS_TEST_NODE_MODULES", what)?;
        let mut command = Command::new(node(&modules));
        command
            .arg(file("clients/oauth.mjs"))
            .arg(modules)
            .arg(which);
        Some(command)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_1_client_gets_a_token_and_calls_with_it() {
    let what = "OAuth of the Python SDK 1.x";
    completes_the_flow(what, python("PORTCULLIS_TEST_PYTHON_1", what)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_2_client_gets_a_token_and_calls_with_it() {
    let what = "OAuth of the Python SDK 2.x";
    completes_the_flow(what, python("PORTCULLIS_TEST_PYTHON_2", what)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_1_client_gets_a_token_and_calls_with_it() {
    let what = "OAuth of the TypeScript SDK 1.x";
    completes_the_flow(what, typescript("sdk", what)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_2_client_gets_a_token_and_calls_with_it() {
    let what = "OAuth of the TypeScript SDK 2.x";
    completes_the_flow(what, typescript("client", what)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_real_provider_are_verified_through_a_rotation_of_its_key() {
    let Some(mut provider) = Provider::start("tokens of a real provider").await else {
        return;
    };
    let fake = Fake::start(&["echo"]).await;
    let rig = gateway(&provider, &fake).await;
    let policy = json!({"rules": [{"name": "agents", "tools": {"names": ["*"]}, "action": "Allow",
        "callers": ["jwt:corp/robot"], "when": "'agents' in caller.groups && caller.claims.client_id == 'robot'"}]});
    rig.apply(&[policy]).unwrap();
    let with = |token: &str| rig.client.with("Authorization", &format!("Bearer {token}"));
    let status = async |token: &str| {
        let reply = with(token).initialize("2025-11-25", json!({})).await;
        let challenge = reply
            .header("www-authenticate")
            .unwrap_or_default()
            .to_owned();
        (reply.status, challenge)
    };
    let first = provider.token(&rig.url(), "mcp").await;
    let session = with(&first).session().await;
    assert!(!session.call("echo", json!({"text": "x"})).await.tool().0);
    assert_eq!(rig.audit.all()[0]["grant"], "jwt:corp/robot");
    let elsewhere = provider.token("https://other.example/mcp", "mcp").await;
    let (code, challenge) = status(&elsewhere).await;
    assert!(
        code == 401 && challenge.contains("error=\"invalid_token\""),
        "{challenge}"
    );
    let unscoped = provider.token(&rig.url(), "").await;
    let (code, challenge) = status(&unscoped).await;
    assert!(
        code == 403 && challenge.contains("error=\"insufficient_scope\", scope=\"mcp\""),
        "{challenge}"
    );
    let (head, signature) = first.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(status(&forged).await.0, 401);
    // Its next key is fetched with the first token that it signed, and what the former key signed
    // is no longer accepted.
    provider.rotate().await;
    let second = provider.token(&rig.url(), "mcp").await;
    assert_eq!(status(&second).await.0, 200);
    assert_eq!(status(&first).await.0, 401);
    let fetches = provider.requests().await;
    let fetches = fetches
        .iter()
        .filter(|request| *request == "GET /jwks")
        .count();
    assert!(
        (2..=3).contains(&fetches),
        "at the start, at once for the first token if it comes before that has ended, and for the key that was not known: {fetches}"
    );
}
