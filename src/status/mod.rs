//! What `kubectl get` and `portcullis status` show.
//!
//! In: an object, the wanted bundle, the gateways' reports, sums of violations, the time and the
//! previous status. Out: the new status. Pure, so that the operator and `portcullis status` say the
//! same. Must not do: read or write anything, or look at the clock.

pub mod accounting;
pub mod policy;
pub mod report;
pub mod server;

use crate::api::{
    Time,
    condition::{Condition, ConditionStatus, ConditionType, Reason, condition},
};
use jiff::Timestamp;

/// The writer of the statuses, as GEP-713's `controllerName`.
pub const CONTROLLER_NAME: &str = "portcullis.dev/operator";

/// A time in a status: whole seconds, as the API server keeps them; otherwise each status would
/// differ from the one read back.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Conditions of one object, in the order of insertion.
struct Conditions<'a> {
    generation: Option<i64>,
    previous: &'a [Condition],
    now: Time,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(generation: Option<i64>, previous: &'a [Condition], now: Timestamp) -> Self {
        Conditions {
            generation,
            previous,
            now: whole(now),
            list: Vec::new(),
        }
    }

    fn put(&mut self, kind: ConditionType, verdict: &Verdict) {
        let Verdict {
            status,
            reason,
            message,
        } = verdict;
        self.list.push(condition(
            kind,
            *status,
            *reason,
            message.clone(),
            self.generation,
            self.previous,
            &self.now,
        ));
    }

    /// A condition that is present only while True, for the reason why another is not.
    fn put_because(&mut self, kind: ConditionType, cause: &Verdict) {
        let verdict = Verdict {
            status: ConditionStatus::True,
            ..cause.clone()
        };
        self.put(kind, &verdict);
    }
}

/// The status of a condition, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    status: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn new(status: impl Into<ConditionStatus>, reason: Reason, message: impl Into<String>) -> Self {
        Verdict {
            status: status.into(),
            reason,
            message: shortened(message.into()),
        }
    }

    fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// `metav1.Condition` takes at most 32,768 characters; shorter messages are more readable.
const MESSAGE_SHOWN: usize = 2_000;

fn shortened(message: String) -> String {
    match message.char_indices().nth(MESSAGE_SHOWN) {
        None => message,
        Some((end, _)) => message
            .get(..end)
            .map(|kept| format!("{kept} …"))
            .unwrap_or_default(),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
