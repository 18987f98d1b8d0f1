//! Callers with JSON Web Tokens: keys from a Secret and behind a URL, challenges, the document that
//! says where tokens come from, and the end of streams whose token has ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::client::Client;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::soon;
use crate::support::upstream::Fake;

/// A key of an issuer.
struct Signer {
    kid: String,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer {
            kid: kid.to_owned(),
            pair: Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap(),
        }
    }

    fn token(&self, issuer: &str, sub: &str, more: Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"});
        let mut claims = json!({"iss": issuer, "aud": "mlflow-gateway", "sub": sub,
            "exp": Timestamp::now().as_second() + 300});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn set(signers: &[&Signer]) -> String {
    let keys = signers.iter().map(|signer| {
        let x = URL_SAFE_NO_PAD.encode(signer.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": signer.kid, "x": x})
    });
    json!({"keys": keys.collect::<Vec<_>>()}).to_string()
}

/// A server of key sets on loopback.
struct KeyServer {
    addr: SocketAddr,
    /// The whole response.
    response: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = KeyServer {
            addr: listener.local_addr().unwrap(),
            response: Arc::default(),
            asked: Arc::default(),
        };
        server.answers(signers);
        let (response, asked) = (Arc::clone(&server.response), Arc::clone(&server.asked));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = [0; 4_096];
                let _ = stream.read(&mut read).await;
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = response.lock().unwrap().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        server
    }

    fn answers(&self, signers: &[&Signer]) {
        let body = set(signers);
        *self.response.lock().unwrap() = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }

    fn fails(&self, status: &str) {
        *self.response.lock().unwrap() = format!(
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:9/\r\nConnection: close\r\n\r\n"
        );
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn spec(fake: &Fake, jwt: Value) -> Value {
    let mut spec = open_to_all(fake);
    spec["authentication"] = json!({"jwt": [jwt]});
    spec
}

fn provider(issuer: &str, jwks: Value) -> Value {
    json!({"name": "corp", "issuer": issuer, "audiences": ["mlflow-gateway"], "jwks": jwks})
}

async fn with_secret(signer: &Signer, more: Value) -> Rig {
    let fake = Fake::start(&["echo"]).await;
    let secrets = Held::default();
    secrets.set("sso", "jwks", &set(&[signer]));
    let mut jwt = provider(
        "https://sso.example",
        json!({"secretKeyRef": {"name": "sso", "key": "jwks"}}),
    );
    for (name, value) in more.as_object().unwrap() {
        jwt[name] = value.clone();
    }
    Rig::with(spec(&fake, jwt), secrets, &[allow_all()]).await
}

fn as_bearer(client: &Client, token: &str) -> Client {
    client
        .without("authorization")
        .with("Authorization", &format!("Bearer {token}"))
}

async fn status(client: &Client, token: &str) -> u16 {
    as_bearer(client, token)
        .initialize("2025-11-25", json!({}))
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_the_caller_and_its_claims_reach_conditions() {
    let signer = Signer::new("one");
    let rig = with_secret(&signer, json!({"grantClaim": "email"})).await;
    let rules = json!({"rules": [{"name": "ops", "tools": {"names": ["*"]}, "action": "Allow",
        "callers": ["jwt:corp/*@example.org"],
        "when": "caller.kind == 'jwt' && 'ops' in caller.groups && caller.claims.department == 'ml'"}]});
    rig.apply(&[rules]).unwrap();
    let claims = json!({"email": "alice@example.org", "groups": ["ops"], "department": "ml"});
    let token = signer.token("https://sso.example", "7", claims);
    let alice = as_bearer(&rig.client, &token).session().await;
    assert!(!alice.call("echo", json!({})).await.tool().0);
    assert_eq!(rig.audit.all()[0]["grant"], "jwt:corp/alice@example.org");
    for lacking in [
        json!({"email": "alice@example.org", "groups": ["dev"], "department": "ml"}),
        json!({"email": "alice@example.org", "groups": ["ops"]}),
        json!({"email": "alice@example.com", "groups": ["ops"], "department": "ml"}),
    ] {
        let token = signer.token("https://sso.example", "7", lacking);
        let other = as_bearer(&rig.client, &token).session().await;
        let answer = other
            .call("echo", json!({}))
            .await
            .messages()
            .pop()
            .unwrap();
        assert!(
            answer["error"].is_object() || answer["result"]["isError"] == true,
            "{answer}"
        );
    }
    // A session is its caller's.
    let token = signer.token(
        "https://sso.example",
        "8",
        json!({"email": "bob@example.org"}),
    );
    let stolen = as_bearer(&alice, &token).request("ping", json!({})).await;
    assert_eq!(stolen.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_where_tokens_come_from_and_what_was_wrong() {
    let signer = Signer::new("one");
    let rig = with_secret(&signer, json!({"requiredScopes": ["mcp", "mlflow"]})).await;
    let document = format!(
        "resource_metadata=\"http://{}/.well-known/oauth-protected-resource/fake/mcp\"",
        rig.addr
    );
    let challenge = async |client: &Client| {
        let reply = client.initialize("2025-11-25", json!({})).await;
        let challenge = reply.header("www-authenticate").unwrap().to_owned();
        (reply.status, challenge)
    };
    let (status, missing) = challenge(&rig.client).await;
    assert_eq!(
        (status, &*missing),
        (401, &*format!("Bearer realm=\"portcullis\", {document}"))
    );
    let (status, wrong) = challenge(&as_bearer(&rig.client, "nonsense")).await;
    assert_eq!(status, 401);
    assert!(
        wrong.contains("error=\"invalid_token\"") && wrong.ends_with(&document),
        "{wrong}"
    );
    let token = signer.token("https://sso.example", "alice", json!({"scope": "mcp"}));
    let (status, lacking) = challenge(&as_bearer(&rig.client, &token)).await;
    assert_eq!(status, 403);
    assert!(
        lacking.contains("error=\"insufficient_scope\", scope=\"mcp mlflow\""),
        "{lacking}"
    );

    for path in ["", "/fake/mcp"] {
        let path = format!("/.well-known/oauth-protected-resource{path}");
        let reply = Client::new(rig.addr, &path).send("GET", None).await;
        if path.ends_with("resource") {
            // Several servers may be served here: the path says which is meant.
            assert_eq!(reply.status, 404);
            continue;
        }
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json(),
            json!({"resource": format!("http://{}/fake/mcp", rig.addr),
                "authorization_servers": ["https://sso.example"],
                "bearer_methods_supported": ["header"],
                "resource_name": "ml/fake", "scopes_supported": ["mcp", "mlflow"]})
        );
        let foreign = Client::new(rig.addr, &path).with("Host", "evil.example");
        assert_eq!(foreign.send("GET", None).await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_behind_a_url_are_fetched_rotated_and_kept_through_an_outage() {
    let (old, new, unknown) = (Signer::new("one"), Signer::new("two"), Signer::new("three"));
    let keys = KeyServer::start(&[&old]).await;
    let issuer = format!("http://{}", keys.addr);
    let fake = Fake::start(&["echo"]).await;
    let jwt = provider(&issuer, json!({"url": format!("{issuer}/jwks")}));
    let rig = Rig::with(spec(&fake, jwt), Held::default(), &[allow_all()]).await;
    let of = |signer: &Signer| signer.token(&issuer, "alice", json!({}));
    let known = of(&old);
    soon("the first keys", async {
        while status(&rig.client, &known).await != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The issuer signs with a new key: the first token of it makes the set be fetched.
    keys.answers(&[&old, &new]);
    let fetched = keys.asked();
    assert_eq!(status(&rig.client, &of(&new)).await, 200);
    assert_eq!(keys.asked(), fetched + 1);
    assert_eq!(status(&rig.client, &known).await, 200);
    // Tokens with keys that nobody has do not make it be fetched again and again.
    for _ in 0..20 {
        assert_eq!(status(&rig.client, &of(&unknown)).await, 401);
    }
    assert_eq!(keys.asked(), fetched + 1);
    // A change of policy keeps the keys.
    rig.apply(&[allow_all(), json!({"rules": []})]).unwrap();
    assert_eq!(status(&rig.client, &of(&new)).await, 200);
    // The issuer goes away: the last keys are used on.
    keys.fails("500 Internal Server Error");
    assert_eq!(status(&rig.client, &of(&old)).await, 200);
    assert_eq!(status(&rig.client, &of(&new)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_no_token_is_accepted_and_the_report_says_why() {
    let signer = Signer::new("one");
    for failure in ["404 Not Found", "302 Found"] {
        let keys = KeyServer::start(&[&signer]).await;
        keys.fails(failure);
        let issuer = format!("http://{}", keys.addr);
        let fake = Fake::start(&["echo"]).await;
        let mut open = spec(
            &fake,
            provider(&issuer, json!({"url": format!("{issuer}/jwks")})),
        );
        open["authentication"]["anonymous"] = json!("Allow");
        let rig = Rig::with(open, Held::default(), &[allow_all()]).await;
        let token = signer.token(&issuer, "alice", json!({}));
        assert_eq!(status(&rig.client, &token).await, 401, "never anonymous");
        let report = serde_json::to_value(rig.gateway.report()).unwrap();
        let fault = report["issuerFaults"][0].as_str().unwrap();
        let code = failure.split(' ').next().unwrap();
        assert!(fault.contains(&issuer) && fault.contains(code), "{fault}");
        // Others are served meanwhile.
        assert_eq!(
            rig.client.initialize("2025-11-25", json!({})).await.status,
            200
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_with_its_issuers_key() {
    let signer = Signer::new("one");
    let rig = with_secret(&signer, json!({})).await;
    // A minute is for clocks that differ.
    let ending = json!({"exp": Timestamp::now().as_second() - 56});
    let token = signer.token("https://sso.example", "alice", ending);
    let short = as_bearer(&rig.client, &token).session().await;
    let mut stream = short.listen().await;
    soon("the stream ends with the token", async {
        while stream.event().await.is_some() {}
    })
    .await;
    assert_eq!(short.request("ping", json!({})).await.status, 401);

    let token = signer.token("https://sso.example", "alice", json!({}));
    let long = as_bearer(&rig.client, &token).session().await;
    let mut stream = long.listen().await;
    rig.secrets.set("sso", "jwks", &set(&[&Signer::new("one")]));
    rig.gateway.refresh(None).unwrap();
    soon("the stream ends with the key", async {
        while stream.event().await.is_some() {}
    })
    .await;
    assert_eq!(long.request("ping", json!({})).await.status, 401);
}
