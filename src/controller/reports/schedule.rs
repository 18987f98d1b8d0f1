//! When a gateway's report is to be read.

use tokio::time::Instant;

/// What is known of reading one pod's report.
#[derive(Clone, Debug)]
pub struct Poll {
    pub next: Instant,
    /// It is to be asked at the next turn.
    pub hurried: bool,
    /// It was asked at least once, with whatever result.
    pub asked: bool,
    /// Calls that the last report told of, and since when that has not changed.
    pub calls: u64,
    pub quiet_since: Instant,
    /// When a report last had violations that the one before had not.
    pub violated_at: Option<Instant>,
    pub failures: u32,
    /// Since when something is waited for that makes it be asked often.
    pub eager_since: Option<Instant>,
}

impl Poll {
    /// To be asked now, and often if anything is waited for.
    pub fn poll_now(&mut self) {
        self.hurried = true;
        self.eager_since = None;
    }
}
