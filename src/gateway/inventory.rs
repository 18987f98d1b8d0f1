//! The gateway's own knowledge of the upstream's tools, over a session of its own.
//!
//! Listed at start, every minute, when the upstream says that its list changed, and, at most once a second, when a call or a
//! list names a tool that is not known. Between times nothing about a tool is asked of the upstream, so a hidden tool and
//! one that does not exist take the same way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::gateway::Gateway;
use crate::gateway::body::Body;
use crate::gateway::body::message::{
    ContentType, MAX_ANSWER, MAX_EVENT, ReadAnswer, content_type, read_answer,
};
use crate::gateway::permit::{Envelope, Permit};
use crate::gateway::upstream::{Upstream, UpstreamError, cause};
use crate::policy::inventory::Definition;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Id, Message, Object, Outcome};
use crate::protocol::list::{self, ListKind};
use crate::protocol::method::{self, Undecided};
use crate::protocol::sse::{Decoder, Item};
use crate::protocol::version::{self, Version};

const EVERY: Duration = Duration::from_secs(60);
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How long a list that names unknown tools waits for a new inventory.
const CATCH_UP: Duration = Duration::from_secs(3);
const EXCHANGE: Duration = Duration::from_secs(30);
/// How long a stdio server is left alone after its start.
const START: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(8);
const MAX_PAGES: usize = 100;
const MAX_TOOLS: usize = 10_000;

/// The result of the latest listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// When it ended.
    pub time: Option<Timestamp>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Asks for listings and tells how the latest went.
pub struct Inventory {
    wanted: Notify,
    done: watch::Sender<u64>,
    latest: Mutex<(Listing, Option<Instant>)>,
    tells_changes: AtomicBool,
}

impl Default for Inventory {
    fn default() -> Self {
        Inventory {
            wanted: Notify::new(),
            done: watch::Sender::new(0),
            latest: Mutex::default(),
            tells_changes: AtomicBool::new(false),
        }
    }
}

