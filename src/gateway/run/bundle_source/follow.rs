//! Following one object of the API: what to do next, by the last event.
//!
//! In: the API's answers and events, and a random number to spread gateways apart. Out: what to
//! report, and the next step with the time to wait before it. Pure: [`super::watch`] carries it
//! out. Must not do: withdraw a bundle because the API is silent, gone or confused.

use std::time::Duration;

/// Delay before the first retry; doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest delay between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A watch that ended sooner counts as failed.
const MIN_WATCH_LIFETIME: Duration = Duration::from_secs(1);

/// The object at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedConfigMap {
    /// Its resourceVersion.
    pub version: String,
    /// The bundle that it holds; None when it lacks the key.
    pub bundle: Option<String>,
}

/// What was heard from the API, or that nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A read was answered; None when there is no such object.
    Read(Option<ObservedConfigMap>),
    /// The watch is open.
    Opened,
    /// The object was made or changed.
    Changed(ObservedConfigMap),
    /// The object was deleted at this version.
    Deleted(String),
    /// Nothing changed up to this version.
    Bookmark(String),
    /// The watch ended after this time, as watches do.
    Ended(Duration),
    /// The version that was asked for is too old (410 Gone): the object has to be read again.
    Expired,
    /// No answer, or nothing on the watch, for too long.
    Silent,
    /// Refused, unreachable, unreadable.
    Failed(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchStep {
    /// Read the object. With `reconnect`, over new connections and with credentials read again.
    Read {
        /// Whether existing connections must not be reused.
        reconnect: bool,
    },
    /// Watch from this version; "" for everything that is there and comes.
    Watch {
        /// The resourceVersion.
        from: String,
    },
    /// Wait for the next event.
    Listen,
}

/// News about the ConfigMap with the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleNotice {
    /// A bundle, which may be one that is known.
    Bundle(String),
    /// The object is there and holds no bundle.
    Without,
    /// There is no such object.
    Absent,
    /// The object was deleted.
    Deleted,
    /// The API cannot be watched now; it is retried.
    Trouble(String),
}

/// What to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What to report first.
    pub notice: Option<BundleNotice>,
    /// How long to wait then.
    pub after: Duration,
    /// What to do then.
    pub step: WatchStep,
}

/// The state of following the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// The newest version that was seen.
    version: String,
    /// Failed attempts in a row.
    failures: u32,
}

impl Follower {
    /// The first step.
    pub fn start() -> WatchStep {
        WatchStep::Read { reconnect: true }
    }

    /// What follows. `random` is in 0..1.
    pub fn next(&mut self, event: WatchEvent, random: f64) -> Action {
        let now = |notice, step| Action {
            notice,
            after: Duration::ZERO,
            step,
        };
        match event {
            WatchEvent::Read(None) => {
                self.version.clear();
                now(Some(BundleNotice::Absent), self.watch())
            }
            WatchEvent::Read(Some(seen)) => {
                let notice = self.saw(seen);
                now(Some(notice), self.watch())
            }
            WatchEvent::Changed(seen) => {
                self.failures = 0;
                let notice = self.saw(seen);
                now(Some(notice), WatchStep::Listen)
            }
            WatchEvent::Deleted(version) => {
                self.failures = 0;
                self.version = version;
                now(Some(BundleNotice::Deleted), WatchStep::Listen)
            }
            WatchEvent::Bookmark(version) => {
                self.failures = 0;
                self.version = version;
                now(None, WatchStep::Listen)
            }
            WatchEvent::Opened => now(None, WatchStep::Listen),
            WatchEvent::Ended(lived) if lived >= MIN_WATCH_LIFETIME => {
                self.failures = 0;
                now(None, self.watch())
            }
            // Cut off as soon as it was open: opening it again at once, over and over, would not
            // help.
            WatchEvent::Ended(_) => self.later(None, WatchStep::Read { reconnect: false }, random),
            WatchEvent::Expired => self.later(None, WatchStep::Read { reconnect: false }, random),
            WatchEvent::Silent => {
                let why = "it does not answer, or says nothing on an open watch".to_owned();
                self.later(
                    Some(BundleNotice::Trouble(why)),
                    WatchStep::Read { reconnect: true },
                    random,
                )
            }
            WatchEvent::Failed(why) => self.later(
                Some(BundleNotice::Trouble(why)),
                WatchStep::Read { reconnect: true },
                random,
            ),
        }
    }

    fn watch(&self) -> WatchStep {
        WatchStep::Watch {
            from: self.version.clone(),
        }
    }

    fn saw(&mut self, seen: ObservedConfigMap) -> BundleNotice {
        self.version = seen.version;
        seen.bundle
            .map_or(BundleNotice::Without, BundleNotice::Bundle)
    }

