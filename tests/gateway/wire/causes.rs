//! Why a server's tools cannot be listed, in words that say what to change.

use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::rig::{Held, Rig, allow_all};

/// What the report says of a server at that URL.
async fn cause(url: &str, ca: Option<&str>) -> String {
    let secrets = Held::default();
    let mut http = json!({"url": url});
    if let Some(ca) = ca {
        secrets.set("upstream-ca", "ca.crt", ca);
        http["tls"] = json!({"caSecretRef": {"name": "upstream-ca", "key": "ca.crt"}});
    }
    let spec = json!({"upstream": {"http": http}, "authentication": {"anonymous": "Allow"}});
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;
    let error = rig.gateway.inventory.latest().error;
    error.unwrap_or_else(|| "no error".to_owned())
}

/// A server that answers every connection with these bytes.
async fn answering(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = [0; 4096];
            let _ = stream.read(&mut got).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

fn answer(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}")
        .into_bytes()
}

/// A server that speaks TLS with a certificate for these names and days; its port and the
/// certificate.
async fn over_tls(name: &str, expired: bool) -> (u16, String) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 2);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    (port, certificate.pem())
}

#[tokio::test]
async fn a_status_without_a_message_says_which_field_to_correct() {
    for (status, says) in [
        (
            "404 Not Found",
            "correct the path in spec.upstream.http.url",
        ),
        ("405 Method Not Allowed", "does not speak Streamable HTTP"),
        ("401 Unauthorized", "correct spec.upstream.http.headers"),
        ("403 Forbidden", "correct spec.upstream.http.headers"),
        ("421 Misdirected Request", "spec.upstream.http.host"),
        ("502 Bad Gateway", "look at its log"),
        ("418 I'm a teapot", "correct spec.upstream.http.url"),
    ] {
        let body = answer(status).into_iter();
        // As a web server would send it: not JSON.
        let text = String::from_utf8(body.collect()).unwrap();
        let html = text.replace("application/json", "text/html").into_bytes();
        let port = answering(html).await;
        let cause = cause(&format!("http://127.0.0.1:{port}/mcp"), None).await;
        let code = &status[..3];
        assert!(cause.contains(code) && cause.contains(says), "{cause}");
        assert!(!cause.contains("session ended"), "{cause}");
    }
    // FastAPI's and Starlette's 404 is JSON.
    let port = answering(answer("404 Not Found")).await;
    let cause = cause(&format!("http://127.0.0.1:{port}/nowhere"), None).await;
    assert!(cause.contains("correct the path"), "{cause}");
}

#[tokio::test]
async fn a_connection_that_fails_says_why_and_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let refused = cause(&format!("http://127.0.0.1:{port}/mcp"), None).await;
    assert!(refused.contains("nothing listens there"), "{refused}");
    let unknown = cause("http://no-such-host.invalid/mcp", None).await;
    assert!(unknown.contains("has no address here"), "{unknown}");
    let port = answering(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()).await;
    let other = cause(&format!("http://127.0.0.1:{port}/mcp"), None).await;
    assert!(other.contains("does not answer in HTTP"), "{other}");
}

#[tokio::test]
async fn a_certificate_that_is_not_acceptable_says_why_and_what_to_do() {
    let (_, other) = over_tls("localhost", false).await;
    let (port, own) = over_tls("localhost", false).await;
    let url = format!("https://localhost:{port}/mcp");
    let unknown = cause(&url, Some(&other)).await;
    assert!(
        unknown.contains("spec.upstream.http.tls.caSecretRef"),
        "{unknown}"
    );
    let wrong = cause(&format!("https://127.0.0.1:{port}/mcp"), Some(&own)).await;
    assert!(wrong.contains("for another name"), "{wrong}");
    let (port, own) = over_tls("localhost", true).await;
    let expired = cause(&format!("https://localhost:{port}/mcp"), Some(&own)).await;
    assert!(expired.contains("has expired"), "{expired}");
    let port = answering(answer("400 Bad Request")).await;
    let plain = cause(&format!("https://localhost:{port}/mcp"), Some(&own)).await;
    assert!(plain.contains("write http://"), "{plain}");
    let (port, _) = over_tls("localhost", false).await;
    let tls = cause(&format!("http://localhost:{port}/mcp"), None).await;
    assert!(tls.contains("write https://"), "{tls}");
}
