//! Work on large messages, which must not hold up the requests of others.
//!
//! In: the size of a message, and the work. Out: the result. A worker thread serves many requests:
//! work that may take longer than a few of them runs while another thread serves the others, a few
//! at a time over all callers and one at a time for each caller. Must not do: make a small message
//! wait.

use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

use crate::gateway::fairness::budget::Share;

/// Messages up to this size take some hundred microseconds at most.
const SMALL_BYTES: usize = 32 << 10;

/// Half of the processors work on large messages, so that the others are left for small ones.
fn turns() -> &'static Semaphore {
    static TURNS: OnceLock<Semaphore> = OnceLock::new();
    TURNS.get_or_init(|| {
        Semaphore::new(available_parallelism().map_or(1, |all| (all.get() / 2).max(1)))
    })
}

/// Whether a message of this size is processed immediately.
pub const fn is_small(bytes: usize) -> bool {
    bytes <= SMALL_BYTES
}

/// Does the work on a large message when it is the caller's turn.
pub async fn offload<T>(share: Option<&Arc<Share>>, work: impl FnOnce() -> T) -> T {
    // Neither semaphore is ever closed; without a turn, more work would only run at a time.
    let own = match share {
        Some(share) => share.turn().await.ok(),
        None => None,
    };
    let turn = turns().acquire().await.ok();
    let done = apart(work);
    drop((turn, own));
    done
}

/// Does the work immediately; while the message is large, other requests of this thread continue
/// elsewhere.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if is_small(bytes) { work() } else { apart(work) }
}

/// Does the work while another thread serves the other requests of this one, if the runtime has
/// another thread.
fn apart<T>(work: impl FnOnce() -> T) -> T {
    let others = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if others { block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fairness::budget::Budgets;
    use std::sync::Barrier;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn while_large_work_goes_on_the_only_worker_serves_others() {
        let budgets = Arc::new(Budgets::default());
        let greedy = budgets.share("s", "greedy");
        let meet = Arc::new(Barrier::new(2));
        let there = Arc::clone(&meet);
        let large = tokio::spawn(async move {
            offload(Some(&greedy), || there.wait()).await;
            greedy
        });
        // On the same worker: it would wait for ever behind what waits for it.
        tokio::spawn(async move { aside(SMALL_BYTES, || meet.wait()) })
            .await
            .unwrap();
        let greedy = large.await.unwrap();
        // Its turn was given back.
        assert_eq!(offload(Some(&greedy), || 7).await, 7);
    }

    #[tokio::test]
    async fn a_caller_has_one_turn_at_a_time() {
        let share = Arc::new(Budgets::default()).share("s", "greedy");
        let first = share.turn().await.unwrap();
        let mut second = Box::pin(share.turn());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures::poll!(&mut second).is_ready());
    }
}
