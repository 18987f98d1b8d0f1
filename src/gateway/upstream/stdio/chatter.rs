//! How much of what a server writes is put into the log.
//!
//! In: that there is a line to log. Out: whether it is logged, and how many were not since the last
//! one that was. A server that never stops writing must not fill the disk, nor hide what else the
//! log says. Must not do: log.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines of one kind.
#[derive(Debug)]
pub struct Chatter {
    /// As many pass at once.
    burst: u32,
    /// After that, one in this time.
    every: Duration,
    state: Mutex<ChatterState>,
}

#[derive(Debug)]
struct ChatterState {
    left: u32,
    filled: Instant,
    withheld: u64,
}

impl Chatter {
    /// `burst` lines at once, and then one in `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Chatter {
            burst,
            every,
            state: Mutex::new(ChatterState {
                left: burst,
                filled: Instant::now(),
                withheld: 0,
            }),
        }
    }

    /// Whether a line is logged now: then with how many were not since the last one.
    pub fn passes(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let more = state.filled.elapsed().as_nanos() / self.every.as_nanos().max(1);
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            state.left = state.left.saturating_add(more).min(self.burst);
            state.filled = Instant::now();
        }
        if state.left == 0 {
            state.withheld += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_some_and_those_left_out_are_counted() {
        let chatter = Chatter::new(3, Duration::from_secs(1));
        let passed =
            |lines: usize| -> Vec<u64> { (0..lines).filter_map(|_| chatter.passes()).collect() };
        assert_eq!(passed(1_000), [0, 0, 0]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(passed(1_000), [997]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(passed(2), [999, 0]);
    }
}