    /// The step after a delay that grows with each failure, half of it random: gateways that lost
    /// the same API server do not all come back at the same moment.
    fn later(&mut self, notice: Option<BundleNotice>, step: WatchStep, random: f64) -> Action {
        let whole = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        Action {
            notice,
            after: whole / 2 + (whole / 2).mul_f64(random.clamp(0.0, 1.0)),
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, bundle: &str) -> ObservedConfigMap {
        ObservedConfigMap {
            version: version.to_owned(),
            bundle: Some(bundle.to_owned()),
        }
    }

    fn then(notice: Option<BundleNotice>, after_ms: u64, step: WatchStep) -> Action {
        Action {
            notice,
            after: Duration::from_millis(after_ms),
            step,
        }
    }

    fn watch(from: &str) -> WatchStep {
        WatchStep::Watch {
            from: from.to_owned(),
        }
    }

    fn bundle(text: &str) -> Option<BundleNotice> {
        Some(BundleNotice::Bundle(text.to_owned()))
    }

    const READ: WatchStep = WatchStep::Read { reconnect: false };
    const RECONNECT: WatchStep = WatchStep::Read { reconnect: true };

    /// What follows from each, in turn.
    fn follow(heard: impl IntoIterator<Item = WatchEvent>) -> Vec<Action> {
        let mut follower = Follower::default();
        heard
            .into_iter()
            .map(|heard| follower.next(heard, 0.0))
            .collect()
    }

    #[test]
    fn it_reads_then_watches_from_there_and_goes_on_from_the_newest_version() {
        assert_eq!(Follower::start(), RECONNECT);
        assert_eq!(
            follow([
                WatchEvent::Read(Some(seen("7", "a"))),
                WatchEvent::Opened,
                WatchEvent::Changed(seen("9", "b")),
                WatchEvent::Bookmark("12".to_owned()),
                WatchEvent::Ended(Duration::from_secs(60)),
                WatchEvent::Opened,
            ]),
            [
                then(bundle("a"), 0, watch("7")),
                then(None, 0, WatchStep::Listen),
                then(bundle("b"), 0, WatchStep::Listen),
                then(None, 0, WatchStep::Listen),
                then(None, 0, watch("12")),
                then(None, 0, WatchStep::Listen),
            ]
        );
    }

    #[test]
    fn an_object_that_is_not_there_yet_is_watched_for() {
        assert_eq!(
            follow([
                WatchEvent::Read(None),
                WatchEvent::Opened,
                WatchEvent::Changed(seen("3", "a"))
            ]),
            [
                then(Some(BundleNotice::Absent), 0, watch("")),
                then(None, 0, WatchStep::Listen),
                then(bundle("a"), 0, WatchStep::Listen),
            ]
        );
    }

    #[test]
    fn a_deleted_object_is_told_of_and_watched_on() {
        let empty = ObservedConfigMap {
            version: "9".to_owned(),
            bundle: None,
        };
        assert_eq!(
            follow([
                WatchEvent::Deleted("8".to_owned()),
                WatchEvent::Changed(empty),
                WatchEvent::Ended(Duration::from_secs(5)),
            ]),
            [
                then(Some(BundleNotice::Deleted), 0, WatchStep::Listen),
                then(Some(BundleNotice::Without), 0, WatchStep::Listen),
                then(None, 0, watch("9")),
            ]
        );
    }

    #[test]
    fn a_version_that_is_gone_is_read_again() {
        assert_eq!(
            follow([WatchEvent::Read(Some(seen("7", "a"))), WatchEvent::Expired]),
            [then(bundle("a"), 0, watch("7")), then(None, 100, READ)]
        );
    }

    #[test]
    fn silence_is_not_trusted_and_read_again_over_a_new_connection() {
        let then = &follow([WatchEvent::Silent])[0];
        assert!(
            matches!(&then.notice, Some(BundleNotice::Trouble(_))),
            "{:?}",
            then.notice
        );
        assert_eq!((then.after, &then.step), (FIRST_RETRY / 2, &RECONNECT));
    }

    #[test]
    fn the_time_between_tries_grows_up_to_a_bound_and_starts_anew_after_a_success() {
        let mut follower = Follower::default();
        let mut wait =
            |heard, random| u64::try_from(follower.next(heard, random).after.as_millis()).unwrap();
        let failed = || WatchEvent::Failed("no".to_owned());
        let waits: Vec<u64> = (0..8).map(|_| wait(failed(), 0.0)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(wait(failed(), 1.0), 10_000);
        // A read without a watch is not a success: else it would be read ten times a second.
        assert_eq!(wait(WatchEvent::Read(Some(seen("1", "a"))), 0.0), 0);
        assert_eq!(wait(failed(), 0.0), 5_000);
        assert_eq!(wait(WatchEvent::Opened, 0.0), 0);
        assert_eq!(
            wait(WatchEvent::Ended(Duration::from_millis(20)), 0.0),
            5_000
        );
        assert_eq!(wait(WatchEvent::Bookmark("2".to_owned()), 0.0), 0);
        assert_eq!(wait(failed(), 0.0), 100);
        for _ in 0..100 {
            wait(failed(), 0.5);
        }
        assert_eq!(wait(failed(), 0.5), 7_500);
    }
}
