//! Streamable HTTP in front of an MCP server that speaks stdio.
//!
//! In: HTTP requests, from a listener ([`Bridge::serve`]) or in memory ([`Bridge::handle`]). Out:
//! what the child process answers. `Shared` runs one child for all sessions, `PerSession` one for
//! each. The bridge decides nothing about policy: it must only ever be reachable by the gateway,
//! which is what the bearer is for.
//!
//! Source: MCP 2025-03-26, 2025-06-18 and 2025-11-25, "Transports" and "Lifecycle".

mod bearer;
mod calls;
pub mod command;
mod credential_files;
mod credentials;
mod per_session;
mod server;
mod session;
mod shared;
mod stream;
mod version;
mod wire;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::gateway::upstream::stdio::{
    Chatters, ChildConfig, ChildLimits, RunAs, SpawnError, check_command,
};
use crate::json;
use crate::protocol::envelope::{self, Message};
use crate::protocol::era::{self, Era};
use crate::protocol::version::Version;
pub use bearer::{ANOTHER as ANOTHER_BEARER, Bearer, BearerError};
pub use credentials::{CREDENTIAL, CredentialTable, OWN as OWN_CREDENTIAL, Variables};
use stream::{Accepts, StreamLimits, bare};
pub use stream::{Body, BoxError};
use wire::code;

/// The header that names a session.
const SESSION: &str = "mcp-session-id";
/// The header in which the gateway says whose session it opens: the same text for the same caller,
/// and not its name.
pub const CALLER: &str = "portcullis-caller";
/// The header that names the negotiated version.
const VERSION: &str = "mcp-protocol-version";

/// How sessions map to child processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sessions {
    /// One child for all sessions.
    Shared,
    /// A child for each session.
    PerSession,
}

impl Sessions {
    /// How many are open at once by default: with a process each they are expensive.
    pub const fn most(self) -> usize {
        match self {
            Sessions::Shared => 256,
            Sessions::PerSession => 16,
        }
    }
}

/// What to run, and for whom.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// The server's name, for the log.
    pub name: String,
    pub command: OsString,
    pub args: Vec<OsString>,
    /// Set for the child, over anything inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Names of variables that children inherit besides PATH, HOME and LANG.
    pub inherit: Vec<OsString>,
    /// Whom children run as, if not as the user of this process.
    pub user: Option<RunAs>,
    pub sessions: Sessions,
    /// Variables by credential, with `PerSession`: where it is given, a session has to name one.
    pub credentials: Option<CredentialTable>,
    /// Requests that do not present it are refused with 401.
    pub bearer: Option<Bearer>,
    pub limits: Limits,
}

impl BridgeConfig {
    /// One shared child, no bearer, the default limits.
    pub fn new(name: impl Into<String>, command: impl Into<OsString>) -> Self {
        Self {
            name: name.into(),
            command: command.into(),
            args: Vec::new(),
            env: Vec::new(),
            inherit: Vec::new(),
            user: None,
            sessions: Sessions::Shared,
            credentials: None,
            bearer: None,
            limits: Limits::default(),
        }
    }
}

/// How much, and how long.
#[derive(Debug, Clone)]
pub struct Limits {
    pub child: ChildLimits,
    /// A larger body is refused with 413.
    pub request_bytes: usize,
    /// One more ends the one that is idle for longest; where none is, it is refused with 503.
    pub max_sessions: usize,
    /// A session that has not been used for this long ends.
    pub session_idle: Duration,
    /// Calls of one session that may wait for the child at once.
    pub calls_per_session: usize,
    /// Messages and bytes that may wait for one reader.
    pub stream_messages: usize,
    pub stream_bytes: usize,
    /// Between comments on a silent stream; also when a silent answer becomes a stream.
    pub keep_alive: Duration,
    /// For a child to answer `initialize`.
    pub start_timeout: Duration,
    /// For a call that comes while the child is (re)starting.
    pub start_wait: Duration,
    /// Delay before the first restart; it doubles with each that follows.
    pub restart_first: Duration,
    pub restart_max: Duration,
    /// A child that lived for this long resets the delay before the next restart.
    pub healthy_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            child: ChildLimits::default(),
            request_bytes: 4 << 20,
            max_sessions: Sessions::Shared.most(),
            session_idle: Duration::from_secs(30 * 60),
            calls_per_session: 64,
            stream_messages: 256,
            stream_bytes: 4 << 20,
            keep_alive: Duration::from_secs(15),
            start_timeout: Duration::from_secs(60),
            start_wait: Duration::from_secs(20),
            restart_first: Duration::from_millis(250),
            restart_max: Duration::from_secs(30),
            healthy_after: Duration::from_secs(60),
        }
    }
}

