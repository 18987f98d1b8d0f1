//! The ids under which requests of clients are forwarded, and which requests are under way.
//!
//! In: a client's session and the id that the client gave its request. Out: an id of the gateway's
//! own for the upstream, and whether the request may have taken effect despite an error. Many
//! servers treat `7` and `"7"` as one id, and a server without sessions treats the same id of two
//! clients as one request: therefore no client id is ever sent upstream. The gateway's ids are
//! numbers that cannot be guessed. Must not do: look at messages.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::protocol::envelope::Id;

/// Longer ids of clients are refused: they are kept while their request is under way.
pub const MAX_CLIENT_ID_BYTES: usize = 256;

/// Numbers that cannot be guessed and practically never repeat: SipHash of a counter, under a
/// random key. They fit into a double, which is all that JavaScript has for numbers.
#[derive(Debug, Default)]
pub struct Numbers {
    key: RandomState,
    count: AtomicU64,
}

impl Numbers {
    /// Another number, from 1 to 2^53 - 1.
    pub fn next(&self) -> i64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = self.key.hash_one(count) >> 11;
        i64::try_from(number).unwrap_or(1).max(1)
    }
}

/// A session, by its UUID.
pub type SessionKey = [u8; 16];

/// Uses random keys as their own hash: the gateway creates the UUIDs of sessions.
#[derive(Debug, Default)]
struct AlreadyRandom(u64);

impl Hasher for AlreadyRandom {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks_exact(8) {
            self.0 ^= eight.try_into().map_or(0, u64::from_le_bytes);
        }
    }
}

/// Every request of a gateway's clients that is under way.
#[derive(Clone, Debug, Default)]
pub struct RequestIds(Arc<RequestTable>);

type RequestsBySession =
    HashMap<SessionKey, Vec<ForwardedRequest>, BuildHasherDefault<AlreadyRandom>>;

#[derive(Debug, Default)]
struct RequestTable {
    numbers: Numbers,
    sessions: Mutex<HashMap<SessionKey, Vec<ForwardedRequest>, BuildHasherDefault<AlreadyRandom>>>,
}

#[derive(Debug)]
struct ForwardedRequest {
    client: Id<'static>,
    upstream: i64,
    ambiguous: Arc<AtomicBool>,
}

impl RequestIds {
    /// Gives a request its id for the upstream; it is under way until the result is dropped.
    pub fn start(&self, session: SessionKey, client: &Id<'_>) -> RequestIdGuard {
        let client = client.clone().into_owned();
        let upstream = self.0.numbers.next();
        let ambiguous = Arc::new(AtomicBool::new(false));
        let forwarded = ForwardedRequest {
            client: client.clone(),
            upstream,
            ambiguous: Arc::clone(&ambiguous),
        };
        self.0.lock().entry(session).or_default().push(forwarded);
        RequestIdGuard {
            of: Arc::clone(&self.0),
            session,
            client,
            upstream,
            ambiguous,
        }
    }

    /// The client gives up its requests of that id, of the same JSON type, in that session: what to
    /// cancel at the upstream. From here on an error of the upstream does not prove that they had
    /// no effect.
    pub fn cancel(&self, session: SessionKey, client: &Id<'_>) -> Vec<Cancelled> {
        let sessions = self.0.lock();
        let of_session = sessions.get(&session).map_or(&[][..], Vec::as_slice);
        of_session
            .iter()
            .filter(|forwarded| forwarded.client == *client)
            .map(|forwarded| {
                forwarded.ambiguous.store(true, Ordering::SeqCst);
                Cancelled(forwarded.upstream)
            })
            .collect()
    }

    /// Something happened in a session that shows that its calls are being made, or that may make
    /// the upstream give them up.
    pub fn mark_session(&self, session: SessionKey) {
        for forwarded in self.0.lock().get(&session).into_iter().flatten() {
            forwarded.ambiguous.store(true, Ordering::SeqCst);
        }
    }
}

impl RequestTable {
    fn lock(&self) -> MutexGuard<'_, RequestsBySession> {
        self.sessions.lock()
    }
}

/// A request in progress that has to be cancelled. Only [`RequestIds::cancel`] and
/// [`RequestIdGuard::give_up`] make one.
#[derive(Debug, PartialEq, Eq)]
pub struct Cancelled(i64);

impl Cancelled {
    /// The id that the upstream knows the request by.
    pub fn upstream(&self) -> Id<'static> {
        Id::Integer(self.0)
    }
}

