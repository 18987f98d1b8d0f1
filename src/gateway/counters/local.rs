//! Counters in this gateway's memory: exact under concurrency, lost with the process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::decision::{Charge, CounterKey, RuleId};
use crate::policy::limit::{self, Refused, Window};

/// As many keys are kept; live ones are never dropped for new ones (decisions.md, Limits).
pub const MAX_KEYS: usize = 10_000;

/// Counts kept by key.
pub struct Local {
    epoch: Instant,
    windows: Mutex<HashMap<CounterKey, Window>>,
}

/// Units taken from one or more counters.
#[derive(Debug)]
#[must_use = "units that are not given back stay used"]
pub struct Reservation {
    taken: Vec<(CounterKey, limit::Reservation)>,
}

/// Why units could not be taken; nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The rule whose limit it is.
    pub by: Arc<RuleId>,
    /// Units allowed.
    pub max: u64,
    /// In any window of this length, as written.
    pub window: String,
    /// When they would be free; None if never.
    pub retry_after: Option<Duration>,
    /// There is no room to count another caller.
    pub capacity: bool,
}

impl Default for Local {
    fn default() -> Self {
        Local {
            epoch: Instant::now(),
            windows: Mutex::default(),
        }
    }
}

impl Local {
    /// Takes the units of all charges, or of none. When several counters refuse, the one that is exhausted longest is told.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn reserve<'a>(
        &self,
        charges: impl Iterator<Item = &'a Charge> + Clone,
    ) -> Result<Reservation, Exhausted> {
        let now = self.epoch.elapsed();
        let mut windows = self.lock();
        check(&mut windows, charges.clone(), now)?;
        let mut taken = Vec::new();
        for charge in charges {
            let key = charge.key();
            if let Some(window) = windows.get_mut(&key) {
                match window.reserve(now, charge.cost) {
                    Ok(reservation) => taken.push((key, reservation)),
                    // Two charges of one key, which the engine does not make, could get here.
                    Err(refused) => {
                        give_back(&mut windows, taken);
                        return Err(Exhausted::of(charge, refused));
                    }
                }
            }
        }
        Ok(Reservation { taken })
    }

    /// Whether [`Self::reserve`] would succeed now.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn look<'a>(
        &self,
        charges: impl Iterator<Item = &'a Charge> + Clone,
    ) -> Result<(), Exhausted> {
        check(&mut self.lock(), charges, self.epoch.elapsed())
    }

    /// Returns units, for a call that was never made.
    pub fn give_back(&self, reservation: Reservation) {
        give_back(&mut self.lock(), reservation.taken);
    }

    /// The use of the fullest key of each counter, by policy (`namespace/name`) and counter name.
    pub fn ratios(&self) -> HashMap<(String, String), f64> {
        let now = self.epoch.elapsed();
        let mut ratios: HashMap<(String, String), f64> = HashMap::new();
        for (key, window) in self.lock().iter_mut().filter(|(key, _)| !key.shadow) {
            let name = (
                format!("{}/{}", key.namespace, key.policy),
                key.counter.clone(),
            );
            let fullest = ratios.entry(name).or_default();
            *fullest = fullest.max(window.ratio(now));
        }
        ratios
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CounterKey, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(
    windows: &mut HashMap<CounterKey, Window>,
    taken: Vec<(CounterKey, limit::Reservation)>,
) {
    for (key, reservation) in taken {
        if let Some(window) = windows.get_mut(&key) {
            window.refund(reservation);
        }
    }
}

/// Makes the windows that are not there yet, and asks every one.
fn check<'a>(
    windows: &mut HashMap<CounterKey, Window>,
    charges: impl Iterator<Item = &'a Charge>,
    now: Duration,
) -> Result<(), Exhausted> {
    let mut worst: Option<Exhausted> = None;
    for charge in charges {
        let key = charge.key();
        if windows.len() >= MAX_KEYS && !windows.contains_key(&key) {
            windows.retain(|_, window| !window.is_idle(now));
        }
        let full = windows.len() >= MAX_KEYS;
        let (max, length) = (charge.counter.max, charge.counter.window);
        let window = match windows.entry(key) {
            Entry::Occupied(entry) => {
                let window = entry.into_mut();
                window.set(max, length);
                window
            }
            Entry::Vacant(_) if full => {
                return Err(Exhausted {
                    capacity: true,
                    ..Exhausted::of(charge, Refused::For(Duration::from_secs(60)))
                });
            }
            Entry::Vacant(entry) => entry.insert(Window::new(max, length)),
        };
        if let Err(refused) = window.check(now, charge.cost) {
            let exhausted = Exhausted::of(charge, refused);
            let longer = |other: &Exhausted| match (other.retry_after, exhausted.retry_after) {
                (Some(other), Some(this)) => this > other,
                (other, this) => other.is_some() && this.is_none(),
            };
            if worst.as_ref().is_none_or(longer) {
                worst = Some(exhausted);
            }
        }
    }
    worst.map_or(Ok(()), Err)
}