impl Limits {
    fn stream(&self) -> StreamLimits {
        StreamLimits {
            messages: self.stream_messages,
            bytes: self.stream_bytes,
        }
    }
}

/// Why a bridge could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("one process acts as one user: credentials need a process for each session")]
    SharedCredentials,
}

/// An answer that ends a request early; boxed, as it is the rare case.
type RefusalResponse = Box<Response<Body>>;

enum Mode {
    Shared(Arc<shared::SharedServer>),
    PerSession(Arc<per_session::PerSession>),
}

/// A running bridge. Dropping it stops the children in the background; [`Bridge::shutdown`] waits
/// for that.
pub struct Bridge {
    name: String,
    bearer: Option<Bearer>,
    limits: Limits,
    mode: Mode,
    chatter: Arc<Chatters>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the parts of a running bridge have in common.
#[derive(Debug, Clone)]
struct Context {
    child: ChildConfig,
    limits: Limits,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Bridge {
    /// Starts the shared child, or sees that children can be started. Must be called within a Tokio
    /// runtime.
    pub fn start(config: BridgeConfig) -> Result<Arc<Self>, StartError> {
        if config.credentials.is_some() && config.sessions == Sessions::Shared {
            return Err(StartError::SharedCredentials);
        }
        let child = ChildConfig {
            name: Arc::from(config.name.as_str()),
            command: config.command,
            args: config.args,
            env: config.env,
            inherit: config.inherit,
            user: config.user,
            limits: config.limits.child.clone(),
            chatter: Arc::default(),
        };
        let chatter = Arc::clone(&child.chatter);
        check_command(&child)?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let context = Context {
            child,
            limits: config.limits.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let mode = match config.sessions {
            Sessions::Shared => Mode::Shared(shared::SharedServer::start(context)?),
            Sessions::PerSession => {
                let credentials = credentials::Credentials::new(config.credentials);
                Mode::PerSession(per_session::PerSession::start(context, credentials))
            }
        };
        Ok(Arc::new(Self {
            name: config.name,
            bearer: config.bearer,
            limits: config.limits,
            mode,
            chatter,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            tasks,
        }))
    }

    /// Takes other credentials, and ends each session whose process has others than a new one would
    /// get.
    ///
    /// # Errors
    /// [`StartError::SharedCredentials`] where all sessions share one process.
    pub fn use_credentials(&self, table: Option<CredentialTable>) -> Result<(), StartError> {
        match (&self.mode, table) {
            (Mode::PerSession(mode), table) => {
                mode.use_credentials(table);
                Ok(())
            }
            (Mode::Shared(_), None) => Ok(()),
            (Mode::Shared(_), Some(_)) => Err(StartError::SharedCredentials),
        }
    }

    /// Waits until the shared child has answered `initialize`; the error says why it has not.
    /// `PerSession` is ready at once, unless the newest child did not start.
    pub async fn ready(&self) -> Result<(), String> {
        match &self.mode {
            Mode::Shared(shared) => shared.ready().await,
            Mode::PerSession(mode) => mode.ready(),
        }
    }

    /// The last line that a child wrote to its standard error.
    pub fn last_words(&self) -> Option<String> {
        self.chatter.last_words.lock().clone()
    }

    /// Waits until the server does not come up, and returns why. Never for `PerSession`: each
    /// client is answered why its own child does not start.
    pub async fn gives_up(&self) -> String {
        match &self.mode {
            Mode::Shared(shared) => shared.gives_up().await,
            Mode::PerSession(_) => std::future::pending().await,
        }
    }

    /// Ends streams, fails pending calls, stops all children, and returns once no process of theirs
    /// is left.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Answers one request to the MCP endpoint, whatever its path.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match self.route(&parts, &body).await {
            Ok(response) => response,
            Err(refusal) => *refusal,
        }
    }

