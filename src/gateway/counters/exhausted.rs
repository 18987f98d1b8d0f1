//! Why a call is not let through by its limits.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::decision::{Charge, RuleId};
use crate::policy::limit::Refused;

/// There is no room to count another caller or call: whatever runs out first makes some.
const CAPACITY_RETRY: Duration = Duration::from_secs(60);

/// Why units could not be taken; nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The rule whose limit it is.
    pub by: Arc<RuleId>,
    /// The reason given by its author.
    pub reason: Option<Arc<str>>,
    /// Units allowed.
    pub max: u64,
    /// In any window of this length, as written.
    pub window: String,
    /// What is in the way.
    pub cause: Cause,
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too much has been used.
    Used(Refused),
    /// There is no room to count another caller or call.
    Capacity,
    /// Counting is not possible now; it may be after this time.
    Unavailable(Duration),
    /// What was used before is not known; what is known is enough after this time.
    Unknown(Duration),
}

impl Exhausted {
    /// The limit of a charge refuses.
    pub fn of(charge: &Charge, cause: Cause) -> Self {
        Exhausted {
            by: Arc::clone(&charge.by),
            reason: charge.reason.clone(),
            max: charge.counter.max,
            window: charge.counter.window_text.clone(),
            cause,
        }
    }

    /// When the call may pass; None if it never can.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.cause {
            Cause::Used(Refused::Always) => None,
            Cause::Used(Refused::For(wait)) | Cause::Unavailable(wait) | Cause::Unknown(wait) => {
                Some(wait)
            }
            Cause::Capacity => Some(CAPACITY_RETRY),
        }
    }

    /// Whether it refuses for longer than another.
    pub fn lasts_longer(&self, other: &Exhausted) -> bool {
        match (other.retry_after(), self.retry_after()) {
            (Some(other), Some(this)) => this > other,
            (other, this) => other.is_some() && this.is_none(),
        }
    }

    /// Why it cannot be counted, for the agent; None if it was counted.
    pub fn uncounted(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::Used(_) => return None,
            Cause::Capacity => "too many callers, sessions or different calls are counted already",
            Cause::Unavailable(_) => {
                "what was counted cannot be stored; the people who run the gateway see why"
            }
            Cause::Unknown(_) => {
                "what was counted before was lost; it can be once nothing of that counts any more"
            }
        })
    }
}
