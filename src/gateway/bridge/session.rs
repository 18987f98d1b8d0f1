//! What both modes know of a client's session: its id, when it was last used, and its GET streams.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::stream::{Event, Receiver, Sender, StreamLimits, channel};

/// One more GET stream closes the oldest: its connection may be long dead.
const MAX_STREAMS: usize = 4;
/// The number of ended sessions that are remembered. An older one can be opened again, by its own
/// caller only.
pub(super) const MAX_ENDED: usize = 4_096;
/// Messages kept while no GET stream is open; the oldest go first.
const MAX_BACKLOG: usize = 64;
const MAX_BACKLOG_BYTES: usize = 256 << 10;

/// Characters of a session's id that cannot be guessed; its caller follows them.
const RANDOM_CHARS: usize = 32;
/// A gateway names its callers in at most this many characters.
const MAX_CALLER_CHARS: usize = 64;

/// A session id that cannot be guessed (MCP, "Session management": globally unique, visible ASCII),
/// and that says whose it is, so that the session can be opened again.
fn new_id(caller: &str) -> String {
    let caller = if is_caller(caller) { caller } else { "" };
    format!("{}{caller}", uuid::Uuid::new_v4().simple())
}

fn is_caller(text: &str) -> bool {
    text.len() <= MAX_CALLER_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The part of a session that both modes share.
#[derive(Debug)]
pub(super) struct BridgeSession {
    pub(super) id: String,
    /// Whose it is, as the gateway tells callers apart; empty for the gateway's own.
    pub(super) caller: String,
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

/// Of all sessions one caller has no more than this many.
pub(super) fn share(most: usize) -> usize {
    (most / 2).max(1)
}

/// Which session has to make room for another one of this caller: none, the one that has been idle
/// for longest, or there is no room. `all` gives each session and whether a client waits for it or
/// reads from it.
pub(super) fn makes_room<'a>(
    all: impl Iterator<Item = (&'a BridgeSession, bool)> + Clone,
    caller: &str,
    most: usize,
) -> Result<Option<String>, Full> {
    let own = |session: &BridgeSession| session.caller == caller;
    let over = !caller.is_empty()
        && all.clone().filter(|(session, _)| own(session)).count() >= share(most);
    if !over && all.clone().count() < most {
        return Ok(None);
    }
    // The gateway's own session is what it lists tools with: others never end it.
    let may_go = |session: &BridgeSession| match caller {
        "" => true,
        _ => !session.caller.is_empty() && (!over || own(session)),
    };
    let idle = all.filter(|(session, busy)| !busy && may_go(session));
    let longest = idle.max_by_key(|(session, _)| session.idle_for());
    match longest {
        Some((session, _)) => Ok(Some(session.id.clone())),
        None if over => Err(Full::Caller(share(most))),
        None => Err(Full::All(most)),
    }
}

/// Why there is no room for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// This many are in use.
    All(usize),
    /// The caller uses all of its share.
    Caller(usize),
}

impl BridgeSession {
    pub(super) fn new(caller: &str) -> Self {
        Self::with_id(new_id(caller), caller)
    }

    /// The session of an id that this process, or one before it, gave out and has forgotten; None
    /// if none of them can have given it out.
    pub(super) fn again(id: &str) -> Option<Self> {
        let (random, caller) = id.split_at_checked(RANDOM_CHARS)?;
        let given = random.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_caller(caller);
        given.then(|| Self::with_id(id.to_owned(), caller))
    }

    fn with_id(id: String, caller: &str) -> Self {
        Self {
            id,
            caller: caller.to_owned(),
            used: Mutex::new(Instant::now()),
            outbox: Mutex::default(),
        }
    }

    /// Counts as activity.
    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.used.lock().elapsed()
    }

    pub(super) fn has_reader(&self) -> bool {
        self.outbox
            .lock()
            .streams
            .iter()
            .any(|stream| !stream.is_closed())
    }

    /// Opens a GET stream; what waited for one comes first.
    pub(super) fn listen(&self, limits: StreamLimits) -> Receiver {
        let (sender, receiver) = channel(limits);
        let mut outbox = self.outbox.lock();
        if outbox.closed {
            return receiver;
        }
        outbox.streams.retain(|stream| !stream.is_closed());
        if outbox.streams.len() >= MAX_STREAMS {
            outbox.streams.remove(0);
        }
        while let Some(text) = outbox.backlog.pop_front() {
            sender.push(Event::Message(text));
        }
        outbox.backlog_bytes = 0;
        outbox.streams.push(sender);
        receiver
    }

    /// Sends on one GET stream, the newest that reads (never on two: MCP, "Sending multiple
    /// streams"), else keeps it.
    pub(super) fn deliver(&self, text: Bytes) {
        let mut outbox = self.outbox.lock();
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
        if outbox.backlog.contains(&text) || text.len() > MAX_BACKLOG_BYTES {
            return;
        }
        outbox.backlog_bytes += text.len();
        outbox.backlog.push_back(text);
        while outbox.backlog.len() > MAX_BACKLOG || outbox.backlog_bytes > MAX_BACKLOG_BYTES {
            let Some(oldest) = outbox.backlog.pop_front() else {
                break;
            };
            outbox.backlog_bytes -= oldest.len();
        }
    }

    /// Ends all streams, after what is queued on them.
    pub(super) fn close(&self) {
        let mut outbox = self.outbox.lock();
        outbox.closed = true;
        outbox.streams.clear();
        outbox.backlog.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(
        all: &[(BridgeSession, bool)],
        caller: &str,
        most: usize,
    ) -> Result<Option<usize>, Full> {
        let made = makes_room(
            all.iter().map(|(session, busy)| (session, *busy)),
            caller,
            most,
        )?;
        Ok(made.map(|id| {
            all.iter()
                .position(|(session, _)| session.id == id)
                .unwrap()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_makes_room_but_a_callers_share_is_filled_by_its_own() {
        let mut all = Vec::new();
        for (caller, busy) in [
            ("", false),
            ("a", true),
            ("a", false),
            ("a", false),
            ("b", false),
        ] {
            all.push((BridgeSession::new(caller), busy));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(ids(&all, "b", 8), Ok(None));
        assert_eq!(ids(&all, "a", 8), Ok(None));
        assert_eq!(ids(&all, "a", 6), Ok(Some(2)), "its share of three is full");
        assert_eq!(ids(&all, "b", 6), Ok(None));
        assert_eq!(
            ids(&all, "b", 5),
            Ok(Some(2)),
            "of all, and never the gateway's own"
        );
        assert_eq!(ids(&all, "", 5), Ok(Some(0)));
        all[2].1 = true;
        all[3].1 = true;
        assert_eq!(ids(&all, "a", 6), Err(Full::Caller(3)));
        all[4].1 = true;
        assert_eq!(ids(&all, "b", 5), Err(Full::All(5)));
    }
}
