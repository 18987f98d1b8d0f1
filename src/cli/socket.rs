//! The Unix socket between `portcullis serve` and the commands on the same machine: HTTP/1.1, JSON
//! bodies.
//!
//! `GET /status` gives the resources with their status, `GET /approvals` a list of McpApprovals,
//! and `POST /approvals/NAME` takes `{"verdict": "Approved"|"Denied", "digest"?: "sha256:…",
//! "reason"?: "…"}`. Approving needs the digest that the person has seen, so that nothing else can
//! be approved under that name. The deciding user is the one that the kernel names for the other
//! end of the socket, never one that the request names. The socket is 0600 in a folder that is
//! 0700, or 0660 in one that is 0750 for a group, and processes that `serve` has started, the
//! guarded servers and theirs, are refused ([`peer`]).

use std::convert::Infallible;
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::output::why;
use crate::api::approval::Verdict;

mod peer;

use self::peer::{Refused, Ticks};

/// A request body is a decision; no decision is longer.
const MAX_BODY: usize = 64 << 10;
/// The time between two pieces of a request, and for a whole request.
const IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
/// The wait before a command that has only just started connects again.
const RECONNECT_DELAY: std::time::Duration = std::time::Duration::from_millis(15);

/// The body of `POST /approvals/NAME`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DecisionRequest {
    /// The verdict.
    pub verdict: Verdict,
    /// The digest of the arguments; required to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The reason; the agent gets it when the call is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Every error body.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong and what to do next.
    pub error: String,
}

/// Why a command could not talk to `serve`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No program listens on the socket.
    #[error(
        "no `portcullis serve` answers at {path} ({why}); start one with `portcullis serve -f DIR`, or name its socket with --socket", why = why(source)
    )]
    Connect {
        /// The socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A program listens but its answer is not valid.
    #[error("`portcullis serve` at {path} gave no usable answer: {why}")]
    Talk {
        /// The socket.
        path: String,
        /// The reason.
        why: String,
    },
    /// The request was refused, with this reason.
    #[error("{0}")]
    Refused(String),
}

/// `$PORTCULLIS_SOCKET`, else `$XDG_RUNTIME_DIR/portcullis/serve.sock`, else a folder of this
/// user's below the temporary directory.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("PORTCULLIS_SOCKET").filter(|path| !path.is_empty()) {
        return path.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("portcullis").join("serve.sock"),
        None => {
            let user = rustix::process::geteuid().as_raw();
            std::env::temp_dir()
                .join(format!("portcullis-{user}"))
                .join("serve.sock")
        }
    }
}

/// What `serve` does with a request on the socket.
pub trait Handler: Send + Sync + 'static {
    /// The answer: a status and a JSON body. `user` is the user at the other end.
    fn handle(&self, method: &Method, path: &str, body: &[u8], user: &str)
    -> (StatusCode, Vec<u8>);
}

/// A socket that is removed when dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    /// The same socket in non-blocking mode, the only way to know that no connection is waiting.
    queue: std::os::unix::net::UnixListener,
    /// A moment at which no connection was waiting.
    idle: Ticks,
    path: PathBuf,
    inode: u64,
    /// Users of another id may connect: those whom the modes of socket and folder let in.
    shared: bool,
}

impl Listener {
    /// Binds the path, for this user alone or for the members of a group too. A socket without a
    /// listener is replaced; one that answers is not.
    ///
    /// # Errors
    /// A sentence that names the path and what to do.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Listener, String> {
        let shown = path.display();
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|error| format!("the folder of the socket {shown} cannot be made: {}; choose another with --socket", why(&error)))?;
            let owner = std::fs::metadata(folder).map_err(|error| {
                format!(
                    "the folder {} cannot be used: {}; choose another with --socket",
                    folder.display(),
                    why(&error)
                )
            })?;
            let me = rustix::process::geteuid().as_raw();
            if owner.uid() != me && owner.uid() != 0 {
                return Err(format!(
                    "the folder {} belongs to another user, who could take over the socket; choose another with \
                    --socket",
                    folder.display()
                ));
            }
        }
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(format!(
                    "another `portcullis serve` already answers at {shown}; stop it, or choose another socket with --socket"
                ));
            }
            std::fs::remove_file(path).map_err(|error| {
                format!(
                    "the old socket {shown} cannot be removed: {}; choose another with --socket",
                    why(&error)
                )
            })?;
        }
        let idle = Ticks::now();
        // The folder is private, so no other user can connect between the two steps.
        let (listener, queue) = std::os::unix::net::UnixListener::bind(path)
            .and_then(|queue| {
                queue.set_nonblocking(true)?;
                Ok((UnixListener::from_std(queue.try_clone()?)?, queue))
            })
            .map_err(|error| {
                format!(
                    "the socket {shown} cannot be opened: {}; choose another with --socket",
                    why(&error)
                )
            })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(
            |error| {
                format!(
                    "the socket {shown} cannot be made private: {}; choose another with --socket",
                    why(&error)
                )
            },
        )?;
        if let Some(group) = group {
            share(path, group).map_err(|error| {
                format!("the socket {shown} cannot be given to the group: {error}")
            })?;
        }
        let inode = std::fs::metadata(path)
            .map(|meta| meta.ino())
            .unwrap_or_default();
        Ok(Listener {
            listener,
            queue,
            idle,
            path: path.to_owned(),
            inode,
            shared: group.is_some(),
        })
    }

    /// Answers until `stop`.
    pub async fn serve(mut self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        loop {
            let mut accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted.map(|(stream, _)| stream),
            };
            loop {
                match accepted {
                    Ok(stream) => self.answer(stream, &handler, &stop),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::warn!(%error, "the local socket could not accept a connection");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        break;
                    }
                }
                let before = Ticks::now();
                let next = self.queue.accept();
                if matches!(&next, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
                    self.idle = before;
                }
                accepted = next.and_then(|(stream, _)| {
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)
                });
            }
        }
    }

    /// Answers one connection, in the background.
    fn answer(&self, stream: UnixStream, handler: &Arc<dyn Handler>, stop: &CancellationToken) {
        let Ok(peer) = stream.peer_cred() else {
            return;
        };
        // The mode of the socket says so too, but only from a moment after it was opened.
        if !self.shared && !trusted(peer.uid()) {
            tracing::warn!(
                uid = peer.uid(),
                "refused a connection of another user to the local socket"
            );
            return;
        }
        let admitted = peer::admit(peer.pid(), self.idle);
        if let Err(refused @ (Refused::Descendant | Refused::Unknown(_))) = &admitted {
            tracing::warn!(
                pid = peer.pid(),
                "refused a connection to the local socket: {refused}"
            );
        }
        let asking = Arc::new(Asking {
            handler: Arc::clone(handler),
            user: user_name(peer.uid()),
            admitted,
        });
        let stop = stop.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&asking), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

