//! From the files of a journal to what counts now.
//!
//! In: the bytes of the files, oldest first, and the clocks. Out: every key with what it has
//! counted, the journal's time, and until when something may be missing. Must not do: guess what is
//! damaged.

use std::collections::HashMap;
use std::time::Duration;

use crate::gateway::counters::bounds::{LONGEST_WINDOW, MAX_KEYS};
use crate::gateway::counters::clock::Reading;
use crate::gateway::counters::record::{
    Found, HEADER, JournalRecord, KeyId, KeyState, follows, read,
};
use crate::policy::limit::{self, Window};

/// What is known while files are read.
#[derive(Default)]
pub struct Replayed {
    keys: HashMap<KeyId, ReplayedKey>,
    /// The latest time of any record.
    latest: u64,
    clocks: Option<(u64, Reading)>,
    /// The last moment about which something may be missing.
    unknown: Option<u64>,
    damaged: bool,
}

struct ReplayedKey {
    state: KeyState,
    window: Window,
}

/// What counts when a journal is opened.
#[derive(Debug, Default)]
pub struct Restored {
    /// The journal's time.
    pub now: u64,
    /// What every key has counted.
    pub states: Vec<KeyState>,
    /// What was counted until then may be missing.
    pub unknown_until: Option<u64>,
}

impl Replayed {
    /// Reads a file; returns the byte from which on it says nothing, if that is not how a process
    /// leaves it that is killed. `last` is whether it is the newest file, `boot` the machine's
    /// start.
    pub fn file(&mut self, bytes: &[u8], last: bool, boot: [u8; 16]) -> Option<usize> {
        let mut at = HEADER.len();
        if !bytes.starts_with(HEADER) {
            // A process that is killed leaves a part of the header at most; a machine that failed,
            // anything instead of a file that was begun a moment before.
            let failed = self.clocks.is_some_and(|(_, reading)| reading.boot != boot);
            if last && (HEADER.starts_with(bytes) || failed && !follows(bytes, 0)) {
                return None;
            }
            self.damaged = true;
            return Some(0);
        }
        loop {
            let wrong = match read(bytes, at) {
                Found::End => return None,
                Found::Record(record, next) => {
                    if self.record(record) {
                        at = next;
                        continue;
                    }
                    true
                }
                // Of a killed process nothing but the last record is incomplete, and its call was
                // not forwarded. A machine that failed may leave anything instead of what it had
                // not written to the disk yet.
                Found::Torn => !last || follows(bytes, at),
                Found::Damaged => {
                    let same = self.clocks.is_some_and(|(_, reading)| reading.boot == boot);
                    !last || same || follows(bytes, at)
                }
            };
            self.damaged |= wrong;
            return wrong.then_some(at);
        }
    }

    /// False if it does not follow from what was read before.
    fn record(&mut self, record: JournalRecord) -> bool {
        match record {
            JournalRecord::State(state) => {
                let length = Duration::from_nanos(state.length);
                let Some(window) = Window::restored(u64::MAX, length, state.entries.clone()) else {
                    return false;
                };
                if state.id as usize >= MAX_KEYS {
                    return false;
                }
                self.keys.insert(state.id, ReplayedKey { state, window });
            }
            JournalRecord::Taken { at, units } => {
                self.latest = self.latest.max(at);
                for (id, cost) in units {
                    let Some(known) = self.keys.get_mut(&id) else {
                        return false;
                    };
                    known.window.replay(Duration::from_nanos(at), cost);
                }
            }
            JournalRecord::Returned { at, units } => {
                self.latest = self.latest.max(at);
                for (id, when, cost) in units {
                    if let Some(known) = self.keys.get_mut(&id) {
                        // As it was when the units came back.
                        known.window.used(Duration::from_nanos(at));
                        let made = limit::Reservation::made(when, cost);
                        known.window.refund(made);
                    }
                }
            }
            JournalRecord::Clocks { at, reading } => {
                self.latest = self.latest.max(at);
                self.clocks = Some((at, reading));
            }
            JournalRecord::Unknown { at } => self.unknown = self.unknown.max(Some(at)),
        }
        true
    }

    /// What counts at a reading of the clocks.
    pub fn finish(self, reading: Reading) -> Restored {
        let now = self.now(reading);
        let unknown = if self.damaged {
            Some(now)
        } else {
            self.unknown
        };
        let lasts = |at: &u64| now < at.saturating_add(LONGEST_WINDOW.as_nanos() as u64);
        let unknown_until = unknown.filter(lasts);
        let mut states = Vec::new();
        for (_, known) in self.keys {
            let ReplayedKey {
                mut state,
                mut window,
            } = known;
            if !window.is_idle(Duration::from_nanos(now)) {
                state.entries = window.entries().collect();
                states.push(state);
            }
        }
        Restored {
            now,
            states,
            unknown_until,
        }
    }

    /// The journal's time. It is never before that of a record. While the machine has not been
    /// started again its own clock says how long the process was away, whatever the wall clock
    /// says; after that there is only the wall clock, and one that went back says that no time has
    /// passed.
    fn now(&self, reading: Reading) -> u64 {
        let Some((at, known)) = self.clocks else {
            return self.latest;
        };
        let known_boot = known.boot != [0; 16] && known.boot == reading.boot;
        let now = match reading.since_boot.checked_sub(known.since_boot) {
            Some(passed) if known_boot => at.saturating_add(passed),
            _ => {
                let wall = known.wall.saturating_add(self.latest.saturating_sub(at));
                self.latest
                    .saturating_add(reading.wall.saturating_sub(wall))
            }
        };
        now.max(self.latest)
    }
}
