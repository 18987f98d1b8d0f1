//! TLS towards agents, as the bundle says.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::pod::{Pod, Volumes, bundle};
use crate::support::client::Exchange;
use crate::support::rig::{allow_all, open_to_all};
use crate::support::upstream::Fake;

/// A certificate for loopback, and its key, in PEM.
struct Pair {
    der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Pair {
        der: made.cert.der().clone(),
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

fn put(volumes: &Volumes, certificate: &str, key: &str) {
    volumes.secret("fake-tls", "tls.crt", certificate);
    volumes.secret("fake-tls", "tls.key", key);
}

fn over_tls(fake: &Fake) -> Value {
    let mut spec = open_to_all(fake);
    spec["gateway"] = json!({"tls": {"secretRef": {"name": "fake-tls"}}});
    spec
}

/// `initialize` over HTTPS, trusting only this certificate; the status, or why there is none.
async fn initialize(pod: &Pod, trusted: &Pair) -> Result<StatusCode, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}});
    let request = Request::post(format!("https://localhost:{}/mcp", pod.client.addr.port()))
        .header("Content-Type", "application/json")
        .header("Accept", "application/json, text/event-stream")
        .body(Full::from(body.to_string()))
        .unwrap();
    let response = crate::support::soon("an answer", client.request(request)).await?;
    let status = response.status();
    response.into_body().collect().await.unwrap();
    Ok(status)
}

/// Whether a request in plain text gets not one byte in answer.
async fn plain_text_is_not_answered(pod: &Pod) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(pod.client.addr)
        .await
        .unwrap();
    let request = pod.client.bytes("POST", Some(b"{}"));
    let _ = stream.write_all(&request).await;
    let mut answer = Vec::new();
    let _ = crate::support::soon("the end", stream.read_to_end(&mut answer)).await;
    !answer.starts_with(b"HTTP")
}

#[tokio::test]
async fn https_is_spoken_with_the_secrets_certificate_and_plain_text_never_is() {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    volumes.bundle(&bundle(1, &over_tls(&fake), &[allow_all()]));
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_unready("Secrets are missing: fake-tls/tls.crt, fake-tls/tls.key")
        .await;
    assert!(plain_text_is_not_answered(&pod).await);

    let (first, second) = (pair(), pair());
    put(&volumes, &first.certificate, &first.key);
    pod.is_ready().await;
    assert_eq!(initialize(&pod, &first).await.unwrap(), 200);
    assert!(initialize(&pod, &second).await.is_err());
    assert!(plain_text_is_not_answered(&pod).await);

    put(&volumes, &second.certificate, &second.key);
    pod.until("the new certificate is shown", async |pod| {
        initialize(pod, &second).await.is_ok()
    })
    .await;
    assert!(initialize(&pod, &first).await.is_err());

    // One that cannot be used changes nothing, and nothing of it is shown.
    let broken = second.key.replace('\n', "");
    put(&volumes, &second.certificate, &broken);
    pod.until("the broken key is reported", async |pod| {
        let report = pod.report().await;
        report["bundleError"].as_str().is_some_and(|error| {
            assert!(!error.contains("PRIVATE KEY-"), "{error}");
            error.contains("tls.key is not a PEM private key")
        })
    })
    .await;
    assert_eq!(initialize(&pod, &second).await.unwrap(), 200);
    let body = second.key.lines().nth(1).unwrap();
    assert!(!pod.logged().contains(body));

    // A certificate that goes missing closes the door.
    std::fs::remove_dir_all(volumes.path("secrets/fake-tls")).unwrap();
    pod.is_unready("Secrets are missing: fake-tls/tls.crt, fake-tls/tls.key")
        .await;
    assert!(plain_text_is_not_answered(&pod).await);
    assert!(initialize(&pod, &second).await.is_err());
}

#[tokio::test]
async fn connections_and_streams_in_plain_text_end_when_tls_is_asked_for() {
    let fake = Fake::start(&["echo"]).await;
    let (volumes, pod) = Pod::ready(&fake, &[allow_all()], &[]).await;
    let session = pod.client.session().await;
    let mut stream = session.listen().await;
    let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}).to_string();
    let mut kept = Exchange::open(pod.client.addr).await;
    kept.write(&session.bytes("POST", Some(list.as_bytes())))
        .await;
    assert_eq!(kept.next_reply().await.status, 200);

    let pair = pair();
    put(&volumes, &pair.certificate, &pair.key);
    volumes.bundle(&bundle(2, &over_tls(&fake), &[allow_all()]));
    pod.until("TLS is spoken", async |pod| {
        initialize(pod, &pair).await.is_ok()
    })
    .await;
    assert_eq!(stream.event().await, None);
    assert!(kept.ends().await, "a kept connection goes on in plain text");

    // And back.
    volumes.bundle(&bundle(3, &open_to_all(&fake), &[allow_all()]));
    pod.until("plain text is spoken", async |pod| {
        !plain_text_is_not_answered(pod).await
    })
    .await;
    pod.client.session().await;
}

#[tokio::test]
async fn a_first_bundle_with_an_unusable_certificate_is_not_served_in_plain_text() {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    let (pair, other) = (pair(), pair());
    put(&volumes, &pair.certificate, &other.key);
    volumes.bundle(&bundle(1, &over_tls(&fake), &[allow_all()]));
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_unready("no bundle is in force; the newest was refused, and the log says why")
        .await;
    assert!(plain_text_is_not_answered(&pod).await);
    let report = pod.report().await;
    let error = report["bundleError"].as_str().unwrap();
    assert!(error.contains("do not fit together"), "{error}");
    put(&volumes, &pair.certificate, &pair.key);
    pod.is_ready().await;
    assert_eq!(initialize(&pod, &pair).await.unwrap(), 200);
}
