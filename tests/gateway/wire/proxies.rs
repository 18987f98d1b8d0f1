//! Servers behind an HTTP proxy, and servers that insist on a Host.

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::credentials::over_tls;
use crate::support::proxy::tunnels;
use crate::support::rig::{Held, Rig, allow_all};
use crate::support::soon;
use crate::support::upstream::{Answer, Fake};

fn spec(http: Value) -> Value {
    json!({"upstream": {"http": http}, "authentication": {"anonymous": "Allow"}})
}

fn basic(credentials: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    format!("Basic {encoded}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_is_reached_through_the_proxy_of_its_spec() {
    // It takes requests as a proxy does: the whole URL is the target.
    let proxy = Fake::start(&["echo"]).await;
    let held = Held::default();
    held.set("proxy", "login", "joe:hunter2\n");
    let server = spec(json!({
        "url": "http://mlflow.example:5000/mcp?x=1",
        "proxy": {"url": format!("http://{}", proxy.addr), "credentialsSecretRef": {"name": "proxy", "key": "login"}},
    }));
    let rig = Rig::with(server, held, &[allow_all()]).await;
    let client = rig.client.session().await;
    assert!(!client.call("echo", json!({"text": "x"})).await.tool().0);
    let call = proxy.got("tools/call").pop().unwrap();
    assert_eq!(call.path, "http://mlflow.example:5000/mcp?x=1");
    assert_eq!(call.header("host"), Some("mlflow.example:5000"));
    let login = basic("joe:hunter2");
    assert_eq!(call.header("proxy-authorization"), Some(login.as_str()));

    // What the proxy refuses is said, and not its password.
    proxy.on("tools/call", |_| {
        Answer::Status(407, "text/plain", b"joe:hunter2 is not known".to_vec())
    });
    let (code, text) = client.call("echo", json!({"text": "x"})).await.error();
    assert_eq!(code, -32603);
    assert!(text.contains("407") && !text.contains("hunter2"), "{text}");
    let audit = rig.audit.text();
    assert!(!audit.contains("hunter2"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_tls_is_reached_through_a_tunnel_and_the_proxy_sees_no_request() {
    let fake = Fake::start(&["echo"]).await;
    let (port, certificate) = over_tls(&fake).await;
    let (proxy, heads) = tunnels(port, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let held = Held::default();
    held.set("ca", "ca.crt", &certificate);
    held.set("proxy", "login", "joe:hunter2");
    let server = spec(json!({
        "url": format!("https://localhost:{port}/mcp"),
        "tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
        "proxy": {"url": format!("http://127.0.0.1:{proxy}"), "credentialsSecretRef": {"name": "proxy", "key": "login"}},
        "headers": [{"name": "Authorization", "value": "Bearer s3cret"}],
    }));
    let rig = Rig::with(server, held, &[allow_all()]).await;
    let client = rig.client.session().await;
    assert!(!client.call("echo", json!({"text": "x"})).await.tool().0);
    let call = fake.got("tools/call").pop().unwrap();
    assert_eq!(call.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(call.header("proxy-authorization"), None);
    let heads = heads.lock().unwrap().clone();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(
            head.starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")),
            "{head}"
        );
        let lower = head.to_ascii_lowercase();
        let login = basic("joe:hunter2").to_ascii_lowercase();
        assert!(
            lower.contains(&format!("proxy-authorization: {login}")),
            "{head}"
        );
        assert!(!lower.contains("s3cret"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_is_not_there_is_named_as_the_cause() {
    let (refusing, _) = tunnels(
        1,
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = closed.local_addr().unwrap().port();
    drop(closed);
    for (url, proxy, says) in [
        (
            "https://mlflow.example/mcp",
            refusing,
            "credentialsSecretRef",
        ),
        (
            "https://mlflow.example/mcp",
            gone,
            "spec.upstream.http.proxy",
        ),
        (
            "http://mlflow.example/mcp",
            gone,
            "spec.upstream.http.proxy",
        ),
    ] {
        let server = spec(json!({
            "url": url, "proxy": {"url": format!("http://127.0.0.1:{proxy}")},
        }));
        let rig = Rig::unlisted(server, Held::default(), &[allow_all()]).await;
        soon("the first listing", rig.gateway.inventory.first()).await;
        let error = rig.gateway.inventory.latest().error.unwrap_or_default();
        assert!(error.contains(says), "{url} {proxy}: {error}");
    }
    // The credentials of a Secret that are not USER:PASSWORD are refused, and not shown.
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    rig.secrets.set("proxy", "login", "hunter2");
    let mut rig = rig;
    let refused = rig.apply_spec(
        spec(json!({
            "url": "http://mlflow.example/mcp",
            "proxy": {"url": "http://127.0.0.1:1", "credentialsSecretRef": {"name": "proxy", "key": "login"}},
        })),
        &[allow_all()],
    );
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("USER:PASSWORD") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_insists_on_a_host_gets_it_and_no_caller_can_change_it() {
    let fake = Fake::start(&["echo"]).await;
    let (port, certificate) = over_tls(&fake).await;
    let held = Held::default();
    held.set("ca", "ca.crt", &certificate);
    for http in [
        json!({"url": format!("http://{}/mcp", fake.addr), "host": "mlflow.example:5000"}),
        json!({
            "url": format!("https://localhost:{port}/mcp"), "host": "mlflow.example:5000",
            "tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
        }),
    ] {
        let rig = Rig::with(spec(http), held.clone(), &[allow_all()]).await;
        let client = rig.client.session().await;
        // Attack: a header of the caller's that proxies take for the host.
        let client = client.with("X-Forwarded-Host", "evil.example");
        assert!(!client.call("echo", json!({"text": "x"})).await.tool().0);
        let call = fake.got("tools/call").pop().unwrap();
        assert_eq!(call.header("host"), Some("mlflow.example:5000"));
        assert_eq!(call.header("x-forwarded-host"), None);
    }
}
