//! The admin port: `/livez`, `/readyz`, `/metrics` and the program's own endpoints, on a separate
//! address.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::timed::Timed;

/// What the admin port shows of the program.
pub trait Admin: Send + Sync + 'static {
    /// Whether traffic should come here; the text says why not.
    ///
    /// # Errors
    /// The reason, one sentence, without secrets.
    fn ready(&self) -> Result<(), String>;

    /// What is not well although traffic should come here: one line each, without secrets.
    fn unwell(&self) -> Vec<String> {
        Vec::new()
    }

    /// Brings metrics up to date that are read, not counted; called before each scrape.
    fn before_scrape(&self) {}

    /// Paths beyond the common three; None is 404.
    fn get(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>>;
}

/// More connections than this wait to be accepted: the files that a process may open are for
/// agents.
const CONNECTIONS: usize = 32;

/// Answers under way when `stop` comes get this long.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves until `stop`, then finishes requests in flight; a connection that does not send a
/// complete request head within 10 s is closed.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<dyn Admin>,
    registry: Arc<Registry>,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Waited for before a connection is accepted: each ends by itself within seconds when it
        // asks for nothing.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => match place {
                Ok(place) => place,
                Err(_) => break,
            },
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin port could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (admin, registry) = (Arc::clone(&admin), Arc::clone(&registry));
        let service = service_fn(move |request| {
            let response = answer(&*admin, &registry, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(std::time::Duration::from_secs(10))
            .serve_connection(Timed::new(TokioIo::new(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("admin connections were cut off");
    }
}

fn answer(
    admin: &dyn Admin,
    registry: &Registry,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !is_own_host(request) {
        return text(
            StatusCode::FORBIDDEN,
            "the Host is not one of this address; use an IP address, localhost or the name of a Service\n",
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        );
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match admin.ready() {
            // The status is for probes, the body for people.
            Ok(()) => {
                let unwell = admin.unwell().into_iter();
                let lines: String = unwell.map(|line| format!("not well: {line}\n")).collect();
                text(StatusCode::OK, format!("ok\n{lines}"))
            }
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => {
            admin.before_scrape();
            metrics(registry)
        }
        _ => admin
            .get(request)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "no such page\n")),
    }
}

/// Whether the request was sent to an address or a name of a cluster, and not to a name that
/// anybody can point here: a web page could otherwise make a browser on this machine read these
/// endpoints (DNS rebinding).
fn is_own_host(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    // HTTP/1.0 has none, and browsers always send it.
    let Some(host) = hosts.next() else {
        return request.uri().authority().is_none();
    };
    let one = hosts.next().is_none() && request.uri().authority().is_none();
    one && host.to_str().is_ok_and(is_own_name)
}

fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host().to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    // A name without a dot, or one of a cluster's own domain, cannot be registered by others.
    address.parse::<std::net::IpAddr>().is_ok()
        || !name.contains('.')
        || name.ends_with(".svc")
        || name.ends_with(".cluster.local")
        || name.ends_with(".localhost")
}

/// The registry in the OpenMetrics text format.
fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut page = String::new();
    match prometheus_client::encoding::text::encode(&mut page, registry) {
        Ok(()) => {
            let mut response = text(StatusCode::OK, page);
            let kind = HeaderValue::from_static(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written\n",
        ),
    }
}

/// A plain text page.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_else_can_point_here_are_answered() {
        for own in [
            "127.0.0.1:9090",
            "10.1.2.3",
            "[::1]:9090",
            "[fd00::7]",
            "localhost:9090",
            "mlflow-gateway:9090",
            "mlflow-gateway.ml.svc:9090",
            "mlflow-gateway.ml.svc.cluster.local",
            "LOCALHOST",
        ] {
            assert!(is_own_name(own), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.nip.io",
            "svc.evil.example",
            "a@127.0.0.1",
            "",
            "x y",
            "evil.example.",
            "localhost.evil.example",
            "cluster.local.evil.example:80",
        ] {
            assert!(!is_own_name(foreign), "{foreign}");
        }
    }
    struct Ready;

    impl Admin for Ready {
        fn ready(&self) -> Result<(), String> {
            Ok(())
        }
        fn get(&self, _: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
            None
        }
    }

    #[tokio::test]
    async fn a_page_of_another_host_gets_nothing() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let registry = Arc::new(Registry::default());
        tokio::spawn(serve(listener, Arc::new(Ready), registry, stop.clone()));
        let own = format!("Host: {address}");
        for (host, status) in [
            (&*own, 200),
            ("Host: evil.example", 403),
            ("Host: evil.example\r\nHost: localhost", 403),
        ] {
            for path in ["/livez", "/readyz", "/metrics"] {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let request = format!("GET {path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).await.unwrap();
                let begins = format!("HTTP/1.1 {status} ");
                assert!(reply.starts_with(&begins), "{host} {path}: {reply}");
            }
        }
        stop.cancel();
    }
}