/// Gives a socket, and then the folder that kept everyone else away from it, to a group.
fn share(path: &Path, group: u32) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.ok_or("name a folder for it with --socket")?;
    let metadata = std::fs::metadata(folder).map_err(said)?;
    let entries = std::fs::read_dir(folder).map_err(said)?;
    // Whoever may write there could put a socket of their own in its place, and whatever else is
    // there would be shown to the group.
    let private = metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0
        && entries.count() == 1;
    if !private {
        return Err(format!(
            "the folder {} has to be of this user, who alone may write there, and hold nothing else; name such a folder with --socket",
            folder.display()
        ));
    }
    std::os::unix::fs::chown(path, None, Some(group)).map_err(said)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(said)?;
    std::os::unix::fs::chown(folder, None, Some(group)).map_err(said)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o750)).map_err(said)
}

/// The user at the other end of a connection.
struct Asking {
    handler: Arc<dyn Handler>,
    user: String,
    admitted: Result<(), Refused>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only our own: another `serve` may have taken the path since.
        if std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn answer(
    asking: Arc<Asking>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let (status, body) = match &asking.admitted {
        Err(refused) => {
            let status = match refused {
                Refused::TooYoung => StatusCode::TOO_EARLY,
                Refused::Descendant | Refused::Unknown(_) => StatusCode::FORBIDDEN,
            };
            problem(status, &refused.to_string())
        }
        Ok(()) => match crate::gateway::body::read(body, MAX_BODY, IDLE_TIMEOUT, REQUEST_TIMEOUT)
            .await
        {
            Ok(body) => asking
                .handler
                .handle(&head.method, head.uri.path(), &body, &asking.user),
            Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
        },
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// An error answer.
pub fn problem(status: StatusCode, error: &str) -> (StatusCode, Vec<u8>) {
    let body = serde_json::to_vec(&Problem {
        error: error.to_owned(),
    })
    .unwrap_or_default();
    (status, body)
}

/// One request to the `serve` that listens at `path`; the JSON body of a 2xx answer.
///
/// # Errors
/// [`ClientError`], ready to be shown.
pub fn request<T: serde::de::DeserializeOwned>(
    path: &Path,
    method: Method,
    target: &str,
    body: Option<&DecisionRequest>,
) -> Result<T, ClientError> {
    let shown = path.display().to_string();
    let talk = |why: String| ClientError::Talk {
        path: shown.clone(),
        why,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| talk(error.to_string()))?;
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(|error| talk(error.to_string()))?,
        None => Vec::new(),
    };
    let limited = async {
        let answered = async {
            loop {
                let answer = exchange(path, &method, target, &body).await?;
                if answer.0 != StatusCode::TOO_EARLY {
                    return Ok(answer);
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), answered).await
    };
    let (status, bytes) = runtime
        .block_on(limited)
        .map_err(|_| talk("it did not answer within 30 s".to_owned()))??;
    if !status.is_success() {
        let problem: Option<Problem> = serde_json::from_slice(&bytes).ok();
        return Err(problem.map_or_else(
            || talk(format!("HTTP {status}")),
            |problem| ClientError::Refused(problem.error),
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| talk(error.to_string()))
}

/// One connection and one request on it.
async fn exchange(
    path: &Path,
    method: &Method,
    target: &str,
    body: &[u8],
) -> Result<(StatusCode, Bytes), ClientError> {
    let shown = path.display().to_string();
    let talk = |why: String| ClientError::Talk {
        path: shown.clone(),
        why,
    };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| ClientError::Connect {
            path: shown.clone(),
            source,
        })?;
    // A user who created the folder first could listen there and show forged approvals.
    if !stream.peer_cred().is_ok_and(|peer| trusted(peer.uid())) {
        return Err(talk(
            "it belongs to another user; name your own with --socket".to_owned(),
        ));
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| talk(error.to_string()))?;
    let exchange = async {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "portcullis")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| talk(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| talk(error.to_string()))?;
        let status = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|error| talk(error.to_string()))?
            .to_bytes();
        Ok((status, bytes))
    };
    drive(exchange, connection).await
}

/// Polls the connection along with the exchange that needs it.
async fn drive<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        out = &mut exchange => out,
        _ = &mut connection => exchange.await,
    }
}

/// This user, or root.
fn trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// The name that `/etc/passwd` gives a user, else `uid:N`.
fn user_name(uid: u32) -> String {
    let named = std::fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|users| {
            users.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
            })
        });
    named.unwrap_or_else(|| format!("uid:{uid}"))
}
