//! The answer to one request: a JSON body, or a stream of events that ends with it.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use super::ends::{end_of, end_of_unserved};
use super::events::EventRelay;
use super::{Relay, RelayedMessage};
use crate::gateway::body::message::{
    ContentType, MAX_ANSWER, RETRY_AFTER, content_type, json_response,
};
use crate::gateway::body::{Body, ReadError, holding, read_for, read_start};
use crate::gateway::enforce::{End, InFlight};
use crate::gateway::fairness::budget::FREE_BYTES;
use crate::gateway::upstream::{Bridged, UpstreamError};
use crate::json;
use crate::protocol::answer::{self, code};
use crate::protocol::envelope::{self, Id, Message, Outcome};
use crate::protocol::text::printable;

/// However much a server says before its answer, a call ends after this many times its time-out.
pub const MAX_TIMEOUTS_PER_CALL: u32 = 10;

/// This much of an HTTP error is read.
const FIRST_BYTES: usize = 4 << 10;
/// This much of it is shown.
const MAX_WORDS: usize = 200;
/// A server may ask for this much patience.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The server's own `Retry-After`, in seconds (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
            Duration::try_from(at.duration_since(Timestamp::now())).ok()?
        }
    };
    Some(wait.clamp(RETRY_AFTER, MAX_RETRY_AFTER))
}

/// How an HTTP error begins: the text that its JSON names, or its own, without tags.
fn first_words(body: &[u8]) -> Option<String> {
    let parsed = json::parse(body).ok();
    let named = parsed.as_ref().and_then(|value| {
        let members = ["message", "detail", "error_description", "error", "title"];
        let error = value.get("error").unwrap_or(value);
        let texts = members.iter().filter_map(|key| error.get(key)?.as_str());
        texts.chain(error.as_str()).next().map(str::to_owned)
    });
    let text = named.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let mut words = String::new();
    for part in text.split('<').enumerate() {
        // Of everything but the first part, what follows the tag.
        let shown = match part {
            (0, text) => text,
            (_, text) => text.split_once('>').map_or("", |(_, text)| text),
        };
        for word in shown.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
    }
    let words = printable(&words, MAX_WORDS);
    (!words.is_empty()).then_some(words)
}

/// Whether the message of an error says that a session is not known.
fn names_lost_session(message: &str) -> bool {
    let message = message.to_lowercase();
    let lost = [
        "not found",
        "no valid",
        "invalid",
        "unknown",
        "expired",
        "missing",
        "terminated",
        "does not exist",
        "not exist",
        "closed",
    ];
    message.contains("not initialized")
        || message.contains("session") && lost.iter().any(|word| message.contains(word))
}

impl Relay {
    /// Whether a server says in words that it does not know the session, as some do in the place of
    /// a 404. Only the client can start a new one.
    fn session_is_gone(&self, body: &[u8]) -> bool {
        if !self.session.is_upstreams() {
            return false;
        }
        let Ok(Message::Response(response)) = envelope::parse(body) else {
            return false;
        };
        let Outcome::Error(error) = response.outcome else {
            return false;
        };
        let protocols = matches!(
            error.code,
            code::SESSION_NOT_FOUND | code::SERVER_ERROR | code::INVALID_REQUEST
        );
        protocols && names_lost_session(&error.message)
    }

    /// Whether a server that refuses with an HTTP error says in words, or in JSON of another kind,
    /// that it does not know the session.
    fn session_is_refused(&self, status: StatusCode, body: &[u8]) -> bool {
        matches!(status, StatusCode::BAD_REQUEST | StatusCode::GONE)
            && self.session.is_upstreams()
            && first_words(body).is_some_and(|words| names_lost_session(&words))
    }

    /// Whether a body is a message that answers the request.
    fn holds_answer(&self, body: &[u8]) -> bool {
        envelope::parse(body).is_ok_and(|message| self.is_answer(&message))
    }

