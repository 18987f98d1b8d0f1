//! The listener: connections in, requests to the gateway whose path they name.

mod coalesce_wakes;
mod request_runner;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::coalesce_wakes::CoalescedWakes;
use self::request_runner::{RequestRunner, Responder};
use crate::gateway::Gateway;
use crate::gateway::body::message::json_response;
use crate::gateway::body::{Body, full, holding};
use crate::gateway::fairness::budget::Budgets;
use crate::gateway::fairness::floor::{Floor, Seat};
use crate::gateway::force::tls::Transport;
use crate::gateway::http::{CREDENTIAL_HINT, WELL_KNOWN, protected_resource};
use crate::gateway::sessions::LastSession;
use crate::protocol::answer;
use crate::telemetry::timed::Timed;

/// A request's head must be there within this time (slow-header attacks).
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest request head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The path where a process serves one gateway only.
pub const SINGLE_SERVER_PATH: &str = "/mcp";

/// Where load balancers ask whether to send requests here. It says nothing but yes or no.
pub const HEALTH_PATH: &str = "/healthz";

/// Which gateway answers which path; changed while serving.
#[derive(Default)]
pub struct Routes {
    paths: RwLock<Arc<BTreeMap<String, Arc<Gateway>>>>,
    /// What all callers of all gateways share.
    pub budgets: Arc<Budgets>,
}

impl Routes {
    /// Replaces them all.
    pub fn set(&self, routes: BTreeMap<String, Arc<Gateway>>) {
        *self.paths.write() = Arc::new(routes);
    }

    /// The gateways by path.
    pub fn all(&self) -> Arc<BTreeMap<String, Arc<Gateway>>> {
        Arc::clone(&self.paths.read())
    }

    /// The gateway at a path: its own, or that of its `publicUrl`, so that an ingress may forward
    /// paths as they are. A slash at the end means nothing.
    fn at(&self, path: &str) -> Option<Arc<Gateway>> {
        let all = self.all();
        if let Some(gateway) = all.get(path) {
            return Some(Arc::clone(gateway));
        }
        let plain = path.strip_suffix('/').unwrap_or(path);
        let public = |gateway: &&Arc<Gateway>| {
            gateway.snapshot().is_some_and(|snapshot| {
                let public = snapshot.settings.public_path.as_deref();
                public.is_some_and(|public| public == plain)
            })
        };
        all.get(plain)
            .or_else(|| all.values().find(public))
            .cloned()
    }

    /// The endpoint whose metadata is asked for: the rest of the path names it, and a process that
    /// serves one server needs no name.
    fn of_document(&self, path: &str) -> Option<(String, Arc<Gateway>)> {
        if let Some(gateway) = self.at(path) {
            return Some((path.to_owned(), gateway));
        }
        let single = self.all().get(SINGLE_SERVER_PATH).cloned()?;
        Some((SINGLE_SERVER_PATH.to_owned(), single))
    }

    async fn answer(
        &self,
        seat: &Seat,
        last: &LastSession,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let Some(gateway) = self.at(request.uri().path()) else {
            return self.elsewhere(seat, request);
        };
        let under_way = seat.begin();
        let answer = crate::gateway::http::handle(&gateway, seat, last, request).await;
        if answer.body().size_hint().exact().is_some() {
            return answer;
        }
        answer.map(|body| holding(body, under_way))
    }

    /// Answers a request that is for none of the MCP endpoints.
    fn elsewhere(&self, seat: &Seat, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if let Some(path) = path.strip_prefix(WELL_KNOWN)
            && let Some((path, gateway)) = self.of_document(path)
        {
            let (head, _) = request.into_parts();
            return protected_resource(&gateway, seat, &head, &path);
        }
        if path == HEALTH_PATH && matches!(*request.method(), Method::GET | Method::HEAD) {
            let serves = self
                .all()
                .values()
                .any(|gateway| gateway.snapshot().is_some());
            let (status, text) = match serves {
                true => (StatusCode::OK, "ok\n"),
                false => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no policy is in force yet\n",
                ),
            };
            let mut response = Response::new(full(text));
            *response.status_mut() = status;
            return response;
        }
        let at = if self.all().contains_key(SINGLE_SERVER_PATH) {
            SINGLE_SERVER_PATH
        } else {
            "/NAME/mcp"
        };
        let oauth = path.starts_with("/.well-known/")
            || ["/register", "/authorize", "/token"]
                .iter()
                .any(|end| path.ends_with(end));
        let why = if oauth {
            // Clients that got no credential look for these, and show the answer.
            format!(
                "this gateway is not an authorization server. Its MCP servers are at {at}: {CREDENTIAL_HINT}"
            )
        } else {
            format!("no MCP server is served at this path; it is {at}")
        };
        json_response(StatusCode::NOT_FOUND, answer::invalid_request(None, &why))
    }
}

