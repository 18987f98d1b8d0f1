//! The bounded resources and each caller's share of them: connections, streams, requests in
//! progress, buffered bytes.
//!
//! In: a caller, and what it asks for. Out: a guard that gives it back when it is dropped, or
//! nothing. One caller never gets all of anything, whatever it does. Must not do: wait (but for a
//! caller's own turn), or allocate for a request that asks for little.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// More connections of agents than this are not held, however many files the process may have open.
const MAX_CONNECTIONS: usize = 4_096;
/// Bytes of bodies and answers that may be buffered at once, for all callers together.
const TOTAL_BYTES: usize = 176 << 20;
/// For one caller: the largest answer twice, as received and as sent, and a little more.
const CALLER_BYTES: usize = 136 << 20;
/// This much of each body is free: the number of requests is bounded, and most callers need no
/// more.
pub const FREE_BYTES: usize = 16 << 10;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections of agents.
    pub connections: usize,
    /// Connections of one caller.
    pub caller_connections: usize,
    /// Connections from one address whose caller is not known yet.
    pub address_connections: usize,
    /// GET streams of one caller.
    pub caller_streams: usize,
    /// Requests of one caller that are being answered.
    pub caller_requests: usize,
    /// Connections to an upstream that are kept between calls.
    pub kept_upstream: usize,
}

impl Bounds {
    /// For a process that may have this many files open. Every request can need a connection to the
    /// upstream beside the agent's; files, the admin port, the API and the pipes of child processes
    /// have a reserve.
    pub fn of(files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let reserved = 64 + (files / 8).min(192);
        let left = files.saturating_sub(reserved);
        let kept_upstream = (left / 8).clamp(1, 256);
        let connections = (left.saturating_sub(kept_upstream) / 2).clamp(8, MAX_CONNECTIONS);
        Bounds {
            connections,
            caller_connections: connections / 2,
            address_connections: connections / 4,
            caller_streams: connections / 4,
            caller_requests: connections / 4,
            kept_upstream,
        }
    }

    /// For the current limit of this process.
    pub fn here() -> Self {
        // Without a limit there is no bound.
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }
}

/// The budgets of a process.
#[derive(Debug)]
pub struct Budgets {
    /// The bounds.
    pub bounds: Bounds,
    bytes: AtomicUsize,
    /// Every caller that holds something, or has a connection.
    shares: Mutex<HashMap<String, Weak<Share>>>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(Bounds::here())
    }
}

impl Budgets {
    /// With these bounds.
    pub fn new(bounds: Bounds) -> Self {
        Budgets {
            bounds,
            bytes: AtomicUsize::new(0),
            shares: Mutex::default(),
        }
    }

    /// The share of a caller of a server.
    pub fn share(self: &Arc<Self>, server: &str, grant: &str) -> Arc<Share> {
        let key = format!("{server} {grant}");
        let mut shares = self.lock();
        if let Some(share) = shares.get(&key).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share {
            budgets: Arc::clone(self),
            key: key.clone(),
            streams: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            turn: Semaphore::new(1),
        });
        shares.insert(key, Arc::downgrade(&share));
        share
    }

    /// Bytes that are taken now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Share>>> {
        self.shares.lock()
    }
}

/// What one caller uses.
#[derive(Debug)]
pub struct Share {
    budgets: Arc<Budgets>,
    key: String,
    streams: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    turn: Semaphore,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.budgets.lock();
        // There may be a new one under this key since the last holder went.
        if shares
            .get(&self.key)
            .is_some_and(|share| share.strong_count() == 0)
        {
            shares.remove(&self.key);
        }
    }
}

/// What a guard holds one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A GET stream.
    Stream,
    /// A request that is being answered.
    Request,
}

/// The caller's share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// Too many streams.
    #[error("this caller has as many open streams as one caller may have; close some")]
    Streams,
    /// Too many requests.
    #[error("this caller has as many requests under way as one caller may have; wait for answers")]
    Requests,
    /// Too many bytes.
    #[error(
        "there is no room to buffer a message of this size now; send smaller ones, or retry later"
    )]
    Bytes,
}

impl Share {
    /// Takes one of a kind.
    ///
    /// # Errors
    /// [`Spent`].
    pub fn take(self: &Arc<Self>, kind: Kind) -> Result<Taken, Spent> {
        let bounds = &self.budgets.bounds;
        let (count, most, spent) = match kind {
            Kind::Stream => (&self.streams, bounds.caller_streams, Spent::Streams),
            Kind::Request => (&self.requests, bounds.caller_requests, Spent::Requests),
        };
        if !take(count, 1, most) {
            return Err(spent);
        }
        Ok(Taken {
            share: Arc::clone(self),
            kind,
        })
    }