    /// The answer to one request, from the head of the upstream's response.
    ///
    /// `in_flight` takes how the call ended. `timeout` is for the whole call, from `sent` on; each
    /// message that comes before the answer gives it that time again, up to
    /// [`MAX_TIMEOUTS_PER_CALL`] times.
    pub async fn answer(
        self,
        in_flight: Option<Box<InFlight>>,
        response: Response<Body>,
        timeout: Duration,
        sent: Instant,
    ) -> Response<Body> {
        let finish = |in_flight: Option<Box<InFlight>>, end| {
            if let Some(in_flight) = in_flight {
                in_flight.finish(end);
            }
        };
        let status = response.status();
        let headers = match status.is_success() {
            true => HeaderMap::new(),
            false => response.headers().clone(),
        };
        let bridged = response.extensions().get::<Bridged>().copied();
        let id = self.client_id().cloned();
        let within = timeout.saturating_sub(sent.elapsed());
        if status == StatusCode::NOT_FOUND && self.session.is_upstreams() {
            // The upstream has forgotten the session: the client has to initialize again.
            finish(in_flight, End::Broken);
            let body = answer::session_unknown(id.as_ref());
            return json_response(StatusCode::NOT_FOUND, body);
        }
        match content_type(&response) {
            Some(ContentType::Json) => {
                let share = self.grant.share.as_ref();
                let body = response.into_body();
                let read = read_for(share, body, MAX_ANSWER, within, within).await;
                let (body, room) = match read {
                    Ok(read) => read,
                    Err(
                        error @ (ReadError::TooLarge { .. }
                        | ReadError::Broken(_)
                        | ReadError::Spent(_)),
                    ) => {
                        finish(in_flight, End::Broken);
                        return json_response(
                            StatusCode::OK,
                            answer::upstream_down(id.as_ref(), &error.to_string(), RETRY_AFTER),
                        );
                    }
                    Err(ReadError::Stalled) => {
                        finish(in_flight, End::Timeout);
                        self.give_up();
                        let why = UpstreamError::Timeout(timeout).to_string();
                        return json_response(
                            StatusCode::OK,
                            answer::upstream_down(id.as_ref(), &why, RETRY_AFTER),
                        );
                    }
                };
                if !status.is_success() && !self.holds_answer(&body) && !self.session_is_gone(&body)
                {
                    finish(in_flight, End::Broken);
                    return self.refused(status, &headers, &body);
                }
                let (bytes, end) = self.single(&body).await;
                if bridged.is_none() && end != End::Result && self.session_is_gone(&body) {
                    finish(in_flight, End::Broken);
                    let body = answer::session_unknown(id.as_ref());
                    return json_response(StatusCode::NOT_FOUND, body);
                }
                let end = match (end, bridged.and_then(|bridged| bridged.unserved)) {
                    (End::Error | End::Refused, Some(unserved)) => end_of_unserved(unserved),
                    // An error that came with an HTTP error status describes the transport, not
                    // this request.
                    (End::Error | End::Refused, None) if !status.is_success() => End::Broken,
                    (end, _) => end,
                };
                finish(in_flight, end);
                drop(body);
                let size = bytes.len();
                let response = json_response(StatusCode::OK, bytes);
                match room {
                    // Kept until the client has taken it.
                    Some(mut room) if size > FREE_BYTES => {
                        // The room was for two copies, so some is given back.
                        let _ = room.set(size);
                        response.map(|body| holding(body, room))
                    }
                    _ => response,
                }
            }
            Some(ContentType::EventStream) if status.is_success() => {
                let mut events = EventRelay::new(self, response.into_body());
                events.idle = Some(timeout);
                events.silent_until = Some(sent + timeout);
                events.ends_at = Some(sent + timeout.saturating_mul(MAX_TIMEOUTS_PER_CALL));
                events.awaited = true;
                events.bridged = bridged.is_some();
                events.in_flight = in_flight;
                events.into_response()
            }
            _ if status.is_success() => {
                finish(in_flight, End::Broken);
                let why = format!("it answered HTTP {status} without a JSON-RPC message");
                json_response(
                    StatusCode::OK,
                    answer::upstream_down(id.as_ref(), &why, RETRY_AFTER),
                )
            }
            _ => {
                finish(in_flight, End::Broken);
                // Boxed, so that the futures of calls stay small.
                let body = response.into_body();
                let read = Box::pin(read_start(body, FIRST_BYTES, within)).await;
                self.refused(status, &headers, &read)
            }
        }
    }

    /// Says that a message is not the answer, with both ids, which show what the server did to
    /// ours.
    fn not_this_answer(&self, message: &Message<'_>) -> String {
        let asked = self.asked.as_ref().map(|asked| asked.upstream.to_json());
        let asked = asked.unwrap_or_default();
        match message {
            Message::Response(_) => {
                let answered = message.id().map_or("null".to_owned(), Id::to_json);
                let answered = printable(&answered, 64);
                format!("its answer has the id {answered}, and the request had the id {asked}")
            }
            _ => "its answer is not a response".to_owned(),
        }
    }

    /// What a server, or something in front of it, refused with an HTTP error.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
        if self.session_is_refused(status, body) {
            let body = answer::session_unknown(self.client_id());
            return json_response(StatusCode::NOT_FOUND, body);
        }
        // What cannot be compared with the values any more, as they have changed, is left out.
        let upstream = self.upstream.upgrade();
        let shows = |words: &String| upstream.is_some_and(|upstream| !upstream.holds_secret(words));
        let told = first_words(body).filter(shows);
        let told = told.map_or(String::new(), |words| format!(": {words}"));
        tracing::warn!(
            server = self.gateway.observe.server(),
            "the upstream answered HTTP {status}{told}"
        );
        let wait = (status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error())
            .then(|| retry_after(headers).unwrap_or(RETRY_AFTER));
        let reason = format!("it answered HTTP {status}{told}");
        let body = answer::upstream_refused(self.client_id(), &reason, wait);
        json_response(StatusCode::OK, body)
    }

    /// The one message of a JSON body.
    async fn single(&self, body: &[u8]) -> (Vec<u8>, End) {
        let broken = |why: &str| {
            (
                answer::upstream_down(self.client_id(), why, RETRY_AFTER),
                End::Broken,
            )
        };
        if let Some(bytes) = self.replayed(body) {
            return (bytes, End::Result);
        }
        match envelope::parse(body) {
            Ok(message) if self.is_answer(&message) => {
                let end = end_of(&message);
                match self.pass(&message, body).await {
                    RelayedMessage::Send(bytes) => (bytes, end),
                    RelayedMessage::Drop => broken("its answer cannot be shown"),
                }
            }
            Ok(message) => broken(&self.not_this_answer(&message)),
            Err(refusal) => broken(&refusal.to_string()),
        }
    }
}
