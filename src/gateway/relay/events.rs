//! A stream to a client, event by event, at the client's pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::ends::{end_of, end_of_unserved};
use super::{Asked, KEEP_ALIVE_INTERVAL, Relay, RelayedMessage};
use crate::gateway::body::message::{MAX_EVENT, RETRY_AFTER, event_stream};
use crate::gateway::body::{Body, BoxError};
use crate::gateway::enforce::{End, InFlight};
use crate::gateway::fairness::budget::{Room, Share};
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::upstream::Unserved;
use crate::protocol::answer;
use crate::protocol::envelope::{self, Message};
use crate::protocol::sse::{self, Decoder, Event, Item};

/// A stream to a client.
pub(super) struct EventRelay {
    pub(super) relay: Relay,
    pub(super) body: Body,
    pub(super) decoder: Decoder,
    pub(super) queue: VecDeque<Bytes>,
    /// For the event being read, and for what the client has not taken.
    pub(super) room: Option<Room>,
    /// Bytes of an event that has begun.
    pub(super) begun: usize,
    /// The answer of the relay's request is still to come; the stream ends with it.
    pub(super) awaited: bool,
    /// It is the bridge that names the types of events, and not a server.
    pub(super) bridged: bool,
    pub(super) in_flight: Option<Box<InFlight>>,
    /// A GET stream: policy changes are announced on it, and it may be quiet for ever.
    pub(super) unsolicited: bool,
    /// How long the upstream may be silent while an answer is due. Comments do not count.
    pub(super) idle: Option<Duration>,
    pub(super) silent_until: Option<Instant>,
    /// When the call ends, whatever the upstream sends.
    pub(super) ends_at: Option<Instant>,
    /// The client can come back with the id of the last event.
    pub(super) resumable: bool,
    pub(super) ended: bool,
    pub(super) changes: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Stands for the list that the caller has; only for streams on which changes are announced.
    pub(super) listed: Option<u64>,
    /// Whether it goes out under a spec that asks for TLS.
    pub(super) secure: Option<bool>,
    pub(super) keep_alive: tokio::time::Interval,
    pub(super) streams: Gauge,
}

/// An event is in memory as it came, as text, as it is written again, and as it is sent.
const COPIES: usize = 4;

enum Wake {
    Frame(Option<Result<Frame<Bytes>, BoxError>>),
    KeepAlive,
    Changed,
    Idle,
    Stop,
}

impl EventRelay {
    pub(super) fn new(relay: Relay, body: Body) -> Self {
        let streams = relay.gateway.observe.streams.clone();
        streams.inc();
        let mut keep_alive =
            tokio::time::interval_at(Instant::now() + KEEP_ALIVE_INTERVAL, KEEP_ALIVE_INTERVAL);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changes = relay.gateway.subscribe();
        let snapshot = relay.gateway.snapshot();
        let secure = snapshot.as_ref().map(|snapshot| snapshot.secure);
        let room = relay.grant.share.as_ref().map(Share::room);
        EventRelay {
            relay,
            room,
            begun: 0,
            body,
            decoder: Decoder::new(MAX_EVENT),
            queue: VecDeque::new(),
            awaited: false,
            bridged: false,
            in_flight: None,
            unsolicited: false,
            idle: None,
            silent_until: None,
            ends_at: None,
            resumable: false,
            ended: false,
            changes,
            listed: None,
            secure,
            keep_alive,
            streams,
        }
    }

