//! The gateway's own knowledge of the upstream's tools, over a session of its own.
//!
//! Listed at start, every minute, when the upstream says that its list changed, and, at most once a
//! second, when a call or a list names a tool that is not known. Otherwise the upstream is never
//! asked about a tool, so a hidden tool and one that does not exist are handled alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

mod keep;
mod listing;

/// The upstream is listed no more often than this.
const MIN_LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How long a list that names unknown tools waits for a new inventory.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a server does that keeps its sessions in memory and runs more than once.
pub const ONE_REPLICA: &str = "the server does not know a session that it opened a moment ago; if several replicas run behind its address, set `sessionAffinity: ClientIP` on its Service, or run one";
/// How long the status says so.
const REPLICAS_SHOWN: Duration = Duration::from_secs(10 * 60);

/// The result of the latest listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// When it ended.
    pub time: Option<Timestamp>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Requests listings and holds the result of the latest.
pub struct Inventory {
    wanted: Notify,
    done: watch::Sender<u64>,
    latest: Mutex<(Listing, Option<Instant>)>,
    tells_changes: AtomicBool,
    /// When a session was last found to be unknown that had just been opened.
    replicas: Mutex<Option<Instant>>,
}

impl Default for Inventory {
    fn default() -> Self {
        Inventory {
            wanted: Notify::new(),
            done: watch::Sender::new(0),
            latest: Mutex::default(),
            tells_changes: AtomicBool::new(false),
            replicas: Mutex::default(),
        }
    }
}

impl Inventory {
    /// Asks for a listing soon; does not wait.
    pub fn nudge(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a listing and waits for it, unless there was one a moment ago.
    pub async fn catch_up(&self) {
        if self
            .lock()
            .1
            .is_some_and(|at| at.elapsed() < MIN_LIST_INTERVAL)
        {
            self.nudge();
            return;
        }
        let mut done = self.done.subscribe();
        done.mark_unchanged();
        self.nudge();
        // Without an answer in time the old inventory decides, which knows fewer tools, not more.
        let _ = timeout(CATCH_UP_TIMEOUT, done.changed()).await;
    }

    /// How the latest listing went.
    pub fn latest(&self) -> Listing {
        self.lock().0.clone()
    }

    /// Whether the upstream declares `tools.listChanged`.
    pub fn tells_changes(&self) -> bool {
        self.tells_changes.load(Ordering::Relaxed)
    }

    /// A client's session was unknown that the server had just opened.
    pub fn found_replicas(&self) {
        *self.replicas.lock() = Some(Instant::now());
        self.nudge();
    }

    /// What the status says beside the result of the latest listing.
    pub fn note(&self) -> Option<&'static str> {
        let found = *self.replicas.lock();
        found
            .is_some_and(|at| at.elapsed() < REPLICAS_SHOWN)
            .then_some(ONE_REPLICA)
    }

    /// Waits until a listing has ended, well or not.
    pub async fn first(&self) {
        let mut done = self.done.subscribe();
        let _ = done.wait_for(|count| *count > 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, (Listing, Option<Instant>)> {
        self.latest.lock()
    }

    /// The upstream declares in its handshake whether it announces changes of its tools.
    fn set_tells_changes(&self, tells: bool) {
        self.tells_changes.store(tells, Ordering::Relaxed);
    }

    fn ended(&self, error: Option<String>) {
        *self.lock() = (
            Listing {
                time: Some(Timestamp::now()),
                error,
            },
            Some(Instant::now()),
        );
        self.done.send_modify(|count| *count += 1);
    }
}