/// One request under way.
#[derive(Debug)]
pub struct RequestIdGuard {
    of: Arc<RequestTable>,
    session: SessionKey,
    client: Id<'static>,
    upstream: i64,
    ambiguous: Arc<AtomicBool>,
}

impl RequestIdGuard {
    /// The id that the client gave it.
    pub fn client(&self) -> &Id<'static> {
        &self.client
    }

    /// The id that it has at the upstream.
    pub fn upstream(&self) -> Id<'static> {
        Id::Integer(self.upstream)
    }

    /// Shows, even after the request has ended, whether it may have taken effect despite an error.
    pub fn ambiguity(&self) -> Ambiguity {
        Ambiguity(Arc::clone(&self.ambiguous))
    }

    /// The gateway itself gives it up.
    pub fn give_up(&self) -> Cancelled {
        self.ambiguous.store(true, Ordering::SeqCst);
        Cancelled(self.upstream)
    }
}

impl Drop for RequestIdGuard {
    fn drop(&mut self) {
        let mut sessions = self.of.lock();
        if let Entry::Occupied(mut entry) = sessions.entry(self.session) {
            let forwarded = entry.get_mut();
            if let Some(at) = forwarded
                .iter()
                .position(|one| Arc::ptr_eq(&one.ambiguous, &self.ambiguous))
            {
                forwarded.swap_remove(at);
            }
            if forwarded.is_empty() {
                entry.remove();
            }
        }
    }
}

/// Whether a request may have taken effect despite an error of the upstream: it was cancelled, its
/// session ended, or the upstream mentioned it before.
#[derive(Clone, Debug)]
pub struct Ambiguity(Arc<AtomicBool>);

impl Ambiguity {
    /// From now on the request is ambiguous.
    pub fn mark(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is ambiguous.
    pub fn is_marked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionKey = [1; 16];
    const TWO: SessionKey = [2; 16];

    fn text(id: &str) -> Id<'_> {
        Id::String(id.into())
    }

    #[test]
    fn a_cancellation_finds_requests_of_its_session_and_of_the_very_id_only() {
        let ids = RequestIds::default();
        let number = ids.start(ONE, &Id::Integer(7));
        let string = ids.start(ONE, &text("7"));
        let other = ids.start(TWO, &Id::Integer(7));
        for id in ["7.0", "7e0", "07", " 7", "+7"] {
            assert_eq!(ids.cancel(ONE, &text(id)), []);
        }
        assert!(!number.ambiguity().is_marked());
        assert_eq!(
            ids.cancel(ONE, &Id::Integer(7)),
            [Cancelled(number.upstream)]
        );
        assert!(number.ambiguity().is_marked());
        assert!(!string.ambiguity().is_marked() && !other.ambiguity().is_marked());
        assert_eq!(ids.cancel(TWO, &text("7")), []);
        drop(number);
        assert_eq!(ids.cancel(ONE, &Id::Integer(7)), []);
        assert_eq!(ids.cancel(ONE, &text("7")), [Cancelled(string.upstream)]);
        drop((string, other));
        assert!(ids.0.lock().is_empty());
    }

    #[test]
    fn requests_that_share_an_id_are_told_apart_by_the_upstream_and_cancelled_together() {
        let ids = RequestIds::default();
        let (first, second) = (ids.start(ONE, &text("a")), ids.start(ONE, &text("a")));
        assert_ne!(first.upstream, second.upstream);
        assert_eq!(ids.cancel(ONE, &text("a")).len(), 2);
        drop(first);
        assert_eq!(ids.cancel(ONE, &text("a")), [Cancelled(second.upstream)]);
    }

    #[test]
    fn what_happens_to_a_session_makes_all_of_its_requests_ambiguous() {
        let ids = RequestIds::default();
        let calls = [1, 2].map(|id| ids.start(ONE, &Id::Integer(id)));
        let other = ids.start(TWO, &Id::Integer(1));
        ids.mark_session(ONE);
        assert!(calls.iter().all(|call| call.ambiguity().is_marked()));
        assert!(!other.ambiguity().is_marked());
    }

    #[test]
    fn numbers_are_in_no_order_and_exact_as_doubles() {
        let (one, two) = (Numbers::default(), Numbers::default());
        let numbers: Vec<i64> = (0..10_000).map(|_| one.next()).collect();
        assert!(numbers.iter().all(|n| (1..1 << 53).contains(n)));
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), numbers.len());
        assert!(!numbers.is_sorted() && numbers[0] != two.next());
    }
}
