//! How full the counters are, as the answers of the server that counts say.
//!
//! In: the units of a key after each call. Out: the use of the fullest key of each counter. Must
//! not do: ask the server, or keep what an answer said for longer than its window.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::policy::decision::Counter;

/// No more counters than this are shown: policies come and go.
const MAX_COUNTERS: usize = 1_024;

/// The fullest key of each counter that this gateway has had an answer about.
#[derive(Debug, Default)]
pub(super) struct UseSeen {
    fullest: HashMap<Arc<Counter>, FullestKey>,
}

#[derive(Debug)]
struct FullestKey {
    key: String,
    /// Of the units that a window admits, 0 to 1.
    ratio: f64,
    seen: Instant,
}

impl FullestKey {
    fn counts(&self, counter: &Counter, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < counter.window
    }
}

impl UseSeen {
    /// A key of a counter has this many units in use.
    pub(super) fn note(&mut self, counter: &Arc<Counter>, key: &str, used: u64, now: Instant) {
        if counter.shadow || counter.max == 0 {
            return;
        }
        let ratio = (used as f64 / counter.max as f64).min(1.0);
        let new = || FullestKey {
            key: key.to_owned(),
            ratio,
            seen: now,
        };
        if let Some(fullest) = self.fullest.get_mut(counter) {
            // The same key may have become emptier.
            let replaces =
                ratio >= fullest.ratio || fullest.key == key || !fullest.counts(counter, now);
            if replaces {
                *fullest = new();
            }
            return;
        }
        // The same counter of a policy before it was edited.
        self.fullest
            .retain(|other, fullest| !is_same(other, counter) && fullest.counts(other, now));
        if self.fullest.len() < MAX_COUNTERS {
            self.fullest.insert(Arc::clone(counter), new());
        }
    }

    /// By policy (`namespace/name`) and counter name.
    pub(super) fn ratios(&self, now: Instant) -> HashMap<(String, String), f64> {
        let counting = self.fullest.iter();
        counting
            .filter(|(counter, fullest)| fullest.counts(counter, now))
            .map(|(counter, fullest)| {
                let policy = format!("{}/{}", counter.namespace, counter.policy);
                ((policy, counter.name.clone()), fullest.ratio)
            })
            .collect()
    }
}

/// Whether both are the counter of one name, with whatever settings.
fn is_same(one: &Counter, other: &Counter) -> bool {
    (&one.namespace, &one.policy, &one.name) == (&other.namespace, &other.policy, &other.name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::policy::Scope;

    fn counter(name: &str, max: u64) -> Arc<Counter> {
        Arc::new(Counter {
            server: Arc::from("uid"),
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            name: name.to_owned(),
            max,
            window: Duration::from_secs(60),
            window_text: "1m".to_owned(),
            scope: Scope::Grant,
            shadow: false,
        })
    }

    fn shown(seen: &UseSeen, name: &str, now: Instant) -> Option<f64> {
        let name = ("ml/p".to_owned(), name.to_owned());
        seen.ratios(now).get(&name).copied()
    }

    #[test]
    fn the_fullest_key_is_shown_as_long_as_its_window_lasts() {
        let (mut seen, start) = (UseSeen::default(), Instant::now());
        let tags = counter("tags", 4);
        for (key, used, after, ratio) in [
            ("a", 1, 0, 0.25),
            ("b", 3, 1, 0.75),
            ("a", 2, 2, 0.75),
            ("b", 1, 3, 0.25),
            ("a", 9, 4, 1.0),
        ] {
            let now = start + Duration::from_secs(after);
            seen.note(&tags, key, used, now);
            assert_eq!(shown(&seen, "tags", now), Some(ratio), "{key} {used}");
        }
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(shown(&seen, "tags", at(63)), Some(1.0));
        assert_eq!(shown(&seen, "tags", at(64)), None);
        // Another key then counts although it is emptier.
        seen.note(&tags, "c", 1, at(64));
        assert_eq!(shown(&seen, "tags", at(64)), Some(0.25));
        // A policy that was edited has one figure.
        seen.note(&counter("tags", 10), "c", 5, at(65));
        assert_eq!(seen.fullest.len(), 1);
        assert_eq!(shown(&seen, "tags", at(65)), Some(0.5));
    }

    #[test]
    fn shadow_counters_are_not_shown_and_counters_are_bounded() {
        let (mut seen, now) = (UseSeen::default(), Instant::now());
        let mut shadow = (*counter("shadow", 1)).clone();
        shadow.shadow = true;
        seen.note(&Arc::new(shadow), "k", 1, now);
        assert_eq!(seen.ratios(now).len(), 0);
        for number in 0..2 * MAX_COUNTERS {
            seen.note(&counter(&number.to_string(), 1), "k", 1, now);
        }
        assert_eq!(seen.ratios(now).len(), MAX_COUNTERS);
    }
}
