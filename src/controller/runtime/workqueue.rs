//! What is to be reconciled, each object at most once at a time.
//!
//! In: keys, now or later. Out: each key to one worker at a time, with growing waits after
//! failures. A key that comes while it is being worked on is worked on again. Must not do: lose a
//! key, or run one twice at once.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first wait after a failure; each further one doubles it.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Keys that are due, or will be.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    due: BTreeMap<(Instant, u64), K>,
    entries: HashMap<K, Entry>,
    /// Breaks ties of equal times, in order of arrival.
    next: u64,
}

#[derive(Default)]
struct Entry {
    /// Where it stands in `due`.
    at: Option<(Instant, u64)>,
    running: bool,
    /// Came while it was running.
    again: Option<Instant>,
    failures: u32,
}

/// What became of the work on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing more until it is added again.
    AwaitChange,
    /// Look again after that time.
    RequeueAfter(Duration),
    /// Try again, after a wait that grows.
    Backoff,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        WorkQueue {
            state: Mutex::new(State {
                due: BTreeMap::new(),
                entries: HashMap::new(),
                next: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }

    /// Work on this key as soon as a worker is free.
    pub fn add(&self, key: K) {
        self.add_after(key, Duration::ZERO);
    }

    /// Work on this key after that time, or earlier if it is due earlier.
    pub fn add_after(&self, key: K, after: Duration) {
        let at = Instant::now() + after;
        {
            let mut state = self.lock();
            let entry = state.entries.entry(key.clone()).or_default();
            if entry.running {
                entry.again = Some(entry.again.map_or(at, |before| before.min(at)));
                return;
            }
            match entry.at {
                Some((before, _)) if before <= at => return,
                _ => state.schedule(key, at),
            }
        }
        self.changed.notify_one();
    }

    /// The next key; it is not given out again until [`WorkQueue::done`] was called with it.
    pub async fn next(&self) -> K {
        loop {
            // Before looking, so that a key that is added meanwhile is not missed.
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                match state.due.first_key_value().map(|(at, _)| *at) {
                    Some(at) if at.0 <= Instant::now() => {
                        if let Some(key) = state.due.remove(&at) {
                            let entry = state.entries.entry(key.clone()).or_default();
                            entry.at = None;
                            entry.running = true;
                            if !state.due.is_empty() {
                                self.changed.notify_one();
                            }
                            return key;
                        }
                        None
                    }
                    Some(at) => Some(at.0),
                    None => None,
                }
            };
            match wait {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Tells what became of a key that [`WorkQueue::next`] gave out.
    pub fn done(&self, key: &K, done: Action) {
        let mut state = self.lock();
        let now = Instant::now();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        entry.running = false;
        let wanted = match done {
            Action::AwaitChange => {
                entry.failures = 0;
                None
            }
            Action::RequeueAfter(after) => {
                entry.failures = 0;
                Some(now + after)
            }
            Action::Backoff => {
                entry.failures = entry.failures.saturating_add(1);
                Some(now + backoff(entry.failures, fraction()))
            }
        };
        let at = match (wanted, entry.again.take()) {
            // What changed meanwhile may be what it failed for, but a failing API server must not
            // be asked without pause.
            (Some(wanted), Some(_)) if done == Action::Backoff => Some(wanted),
            (Some(wanted), Some(again)) => Some(wanted.min(again)),
            (wanted, again) => wanted.or(again),
        };
        match at {
            Some(at) => {
                state.schedule(key.clone(), at);
                drop(state);
                self.changed.notify_one();
            }
            None => {
                state.entries.remove(key);
            }
        }
    }

    /// How many keys are due now and wait for a worker.
    pub fn depth(&self) -> usize {
        let now = Instant::now();
        self.lock().due.range(..=(now, u64::MAX)).count()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn schedule(&mut self, key: K, at: Instant) {
        self.next += 1;
        let at = (at, self.next);
        let entry = self.entries.entry(key.clone()).or_default();
        if let Some(before) = entry.at.replace(at) {
            self.due.remove(&before);
        }
        self.due.insert(at, key);
    }
}

/// Between half and all of a wait that doubles with each failure.
fn backoff(failures: u32, fraction: f64) -> Duration {
    let doubled = FIRST_RETRY_DELAY.saturating_mul(
        1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    doubled
        .min(LONGEST_RETRY_DELAY)
        .mul_f64(0.5 + fraction / 2.0)
}

/// Some number from 0 to 1, so that what failed together is not tried together again.
fn fraction() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    f64::from(u32::try_from(RandomState::new().hash_one(()) & 0xffff).unwrap_or(0)) / 65_536.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_key_that_comes_while_it_is_worked_on_is_worked_on_again_and_never_twice_at_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        queue.done(&"a", Action::AwaitChange);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a", Action::AwaitChange);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_sooner_comes_sooner() {
        let queue = WorkQueue::default();
        let started = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("b", Duration::from_secs(30));
        queue.add_after("a", Duration::from_secs(10));
        assert_eq!((queue.next().await, started.elapsed().as_secs()), ("a", 10));
        queue.done(&"a", Action::RequeueAfter(Duration::from_secs(5)));
        assert_eq!((queue.next().await, started.elapsed().as_secs()), ("a", 15));
        queue.done(&"a", Action::AwaitChange);
        assert_eq!((queue.next().await, started.elapsed().as_secs()), ("b", 30));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_after_failures_grow_to_a_bound_and_success_ends_them() {
        assert!(backoff(1, 0.0) >= FIRST_RETRY_DELAY / 2 && backoff(1, 1.0) <= FIRST_RETRY_DELAY);
        assert!(backoff(4, 0.0) > backoff(1, 1.0));
        assert_eq!(backoff(60, 1.0), LONGEST_RETRY_DELAY);
        let queue = WorkQueue::default();
        queue.add("a");
        for _ in 0..8 {
            queue.next().await;
            // A change that comes meanwhile does not shorten the wait.
            queue.add("a");
            queue.done(&"a", Action::Backoff);
        }
        let waiting = Instant::now();
        queue.next().await;
        assert!(waiting.elapsed() > Duration::from_secs(10));
        queue.done(&"a", Action::AwaitChange);
        assert_eq!(queue.lock().entries.len(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_workers_get_each_key_of_many() {
        let queue = Arc::new(WorkQueue::default());
        let seen = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, seen) = (Arc::clone(&queue), Arc::clone(&seen));
                tokio::spawn(async move {
                    loop {
                        let key = queue.next().await;
                        seen.fetch_add(1, Ordering::SeqCst);
                        queue.done(&key, Action::AwaitChange);
                    }
                })
            })
            .collect();
        (0..1_000).for_each(|key| queue.add(key));
        tokio::time::timeout(Duration::from_secs(60), async {
            while seen.load(Ordering::SeqCst) < 1_000 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