    /// Changes of the policy are announced on it.
    pub(super) fn tells_changes(mut self) -> Self {
        self.unsolicited = true;
        let snapshot = self.relay.gateway.snapshot();
        self.listed = snapshot.map(|snapshot| listed(&snapshot, &self.relay));
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let frames = stream::unfold(self, |mut events| async move {
            let bytes = events.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(bytes)), events))
        });
        event_stream(StreamBody::new(frames).boxed_unsync())
    }

    /// The next bytes for the client, or None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                return Some(bytes);
            }
            // This is polled again once the client has taken the previous bytes.
            if self.begun == 0
                && let Some(room) = &mut self.room
            {
                let _ = room.set(0);
            }
            if self.ended {
                return None;
            }
            let stop = self.relay.gateway.lifetime.closing();
            let silent_until = self.silent_until.min(self.ends_at).or(self.silent_until);
            let wake = tokio::select! {
                frame = self.body.frame() => Wake::Frame(frame),
                _ = self.keep_alive.tick() => Wake::KeepAlive,
                changed = self.changes.changed() => if changed.is_ok() { Wake::Changed } else { Wake::Stop },
                () = async { match silent_until { Some(until) => tokio::time::sleep_until(until).await, None => std::future::pending().await } } => Wake::Idle,
                () = stop.cancelled(), if self.unsolicited => Wake::Stop,
            };
            match wake {
                // A token expires, or its issuer's keys change, without a change of the policy.
                Wake::KeepAlive if self.caller_is_gone() => self.ended = true,
                Wake::KeepAlive => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Wake::Changed => self.changed(),
                Wake::Stop => self.ended = true,
                Wake::Idle => {
                    if self.awaited {
                        self.relay.give_up();
                    }
                    self.fail(End::Timeout, "it did not answer in time");
                }
                Wake::Frame(None) => {
                    if self.awaited && !self.resumable {
                        self.fail(End::Broken, "its answer broke off");
                    }
                    self.ended = true;
                }
                Wake::Frame(Some(Err(_))) => {
                    if self.awaited && !self.resumable {
                        self.fail(End::Broken, "its answer broke off");
                    }
                    self.ended = true;
                }
                Wake::Frame(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.decode(&data).await;
                    }
                }
            }
        }
    }

    async fn decode(&mut self, data: &[u8]) {
        self.begun += data.len();
        let needed = self.begun * COPIES;
        if let Some(Err(spent)) = self.room.as_mut().map(|room| room.set(needed)) {
            return self.fail(End::Broken, &spent.to_string());
        }
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
        if !self.decoder.is_partial() {
            self.begun = 0;
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
        // The gateway sets the event type and the reconnection time, not the server.
        let mut out = Event::default();
        if let Some(id) = &event.id {
            self.resumable = true;
            let answers = self.relay.asked.as_ref().map(Asked::ids);
            let sealed = self.relay.session.seal_event(
                &self.relay.gateway.sessions,
                &self.relay.grant,
                id,
                answers,
            );
            out.id = match sealed {
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
        if self.awaited
            && let Some(bytes) = self.relay.replayed(data.as_bytes())
        {
            if let Some(in_flight) = self.in_flight.take() {
                in_flight.finish(End::Result);
            }
            return self.answered(out, bytes);
        }
        let message = match envelope::parse(data.as_bytes()) {
            Ok(message) => message,
            Err(refusal) if self.awaited => {
                return self.fail(End::Broken, &refusal.to_string());
            }
            Err(refusal) => {
                tracing::warn!(server = self.relay.gateway.observe.server(), %refusal, "an event of the upstream was dropped");
                return;
            }
        };
        let expected = self.relay.is_answer(&message);
        let answers = matches!(message, Message::Response(_));
        if let Some(idle) = self.idle
            && !answers
        {
            // The server is working on it: progress, a question, a log line.
            self.silent_until = Some(Instant::now() + idle);
        }
        if expected {
            let unserved = event.event.as_deref().filter(|_| self.bridged);
            let end = match unserved.and_then(Unserved::of_event) {
                Some(unserved) => end_of_unserved(unserved),
                None => end_of(&message),
            };
            if let Some(in_flight) = self.in_flight.take() {
                in_flight.finish(end);
            }
        } else if answers {
            tracing::warn!(
                server = self.relay.gateway.observe.server(),
                "dropped an answer that no request is waiting for"
            );
            return;
        } else {
            self.relay.heard();
        }
        match self.relay.pass(&message, data.as_bytes()).await {
            RelayedMessage::Send(bytes) if expected => self.answered(out, bytes),
            RelayedMessage::Send(bytes) => self.send_with(out, bytes),
            RelayedMessage::Drop if expected => {
                self.fail(End::Broken, "its answer cannot be shown");
            }
            RelayedMessage::Drop => {}
        }
    }

    /// Sends the answer, with which a stream ends that was opened for it.
    fn answered(&mut self, event: Event, bytes: Vec<u8>) {
        self.send_with(event, bytes);
        if self.awaited {
            self.awaited = false;
            self.ended = true;
        }
    }

    /// Queues an event with a message of JSON.
    fn send_with(&mut self, mut event: Event, bytes: Vec<u8>) {
        match String::from_utf8(bytes) {
            Ok(data) => {
                event.data = Some(data);
                self.send(event);
            }
            Err(_) => self.fail(End::Broken, "its answer cannot be shown"),
        }
    }

    /// Queues an event; one that cannot be encoded ends the stream.
    fn send(&mut self, event: Event) {
        if event == Event::default() {
            return;
        }
        let mut bytes = Vec::new();
        match sse::encode(&Item::Event(event), &mut bytes) {
            Ok(()) => self.queue.push_back(bytes.into()),
            Err(error) => {
                tracing::warn!(server = self.relay.gateway.observe.server(), %error, "a stream was ended");
                self.ended = true;
            }
        }
    }

    fn caller_is_gone(&self) -> bool {
        let snapshot = self.relay.gateway.snapshot();
        snapshot.is_some_and(|snapshot| !self.carries_on(&snapshot))
    }

    /// Calls under way end with the credential that they were sent with; a stream without an end of
    /// its own continues only with the caller's current one.
    fn carries_on(&self, snapshot: &Snapshot) -> bool {
        match self.unsolicited {
            true => snapshot.carries_on(&self.relay.grant),
            false => snapshot.grants.still_holds(&self.relay.grant),
        }
    }

    /// The policy changed: the caller may have lost access, or may see other tools.
    fn changed(&mut self) {
        let Some(snapshot) = self.changes.borrow_and_update().clone() else {
            return;
        };
        // A GET stream would otherwise continue in plain text for ever.
        let secured = self.unsolicited && self.secure != Some(snapshot.secure);
        if secured || !self.carries_on(&snapshot) {
            self.ended = true;
            return;
        }
        if !self.unsolicited {
            return;
        }
        let listed = Some(listed(&snapshot, &self.relay));
        if std::mem::replace(&mut self.listed, listed) == listed {
            return;
        }
        if self.relay.gateway.inventory.tells_changes() {
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
        if std::mem::take(&mut self.awaited) {
            let body = answer::upstream_down(self.relay.client_id(), why, RETRY_AFTER);
            if let Ok(data) = String::from_utf8(body) {
                self.send(Event::message(data));
            }
        }
        self.ended = true;
    }
}

/// Stands for the list that a caller has now.
fn listed(snapshot: &Snapshot, relay: &Relay) -> u64 {
    snapshot
        .lists
        .of(&snapshot.bound, &relay.grant.caller, &relay.session.id)
}

impl Drop for EventRelay {
    fn drop(&mut self) {
        self.streams.dec();
    }
}
