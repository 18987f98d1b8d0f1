//! From the upstream back to the client: every message is read strictly, filtered by the policy in force at that moment, and
//! written anew. Streams go event by event, at the client's pace.

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Gateway;
use super::body::{Body, ReadError, full, holding, read_for};
use super::budget::FREE;
use super::enforce::{End, InFlight};
use super::grants::Grant;
use super::in_use::Use;
use super::session::Session;
use super::upstream::UpstreamError;
use crate::json;
use crate::protocol::answer;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Id, Message, Notification, Object, Outcome, Request};
use crate::protocol::list::{self, ListKind};
use crate::protocol::method::{self, Feature, Need};

mod events;

use self::events::Events;

/// An upstream answer may be this large.
pub const MAX_ANSWER: usize = 64 << 20;
/// One event of a stream may be this large: as a line of a stdio server, with what goes around it.
pub const MAX_EVENT: usize = 17 << 20;
/// However much a server says before its answer, a call ends after this many times its time-out.
const LONGEST: u32 = 10;
/// Comments keep intermediaries from closing a quiet stream (gateway.md).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// When the client may try again after the upstream failed.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Whose messages are relayed.
#[derive(Clone)]
pub struct Relay {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Who gets them.
    pub grant: Grant,
    /// In which session.
    pub session: Arc<Session>,
    /// The id of the request that is answered: in use until the answer has been relayed.
    pub id_use: Option<Arc<Use>>,
}

/// What becomes of one message.
enum Passed {
    Send(Vec<u8>),
    Drop,
}

impl Relay {
    /// The client's copy of a message, filtered for this caller.
    async fn pass(&self, message: &Message<'_>) -> Passed {
        match message {
            Message::Response(_) => {
                let (passed, unknown) = self.filtered(message);
                if !unknown {
                    return passed;
                }
                // Rare, and kept out of the state that every call carries along.
                Box::pin(self.gateway.inventory.catch_up()).await;
                self.filtered(message).0
            }
            Message::Notification(notification) => self.notification(message, notification),
            Message::Request(request) => self.request(request),
        }
    }

    /// The message without what the caller may not see, and whether it lists a tool that is not in the inventory.
    fn filtered(&self, message: &Message<'_>) -> (Passed, bool) {
        let Some(snapshot) = self.gateway.snapshot() else {
            return (Passed::Drop, false);
        };
        let mut unknown = false;
        let caller = &self.grant.caller;
        let (bound, session) = (&snapshot.bound, &*self.session.id);
        let now = LazyCell::new(Timestamp::now);
        let edits = Edits::new();
        let filtered = list::filter(message, &edits, |kind, entry| match kind {
            ListKind::Tools => {
                unknown |= bound.tool(&entry.name).is_none();
                bound.visible(&entry.name, caller, session, *now)
                    && bound.as_pinned(&entry.name, entry.raw.as_bytes())
            }
            ListKind::Prompts => bound.prompt_visible(&entry.name, caller),
            ListKind::Resources => bound.resource_visible(&entry.name, caller),
            ListKind::ResourceTemplates => bound.template_visible(&entry.name, caller),
        });
        let passed = match filtered {
            Ok(Some(bytes)) => Passed::Send(bytes),
            Ok(None) => Passed::Send(message.emit(&edits)),
            Err(error) => {
                tracing::warn!(server = self.gateway.recorder.server(), %error, "an answer of the upstream was replaced");
                Passed::Send(answer::upstream_down(
                    message.id(),
                    &error.to_string(),
                    RETRY_AFTER,
                ))
            }
        };
        (passed, unknown)
    }

