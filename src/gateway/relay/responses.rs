//! The answer to one request: a JSON body, or a stream of events that ends with it.

use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;

use super::ends::{end_of, end_of_unserved};
use super::events::EventRelay;
use super::{Relay, RelayedMessage};
use crate::gateway::body::message::{
    ContentType, MAX_ANSWER, RETRY_AFTER, content_type, json_response,
};
use crate::gateway::body::{Body, ReadError, holding, read_for};
use crate::gateway::enforce::{End, InFlight};
use crate::gateway::fairness::budget::FREE_BYTES;
use crate::gateway::upstream::{Bridged, UpstreamError};
use crate::protocol::answer;
use crate::protocol::envelope;

/// However much a server says before its answer, a call ends after this many times its time-out.
pub const MAX_TIMEOUTS_PER_CALL: u32 = 10;

impl Relay {
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
        let bridged = response.extensions().get::<Bridged>().copied();
        let id = self.client_id().cloned();
        let within = timeout.saturating_sub(sent.elapsed());
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
                let (bytes, end) = self.single(&body).await;
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
            _ => {
                finish(in_flight, End::Broken);
                let why = format!(
                    "it answered HTTP {} without a JSON-RPC message",
                    status.as_u16()
                );
                json_response(
                    StatusCode::OK,
                    answer::upstream_down(id.as_ref(), &why, RETRY_AFTER),
                )
            }
        }
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
            Ok(_) => broken("its answer is not to this request"),
            Err(refusal) => broken(&refusal.to_string()),
        }
    }
}