/// Why a listing failed; shown in the report.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("{}", cause::of_status(*.0))]
    Status(StatusCode),
    #[error(
        "spec.upstream.http.url leads back to this gateway, itself or by way of another; write the address of the server"
    )]
    Loop,
    #[error("it answered `{method}` with error {code}: {message}")]
    Error {
        method: &'static str,
        code: i64,
        message: String,
    },
    #[error("its answer to `{0}` cannot be read: {1}")]
    Unreadable(&'static str, String),
    #[error("`{0}` needs a decision")]
    Undecided(&'static str),
    #[error("its list of tools does not end")]
    Endless,
    #[error("its session ended")]
    SessionGone,
}

impl Inventory {
    /// Asks for a listing soon; does not wait.
    pub fn nudge(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a listing and waits for it, unless there was one a moment ago.
    pub async fn catch_up(&self) {
        if self.lock().1.is_some_and(|at| at.elapsed() < AT_MOST_EVERY) {
            self.nudge();
            return;
        }
        let mut done = self.done.subscribe();
        done.mark_unchanged();
        self.nudge();
        // Without an answer in time the old inventory decides, which knows fewer tools, not more.
        let _ = timeout(CATCH_UP, done.changed()).await;
    }

    /// How the latest listing went.
    pub fn latest(&self) -> Listing {
        self.lock().0.clone()
    }

    /// Whether the upstream declares `tools.listChanged`.
    pub fn tells_changes(&self) -> bool {
        self.tells_changes.load(Ordering::Relaxed)
    }

    /// Waits until a listing has ended, well or not.
    pub async fn first(&self) {
        let mut done = self.done.subscribe();
        let _ = done.wait_for(|count| *count > 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, (Listing, Option<Instant>)> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, error: Option<String>) {
        *self.lock() = (
            Listing {
                time: Some(Timestamp::now()),
                error,
            },
            Some(Instant::now()),
        );
        self.done.send_modify(|count| *count += 1);
    }
}

/// Keeps a gateway's inventory until the gateway is gone or closing.
pub async fn keep(gateway: Weak<Gateway>) {
    let mut own: Option<Own> = None;
    let mut retry = FIRST_RETRY;
    let Some((mut changes, closing)) = gateway
        .upgrade()
        .map(|gateway| (gateway.subscribe(), gateway.closing.clone()))
    else {
        return;
    };
    loop {
        let Some(strong) = gateway.upgrade() else {
            return;
        };
        let upstream = strong
            .snapshot()
            .map(|snapshot| Arc::clone(&snapshot.upstream));
        let asked = upstream.clone();
        let mut wait = EVERY;
        if let Some(upstream) = upstream {
            if own
                .as_ref()
                .is_some_and(|own| !Arc::ptr_eq(&own.upstream, &upstream))
            {
                own = None;
            }
            let listed = tokio::select! {
                () = closing.cancelled() => return,
                listed = list(&upstream, &mut own) => listed,
            };
            match listed {
                Ok(definitions) => {
                    retry = FIRST_RETRY;
                    if let Some(own) = &own {
                        strong
                            .inventory
                            .tells_changes
                            .store(own.tells_changes, Ordering::Relaxed);
                    }
                    if !strong.set_listing(&upstream, definitions) {
                        // The server was replaced while this one was listing.
                        own = None;
                        continue;
                    }
                    strong.inventory.ended(None);
                }
                Err(error) => {
                    own = None;
                    wait = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    let error = cause::of_error(&error);
                    if strong.inventory.latest().error.as_deref() != Some(&error) {
                        tracing::warn!(server = strong.recorder.server(), %error, "the upstream's tools could not be listed");
                    }
                    strong.inventory.ended(Some(error));
                }
            }
        }
        let listed_at = Instant::now();
        let inventory_of = &strong.inventory;
        let quiet = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = inventory_of.wanted.notified() => {}
                () = told_of_change(&mut own) => {}
                () = upstream_changed(&mut changes, asked.as_ref()) => {}
            }
            // Who has asked nobody yet need not wait before it asks.
            if asked.is_some() {
                tokio::time::sleep_until(listed_at + AT_MOST_EVERY.min(wait)).await;
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = quiet => {}
        }
    }
}

/// Resolves when a snapshot with another upstream than this is in force.
async fn upstream_changed(
    changes: &mut watch::Receiver<Option<Arc<crate::gateway::force::snapshot::Snapshot>>>,
    before: Option<&Arc<Upstream>>,
) {
    loop {
        // Looked at first: it may have been swapped in since the last one was asked.
        let same = {
            let now = changes.borrow_and_update();
            match (before, now.as_ref().map(|snapshot| &snapshot.upstream)) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                _ => false,
            }
        };
        if !same {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The gateway's own session.
struct Own {
    upstream: Arc<Upstream>,
    envelope: Envelope,
    tells_changes: bool,
    stream: Option<(Body, Decoder)>,
}

/// Resolves when the upstream says on the gateway's own stream that its tools changed.
async fn told_of_change(own: &mut Option<Own>) {
    let Some(own) = own else {
        return std::future::pending().await;
    };
    let Some(stream) = own.stream.as_mut() else {
        return std::future::pending().await;
    };
    'stream: while let Some(Ok(frame)) = stream.0.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        stream.1.push(&data);
        while let Some(item) = stream.1.next_item() {
            let event = match item {
                Ok(Item::Event(event)) => event,
                Ok(Item::Comment(_)) => continue,
                Err(_) => break 'stream,
            };
            let data = event.data.unwrap_or_default();
            let changed = envelope::parse(data.as_bytes())
                .is_ok_and(|message| message.method() == Some("notifications/tools/list_changed"));
            if changed {
                return;
            }
        }
    }
    // The server may have been replaced: list again now, and then every minute without the stream.
    own.stream = None;
}

async fn list(
    upstream: &Arc<Upstream>,
    own: &mut Option<Own>,
) -> Result<Vec<Definition>, ListError> {
    let session = match own {
        Some(session) => session,
        None => own.insert(open(upstream).await?),
    };
    let mut definitions = Vec::new();
    let mut size = 0;
    let mut cursor: Option<String> = None;
    for page in 0..MAX_PAGES {
        let edits = match &cursor {
            Some(cursor) => Edits::new().set_string("cursor", cursor),
            None => Edits::new(),
        };
        let id = i64::try_from(page).unwrap_or(0) + 2;
        let envelope = session.envelope.clone();
        let answer = exchange(upstream, envelope, "tools/list", id, edits).await?;
        let next = with_result(&answer.body, "tools/list", |result| {
            let unreadable = |why: String| ListError::Unreadable("tools/list", why);
            let entries = list::entries(result, ListKind::Tools)
                .map_err(|error| unreadable(error.to_string()))?
                .ok_or_else(|| unreadable("it has no `tools`".to_owned()))?;
            for entry in entries {
                definitions.push(
                    Definition::parse(entry.raw.as_bytes())
                        .map_err(|error| unreadable(error.to_string()))?,
                );
            }
            Ok(list::next_cursor(result).map(|cursor| cursor.into_owned()))
        })?;
        size += answer.body.len();
        if definitions.len() > MAX_TOOLS || size > MAX_ANSWER {
            return Err(ListError::Endless);
        }
        match next {
            Some(next) => cursor = Some(next),
            None => return Ok(definitions),
        }
    }
    Err(ListError::Endless)
}

async fn open(upstream: &Arc<Upstream>) -> Result<Own, ListError> {
    // One that imports half of Python's packages first, on a busy machine, has not failed.
    if let Upstream::Bridge(bridge) = &**upstream {
        let _ = timeout(START, bridge.ready()).await;
    }
    let client = format!(
        r#"{{"name":"portcullis","version":"{}"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    let edits = Edits::new()
        .set_string("protocolVersion", Version::LATEST_SESSION.as_str())
        .set("capabilities", "{}")
        .set("clientInfo", client);
    let answer = exchange(upstream, Envelope::default(), "initialize", 1, edits).await?;
    let (chosen, tells_changes) = with_result(&answer.body, "initialize", |result| {
        let unreadable = |why: String| ListError::Unreadable("initialize", why);
        let version = result
            .required_string("protocolVersion")
            .map_err(|fault| unreadable(fault.to_string()))?;
        let chosen = version::chosen(&version).map_err(|error| unreadable(error.to_string()))?;
        Ok((chosen, declares_list_changed(result)))
    })?;
    let envelope = Envelope {
        session: answer.session,
        version: chosen
            .has_header()
            .then(|| HeaderValue::from_static(chosen.as_str())),
        ..Envelope::default()
    };
    let row = undecided("notifications/initialized")?;
    let permit = Permit::notification(row, envelope.clone(), None);
    let response = upstream.call(permit, EXCHANGE).await?;
    if !response.status().is_success() {
        return Err(ListError::Status(response.status()));
    }
    let mut stream = None;
    if tells_changes {
        let permit = Permit::listen(envelope.clone());
        // Servers need not offer one (405); then only the minute tells.
        if let Ok(response) = upstream.call(permit, EXCHANGE).await
            && response.status().is_success()
            && content_type(&response) == Some(ContentType::EventStream)
        {
            stream = Some((response.into_body(), Decoder::new(MAX_EVENT)));
        }
    }
    Ok(Own {
        upstream: Arc::clone(upstream),
        envelope,
        tells_changes,
        stream,
    })
}

/// `capabilities.tools.listChanged` of an `initialize` result.
fn declares_list_changed(result: &Object<'_>) -> bool {
    let inner = || -> Option<bool> {
        let capabilities = Object::from_raw(result.get("capabilities")?.raw, &[]).ok()?;
        let tools = Object::from_raw(capabilities.get("tools")?.raw, &[]).ok()?;
        Some(tools.get("listChanged")?.raw == "true")
    };
    inner().unwrap_or(false)
}

fn undecided(method: &'static str) -> Result<Undecided, ListError> {
    method::lookup(method)
        .and_then(|row| row.undecided(|_| false))
        .ok_or(ListError::Undecided(method))
}

/// Sends a request and waits for its answer, be it JSON or the end of a stream. What else comes on the stream is not for us.
async fn exchange(
    upstream: &Upstream,
    envelope: Envelope,
    method: &'static str,
    id: i64,
    edits: Edits<'_>,
) -> Result<ReadAnswer, ListError> {
    let row = undecided(method)?;
    let in_session = envelope.session.is_some();
    let permit = Permit::request(row, envelope, &Id::Integer(id), None, edits);
    let response = upstream.call(permit, EXCHANGE).await?;
    let status = response.status();
    // Without a session id of its own there was no session that could have ended.
    if status == StatusCode::NOT_FOUND && in_session {
        return Err(ListError::SessionGone);
    }
    if status == StatusCode::LOOP_DETECTED {
        return Err(ListError::Loop);
    }
    let advised = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    if advised || content_type(&response).is_none() && !status.is_success() {
        return Err(ListError::Status(status));
    }
    timeout(
        EXCHANGE,
        read_answer(response, &Id::Integer(id), MAX_ANSWER),
    )
    .await
    .map_err(|_| UpstreamError::Timeout(EXCHANGE))?
    .map_err(|why| ListError::Unreadable(method, why))
}

fn with_result<T>(
    body: &[u8],
    method: &'static str,
    with: impl FnOnce(&Object<'_>) -> Result<T, ListError>,
) -> Result<T, ListError> {
    match envelope::parse(body) {
        Ok(Message::Response(response)) => match response.outcome {
            Outcome::Result(result) => with(&result),
            Outcome::Error(error) => Err(ListError::Error {
                method,
                code: error.code,
                message: error
                    .message
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect(),
            }),
        },
        Ok(_) => Err(ListError::Unreadable(
            method,
            "it is no response".to_owned(),
        )),
        Err(refusal) => Err(ListError::Unreadable(method, refusal.to_string())),
    }
}
