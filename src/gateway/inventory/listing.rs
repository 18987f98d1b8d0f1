//! One listing of the upstream's tools, over a session of the gateway's own.
//!
//! In: an upstream. Out: definitions, or why there are none. Must not do: ask anything about a
//! single tool.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::ONE_REPLICA;
use crate::gateway::body::message::{
    ContentType, MAX_ANSWER, MAX_EVENT, ReadAnswer, content_type, read_answer,
};
use crate::gateway::body::{Body, read_start};
use crate::gateway::lost_session::{FIRST_BYTES, LostSession};
use crate::gateway::permit::{Envelope, Permit};
use crate::gateway::upstream::{Upstream, UpstreamError, cause};
use crate::policy::inventory::Definition;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Id, Message, Object, Outcome};
use crate::protocol::list::{self, ListKind};
use crate::protocol::method::{self, Undecided};
use crate::protocol::refused;
use crate::protocol::sse::{Decoder, Item};
use crate::protocol::version::{self, UnsupportedVersion, Version};

/// For each request of a listing.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// For an answer while a stream is open.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING_ID: i64 = 0;
/// How long a stdio server is left alone after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_PAGES: usize = 100;
const MAX_TOOLS: usize = 10_000;

/// Why a listing failed; shown in the report.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
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
    #[error(transparent)]
    Version(#[from] UnsupportedVersion),
    #[error("its answer to `{0}` cannot be read: {1}")]
    Unreadable(&'static str, String),
    #[error("`{0}` needs a decision")]
    Undecided(&'static str),
    #[error("its list of tools does not end")]
    Endless,
    #[error("its session ended")]
    SessionGone,
    #[error("{ONE_REPLICA}")]
    Replicas,
}

/// The gateway's own session.
pub(super) struct OwnSession {
    pub(super) upstream: Arc<Upstream>,
    envelope: Envelope,
    pub(super) tells_changes: bool,
    stream: Option<(Body, Decoder)>,
}

/// Resolves when the upstream says on the gateway's own stream that its tools changed.
pub(super) async fn tools_changed(own: &mut Option<OwnSession>) {
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

/// Lists all tools of the upstream, in a session that is opened if there is none.
pub(super) async fn list(
    upstream: &Arc<Upstream>,
    own: &mut Option<OwnSession>,
) -> Result<Vec<Definition>, ListError> {
    let mut definitions = Vec::new();
    walk(upstream, own, &mut |raw| {
        let parsed = Definition::parse(raw.as_bytes());
        definitions
            .push(parsed.map_err(|error| ListError::Unreadable("tools/list", error.to_string()))?);
        Ok(())
    })
    .await?;
    Ok(definitions)
}

/// The tools of the upstream as it sends them, to be kept in a file.
pub(super) async fn raw(upstream: &Arc<Upstream>) -> Result<Vec<String>, ListError> {
    let mut tools = Vec::new();
    walk(upstream, &mut None, &mut |raw| {
        tools.push(raw.to_owned());
        Ok(())
    })
    .await?;
    Ok(tools)
}

/// Hands over every tool, page by page.
async fn walk(
    upstream: &Arc<Upstream>,
    own: &mut Option<OwnSession>,
    take: &mut (dyn FnMut(&str) -> Result<(), ListError> + Send),
) -> Result<(), ListError> {
    let fresh = own.is_none();
    let session = match own {
        Some(session) => session,
        None => own.insert(open(upstream).await?),
    };
    let mut count = 0;
    let mut size = 0;
    let mut cursor: Option<String> = None;
    let mut cursors = HashSet::new();
    let (mut earlier, hasher) = (HashSet::new(), RandomState::new());
    for page in 0..MAX_PAGES {
        let edits = match &cursor {
            Some(cursor) => Edits::new().set_string("cursor", cursor),
            None => Edits::new(),
        };
        let id = i64::try_from(page).unwrap_or(0) + 2;
        let envelope = session.envelope.clone();
        let answer = exchange(upstream, envelope, "tools/list", id, edits).await;
        let answer = answer.map_err(|error| match error {
            ListError::SessionGone if fresh => ListError::Replicas,
            error => error,
        })?;
        let next = with_result(&answer.body, "tools/list", |result| {
            let unreadable = |why: String| ListError::Unreadable("tools/list", why);
            let entries = list::entries(result, ListKind::Tools)
                .map_err(|error| unreadable(error.to_string()))?
                .ok_or_else(|| unreadable("it has no `tools`".to_owned()))?;
            let mut page = Vec::with_capacity(entries.len());
            for entry in entries {
                let hash = hasher.hash_one(entry.raw);
                page.push(hash);
                // A server that ignores the cursor lists the same tools once more.
                if earlier.contains(&hash) {
                    continue;
                }
                take(entry.raw)?;
                count += 1;
            }
            earlier.extend(page);
            Ok(list::next_cursor(result).map(|cursor| cursor.into_owned()))
        })?;
        size += answer.body.len();
        if count > MAX_TOOLS || size > MAX_ANSWER {
            return Err(ListError::Endless);
        }
        match next {
            Some(next) if !cursors.insert(next.clone()) => {
                tracing::warn!(
                    "the upstream's list of tools repeats a cursor; the pages up to there are served"
                );
                return Ok(());
            }
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
    Err(ListError::Endless)
}

async fn open(upstream: &Arc<Upstream>) -> Result<OwnSession, ListError> {
    // A server that first imports many Python packages on a busy machine has not failed.
    if let Upstream::Bridge(bridge, _) = &**upstream {
        let _ = timeout(START_TIMEOUT, bridge.ready()).await;
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
        let chosen = version::chosen(&version)?;
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
    let response = upstream.call(permit, EXCHANGE_TIMEOUT).await?;
    let status = response.status();
    if !status.is_success() {
        let read = read_start(response.into_body(), FIRST_BYTES, EXCHANGE_TIMEOUT).await;
        let lost = envelope.session.is_some()
            && LostSession::read(status, &read.bytes, read.whole, None, true).is_some();
        return Err(match lost {
            true => ListError::Replicas,
            false => ListError::Status(status),
        });
    }
    let mut stream = None;
    if tells_changes {
        let permit = Permit::listen(envelope.clone());
        // Servers need not offer one (405); then changes show in the next regular listing.
        if let Ok(response) = upstream.call(permit, EXCHANGE_TIMEOUT).await
            && response.status().is_success()
            && content_type(&response) == Some(ContentType::EventStream)
        {
            // A server that serves one request at a time answers nothing while the stream is open.
            let ping = exchange(upstream, envelope.clone(), "ping", PING_ID, Edits::new());
            if timeout(PING_TIMEOUT, ping).await.is_ok() {
                stream = Some((response.into_body(), Decoder::new(MAX_EVENT)));
            } else {
                tracing::warn!(
                    "the upstream answers nothing while a stream is open; changes of its tools are seen once a minute"
                );
            }
        }
    }
    Ok(OwnSession {
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

/// Sends a request and waits for its answer, be it JSON or the end of a stream. What else comes on
/// the stream is not for us.
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
    let response = upstream.call(permit, EXCHANGE_TIMEOUT).await?;
    let status = response.status();
    // Without a session id of its own there was no session that could have ended.
    if status == StatusCode::NOT_FOUND && in_session {
        return Err(ListError::SessionGone);
    }
    if status == StatusCode::LOOP_DETECTED {
        return Err(ListError::Loop);
    }
    if in_session && matches!(status, StatusCode::BAD_REQUEST | StatusCode::GONE) {
        let read = read_start(response.into_body(), FIRST_BYTES, EXCHANGE_TIMEOUT).await;
        return match LostSession::read(status, &read.bytes, read.whole, None, true) {
            Some(_) => Err(ListError::SessionGone),
            None if envelope::parse(&read.bytes).is_ok() => Ok(ReadAnswer {
                body: read.bytes.into(),
                session: None,
            }),
            None => Err(ListError::Status(status)),
        };
    }
    let advised = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    if advised || content_type(&response).is_none() && !status.is_success() {
        return Err(ListError::Status(status));
    }
    timeout(
        EXCHANGE_TIMEOUT,
        read_answer(response, &Id::Integer(id), MAX_ANSWER),
    )
    .await
    .map_err(|_| UpstreamError::Timeout(EXCHANGE_TIMEOUT))?
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
            Outcome::Error(error)
                if let Some(unsupported) = refused::unsupported_version(&error) =>
            {
                Err(ListError::Version(unsupported))
            }
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
            "it is not a response".to_owned(),
        )),
        Err(refusal) => Err(ListError::Unreadable(method, refusal.to_string())),
    }
}
