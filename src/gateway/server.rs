//! The listener: connections in, requests to the gateway whose path they name.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::again::Again;
use super::body::Body;
use super::relay::json_response;
use super::session::LastSession;
use crate::protocol::answer;

/// A request's head must be there within this time (slow-header attacks).
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Connections beyond this wait to be accepted.
const MAX_CONNECTIONS: usize = 4_096;
/// The largest request head.
const MAX_HEAD: usize = 64 << 10;

/// Which gateway answers which path; changed while serving.
#[derive(Default)]
pub struct Routes {
    paths: RwLock<Arc<BTreeMap<String, Arc<Gateway>>>>,
}

impl Routes {
    /// Replaces them all.
    pub fn set(&self, routes: BTreeMap<String, Arc<Gateway>>) {
        *self.paths.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// The gateways by path.
    pub fn all(&self) -> Arc<BTreeMap<String, Arc<Gateway>>> {
        Arc::clone(&self.paths.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(&self, last: &LastSession, request: Request<Incoming>) -> Response<Body> {
        let gateway = self.all().get(request.uri().path()).cloned();
        match gateway {
            Some(gateway) => super::http::handle(&gateway, last, request).await,
            None => {
                let body = answer::invalid_request(
                    None,
                    "no MCP server is served at this path; it is /NAME/mcp",
                );
                json_response(StatusCode::NOT_FOUND, body)
            }
        }
    }
}

/// Accepts connections until `stop`; then finishes the requests under way, for at most `grace`.
pub async fn serve(
    listener: TcpListener,
    routes: Arc<Routes>,
    stop: CancellationToken,
    grace: Duration,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
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
                    // Too many open files, mostly: it gets better when connections end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let connection = Arc::new((Arc::clone(&routes), LastSession::default()));
        let service = service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move {
                let (routes, last) = &*connection;
                Ok::<_, Infallible>(routes.answer(last, request).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = Again::new(graceful.watch(connection));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    for gateway in routes.all().values() {
        gateway.drain();
    }
    if tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were still under way after {grace:?} and are cut off");
    }
}
