//! Waits for requests to expire.
//!
//! In: what changes them, and what records those that have expired. Out: nothing; it runs for ever.
//! Must not do: judge a request.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

/// Calls `expire` when a request expires, and when requests have changed; it returns when the next
/// one expires. The clock may be set meanwhile, and nothing may expire, so each wait is one of
/// `waits`.
pub(super) async fn sweep(
    mut changed: watch::Receiver<u64>,
    waits: RangeInclusive<Duration>,
    mut expire: impl FnMut(Timestamp) -> Option<Timestamp>,
) {
    loop {
        let now = Timestamp::now();
        let wait = expire(now).map_or(*waits.end(), |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or_default()
        });
        let wait = wait.clamp(*waits.start(), *waits.end());
        // Never an error: the caller owns the sender.
        let _ = tokio::time::timeout(wait, changed.changed()).await;
    }
}