/// Accepts connections until `stop`; then finishes the requests under way, for at most `grace`. In
/// plain text.
pub async fn serve(
    listener: TcpListener,
    routes: Arc<Routes>,
    stop: CancellationToken,
    grace: Duration,
) {
    let (_plain, transport) = watch::channel(Transport::Plain);
    serve_as(listener, routes, transport, stop, grace).await;
}

/// [`serve`], speaking as `transport` says: a new certificate is for new connections, and when
/// plain text and TLS change places, the existing connections end once their requests are answered.
pub async fn serve_as(
    listener: TcpListener,
    routes: Arc<Routes>,
    mut transport: watch::Receiver<Transport>,
    stop: CancellationToken,
    grace: Duration,
) {
    let mut spoken = transport.borrow_and_update().clone();
    let mut graceful = GracefulShutdown::new();
    let before = TaskTracker::new();
    let floor = Floor::new(Arc::clone(&routes.budgets));
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly too many open files, which passes when connections end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Ok(()) = transport.changed() => {
                let now = transport.borrow_and_update().clone();
                if !now.same_kind(&spoken) {
                    before.spawn(std::mem::take(&mut graceful).shutdown());
                }
                spoken = now;
                continue;
            }
        };
        let Some(seat) = floor.enter(address.ip()) else {
            // All connections of the address, or of all callers, are busy: waiting here would keep
            // out the clients that come later.
            tracing::debug!(%address, "a connection was refused: too many are open");
            continue;
        };
        let ends = seat.ends();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        // A connection that was accepted during a change gets the current transport.
        let (routes, watcher) = (Arc::clone(&routes), graceful.watcher());
        match transport.borrow().clone() {
            Transport::Plain => {
                let connection = connection(TokioIo::new(stream), routes, seat, watcher);
                ends.by(tokio::spawn(connection).abort_handle());
            }
            Transport::Tls(config) => {
                let stop = stop.clone();
                let task = tokio::spawn(async move {
                    let handshake = TlsAcceptor::from(config).accept(stream);
                    let shaken = tokio::select! {
                        () = stop.cancelled() => return,
                        shaken = tokio::time::timeout(HEAD_TIMEOUT, handshake) => shaken,
                    };
                    match shaken {
                        Ok(Ok(stream)) => {
                            connection(TokioIo::new(stream), routes, seat, watcher).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake was not finished in time"),
                    }
                });
                ends.by(task.abort_handle());
            }
            Transport::Closed => drop(stream),
        }
    }
    drop(listener);
    for gateway in routes.all().values() {
        gateway.drain();
    }
    before.close();
    let ended = async {
        graceful.shutdown().await;
        before.wait().await;
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!("requests were still in progress after {grace:?} and are aborted");
    }
}

/// What the requests of a connection share.
struct ConnectionState {
    routes: Arc<Routes>,
    seat: Seat,
    last_session: LastSession,
}

impl Responder<Request<Incoming>> for ConnectionState {
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        self.routes.answer(&self.seat, &self.last_session, request)
    }
}

/// One connection, until it ends.
fn connection<I>(
    io: I,
    routes: Arc<Routes>,
    seat: Seat,
    watcher: Watcher,
) -> impl Future<Output = ()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let runner = RequestRunner::new(ConnectionState {
        routes,
        seat,
        last_session: LastSession::default(),
    });
    let service = service_fn(move |request| runner.run(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(Timed::new(io), service);
    let connection = CoalescedWakes::new(watcher.watch(connection));
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