    fn notification(&self, message: &Message<'_>, notification: &Notification<'_>) -> Passed {
        let Some(row) = method::lookup(&notification.method)
            .filter(|row| row.to_client() && row.in_version(self.session.version))
        else {
            return Passed::Drop;
        };
        match row.need {
            Need::Nothing => {
                if row.name == "notifications/tools/list_changed" {
                    self.gateway.inventory.nudge();
                }
                Passed::Send(message.emit(&Edits::new()))
            }
            Need::Resource => {
                let uri = notification
                    .params
                    .as_ref()
                    .and_then(|params| params.required_string("uri").ok());
                let listed = uri.is_some_and(|uri| {
                    self.gateway.snapshot().is_some_and(|snapshot| {
                        snapshot.bound.resource_visible(&uri, &self.grant.caller)
                    })
                });
                if listed {
                    Passed::Send(message.emit(&Edits::new()))
                } else {
                    Passed::Drop
                }
            }
            Need::Feature(feature) if self.allows(feature) => {
                Passed::Send(message.emit(&Edits::new()))
            }
            Need::Cancel => self.cancelled_by_server(message, notification),
            _ => Passed::Drop,
        }
    }

    /// The upstream gives up a request of its own: the client knows it under the sealed id.
    fn cancelled_by_server(
        &self,
        message: &Message<'_>,
        notification: &Notification<'_>,
    ) -> Passed {
        let sealed = notification
            .params
            .as_ref()
            .and_then(|params| params.get("requestId"))
            .and_then(|member| self.gateway.requests.sealed(&self.session.id, member.raw));
        match sealed {
            Some(sealed) => {
                Passed::Send(message.emit(&Edits::new().set("requestId", json::quoted(&sealed))))
            }
            None => Passed::Drop,
        }
    }

    /// A request of the upstream to the client: as `clientFeatures` says, under a sealed id; else refused right here.
    fn request(&self, request: &Request<'_>) -> Passed {
        let row = method::lookup(&request.method)
            .filter(|row| row.to_client() && row.in_version(self.session.version));
        let allowed = match row.map(|row| row.need) {
            Some(Need::Nothing) => true,
            Some(Need::Feature(feature)) => self.allows(feature),
            _ => false,
        };
        if !allowed {
            let refusal = answer::method_not_found(&request.id, &request.method);
            tell_upstream(&self.gateway, &self.session, refusal);
            return Passed::Drop;
        }
        let raw = request.id.to_json();
        let sealed = self
            .session
            .seal_request(&self.gateway, &self.grant, &request.method, &raw);
        match sealed {
            Some(sealed) => {
                self.gateway
                    .requests
                    .remember(&self.session.id, &raw, &sealed);
                Passed::Send(request.emit(&Edits::new().id(Id::String(sealed.into()))))
            }
            None => Passed::Drop,
        }
    }

    fn allows(&self, feature: Feature) -> bool {
        self.gateway
            .snapshot()
            .is_some_and(|snapshot| snapshot.settings.allows(feature))
    }

    /// The answer to one request, from the head of the upstream's response.
    ///
    /// `in_flight` is told how the call ended. `timeout` is for the whole call, from `sent` on; each message that comes before
    /// the answer gives it that time again, up to [`LONGEST`] times.
    pub async fn answer(
        self,
        id: Id<'static>,
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
                            answer::upstream_down(Some(&id), &error.to_string(), RETRY_AFTER),
                        );
                    }
                    Err(ReadError::Stalled) => {
                        finish(in_flight, End::Timeout);
                        give_up(&self.gateway, &self.session, &id);
                        let why = UpstreamError::Timeout(timeout).to_string();
                        return json_response(
                            StatusCode::OK,
                            answer::upstream_down(Some(&id), &why, RETRY_AFTER),
                        );
                    }
                };
                let (bytes, end) = self.single(&id, &body).await;
                // An error that came with an HTTP error is the transport's word, not the upstream's on this request.
                let end = if end == End::Error && !status.is_success() {
                    End::Broken
                } else {
                    end
                };
                finish(in_flight, end);
                drop(body);
                let size = bytes.len();
                let response = json_response(StatusCode::OK, bytes);
                match room {
                    // Kept until the client has taken it.
                    Some(mut room) if size > FREE => {
                        // It was room for two of them, and so gives some back.
                        let _ = room.set(size);
                        response.map(|body| holding(body, room))
                    }
                    _ => response,
                }
            }
            Some(ContentType::EventStream) if status.is_success() => {
                let mut events = Events::new(self, response.into_body());
                events.idle = Some(timeout);
                events.silent_until = Some(sent + timeout);
                events.ends_at = Some(sent + timeout.saturating_mul(LONGEST));
                events.expected = Some(id);
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
                    answer::upstream_down(Some(&id), &why, RETRY_AFTER),
                )
            }
        }
    }

    /// The one message of a JSON body.
    async fn single(&self, id: &Id<'_>, body: &[u8]) -> (Vec<u8>, End) {
        let broken = |why: &str| {
            (
                answer::upstream_down(Some(id), why, RETRY_AFTER),
                End::Broken,
            )
        };
        match envelope::parse(body) {
            Ok(message @ Message::Response(_)) if message.id() == Some(id) => {
                let end = end_of(&message);
                match self.pass(&message).await {
                    Passed::Send(bytes) => (bytes, end),
                    Passed::Drop => broken("its answer cannot be shown"),
                }
            }
            Ok(_) => broken("its answer is not to this request"),
            Err(refusal) => broken(&refusal.to_string()),
        }
    }

    /// A stream that the client opened with GET.
    pub fn stream(self, response: Response<Body>) -> Response<Body> {
        Events::new(self, response.into_body())
            .tells_changes()
            .into_response()
    }
}

