//! Sessions that can be opened again at a server that has forgotten them, and those that were.
//!
//! In: what a client said in `initialize`. Out: the same, for another handshake, and the server's
//! session that took the place of the one that the client's token holds. Must not do: speak to the
//! server, or renew a session for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

use super::remembered::Remembered;

/// What a client says in `initialize` is kept up to this length; a session whose client says more
/// is not renewed.
const MAX_OPENING_BYTES: usize = 4 << 10;
/// What the clients of this number of sessions said is kept.
const KEPT_OPENINGS: usize = 2_000;
/// A session is renewed no more often than this in [`WINDOW`]: a server that forgets it every time,
/// or that has several replicas, would be made to open an unbounded number.
const MAX_RENEWALS: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// What a client said when it opened its session, as it was forwarded to the server; both as JSON.
#[derive(Debug, Default)]
pub struct Opening {
    /// Its capabilities.
    pub capabilities: Option<String>,
    /// Its name and version.
    pub client_info: Option<String>,
}

impl Opening {
    fn bytes(&self) -> usize {
        let parts = [&self.capabilities, &self.client_info];
        parts.into_iter().flatten().map(String::len).sum()
    }
}

/// A session that can be opened again.
#[derive(Debug, Default)]
pub struct Renewable {
    /// What to say then.
    pub opening: Opening,
    /// Held while it is opened again, so that requests that come together do so once. The moments
    /// at which that was last tried, the newest first.
    tried: tokio::sync::Mutex<[Option<Instant>; MAX_RENEWALS]>,
    /// The server's session, where it is not the one in the token any more.
    now: Mutex<Option<HeaderValue>>,
}

impl Renewable {
    /// The server's session that has taken the place of the first one.
    pub fn now(&self) -> Option<HeaderValue> {
        self.now.lock().clone()
    }

    /// Waits until no other request opens it again.
    pub async fn turn(&self) -> RenewalTurn<'_> {
        RenewalTurn {
            tried: self.tried.lock().await,
        }
    }
}

/// The right to open a session again, for one request at a time.
pub struct RenewalTurn<'a> {
    tried: tokio::sync::MutexGuard<'a, [Option<Instant>; MAX_RENEWALS]>,
}

impl RenewalTurn<'_> {
    /// Counts an attempt; false where there were too many of late.
    pub fn takes(&mut self, at: Instant) -> bool {
        let oldest = self.tried[MAX_RENEWALS - 1];
        let free = oldest.is_none_or(|oldest| at.duration_since(oldest) >= WINDOW);
        if free {
            self.tried.rotate_right(1);
            self.tried[0] = Some(at);
        }
        free
    }
}

/// What is known of the sessions that this gateway has opened.
pub struct Renewals {
    known: Remembered<Arc<Renewable>>,
    /// Grows with each renewal: what was read before is read again.
    count: AtomicU64,
}

impl Default for Renewals {
    fn default() -> Self {
        Renewals {
            known: Remembered::with_capacity(KEPT_OPENINGS),
            count: AtomicU64::new(0),
        }
    }
}

impl Renewals {
    /// Remembers what a session was opened with.
    pub fn opened(&self, grant: &str, id: &str, opening: Opening) {
        if opening.bytes() <= MAX_OPENING_BYTES {
            let renewable = Renewable {
                opening,
                ..Renewable::default()
            };
            self.known.insert(grant, id.to_owned(), Arc::new(renewable));
        }
    }

    /// What a session was opened with, if this gateway has opened it.
    pub fn of(&self, id: &str) -> Option<Arc<Renewable>> {
        self.known.get(id)
    }

    /// The session has another one at the server now.
    pub fn renewed(&self, renewable: &Renewable, upstream: HeaderValue) {
        *renewable.now.lock() = Some(upstream);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// It is not renewed any more.
    pub fn forget(&self, id: &str) {
        self.known.remove(id);
    }

    /// How many were renewed.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_is_renewed_a_few_times_a_minute_and_no_more() {
        let renewable = Renewable::default();
        let start = Instant::now();
        let takes = async |seconds| {
            let at = start + Duration::from_secs(seconds);
            renewable.turn().await.takes(at)
        };
        for second in 0..3 {
            assert!(takes(second).await);
        }
        assert!(!takes(3).await && !takes(59).await);
        assert!(takes(60).await, "the first is a minute ago");
        assert!(!takes(60).await);
    }

    #[test]
    fn a_client_that_says_much_is_not_remembered() {
        let renewals = Renewals::default();
        let opening = |length| Opening {
            capabilities: Some("x".repeat(length)),
            client_info: Some("{}".to_owned()),
        };
        renewals.opened("calm", "short", opening(MAX_OPENING_BYTES - 2));
        renewals.opened("greedy", "long", opening(MAX_OPENING_BYTES - 1));
        assert!(renewals.of("short").is_some() && renewals.of("long").is_none());
    }
}
