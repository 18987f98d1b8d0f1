//! From the upstream back to the client: every message is read strictly, filtered by the policy in force at that moment, and
//! written anew. Streams go event by event, at the client's pace.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Gateway;
use super::body::{Body, BoxError, ReadError, full, read};
use super::enforce::{End, InFlight};
use super::grants::Grant;
use super::in_use::Use;
use super::session::Session;
use super::snapshot::Snapshot;
use super::upstream::UpstreamError;
use crate::json;
use crate::protocol::answer;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Id, Message, Notification, Object, Outcome, Request};
use crate::protocol::list::{self, ListKind};
use crate::protocol::method::{self, Feature, Need};
use crate::protocol::sse::{self, Decoder, Event, Item};

/// An upstream answer, or one event of a stream, may be this large.
pub const MAX_ANSWER: usize = 64 << 20;
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
    /// `in_flight` is told how the call ended; `within` is what is left of the whole call's time.
    pub async fn answer(
        self,
        id: Id<'static>,
        in_flight: Option<Box<InFlight>>,
        response: Response<Body>,
        within: Duration,
    ) -> Response<Body> {
        let finish = |in_flight: Option<Box<InFlight>>, end| {
            if let Some(in_flight) = in_flight {
                in_flight.finish(end);
            }
        };
        let status = response.status();
        match content_type(&response) {
            Some(ContentType::Json) => {
                let read = read(response.into_body(), MAX_ANSWER, within, within).await;
                let body = match read {
                    Ok(body) => body,
                    Err(error @ (ReadError::TooLarge { .. } | ReadError::Broken(_))) => {
                        finish(in_flight, End::Broken);
                        return json_response(
                            StatusCode::OK,
                            answer::upstream_down(Some(&id), &error.to_string(), RETRY_AFTER),
                        );
                    }
                    Err(ReadError::Stalled) => {
                        finish(in_flight, End::Timeout);
                        let why = UpstreamError::Timeout(within).to_string();
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
                json_response(StatusCode::OK, bytes)
            }
            Some(ContentType::EventStream) if status.is_success() => {
                let mut events = Events::new(self, response.into_body());
                events.idle = Some(within);
                events.silent_until = Some(Instant::now() + within);
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
        let mut events = Events::new(self, response.into_body());
        events.unsolicited = true;
        events.into_response()
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

/// A stream to a client.
struct Events {
    relay: Relay,
    body: Body,
    decoder: Decoder,
    queue: VecDeque<Bytes>,
    /// The request that the stream answers; it ends with that answer.
    expected: Option<Id<'static>>,
    in_flight: Option<Box<InFlight>>,
    /// A GET stream: policy changes are told on it, and it may be quiet for ever.
    unsolicited: bool,
    /// How long the upstream may be silent while an answer is due. Keep-alives to the client do not count.
    idle: Option<Duration>,
    silent_until: Option<Instant>,
    /// The client can come back with the id of the last event.
    resumable: bool,
    ended: bool,
    changes: watch::Receiver<Option<Arc<Snapshot>>>,
    listed: Vec<String>,
    keep_alive: tokio::time::Interval,
    streams: Gauge,
}

enum Wake {
    Frame(Option<Result<Frame<Bytes>, BoxError>>),
    KeepAlive,
    Changed,
    Idle,
    Stop,
}

impl Events {
    fn new(relay: Relay, body: Body) -> Self {
        let streams = relay.gateway.recorder.streams.clone();
        streams.inc();
        let mut keep_alive = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changes = relay.gateway.subscribe();
        let listed = relay
            .gateway
            .snapshot()
            .map_or_else(Vec::new, |snapshot| listed(&snapshot, &relay));
        Events {
            relay,
            body,
            decoder: Decoder::new(MAX_ANSWER),
            queue: VecDeque::new(),
            expected: None,
            in_flight: None,
            unsolicited: false,
            idle: None,
            silent_until: None,
            resumable: false,
            ended: false,
            changes,
            listed,
            keep_alive,
            streams,
        }
    }

    fn into_response(self) -> Response<Body> {
        let frames = stream::unfold(self, |mut events| async move {
            let bytes = events.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(bytes)), events))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(
            http::header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, no-transform"),
        );
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        response
    }

    /// The next bytes for the client, or None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            let stop = self.relay.gateway.closing.clone();
            let silent_until = self.silent_until;
            let wake = tokio::select! {
                frame = self.body.frame() => Wake::Frame(frame),
                _ = self.keep_alive.tick() => Wake::KeepAlive,
                changed = self.changes.changed() => if changed.is_ok() { Wake::Changed } else { Wake::Stop },
                () = async { match silent_until { Some(until) => tokio::time::sleep_until(until).await, None => std::future::pending().await } } => Wake::Idle,
                () = stop.cancelled(), if self.unsolicited => Wake::Stop,
            };
            match wake {
                Wake::KeepAlive => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Wake::Changed => self.changed(),
                Wake::Stop => self.ended = true,
                Wake::Idle => self.fail(End::Timeout, "it sent nothing for too long"),
                Wake::Frame(None) => {
                    if self.expected.is_some() && !self.resumable {
                        self.fail(End::Broken, "its answer broke off");
                    }
                    self.ended = true;
                }
                Wake::Frame(Some(Err(_))) => {
                    if self.expected.is_some() && !self.resumable {
                        self.fail(End::Broken, "its answer broke off");
                    }
                    self.ended = true;
                }
                Wake::Frame(Some(Ok(frame))) => {
                    if let Some(idle) = self.idle {
                        self.silent_until = Some(Instant::now() + idle);
                    }
                    if let Ok(data) = frame.into_data() {
                        self.decode(&data).await;
                    }
                }
            }
        }
    }

    async fn decode(&mut self, data: &[u8]) {
        let mut items = Vec::new();
        self.decoder.push(data);
        while let Some(item) = self.decoder.next_item() {
            match item {
                Ok(item) => items.push(item),
                Err(error) => {
                    self.fail(End::Broken, &error.to_string());
                    return;
                }
            }
        }
        for item in items {
            match item {
                Item::Comment(_) => {}
                Item::Event(event) => self.event(event).await,
            }
            if self.ended {
                return;
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let mut out = Event {
            event: event.event,
            retry: event.retry,
            ..Event::default()
        };
        if let Some(id) = &event.id {
            self.resumable = true;
            out.id = match self
                .relay
                .session
                .seal_event(&self.relay.gateway, &self.relay.grant, id)
            {
                Some(sealed) => Some(sealed),
                None => return self.fail(End::Broken, "an event id could not be sealed"),
            };
        }
        let data = event.data.unwrap_or_default();
        if data.is_empty() {
            // A priming event carries only an id to resume from.
            if out.id.is_some() {
                out.data = Some(data);
            }
            return self.send(out);
        }
        let message = match envelope::parse(data.as_bytes()) {
            Ok(message) => message,
            Err(refusal) if self.expected.is_some() => {
                return self.fail(End::Broken, &refusal.to_string());
            }
            Err(refusal) => {
                tracing::warn!(server = self.relay.gateway.recorder.server(), %refusal, "an event of the upstream was dropped");
                return;
            }
        };
        let answers = matches!(message, Message::Response(_));
        let expected = answers && message.id().is_some() && message.id() == self.expected.as_ref();
        if answers && self.expected.is_some() && !expected {
            tracing::warn!(
                server = self.relay.gateway.recorder.server(),
                "an answer to another request was dropped"
            );
            return;
        }
        if expected && let Some(in_flight) = self.in_flight.take() {
            in_flight.finish(end_of(&message));
        }
        match self.relay.pass(&message).await {
            Passed::Send(bytes) => match String::from_utf8(bytes) {
                Ok(data) => {
                    out.data = Some(data);
                    self.send(out);
                }
                Err(_) => return self.fail(End::Broken, "its answer cannot be shown"),
            },
            Passed::Drop if expected => {
                return self.fail(End::Broken, "its answer cannot be shown");
            }
            Passed::Drop => {}
        }
        if expected {
            self.expected = None;
            self.ended = true;
        }
    }

    /// Queues an event; what cannot be written as one ends the stream.
    fn send(&mut self, event: Event) {
        if event == Event::default() {
            return;
        }
        let mut bytes = Vec::new();
        match sse::encode(&Item::Event(event), &mut bytes) {
            Ok(()) => self.queue.push_back(bytes.into()),
            Err(error) => {
                tracing::warn!(server = self.relay.gateway.recorder.server(), %error, "a stream was ended");
                self.ended = true;
            }
        }
    }

    /// The policy changed: the caller may have to go, and may see other tools.
    fn changed(&mut self) {
        let Some(snapshot) = self.changes.borrow_and_update().clone() else {
            return;
        };
        if !snapshot.grants.still_holds(&self.relay.grant) {
            self.ended = true;
            return;
        }
        let listed = listed(&snapshot, &self.relay);
        if listed == self.listed {
            return;
        }
        self.listed = listed;
        if self.unsolicited && self.relay.gateway.inventory.tells_changes() {
            self.send(Event::message(
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            ));
        }
    }

    /// Ends the stream with an error for the request that it answers.
    fn fail(&mut self, end: End, why: &str) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.finish(end);
        }
        if let Some(id) = self.expected.take()
            && let Ok(data) = String::from_utf8(answer::upstream_down(Some(&id), why, RETRY_AFTER))
        {
            self.send(Event::message(data));
        }
        self.ended = true;
    }
}

/// The tools that a caller's list has now.
fn listed(snapshot: &Snapshot, relay: &Relay) -> Vec<String> {
    let (caller, session, now) = (&relay.grant.caller, &*relay.session.id, Timestamp::now());
    let tools = snapshot.bound.tools().iter();
    tools
        .filter(|tool| snapshot.bound.visible(&tool.name, caller, session, now))
        .map(|tool| tool.name.clone())
        .collect()
}

impl Drop for Events {
    fn drop(&mut self) {
        self.streams.dec();
    }
}
