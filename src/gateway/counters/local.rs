//! Counters in this gateway's memory: exact under concurrency, lost with the process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::policy::decision::{Charge, CounterKey, RuleId};
use crate::policy::limit::{self, Refused, Window};

/// This many keys are kept; live ones are never dropped for new ones (decisions.md, Limits).
pub const MAX_KEYS: usize = 10_000;
/// This many keys one grant may use: with sessions or different calls it could otherwise fill all
/// of them.
pub const MAX_GRANT_KEYS: usize = MAX_KEYS / 8;
/// Keys that count nothing any more are looked for no more often than this, as long as there are
/// too many.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Counts kept by key.
pub struct Local {
    epoch: Instant,
    kept: Mutex<CounterTable>,
}

#[derive(Default)]
struct CounterTable {
    windows: HashMap<CounterKey, Counted>,
    /// How many keys each grant has taken up.
    owners: HashMap<Arc<str>, usize>,
    swept: Option<Duration>,
}

struct Counted {
    window: Window,
    /// The grant whose call made the key; none where all callers share it.
    owner: Option<Arc<str>>,
}

/// Units taken from one or more counters.
#[derive(Debug, Default)]
#[must_use = "units that are not given back stay used"]
pub struct Reservation {
    taken: Vec<(CounterKey, limit::Reservation)>,
}

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
    /// When they would be free; None if never.
    pub retry_after: Option<Duration>,
    /// There is no room to count another caller.
    pub capacity: bool,
}

impl Default for Local {
    fn default() -> Self {
        Local {
            epoch: Instant::now(),
            kept: Mutex::default(),
        }
    }
}

