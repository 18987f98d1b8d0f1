//! The answer to one request: a JSON body, or a stream of events that ends with it.

use std::sync::Arc;
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
use crate::gateway::lost_session::{FIRST_BYTES, LostSession, Unexecuted, first_words};
use crate::gateway::sessions::Session;
use crate::gateway::upstream::{Bridged, UpstreamError};
use crate::protocol::answer;
use crate::protocol::envelope::{self, Id, Message};
use crate::protocol::text::printable;

/// However much a server says before its answer, a call ends after this many times its time-out.
pub const MAX_TIMEOUTS_PER_CALL: u32 = 10;

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

/// A request of a session that the server does not know, with what is needed to send it again.
pub struct LostRequest {
    relay: Relay,
    in_flight: Option<Box<InFlight>>,
    /// Proof that it was not carried out, if there is one.
    pub unexecuted: Option<Unexecuted>,
}

impl LostRequest {
    /// The session that is not known.
    pub fn session(&self) -> &Arc<Session> {
        &self.relay.session
    }

    /// Whether something has happened to the request since it was sent, such as its cancellation:
    /// it must not be sent again.
    pub fn is_ambiguous(&self) -> bool {
        let asked = self.relay.asked.as_ref();
        let under_way = asked.and_then(|asked| asked.under_way.as_ref());
        under_way.is_none_or(|under_way| under_way.ambiguity().is_marked())
            || (self.relay.gateway.sessions).has_ended(&self.relay.session.id)
    }

    /// What is needed to relay the answer to the same request in another session.
    pub fn again(self, session: Arc<Session>) -> (Relay, Option<Box<InFlight>>) {
        let mut relay = self.relay;
        relay.session = session;
        let mut in_flight = self.in_flight;
        if let Some(in_flight) = &mut in_flight {
            in_flight.sent_again();
        }
        (relay, in_flight)
    }

    /// The client has to initialize again.
    pub fn told(self) -> Response<Body> {
        if let Some(in_flight) = self.in_flight {
            in_flight.finish(End::Broken);
        }
        let body = answer::session_unknown(self.relay.client_id());
        json_response(StatusCode::NOT_FOUND, body)
    }
}

impl Relay {
    /// Whether the server says, in whatever words, that it does not know the session.
    fn lost(
        &self,
        status: StatusCode,
        body: &[u8],
        whole: bool,
        repeatable: bool,
    ) -> Option<LostSession> {
        if !self.session.is_upstreams() {
            return None;
        }
        let asked = self.asked.as_ref().map(|asked| &asked.upstream);
        LostSession::read(status, body, whole, asked, repeatable)
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
    ///
    /// # Errors
    /// [`LostRequest`] where the server does not know the session.
    pub async fn answer(
        self,
        in_flight: Option<Box<InFlight>>,
        response: Response<Body>,
        timeout: Duration,
        sent: Instant,
    ) -> Result<Response<Body>, Box<LostRequest>> {
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
        let repeatable = in_flight.is_none();
        if status == StatusCode::NOT_FOUND && self.session.is_upstreams() {
            // Boxed, so that the futures of calls stay small.
            let body = response.into_body();
            let read = Box::pin(read_start(body, FIRST_BYTES, within)).await;
            let lost = self.lost(status, &read.bytes, read.whole, repeatable);
            let unexecuted = lost.and_then(|lost| lost.unexecuted);
            return Err(self.without_session(in_flight, unexecuted));
        }
        Ok(match content_type(&response) {
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
                        return Ok(json_response(
                            StatusCode::OK,
                            answer::upstream_down(id.as_ref(), &error.to_string(), RETRY_AFTER),
                        ));
                    }
                    Err(ReadError::Stalled) => {
                        finish(in_flight, End::Timeout);
                        self.give_up();
                        let why = UpstreamError::Timeout(timeout).to_string();
                        return Ok(json_response(
                            StatusCode::OK,
                            answer::upstream_down(id.as_ref(), &why, RETRY_AFTER),
                        ));
                    }
                };
                if !status.is_success() {
                    if let Some(lost) = self.lost(status, &body, true, repeatable) {
                        return Err(self.without_session(in_flight, lost.unexecuted));
                    }
                    if !self.holds_answer(&body) {
                        finish(in_flight, End::Broken);
                        return Ok(self.refused(status, &headers, &body));
                    }
                }
                let (bytes, end) = self.single(&body).await;
                if bridged.is_none()
                    && end != End::Result
                    && let Some(lost) = self.lost(status, &body, true, repeatable)
                {
                    return Err(self.without_session(in_flight, lost.unexecuted));
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
                let body = response.into_body();
                let read = Box::pin(read_start(body, FIRST_BYTES, within)).await;
                if let Some(lost) = self.lost(status, &read.bytes, read.whole, repeatable) {
                    return Err(self.without_session(in_flight, lost.unexecuted));
                }
                finish(in_flight, End::Broken);
                self.refused(status, &headers, &read.bytes)
            }
        })
    }

    fn without_session(
        self,
        in_flight: Option<Box<InFlight>>,
        unexecuted: Option<Unexecuted>,
    ) -> Box<LostRequest> {
        Box::new(LostRequest {
            relay: self,
            in_flight,
            unexecuted,
        })
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