impl Exhausted {
    fn of(charge: &Charge, refused: Refused) -> Self {
        Exhausted {
            by: Arc::clone(&charge.by),
            max: charge.counter.max,
            window: charge.counter.window_text.clone(),
            retry_after: match refused {
                Refused::For(wait) => Some(wait),
                Refused::Always => None,
            },
            capacity: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::policy::Scope;
    use crate::policy::decision::Counter;

    fn charge(counter: &str, value: &str, max: u64, window: u64, cost: u64) -> Charge {
        Charge {
            counter: Arc::new(Counter {
                server: "uid".into(),
                namespace: "ml".to_owned(),
                policy: "p".to_owned(),
                name: counter.to_owned(),
                max,
                window: Duration::from_secs(window),
                window_text: format!("{window}s"),
                scope: Scope::Grant,
                shadow: false,
            }),
            scope: Scope::Grant,
            value: value.to_owned(),
            cost,
            by: Arc::new(RuleId {
                namespace: "ml".to_owned(),
                policy: "p".to_owned(),
                rule: counter.to_owned(),
                qualified: false,
                uid: Arc::from(""),
            }),
        }
    }

    #[test]
    fn all_charges_are_taken_or_none_and_the_longest_wait_is_told() {
        let local = Local::default();
        let (short, long) = (
            charge("short", "a", 1, 60, 1),
            charge("long", "a", 1, 3_600, 1),
        );
        let first = local.reserve([&short, &long].into_iter()).unwrap();
        let refused = local.reserve([&short, &long].into_iter()).unwrap_err();
        assert_eq!(
            (refused.by.rule.as_str(), refused.capacity),
            ("long", false)
        );
        assert!(refused.retry_after > Some(Duration::from_secs(3_500)));
        local.give_back(first);
        let kept = local.reserve(std::iter::once(&long)).unwrap();
        assert!(local.reserve([&short, &long].into_iter()).is_err());
        assert!(
            local.look(std::iter::once(&short)).is_ok(),
            "a refused call must not use up another counter"
        );
        drop(kept);
    }

    #[test]
    fn a_cost_above_the_limit_never_passes_and_a_lower_limit_counts_what_was_used() {
        let local = Local::default();
        let never = local
            .reserve(std::iter::once(&charge("c", "a", 5, 60, 6)))
            .unwrap_err();
        assert_eq!(never.retry_after, None);
        let _kept = local
            .reserve(std::iter::once(&charge("c", "a", 5, 60, 5)))
            .unwrap();
        assert!(
            local
                .reserve(std::iter::once(&charge("c", "a", 9, 60, 5)))
                .is_err()
        );
        assert!(
            local
                .reserve(std::iter::once(&charge("c", "a", 9, 60, 4)))
                .is_ok()
        );
    }

    #[test]
    fn new_keys_are_refused_when_full_and_live_ones_go_on() {
        let local = Local::default();
        let mut kept = Vec::new();
        for n in 0..MAX_KEYS {
            kept.push(
                local
                    .reserve(std::iter::once(&charge("c", &n.to_string(), 2, 3_600, 1)))
                    .unwrap(),
            );
        }
        let refused = local
            .reserve(std::iter::once(&charge("c", "new", 2, 3_600, 1)))
            .unwrap_err();
        assert!(refused.capacity);
        assert!(
            local
                .reserve(std::iter::once(&charge("c", "7", 2, 3_600, 1)))
                .is_ok()
        );
        local.give_back(kept.swap_remove(0));
        assert!(
            local
                .reserve(std::iter::once(&charge("c", "new", 2, 3_600, 1)))
                .is_ok(),
            "an idle key makes room"
        );
    }

    #[test]
    fn no_more_than_max_pass_however_many_ask_at_once() {
        let local = Local::default();
        let passed: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|_| {
                                local
                                    .reserve(std::iter::once(&charge("c", "a", 30, 3_600, 1)))
                                    .is_ok()
                            })
                            .count()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(passed, 30);
    }
}