    async fn route(
        &self,
        parts: &http::request::Parts,
        body: &Bytes,
    ) -> Result<Response<Body>, RefusalResponse> {
        self.admit(&parts.headers)?;
        if parts.method == Method::POST {
            return self.post(&parts.headers, body).await;
        }
        if parts.method != Method::GET && parts.method != Method::DELETE {
            let mut response = refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                code::INVALID,
                "use POST, GET or DELETE",
            );
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
            return Err(response);
        }
        check_version(&parts.headers)?;
        let session = session_id(&parts.headers)?;
        self.check_credential(&parts.headers, session)?;
        if parts.method == Method::DELETE {
            let ended = match &self.mode {
                Mode::Shared(mode) => mode.delete(session),
                Mode::PerSession(mode) => mode.delete(session),
            };
            return if ended {
                Ok(bare(StatusCode::NO_CONTENT))
            } else {
                Err(unknown_session())
            };
        }
        if !Accepts::of(&parts.headers).sse {
            let why = "a GET opens an event stream; accept text/event-stream";
            return Err(refuse(StatusCode::NOT_ACCEPTABLE, code::INVALID, why));
        }
        let receiver = match &self.mode {
            Mode::Shared(mode) => mode.listen(session),
            Mode::PerSession(mode) => mode.listen(session),
        };
        let receiver = receiver.ok_or_else(unknown_session)?;
        Ok(stream::sse(None, receiver, self.limits.keep_alive))
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), RefusalResponse> {
        if self
            .bearer
            .as_ref()
            .is_some_and(|bearer| !bearer.admits(headers))
        {
            let why = "this server is reached through its gateway; present the bridge's bearer";
            let mut response = refuse(StatusCode::UNAUTHORIZED, code::INVALID, why);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Err(response);
        }
        // Only browsers send it, and no browser has business here (MCP, "Transports", security
        // warning).
        if headers.contains_key(header::ORIGIN) {
            let why = "requests from browsers are refused; use the gateway";
            return Err(refuse(StatusCode::FORBIDDEN, code::INVALID, why));
        }
        Ok(())
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Body>, RefusalResponse> {
        if !is_json(headers) || headers.contains_key(header::CONTENT_ENCODING) {
            let why = "send application/json without Content-Encoding";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(refuse(status, code::INVALID, why));
        }
        if body.len() > self.limits.request_bytes {
            let why = format!("the body is over {} bytes", self.limits.request_bytes);
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, code::INVALID, &why));
        }
        let accepts = Accepts::of(headers);
        if !accepts.json && !accepts.sse {
            let why = "accept application/json and text/event-stream";
            return Err(refuse(StatusCode::NOT_ACCEPTABLE, code::INVALID, why));
        }
        check_version(headers)?;
        let message = envelope::parse(body).map_err(|refusal| {
            let fault = refusal.fault;
            refuse(StatusCode::BAD_REQUEST, fault.code(), &fault.to_string())
        })?;
        // The header was checked already; this is about the body's own word.
        if let Era::Stateless(asked) = era::era(None, &message) {
            return Err(unsupported(&asked));
        }
        if let Message::Request(request) = &message
            && request.method == "initialize"
        {
            let caller = headers.get(CALLER).and_then(|caller| caller.to_str().ok());
            let caller = caller.unwrap_or_default();
            let credential = credential(headers)?;
            return Ok(match &self.mode {
                Mode::Shared(_) if !matches!(credential, "" | OWN_CREDENTIAL) => {
                    let id = request.id.clone().into_owned();
                    let why =
                        "The server's pod has one process for all callers; it is being replaced.";
                    calls::unavailable(&id, &calls::Unanswered::down(why, CREDENTIAL_RETRY))
                }
                Mode::Shared(mode) => mode.initialize(request, accepts, caller).await,
                Mode::PerSession(mode) => {
                    mode.initialize(request, accepts, caller, credential).await
                }
            });
        }
        let session = session_id(headers)?;
        self.check_credential(headers, session)?;
        let answered = match &self.mode {
            Mode::Shared(mode) => mode.message(session, message, accepts).await,
            Mode::PerSession(mode) => mode.message(session, message, accepts).await,
        };
        answered.ok_or_else(unknown_session)
    }
}