/// Tells the upstream something in a client's session, beside the stream that brought the reason: a server may read the
/// answer only once it has written what it is writing.
pub fn tell_upstream(gateway: &Arc<Gateway>, session: &Arc<Session>, body: Vec<u8>) {
    let Ok(place) = Arc::clone(&gateway.telling).try_acquire_owned() else {
        tracing::warn!(
            server = gateway.recorder.server(),
            "the upstream asks faster than it takes answers; one was dropped"
        );
        return;
    };
    let (teller, session) = (Arc::clone(gateway), Arc::clone(session));
    gateway.tasks.spawn(async move {
        teller.answer_upstream(&session, body).await;
        drop(place);
    });
}

/// Tells the upstream that nobody waits any more (Cancellation: "SHOULD issue a cancellation notification").
pub fn give_up(gateway: &Arc<Gateway>, session: &Arc<Session>, id: &Id<'_>) {
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{},\"reason\":\"timeout\"}}}}",
        id.to_json()
    );
    tell_upstream(gateway, session, body.into_bytes());
}

/// How a call ended, by the message that answers it.
fn end_of(message: &Message<'_>) -> End {
    let Message::Response(response) = message else {
        return End::Broken;
    };
    match &response.outcome {
        // The bridge says so where it is not the server that speaks, and whether the server got the call.
        Outcome::Error(error) => {
            let data = error
                .data
                .and_then(|data| Object::from_raw(data, &[]).ok())
                .unwrap_or_default();
            let says = |key: &str, raw: &str| data.get(key).is_some_and(|said| said.raw == raw);
            if !says("source", "\"bridge\"") {
                End::Error
            } else if says("delivered", "false") {
                End::Unreachable
            } else {
                End::Broken
            }
        }
        Outcome::Result(result)
            if result
                .get("isError")
                .is_some_and(|member| member.raw == "true") =>
        {
            End::ToolError
        }
        Outcome::Result(_) => End::Result,
    }
}

/// What the bodies of responses may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// One message.
    Json,
    /// A stream of events.
    EventStream,
}

/// The content type of a response, if it is one of the two that MCP has.
pub fn content_type<B>(response: &Response<B>) -> Option<ContentType> {
    let mut values = response.headers().get_all(CONTENT_TYPE).iter();
    let (first, None) = (values.next()?, values.next()) else {
        return None;
    };
    let kind = first.to_str().ok()?.split(';').next()?.trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Some(ContentType::Json)
    } else if kind.eq_ignore_ascii_case("text/event-stream") {
        Some(ContentType::EventStream)
    } else {
        None
    }
}

/// One JSON message as a response.
pub fn json_response(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
