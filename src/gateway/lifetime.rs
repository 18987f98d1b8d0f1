//! How long a gateway takes requests, and what it does beside them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// At most this many messages of the gateway's own are on their way to the upstream: the upstream
/// decides how many requests there are to refuse.
const MAX_TELLINGS: usize = 64;

/// The background tasks of a gateway, and its end.
pub struct Lifetime {
    closing: CancellationToken,
    tasks: TaskTracker,
    tellings: Arc<Semaphore>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Lifetime {
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            tellings: Arc::new(Semaphore::new(MAX_TELLINGS)),
        }
    }
}

impl Lifetime {
    /// Cancelled when the gateway takes no new streams.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Whether the gateway takes no new streams.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Ends streams, and refuses new ones.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Runs a task that has to end before the gateway does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits until all tasks have ended. Call it after [`Self::close`].
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A permit to send the upstream a message of the gateway's own; None when too many are on
    /// their way.
    pub fn telling(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.tellings).try_acquire_owned().ok()
    }
}
