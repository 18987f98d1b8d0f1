//! What both modes know of a client's session: its id, when it was last used, and its GET streams.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::stream::{Event, Receiver, Sender, StreamLimits, channel};

/// One more GET stream closes the oldest: its connection may be long dead.
const STREAMS: usize = 4;
/// Messages kept while no GET stream is open; the oldest go first.
const BACKLOG: usize = 64;
const BACKLOG_BYTES: usize = 256 << 10;

/// Locks without ever failing: nothing here panics while it holds a lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session id that cannot be guessed (MCP, "Session management": globally unique, visible ASCII).
pub(super) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The part of a session that both modes share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    used: Mutex<Instant>,
    outbox: Mutex<Outbox>,
}

#[derive(Debug, Default)]
struct Outbox {
    streams: Vec<Sender>,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    closed: bool,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            id: new_id(),
            used: Mutex::new(Instant::now()),
            outbox: Mutex::default(),
        }
    }

    /// Counts as activity.
    pub(super) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    pub(super) fn idle_for(&self) -> Duration {
        lock(&self.used).elapsed()
    }

    pub(super) fn has_reader(&self) -> bool {
        lock(&self.outbox)
            .streams
            .iter()
            .any(|stream| !stream.is_closed())
    }

    /// Opens a GET stream; what waited for one comes first.
    pub(super) fn listen(&self, limits: StreamLimits) -> Receiver {
        let (sender, receiver) = channel(limits);
        let mut outbox = lock(&self.outbox);
        if outbox.closed {
            return receiver;
        }
        outbox.streams.retain(|stream| !stream.is_closed());
        if outbox.streams.len() >= STREAMS {
            outbox.streams.remove(0);
        }
        while let Some(text) = outbox.backlog.pop_front() {
            sender.push(Event::Message(text));
        }
        outbox.backlog_bytes = 0;
        outbox.streams.push(sender);
        receiver
    }

    /// Sends on one GET stream, the newest that reads (never on two: MCP, "Sending multiple streams"), else keeps it.
    pub(super) fn deliver(&self, text: Bytes) {
        let mut outbox = lock(&self.outbox);
        if outbox.closed {
            return;
        }
        while let Some(stream) = outbox.streams.last() {
            if stream.push(Event::Message(text.clone())) {
                return;
            }
            outbox.streams.pop();
        }
        // "The list has changed" twice says no more than once.
        if outbox.backlog.contains(&text) || text.len() > BACKLOG_BYTES {
            return;
        }
        outbox.backlog_bytes += text.len();
        outbox.backlog.push_back(text);
        while outbox.backlog.len() > BACKLOG || outbox.backlog_bytes > BACKLOG_BYTES {
            let Some(oldest) = outbox.backlog.pop_front() else {
                break;
            };
            outbox.backlog_bytes -= oldest.len();
        }
    }

    /// Ends all streams, after what is queued on them.
    pub(super) fn close(&self) {
        let mut outbox = lock(&self.outbox);
        outbox.closed = true;
        outbox.streams.clear();
        outbox.backlog.clear();
    }
}
