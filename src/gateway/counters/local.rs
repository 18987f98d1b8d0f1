//! Counters of one gateway: exact under concurrency, and kept in a journal if there is a folder for
//! it.
//!
//! In: the charges of a call. Out: a reservation of all of them, or why there is none. What a
//! journal does not take is not counted, so its call is refused. Must not do: wait for a disk or
//! for another process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::clock::Clock;
use super::exhausted::{Cause, Exhausted};
use super::journal::Journal;
use super::record::{self, JournalRecord, KeyId};
use super::table::{CounterTable, Place};
use crate::policy::decision::Charge;
use crate::policy::limit;

/// A call that finds no journal may be repeated after this time.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);
/// The number of bytes of counters that are copied at once: calls wait that long at most.
const COPIED_AT_ONCE: usize = 64 << 10;

/// Counts kept by key.
pub struct Local {
    clock: Clock,
    folder: Option<PathBuf>,
    /// Wakes the thread that writes to the disk.
    wake: Option<Sender<()>>,
    kept: Mutex<Kept>,
}

struct Kept {
    table: CounterTable,
    /// A moment in the counters' time, and in nanoseconds since the machine's start.
    base: (u64, u64),
    keeping: Keeping,
    /// What was counted until then may be missing.
    unknown_until: Option<u64>,
    /// Why limits are not counted.
    trouble: Option<String>,
    /// The next key to be copied into the current file of the journal.
    copying: Option<KeyId>,
    /// Why what was counted is not on the disk.
    unsynced: Option<String>,
}

/// Where counts are kept beside memory.
enum Keeping {
    Nowhere,
    Journal(Box<Journal>),
    /// The journal could not be opened; limits refuse.
    Closed,
}

/// Units taken from one or more counters.
#[derive(Debug, Default)]
#[must_use = "units that are not given back stay used"]
pub struct Reservation {
    taken: Vec<(Place, limit::Reservation)>,
}

impl Default for Local {
    fn default() -> Self {
        Local::new(Clock::default(), None, None)
    }
}