impl Bridge {
    /// A session is used with the credential that its process was started with, and with no other.
    fn check_credential(&self, headers: &HeaderMap, session: &str) -> Result<(), RefusalResponse> {
        let Mode::PerSession(mode) = &self.mode else {
            return Ok(());
        };
        let credential = credential(headers)?;
        if mode.credential(session).is_some_and(|of| of == credential) {
            return Ok(());
        }
        Err(unknown_session())
    }
}

/// When a call may come again whose credential the bridge is about to get.
const CREDENTIAL_RETRY: Duration = Duration::from_secs(5);

/// The credential that a request names, or nothing.
fn credential(headers: &HeaderMap) -> Result<&str, RefusalResponse> {
    let mut values = headers.get_all(CREDENTIAL).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => Ok(""),
        (Some(Ok(named)), None) if !named.is_empty() => Ok(named),
        _ => {
            let why = "name one credential";
            Err(refuse(StatusCode::BAD_REQUEST, code::INVALID, why))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let essence = value.to_str().unwrap_or_default().split(';').next();
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn session_id(headers: &HeaderMap) -> Result<&str, RefusalResponse> {
    let mut values = headers.get_all(SESSION).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(id)), None) => Ok(id),
        (None, _) => Err(refuse(
            StatusCode::BAD_REQUEST,
            code::INVALID,
            "Mcp-Session-Id is missing; send `initialize` first and repeat the id that it returns",
        )),
        _ => Err(unknown_session()),
    }
}

/// Without the header the session's own version holds (MCP 2025-06-18, "Protocol version header").
fn check_version(headers: &HeaderMap) -> Result<(), RefusalResponse> {
    let mut values = headers.get_all(VERSION).iter();
    let (asked, more) = (values.next().map(HeaderValue::to_str), values.next());
    match asked {
        None => Ok(()),
        Some(Ok(asked)) if more.is_none() && version::is_supported(asked) => Ok(()),
        Some(asked) => Err(unsupported(asked.unwrap_or_default())),
    }
}

/// What tells a client of 2026-07-28 to fall back to `initialize`.
fn unsupported(asked: &str) -> RefusalResponse {
    let supported = Version::SESSION.iter().rev();
    let supported: Vec<_> = supported.map(|one| json::quoted(one.as_str())).collect();
    let data = format!(
        r#"{{"supported":[{}],"requested":{}}}"#,
        supported.join(","),
        json::quoted(asked)
    );
    let why = "Unsupported protocol version";
    let text = wire::error(None, code::VERSION, why, Some(&data));
    Box::new(stream::json(StatusCode::BAD_REQUEST, text))
}

fn unknown_session() -> RefusalResponse {
    // 404 makes a client initialize again (MCP, "Session management").
    let why = "Session not found: it has ended; send `initialize` again";
    refuse(StatusCode::NOT_FOUND, code::INVALID, why)
}

fn refuse(status: StatusCode, code: i64, why: &str) -> RefusalResponse {
    Box::new(stream::json(status, wire::error(None, code, why, None)))
}