    /// The caller's turn for work that is not small, which one of its requests has at a time.
    ///
    /// # Errors
    /// Never: it is not closed.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.turn.acquire().await
    }

    /// Room for bytes; none is taken yet.
    pub fn room(self: &Arc<Self>) -> Room {
        Room {
            share: Arc::clone(self),
            bytes: 0,
        }
    }
}

/// Adds, if the sum is not above `most`.
fn take(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    count
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits)
        .is_ok()
}

/// One of a kind, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    share: Arc<Share>,
    kind: Kind,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let count = match self.kind {
            Kind::Stream => &self.share.streams,
            Kind::Request => &self.share.requests,
        };
        count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room for bytes, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    share: Arc<Share>,
    bytes: usize,
}

impl Room {
    /// Takes more or gives some back, until it is room for this many bytes. The first few are free.
    ///
    /// # Errors
    /// [`Spent::Bytes`]; the room stays as it was.
    pub fn set(&mut self, bytes: usize) -> Result<(), Spent> {
        let bytes = bytes.saturating_sub(FREE_BYTES);
        if let Some(less) = self.bytes.checked_sub(bytes) {
            self.give_back(less);
            return Ok(());
        }
        let more = bytes - self.bytes;
        if !take(&self.share.bytes, more, CALLER_BYTES) {
            return Err(Spent::Bytes);
        }
        if !take(&self.share.budgets.bytes, more, TOTAL_BYTES) {
            self.share.bytes.fetch_sub(more, Ordering::AcqRel);
            return Err(Spent::Bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.share.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.share.budgets.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_on_files_there_are_some_left_for_the_rest() {
        for files in [256, 1_024, 4_096, 20_000, 1 << 20, u64::MAX] {
            let bounds = Bounds::of(files);
            let used = 2 * bounds.connections + bounds.kept_upstream;
            assert!(used as u64 + 64 <= files, "{files}: {bounds:?}");
            for share in [
                bounds.caller_connections,
                bounds.address_connections,
                bounds.caller_streams,
                bounds.caller_requests,
            ] {
                assert!(share > 0 && share <= bounds.connections / 2, "{bounds:?}");
            }
        }
        assert_eq!(Bounds::of(1 << 20).connections, MAX_CONNECTIONS);
    }

    #[test]
    fn one_caller_never_has_all_and_what_it_had_comes_back() {
        let budgets = Arc::new(Budgets::new(Bounds::of(1_024)));
        let (greedy, calm) = (budgets.share("s", "a"), budgets.share("s", "b"));
        for (kind, most, spent) in [
            (Kind::Stream, budgets.bounds.caller_streams, Spent::Streams),
            (
                Kind::Request,
                budgets.bounds.caller_requests,
                Spent::Requests,
            ),
        ] {
            let held: Vec<Taken> = (0..most).map(|_| greedy.take(kind).unwrap()).collect();
            assert_eq!(greedy.take(kind).unwrap_err(), spent);
            assert!(calm.take(kind).is_ok());
            drop(held);
            assert!(greedy.take(kind).is_ok());
        }
        let mut rooms = Vec::new();
        loop {
            let mut room = greedy.room();
            if room.set(4 << 20).is_err() {
                break;
            }
            rooms.push(room);
        }
        assert!(budgets.bytes() <= CALLER_BYTES);
        let mut room = calm.room();
        assert_eq!(room.set(8 << 20), Ok(()));
        assert_eq!(room.set(1), Ok(()));
        drop(rooms);
        assert_eq!(budgets.bytes(), 0);
        let mut small = greedy.room();
        assert_eq!((small.set(FREE_BYTES), budgets.bytes()), (Ok(()), 0));
    }

    #[test]
    fn a_caller_that_holds_nothing_is_forgotten() {
        let budgets = Arc::new(Budgets::new(Bounds::of(1_024)));
        let share = budgets.share("s", "a");
        let taken = share.take(Kind::Request).unwrap();
        drop(share);
        assert!(Arc::ptr_eq(&taken.share, &budgets.share("s", "a")));
        drop(taken);
        assert!(budgets.lock().is_empty());
    }
}
