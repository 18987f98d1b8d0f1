//! What goes back to one client request: bounded queues, JSON or SSE.
//!
//! In: messages for one reader. Out: an HTTP response. A queue that is full marks its reader as too
//! slow: the stream breaks off and is not waited for.
//!
//! Source: MCP 2025-11-25, "Transports", Streamable HTTP; WHATWG HTML, "Server-sent events".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use crate::gateway::body::{Body, BoxError};
use crate::gateway::upstream::unserved::{Unserved, mark};

/// Bounds of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// Why a stream broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of this stream was too slow, and it was ended; open it again")]
pub(super) struct TooSlow;

/// What the reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// More may follow.
    Message(Bytes),
    /// The answer: nothing follows.
    Answer(Bytes),
    /// The answer in the server's place.
    Unserved(Bytes, Unserved),
}

impl Event {
    pub(super) fn into_text(self) -> Bytes {
        match self {
            Event::Message(text) | Event::Answer(text) | Event::Unserved(text, _) => text,
        }
    }

    fn text(&self) -> &Bytes {
        match self {
            Event::Message(text) | Event::Answer(text) | Event::Unserved(text, _) => text,
        }
    }
}

#[derive(Debug, Default)]
struct StreamQueue {
    bytes: AtomicUsize,
    overflown: AtomicBool,
}

/// The sending side.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    queue: mpsc::Sender<Event>,
    shared: Arc<StreamQueue>,
    limit: usize,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Receiver {
    queue: mpsc::Receiver<Event>,
    shared: Arc<StreamQueue>,
}

pub(super) fn channel(limits: StreamLimits) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(limits.messages.max(1));
    let shared = Arc::new(StreamQueue::default());
    (
        Sender {
            queue: sender,
            shared: Arc::clone(&shared),
            limit: limits.bytes,
        },
        Receiver {
            queue: receiver,
            shared,
        },
    )
}

impl Sender {
    /// Queues an event without waiting. `false`: this stream has no reader, or one that is too
    /// slow, and is over.
    pub(super) fn push(&self, event: Event) -> bool {
        if self.shared.overflown.load(Ordering::Relaxed) {
            return false;
        }
        let size = event.text().len();
        let waiting = self.shared.bytes.fetch_add(size, Ordering::Relaxed);
        // A message larger than the limit still passes where nothing else waits.
        let fits = waiting == 0 || waiting + size <= self.limit;
        let closed = self.queue.is_closed();
        if fits && self.queue.try_send(event).is_ok() {
            return true;
        }
        self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
        if !closed {
            self.shared.overflown.store(true, Ordering::Relaxed);
        }
        false
    }

    /// Whether the reader has gone away.
    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed() || self.shared.overflown.load(Ordering::Relaxed)
    }
}

impl Receiver {
    /// The next event; `None` once all senders are gone.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, TooSlow> {
        if self.shared.overflown.load(Ordering::Relaxed) {
            return Err(TooSlow);
        }
        let Some(event) = self.queue.recv().await else {
            let overflown = self.shared.overflown.load(Ordering::Relaxed);
            return if overflown { Err(TooSlow) } else { Ok(None) };
        };
        let size = event.text().len();
        self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
        Ok(Some(event))
    }
}

/// One JSON body.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let body = Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A status alone.
pub(super) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// An event stream that begins with what was taken already, and ends after the answer or with its
/// senders.
pub(super) fn sse(
    first: Option<Event>,
    receiver: Receiver,
    keep_alive: Duration,
) -> Response<Body> {
    struct State {
        first: Option<Event>,
        receiver: Receiver,
        keep_alive: Duration,
        opened: bool,
        over: bool,
    }
    let state = State {
        first,
        receiver,
        keep_alive,
        opened: false,
        over: false,
    };
    let frames = futures::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        if !state.opened && state.first.is_none() {
            // Something at once, so that a reader (and what sits between) sees the stream open.
            state.opened = true;
            return Some((Ok(Frame::data(Bytes::from_static(b": open\n\n"))), state));
        }
        state.opened = true;
        let event = match state.first.take() {
            Some(event) => Ok(Some(event)),
            None => match timeout(state.keep_alive, state.receiver.next()).await {
                Ok(event) => event,
                Err(_) => {
                    let comment = Bytes::from_static(b": keep-alive\n\n");
                    return Some((Ok(Frame::data(comment)), state));
                }
            },
        };
        match event {
            Ok(None) => None,
            Ok(Some(Event::Message(text))) => {
                Some((Ok(Frame::data(frame("message", &text))), state))
            }
            Ok(Some(Event::Answer(text))) => {
                state.over = true;
                Some((Ok(Frame::data(frame("message", &text))), state))
            }
            Ok(Some(Event::Unserved(text, unserved))) => {
                state.over = true;
                Some((Ok(Frame::data(frame(unserved.event(), &text))), state))
            }
            Err(error) => {
                state.over = true;
                Some((Err(BoxError::from(error)), state))
            }
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One event. Its type is always written, so that nothing a server says can pass for it.
fn frame(kind: &str, text: &Bytes) -> Bytes {
    let mut frame = Vec::with_capacity(text.len() + kind.len() + 17);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(kind.as_bytes());
    frame.extend_from_slice(b"\ndata: ");
    frame.extend_from_slice(text);
    frame.extend_from_slice(b"\n\n");
    Bytes::from(frame)
}

/// What a request accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) json: bool,
    pub(super) sse: bool,
}

impl Accepts {
    /// No `Accept` header accepts everything (RFC 9110, section 12.5.1).
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let mut accepts = Accepts {
            json: false,
            sse: false,
        };
        let mut any = false;
        for value in headers.get_all(header::ACCEPT) {
            for part in value.to_str().unwrap_or_default().split(',') {
                any = true;
                let mut pieces = part
                    .split(';')
                    .map(|piece| piece.trim().to_ascii_lowercase());
                let range = pieces.next().unwrap_or_default();
                let refused = pieces.any(|piece| {
                    piece
                        .strip_prefix("q=")
                        .is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
                });
                if refused {
                    continue;
                }
                accepts.json |= matches!(&*range, "*/*" | "application/*" | "application/json");
                accepts.sse |= matches!(&*range, "*/*" | "text/*" | "text/event-stream");
            }
        }
        if any {
            accepts
        } else {
            Accepts {
                json: true,
                sse: true,
            }
        }
    }
}

/// Answers a request: JSON if the answer is all there is, a stream if something comes before it or
/// it takes long.
pub(super) async fn answer(
    mut receiver: Receiver,
    accepts: Accepts,
    keep_alive: Duration,
    or_else: impl FnOnce() -> Response<Body>,
) -> Response<Body> {
    if !accepts.json {
        return sse(None, receiver, keep_alive);
    }
    loop {
        let next = receiver.next();
        let event = if accepts.sse {
            match timeout(keep_alive, next).await {
                Ok(event) => event,
                Err(_) => return sse(None, receiver, keep_alive),
            }
        } else {
            next.await
        };
        match event {
            Ok(Some(Event::Answer(text))) => return json(StatusCode::OK, text),
            Ok(Some(Event::Unserved(text, unserved))) => {
                return mark(json(StatusCode::OK, text), Some(unserved));
            }
            Ok(Some(event)) if accepts.sse => return sse(Some(event), receiver, keep_alive),
            // A reader of JSON alone has no place for notifications.
            Ok(Some(_)) => {}
            Ok(None) | Err(TooSlow) => return or_else(),
        }
    }
}