impl Local {
    /// Takes the units of all charges, or of none. When several counters refuse, the one that is
    /// exhausted longest is reported.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn reserve<'a>(
        &self,
        grant: &str,
        charges: impl Iterator<Item = &'a Charge> + Clone,
    ) -> Result<Reservation, Exhausted> {
        // Most calls are not counted, or once.
        let mut first = charges.clone();
        let Some(charge) = first.next() else {
            return Ok(Reservation::default());
        };
        let now = self.epoch.elapsed();
        let mut kept = self.lock();
        if first.next().is_none() {
            let key = charge.key();
            if let Some(counted) = kept.windows.get_mut(&key) {
                let window = &mut counted.window;
                window.set(charge.counter.max, charge.counter.window);
                let taken = window.reserve(now, charge.cost);
                let taken = taken.map_err(|refused| Exhausted::of(charge, refused))?;
                return Ok(Reservation {
                    taken: vec![(key, taken)],
                });
            }
        }
        let keys = kept.check(grant, charges.clone(), now)?;
        let mut taken = Vec::with_capacity(keys.len());
        for (charge, key) in charges.zip(keys) {
            if let Some(counted) = kept.windows.get_mut(&key) {
                match counted.window.reserve(now, charge.cost) {
                    Ok(reservation) => taken.push((key, reservation)),
                    // Reached only with two charges of one key, which the engine does not make.
                    Err(refused) => {
                        kept.give_back(taken);
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
        grant: &str,
        charges: impl Iterator<Item = &'a Charge> + Clone,
    ) -> Result<(), Exhausted> {
        let now = self.epoch.elapsed();
        self.lock().check(grant, charges, now).map(drop)
    }

    /// Returns units, for a call that was never made.
    pub fn give_back(&self, reservation: Reservation) {
        self.lock().give_back(reservation.taken);
    }

    /// The use of the fullest key of each counter, by policy (`namespace/name`) and counter name.
    pub fn ratios(&self) -> HashMap<(String, String), f64> {
        let now = self.epoch.elapsed();
        let mut ratios: HashMap<(String, String), f64> = HashMap::new();
        let mut kept = self.lock();
        for (key, counted) in kept.windows.iter_mut().filter(|(key, _)| !key.shadow) {
            let name = (
                format!("{}/{}", key.namespace, key.policy),
                key.counter.clone(),
            );
            let fullest = ratios.entry(name).or_default();
            *fullest = fullest.max(counted.window.ratio(now));
        }
        ratios
    }

    /// Whether nothing is counted that still matters.
    pub fn is_idle(&self) -> bool {
        let now = self.epoch.elapsed();
        let mut kept = self.lock();
        kept.windows
            .values_mut()
            .all(|counted| counted.window.is_idle(now))
    }

    fn lock(&self) -> MutexGuard<'_, CounterTable> {
        self.kept.lock()
    }
}

impl CounterTable {
    fn give_back(&mut self, taken: Vec<(CounterKey, limit::Reservation)>) {
        for (key, reservation) in taken {
            if let Some(counted) = self.windows.get_mut(&key) {
                counted.window.refund(reservation);
            }
        }
    }

    /// Creates missing windows, and checks every one; returns their keys.
    fn check<'a>(
        &mut self,
        grant: &str,
        charges: impl Iterator<Item = &'a Charge>,
        now: Duration,
    ) -> Result<Vec<CounterKey>, Exhausted> {
        let mut worst: Option<Exhausted> = None;
        let mut keys = Vec::new();
        for charge in charges {
            let key = charge.key();
            let (max, length) = (charge.counter.max, charge.counter.window);
            let checked = if let Some(counted) = self.windows.get_mut(&key) {
                counted.window.set(max, length);
                counted.window.check(now, charge.cost)
            } else if self.has_room(grant, &key, now) {
                let owner = owner(grant, &key);
                if let Some(owner) = &owner {
                    *self.owners.entry(Arc::clone(owner)).or_default() += 1;
                }
                let mut window = Window::new(max, length);
                let checked = window.check(now, charge.cost);
                self.windows.insert(key.clone(), Counted { window, owner });
                checked
            } else {
                return Err(Exhausted {
                    capacity: true,
                    ..Exhausted::of(charge, Refused::For(Duration::from_secs(60)))
                });
            };
            keys.push(key);
            if let Err(refused) = checked {
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
        worst.map_or(Ok(keys), Err)
    }

    /// Whether another key of the grant can be kept. Those that count nothing any more make room.
    fn has_room(&mut self, grant: &str, key: &CounterKey, now: Duration) -> bool {
        let owned = owner(grant, key).is_some();
        let full = |kept: &Self| {
            let own = kept.owners.get(grant).copied().unwrap_or(0);
            kept.windows.len() >= MAX_KEYS || owned && own >= MAX_GRANT_KEYS
        };
        if !full(self) {
            return true;
        }
        if self.swept.is_some_and(|swept| now < swept + SWEEP_INTERVAL) {
            return false;
        }
        self.swept = Some(now);
        let owners = &mut self.owners;
        self.windows.retain(|_, counted| {
            let idle = counted.window.is_idle(now);
            if idle
                && let Some(owner) = &counted.owner
                && let Entry::Occupied(mut count) = owners.entry(Arc::clone(owner))
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            !idle
        });
        !full(self)
    }
}

/// The owner of a new key; none for a key that all callers share.
fn owner(grant: &str, key: &CounterKey) -> Option<Arc<str>> {
    (!key.value.is_empty()).then(|| Arc::from(grant))
}

impl Exhausted {
    fn of(charge: &Charge, refused: Refused) -> Self {
        Exhausted {
            by: Arc::clone(&charge.by),
            reason: charge.reason.clone(),
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
            reason: None,
        }
    }

    #[test]
    fn all_charges_are_taken_or_none_and_the_longest_wait_is_told() {
        let local = Local::default();
        let (short, long) = (
            charge("short", "a", 1, 60, 1),
            charge("long", "a", 1, 3_600, 1),
        );
        let first = local.reserve("g", [&short, &long].into_iter()).unwrap();
        let refused = local.reserve("g", [&short, &long].into_iter()).unwrap_err();
        assert_eq!(
            (refused.by.rule.as_str(), refused.capacity),
            ("long", false)
        );
        assert!(refused.retry_after > Some(Duration::from_secs(3_500)));
        local.give_back(first);
        let kept = local.reserve("g", std::iter::once(&long)).unwrap();
        assert!(local.reserve("g", [&short, &long].into_iter()).is_err());
        assert!(
            local.look("g", std::iter::once(&short)).is_ok(),
            "a refused call must not use up another counter"
        );
        drop(kept);
    }

    #[test]
    fn a_cost_above_the_limit_never_passes_and_a_lower_limit_counts_what_was_used() {
        let local = Local::default();
        let never = local
            .reserve("g", std::iter::once(&charge("c", "a", 5, 60, 6)))
            .unwrap_err();
        assert_eq!(never.retry_after, None);
        let _kept = local
            .reserve("g", std::iter::once(&charge("c", "a", 5, 60, 5)))
            .unwrap();
        assert!(
            local
                .reserve("g", std::iter::once(&charge("c", "a", 9, 60, 5)))
                .is_err()
        );
        assert!(
            local
                .reserve("g", std::iter::once(&charge("c", "a", 9, 60, 4)))
                .is_ok()
        );
    }

    /// Time goes on, without a wait, so that keys may be looked through again.
    fn later(local: &mut Local, by: Duration) {
        local.epoch -= by;
    }

    #[test]
    fn one_grant_cannot_take_all_keys() {
        let mut local = Local::default();
        let take = |local: &Local, grant: &str, value: usize| {
            local.reserve(
                grant,
                std::iter::once(&charge("c", &value.to_string(), 2, 60, 1)),
            )
        };
        for value in 0..MAX_GRANT_KEYS {
            assert!(take(&local, "greedy", value).is_ok());
        }
        let refused = take(&local, "greedy", MAX_GRANT_KEYS).unwrap_err();
        assert!(refused.capacity);
        assert!(take(&local, "greedy", 7).is_ok(), "what is counted goes on");
        for value in MAX_GRANT_KEYS..2 * MAX_GRANT_KEYS {
            assert!(take(&local, "calm", value).is_ok());
        }
        let shared = charge("server", "", 9, 60, 1);
        assert!(local.reserve("greedy", std::iter::once(&shared)).is_ok());
        // What counts nothing any more makes room, and is not counted among its keys.
        later(&mut local, Duration::from_secs(61));
        assert!(take(&local, "greedy", 3 * MAX_GRANT_KEYS).is_ok());
        let kept = local.lock();
        assert_eq!((kept.owners.len(), kept.windows.len()), (1, 1));
    }

    #[test]
    fn new_keys_are_refused_when_full_and_live_ones_go_on() {
        let mut local = Local::default();
        let mut kept = Vec::new();
        for n in 0..MAX_KEYS {
            let key = charge("c", &n.to_string(), 2, 3_600, 1);
            let grant = (n % 10).to_string();
            kept.push(local.reserve(&grant, std::iter::once(&key)).unwrap());
        }
        let refused = local
            .reserve("g", std::iter::once(&charge("c", "new", 2, 3_600, 1)))
            .unwrap_err();
        assert!(refused.capacity);
        assert!(
            local
                .reserve("g", std::iter::once(&charge("c", "7", 2, 3_600, 1)))
                .is_ok()
        );
        local.give_back(kept.swap_remove(0));
        later(&mut local, SWEEP_INTERVAL);
        assert!(
            local
                .reserve("g", std::iter::once(&charge("c", "new", 2, 3_600, 1)))
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
                                    .reserve("g", std::iter::once(&charge("c", "a", 30, 3_600, 1)))
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