impl Local {
    /// With a journal in a folder, if one is named.
    pub fn new(clock: Clock, folder: Option<PathBuf>, wake: Option<Sender<()>>) -> Self {
        let local = Local {
            kept: Mutex::new(Kept {
                table: CounterTable::default(),
                base: (0, clock.since_boot()),
                keeping: match &folder {
                    Some(_) => Keeping::Closed,
                    None => Keeping::Nowhere,
                },
                unknown_until: None,
                trouble: None,
                copying: None,
                unsynced: None,
            }),
            clock,
            folder,
            wake,
        };
        local.open();
        local
    }

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
        // Most calls are not counted.
        let Some(first) = charges.clone().next() else {
            return Ok(Reservation::default());
        };
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        let places = kept.check(grant, charges.clone(), now)?;
        let Kept { table, keeping, .. } = &mut *kept;
        let mut journal = match keeping {
            Keeping::Journal(journal) if first.enforced() => Some(journal),
            _ => None,
        };
        let mut taken = Vec::with_capacity(places.len());
        let mut refused = None;
        for (charge, place) in charges.zip(&places) {
            let Some(counted) = table.get(*place) else {
                continue;
            };
            // Before the units, as it says all that the key has counted.
            if let Some(journal) = &mut journal {
                counted.write(place.id, journal);
            }
            match counted.window.reserve(now, charge.cost) {
                Ok(reservation) => taken.push((*place, reservation)),
                // Reached only with two charges of one key, which the engine does not make.
                Err(why) => refused = Some(Exhausted::of(charge, Cause::Used(why))),
            }
        }
        let mut wakes = false;
        let written = match journal {
            Some(journal) if refused.is_none() => {
                let units = taken.iter().map(|(place, units)| (place.id, units.cost()));
                record::write_taken(journal.buffer(), now.as_nanos() as u64, units);
                wakes = !journal.is_unsynced();
                journal.flush()
            }
            _ => Ok(()),
        };
        match (refused, written) {
            (None, Ok(())) => {
                if kept.trouble.is_some() {
                    kept.recovered();
                }
                drop(kept);
                if wakes {
                    self.wake();
                }
                Ok(Reservation { taken })
            }
            (refused, written) => {
                if let Keeping::Journal(journal) = &mut kept.keeping {
                    journal.buffer().clear();
                }
                kept.give_back(taken, now, false);
                for place in places {
                    if let Some(counted) = kept.table.get(place) {
                        counted.written = None;
                    }
                }
                if let Err(error) = written {
                    kept.failed(&error);
                }
                drop(kept);
                self.wake();
                Err(refused.unwrap_or_else(|| Exhausted::of(first, unavailable())))
            }
        }
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
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        kept.check(grant, charges, now).map(drop)
    }

    /// Returns units, for a call that was never made.
    pub fn give_back(&self, reservation: Reservation) {
        if reservation.taken.is_empty() {
            return;
        }
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        kept.give_back(reservation.taken, now, true);
    }

    /// The use of the fullest key of each counter, by policy (`namespace/name`) and counter name.
    pub fn ratios(&self) -> HashMap<(String, String), f64> {
        let mut ratios: HashMap<(String, String), f64> = HashMap::new();
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        for (key, counted) in kept.table.named().filter(|(key, _)| !key.shadow) {
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
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        kept.table.is_idle(now)
    }

    /// Why calls with limits are refused whatever they have used; None while they are counted.
    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// Whether [`Self::keep`] has more to do than to bring to the disk what was counted since.
    pub fn is_busy(&self) -> bool {
        let kept = self.lock();
        kept.trouble.is_some() || kept.copying.is_some() || kept.unsynced.is_some()
    }

    /// What is done off the path of calls: opens the journal if that failed before, brings it to
    /// the disk, and copies what counts into a new file if the file is long.
    pub fn keep(&self) {
        if self.folder.is_none() {
            return;
        }
        if matches!(self.lock().keeping, Keeping::Closed) {
            self.open();
            return;
        }
        if let Err(error) = self.probe() {
            self.lock().failed(&error);
            return;
        }
        // Calls are still served: what is written survives the end of this process.
        let done = self.sync().and_then(|()| self.copy());
        let mut kept = self.lock();
        let why = done.err().map(|error| error.to_string());
        if let Some(why) = &why
            && kept.unsynced.as_ref() != Some(why)
        {
            tracing::warn!(
                "{}: what was counted is not on the disk yet: {why}; a failure of this machine would forget it",
                kept.path()
            );
        }
        kept.unsynced = why;
    }

    fn open(&self) {
        let Some(folder) = &self.folder else { return };
        match Journal::open(folder, &self.clock) {
            Ok((journal, restored)) => {
                let mut kept = self.lock();
                // Nothing that is enforced was counted while there was no journal.
                kept.base = (restored.now, self.clock.since_boot());
                kept.unknown_until = restored.unknown_until;
                kept.table = CounterTable::restored(restored.states);
                kept.keeping = Keeping::Journal(Box::new(journal));
                if kept.trouble.is_some() {
                    kept.recovered();
                }
            }
            Err(error) => {
                let mut kept = self.lock();
                let why = error.to_string();
                if kept.trouble.as_ref() != Some(&why) {
                    tracing::error!("calls with limits are refused: {why}");
                }
                kept.trouble = Some(why);
            }
        }
    }

    /// Writes the clocks down where necessary, and tries whether there is room again.
    fn probe(&self) -> std::io::Result<()> {
        let mut kept = self.lock();
        let (now, reading) = (kept.now(&self.clock), self.clock.read());
        let fails = kept.trouble.is_some();
        let Keeping::Journal(journal) = &mut kept.keeping else {
            return Ok(());
        };
        journal.keep_clocks(now.as_nanos() as u64, reading, fails)?;
        if fails {
            kept.recovered();
        }
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        let file = match &mut self.lock().keeping {
            Keeping::Journal(journal) => journal.unsynced()?,
            Keeping::Nowhere | Keeping::Closed => None,
        };
        file.map_or(Ok(()), |file| file.sync_data())
    }

    /// Copies what counts into a new file, a part at a time.
    fn copy(&self) -> std::io::Result<()> {
        {
            let mut kept = self.lock();
            let (now, reading) = (kept.now(&self.clock), self.clock.read());
            let unknown = kept.unknown_until;
            let copying = kept.copying.is_some();
            let Keeping::Journal(journal) = &mut kept.keeping else {
                return Ok(());
            };
            if !copying {
                if !journal.is_long() {
                    return Ok(());
                }
                journal.renew(now.as_nanos() as u64, unknown, reading)?;
                kept.copying = Some(0);
            }
        }
        while !self.copy_part()? {}
        self.sync()?;
        let mut kept = self.lock();
        kept.copying = None;
        match &mut kept.keeping {
            Keeping::Journal(journal) => journal.copied(),
            Keeping::Nowhere | Keeping::Closed => Ok(()),
        }
    }

    /// True when there are no more.
    fn copy_part(&self) -> std::io::Result<bool> {
        let mut kept = self.lock();
        let now = kept.now(&self.clock);
        let Kept {
            table,
            keeping,
            copying,
            ..
        } = &mut *kept;
        let (Keeping::Journal(journal), Some(next)) = (keeping, copying) else {
            return Ok(true);
        };
        let (mut id, mut part) = (*next, Vec::new());
        while journal.buffer().len() < COPIED_AT_ONCE {
            match table.numbered(id) {
                Err(_) => {
                    journal.flush()?;
                    return Ok(true);
                }
                Ok(Some(counted)) => {
                    let counts = !counted.shadow && !counted.window.is_idle(now);
                    if counts && counted.write(id, journal) {
                        part.push(id);
                    }
                }
                Ok(None) => {}
            }
            id += 1;
        }
        let written = journal.flush();
        if written.is_err() {
            for id in part {
                if let Ok(Some(counted)) = table.numbered(id) {
                    counted.written = None;
                }
            }
        } else {
            *next = id;
        }
        written.map(|()| false)
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Without the thread the system brings it to the disk when it likes.
            let _ = wake.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

fn unavailable() -> Cause {
    Cause::Unavailable(UNAVAILABLE_RETRY)
}

impl Kept {
    /// The counters' time: it keeps running while the process does not, and never runs backwards.
    fn now(&self, clock: &Clock) -> Duration {
        let passed = clock.since_boot().saturating_sub(self.base.1);
        Duration::from_nanos(self.base.0.saturating_add(passed))
    }

    /// Creates missing windows, and checks every one; returns their places.
    fn check<'a>(
        &mut self,
        grant: &str,
        charges: impl Iterator<Item = &'a Charge>,
        now: Duration,
    ) -> Result<Vec<Place>, Exhausted> {
        let mut worst: Option<Exhausted> = None;
        let mut places = Vec::with_capacity(1);
        for charge in charges {
            let enforced = charge.enforced();
            if enforced && matches!(self.keeping, Keeping::Closed) {
                return Err(Exhausted::of(charge, unavailable()));
            }
            let (max, length) = (charge.counter.max, charge.counter.window);
            let Some(place) = self.table.place(grant, charge, now) else {
                return Err(Exhausted::of(charge, Cause::Capacity));
            };
            places.push(place);
            let Some(counted) = self.table.get(place) else {
                continue;
            };
            counted.window.set(max, length);
            let checked = counted.window.check(now, charge.cost);
            let missing = self.unknown_until.filter(|_| enforced).and_then(|until| {
                let known = Duration::from_nanos(until).saturating_add(length);
                known.checked_sub(now).filter(|left| !left.is_zero())
            });
            let refused = match (checked, missing) {
                (Err(refused), None) => Cause::Used(refused),
                (_, Some(left)) => Cause::Unknown(left),
                (Ok(()), None) => continue,
            };
            let exhausted = Exhausted::of(charge, refused);
            if worst
                .as_ref()
                .is_none_or(|worst| exhausted.lasts_longer(worst))
            {
                worst = Some(exhausted);
            }
        }
        worst.map_or(Ok(places), Err)
    }

    fn give_back(&mut self, taken: Vec<(Place, limit::Reservation)>, now: Duration, written: bool) {
        let mut returned = Vec::new();
        for (place, reservation) in taken {
            let Some(counted) = self.table.get(place) else {
                continue;
            };
            let at = reservation.at();
            // As a reader of the journal sees it.
            counted.window.used(now);
            let units = counted.window.refund(reservation);
            if units > 0 && written && !counted.shadow {
                returned.push((place.id, at, units));
            }
        }
        let Keeping::Journal(journal) = &mut self.keeping else {
            return;
        };
        if !returned.is_empty() {
            let returned = JournalRecord::Returned {
                at: now.as_nanos() as u64,
                units: returned,
            };
            record::write(journal.buffer(), &returned);
            // Units that were not returned there count too long after a restart, and never too
            // short.
            let _ = journal.flush();
        }
    }

    fn failed(&mut self, error: &std::io::Error) {
        let why = format!(
            "cannot write {}: {error}; make room there, and let this program's user write to it",
            self.path()
        );
        if self.trouble.as_ref() != Some(&why) {
            tracing::error!("calls with limits are refused: {why}");
        }
        self.trouble = Some(why);
    }

    fn path(&self) -> String {
        match &self.keeping {
            Keeping::Journal(journal) => journal.path().display().to_string(),
            Keeping::Nowhere | Keeping::Closed => "the journal".to_owned(),
        }
    }

    fn recovered(&mut self) {
        self.trouble = None;
        tracing::info!("limits are counted again");
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
