//! The bridge behind a listener: `/mcp`, `/livez` and `/readyz`.
//!
//! In: connections. Out: what [`Bridge::handle`] answers. Bodies are read whole, up to the limit
//! and for a bounded time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::stream::{Body, bare};
use super::wire::code;
use super::{Bridge, Mode, refuse};
use crate::gateway::upstream::unserved::to_header;

const MAX_CONNECTIONS: usize = 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// For calls in flight when the bridge has to stop.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last bytes of streams that were just ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

impl Bridge {
    /// Serves until `shutdown` resolves, lets calls in flight finish, and then stops the children.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accept = async {
                let slot = Arc::clone(&slots).acquire_owned().await.ok();
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                accepted = accept => accepted,
                () = &mut shutdown => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or a connection that is gone already: the next may
                    // do better.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let bridge = Arc::clone(&self);
            let service = service_fn(move |request| {
                let bridge = Arc::clone(&bridge);
                async move { Ok::<_, Infallible>(to_header(bridge.answer(request).await)) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT);
            builder.http2().timer(TokioTimer::new());
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(slot);
            });
        }
        drop(listener);
        self.end_streams();
        let mut finished = std::pin::pin!(graceful.shutdown());
        let in_time = timeout(FINISH_TIMEOUT, &mut finished).await.is_ok();
        self.shutdown().await;
        if !in_time {
            let _ = timeout(FLUSH_TIMEOUT, finished).await;
        }
    }

    fn end_streams(&self) {
        match &self.mode {
            Mode::Shared(mode) => mode.end_streams(),
            Mode::PerSession(mode) => mode.end_streams(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let probe = request.method() == Method::GET || request.method() == Method::HEAD;
        match request.uri().path() {
            "/mcp" => {}
            "/livez" if probe => return bare(StatusCode::OK),
            "/readyz" if probe => {
                return bare(match &self.mode {
                    Mode::Shared(mode) if !mode.is_ready() => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::OK,
                });
            }
            _ => {
                let why = "the endpoint is /mcp";
                return *refuse(StatusCode::NOT_FOUND, code::INVALID, why);
            }
        }
        let (parts, body) = request.into_parts();
        // Who may not speak here is not listened to either.
        if let Err(refused) = self.admit(&parts.headers) {
            return *refused;
        }
        let body = Limited::new(body, self.limits.request_bytes).collect();
        let body: Bytes = match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let why = format!("the body is over {} bytes", self.limits.request_bytes);
                return *refuse(StatusCode::PAYLOAD_TOO_LARGE, code::INVALID, &why);
            }
            Ok(Err(_)) => {
                let why = "the body broke off";
                return *refuse(StatusCode::BAD_REQUEST, code::PARSE, why);
            }
            Err(_) => {
                let why = "the body took too long";
                return *refuse(StatusCode::REQUEST_TIMEOUT, code::PARSE, why);
            }
        };
        self.handle(Request::from_parts(parts, body)).await
    }
}
