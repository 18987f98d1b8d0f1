//! How often something may be done.
//!
//! In: when it was done last. Out: how long to wait. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// One status, or one ledger, is not written more often because figures changed.
pub const STATUS_WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// When something that is done at most once in an interval may be done again; None for now.
pub fn throttled(last: Option<Instant>, interval: Duration, now: Instant) -> Option<Duration> {
    let left = interval.checked_sub(now.saturating_duration_since(last?))?;
    (!left.is_zero()).then_some(left)
}

/// The shorter of two waits, where there are any.
pub fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_done_just_now_waits_for_the_rest_of_the_interval() {
        let last = Some(Instant::now());
        let wait = || throttled(last, STATUS_WRITE_INTERVAL, Instant::now());
        assert_eq!(wait(), Some(STATUS_WRITE_INTERVAL));
        tokio::time::advance(STATUS_WRITE_INTERVAL - Duration::from_secs(1)).await;
        assert_eq!(wait(), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wait(), None);
        assert_eq!(throttled(None, STATUS_WRITE_INTERVAL, Instant::now()), None);
    }

    #[test]
    fn the_sooner_of_two_waits_counts() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(sooner(seconds(2), seconds(1)), seconds(1));
        assert_eq!(sooner(None, seconds(3)), seconds(3));
        assert_eq!(sooner(seconds(3), None), seconds(3));
        assert_eq!(sooner(None, None), None);
    }
}
