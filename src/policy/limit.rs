//! A sliding window: at most `max` units in any window of a length, never more.
//!
//! In: a monotonic time and a cost. Out: a reservation, or how long to wait. Memory is bounded: up
//! to 1,024 moments are kept exactly; above that, moments that lie within 1/1,024 of the window of
//! one another are kept as one, stamped with the latest, so that the count is never too low and
//! capacity comes back at most that much late. Must not do: read a clock, or know what is counted.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

/// Moments that are kept exactly, and parts that a window is divided into above that.
const EXACT: usize = 1_024;

/// Units that were taken in `start..=latest`, in nanoseconds since a fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first moment.
    pub start: u64,
    /// The last moment.
    pub latest: u64,
    /// Units, at least 1.
    pub units: u64,
}

/// The units of one counter.
#[derive(Clone, Debug)]
pub struct Window {
    max: u64,
    length: u64,
    /// Oldest first; spans do not overlap and have units.
    entries: VecDeque<Entry>,
    /// Sum of the entries' units.
    used: u64,
    /// The latest time that was seen: a clock that goes back stands still here.
    now: u64,
}

/// Units that were taken and can be given back once, if the call was never made.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "units that are not given back stay used"]
pub struct Reservation {
    at: u64,
    cost: u64,
}

impl Reservation {
    /// A reservation as it was made before, for [`Window::refund`].
    pub fn made(at: u64, cost: u64) -> Self {
        Self { at, cost }
    }

    /// When the units were taken, in nanoseconds.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The units that were taken.
    pub fn cost(&self) -> u64 {
        self.cost
    }
}

/// Why no units were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Enough units are free after this time, if no other call takes them.
    #[error("the limit is reached; retry after {0:?}")]
    For(Duration),
    /// The cost is above the limit itself.
    #[error("the call costs more than the limit ever allows")]
    Always,
}

impl Window {
    /// An unused window. A length of zero would never forget, so it counts as the shortest there
    /// is.
    pub fn new(max: u64, length: Duration) -> Self {
        Self {
            max,
            length: nanos(length).max(1),
            entries: VecDeque::new(),
            used: 0,
            now: 0,
        }
    }

    /// A window with what was in another one of that length; None if the entries cannot be those of
    /// a window.
    pub fn restored(max: u64, length: Duration, entries: VecDeque<Entry>) -> Option<Self> {
        let mut window = Self::new(max, length);
        let mut before = None;
        for entry in &entries {
            let follows = before.is_none_or(|before| before < entry.start);
            if !follows || entry.start > entry.latest || entry.units == 0 {
                return None;
            }
            before = Some(entry.latest);
            window.used = window.used.checked_add(entry.units)?;
        }
        window.now = before.unwrap_or_default();
        window.entries = entries;
        Some(window)
    }

    /// What is counted, oldest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + '_ {
        self.entries.iter().copied()
    }

    /// Its length, in nanoseconds.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Takes units that were taken before, without asking whether they are free.
    pub fn replay(&mut self, now: Duration, cost: u64) {
        self.forget(now);
        if cost > 0 {
            self.used = self.used.saturating_add(cost);
            self.push(self.now, cost);
        }
    }

    /// Takes over settings that a policy edit has changed; what has been used stays used.
    pub fn set(&mut self, max: u64, length: Duration) {
        self.max = max;
        self.length = nanos(length).max(1);
    }

    /// Takes units now, if that never makes more than `max` in any window. `now` is a monotonic
    /// time since any fixed moment.
    pub fn reserve(&mut self, now: Duration, cost: u64) -> Result<Reservation, Refused> {
        self.check(now, cost)?;
        let at = self.now;
        if cost > 0 {
            self.used += cost;
            self.push(at, cost);
        }
        Ok(Reservation { at, cost })
    }

    /// Whether [`reserve`](Self::reserve) would succeed now.
    pub fn check(&mut self, now: Duration, cost: u64) -> Result<(), Refused> {
        self.forget(now);
        if cost > self.max {
            return Err(Refused::Always);
        }
        // Settings may have shrunk below what is used.
        let mut over = match self.used.checked_add(cost) {
            Some(total) if total <= self.max => return Ok(()),
            Some(total) => total - self.max,
            None => u64::MAX,
        };
        for entry in &self.entries {
            over = over.saturating_sub(entry.units);
            if over == 0 {
                let free = entry.latest.saturating_add(self.length);
                return Err(Refused::For(Duration::from_nanos(
                    free.saturating_sub(self.now),
                )));
            }
        }
        Err(Refused::Always)
    }

    /// Gives units back; returns how many there were to give back. Only for a call of which no byte
    /// was sent, or that the upstream itself answered with an error.
    pub fn refund(&mut self, reservation: Reservation) -> u64 {
        let Reservation { at, cost } = reservation;
        // What has left the window is not there to be given back: this also keeps a reservation
        // from before a counter was dropped and created again from touching units that others have
        // taken since.
        if cost == 0 || at.saturating_add(self.length) <= self.now {
            return 0;
        }
        let place = self.entries.partition_point(|entry| entry.latest < at);
        let Some(entry) = self
            .entries
            .get_mut(place)
            .filter(|entry| entry.start <= at)
        else {
            return 0;
        };
        let back = cost.min(entry.units);
        entry.units -= back;
        self.used -= back;
        if entry.units == 0 {
            self.entries.remove(place);
        }
        back
    }

    /// Units that count now.
    pub fn used(&mut self, now: Duration) -> u64 {
        self.forget(now);
        self.used
    }

    /// Used units as a part of the limit; above 1 only after the limit was lowered.
    pub fn ratio(&mut self, now: Duration) -> f64 {
        let used = self.used(now);
        if self.max == 0 {
            1.0
        } else {
            used as f64 / self.max as f64
        }
    }

    /// Whether nothing counts any more, so that the window can be dropped without forgetting
    /// anything.
    pub fn is_idle(&mut self, now: Duration) -> bool {
        self.used(now) == 0
    }

    /// Drops what has left the window. Windows are half-open: what was taken at `t` counts until
    /// just before `t + length`.
    fn forget(&mut self, now: Duration) {
        self.now = self.now.max(nanos(now));
        while let Some(entry) = self.entries.front() {
            if entry.latest.saturating_add(self.length) > self.now {
                break;
            }
            self.used -= entry.units;
            self.entries.pop_front();
        }
        if self.entries.is_empty() && self.entries.capacity() > 0 {
            self.entries.shrink_to_fit();
        }
    }

    fn push(&mut self, at: u64, units: u64) {
        match self.entries.back_mut() {
            Some(last) if last.latest == at => last.units += units,
            _ => {
                self.entries.push_back(Entry {
                    start: at,
                    latest: at,
                    units,
                });
                if self.entries.len() > EXACT {
                    self.merge();
                }
            }
        }
    }

    /// Puts together entries that start within a 1,024th of the window of one another. Those that
    /// remain start further apart than that, so that little more than 1,024 of them fit in a
    /// window.
    fn merge(&mut self) {
        let slot = self.length / EXACT as u64;
        let mut merged: VecDeque<Entry> = VecDeque::with_capacity(EXACT + 4);
        for entry in self.entries.drain(..) {
            match merged.back_mut() {
                Some(last) if entry.latest - last.start <= slot => {
                    last.latest = entry.latest;
                    last.units += entry.units;
                }
                _ => merged.push_back(entry),
            }
        }
        self.entries = merged;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
