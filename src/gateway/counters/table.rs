//! The keys of one server's counters with what they have counted, and how many of them a caller may
//! have.
//!
//! In: charges, a time, what a journal has kept. Out: windows, by place. Live keys are never
//! dropped for new ones. Must not do: read a clock, or write a file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::bounds::{MAX_GRANT_CALLS, MAX_GRANT_KEYS, MAX_KEYS, SWEEP_INTERVAL};
use super::journal::Journal;
use super::record::{self, KeyId, KeyState};
use crate::policy::canonical::sha256;
use crate::policy::decision::{Charge, CounterKey, CounterName, CounterParts};
use crate::policy::limit::Window;

/// No two keys of this process have the same one.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// A hash of a grant's name.
pub type Owner = [u8; 16];

/// Where a key is, for as long as it is the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub id: KeyId,
    generation: u64,
}

/// All keys of a server.
#[derive(Default)]
pub struct CounterTable {
    windows: Vec<Option<Counted>>,
    free: Vec<KeyId>,
    keys: HashMap<CounterKey, KeyId>,
    /// Keys that a journal has kept, by their hashes, until a call names them.
    kept: HashMap<[u8; 32], KeyId>,
    /// How many keys each grant has taken up.
    owners: HashMap<Owner, Owned>,
    swept: Option<Duration>,
}

/// A key with what it has counted.
pub struct Counted {
    /// What it has counted.
    pub window: Window,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// The grant whose call made the key; none where all callers share it.
    pub owner: Option<Owner>,
    /// Counts equal calls.
    pub call: bool,
    /// The file of the journal that knows it, and the length of the window that stands there.
    pub written: Option<(u64, u64)>,
    /// Counts in the shadow only.
    pub shadow: bool,
    generation: u64,
}

impl Counted {
    /// Has a journal know the key and what it has counted, if its current file does not or knows
    /// another length of the window; says whether it did not.
    pub fn write(&mut self, id: KeyId, journal: &mut Journal) -> bool {
        let known = Some((journal.number(), self.window.length()));
        if self.written == known {
            return false;
        }
        let key = (id, &self.hash, self.owner.as_ref(), self.call);
        let entries = self.window.entries();
        record::write_state(journal.buffer(), key, self.window.length(), entries);
        self.written = known;
        true
    }
}

/// Keys of one grant.
#[derive(Clone, Copy, Default)]
struct Owned {
    all: usize,
    /// Those that count equal calls.
    calls: usize,
}

impl CounterTable {
    /// With what a journal has kept.
    pub fn restored(states: Vec<KeyState>) -> Self {
        let mut table = CounterTable::default();
        let highest = states.iter().map(|state| state.id).max();
        let count = highest.map_or(0, |highest| highest as usize + 1);
        table.windows.resize_with(count, || None);
        for state in states {
            let length = Duration::from_nanos(state.length);
            let Some(window) = Window::restored(u64::MAX, length, state.entries) else {
                continue;
            };
            let counted = Counted {
                window,
                hash: state.hash,
                owner: state.owner,
                call: state.call,
                written: None,
                shadow: false,
                generation: 0,
            };
            // Files of a journal that are read together know a key by one number.
            table.put(state.id, counted);
            table.kept.insert(state.hash, state.id);
        }
        let numbered = table.windows.iter().enumerate().rev();
        let free = numbered.filter(|(_, place)| place.is_none());
        table.free = free.map(|(id, _)| id as KeyId).collect();
        table
    }

    /// The place of a charge's key, made if there is room; None if there is none.
    pub fn place(&mut self, grant: &str, charge: &Charge, now: Duration) -> Option<Place> {
        if let Some(id) = self.keys.get(charge as &dyn CounterName) {
            return self.at(*id);
        }
        let key = charge.key();
        let hash = hash(&key);
        if let Some(id) = self.kept.remove(&hash) {
            self.keys.insert(key, id);
            return self.at(id);
        }
        // A key that all callers share belongs to none of them.
        let owner = (!key.value.is_empty()).then(|| owner(grant));
        let call = key.counts_calls();
        if !self.has_room(owner, call, now) {
            return None;
        }
        let place = self.insert(Counted {
            window: Window::new(charge.counter.max, charge.counter.window),
            hash,
            owner,
            call,
            written: None,
            shadow: key.shadow,
            generation: 0,
        });
        self.keys.insert(key, place.id);
        Some(place)
    }

    fn at(&self, id: KeyId) -> Option<Place> {
        let counted = self.windows.get(id as usize)?.as_ref()?;
        Some(Place {
            id,
            generation: counted.generation,
        })
    }

    fn insert(&mut self, counted: Counted) -> Place {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.windows.push(None);
                // There are far fewer keys than numbers.
                (self.windows.len() - 1) as KeyId
            }
        };
        self.put(id, counted)
    }

    fn put(&mut self, id: KeyId, mut counted: Counted) -> Place {
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        counted.generation = generation;
        if let Some(owner) = counted.owner {
            let owned = self.owners.entry(owner).or_default();
            owned.all += 1;
            owned.calls += usize::from(counted.call);
        }
        if let Some(place) = self.windows.get_mut(id as usize) {
            *place = Some(counted);
        }
        Place { id, generation }
    }

    /// What is at a place, if it is still the same key.
    pub fn get(&mut self, place: Place) -> Option<&mut Counted> {
        let counted = self.windows.get_mut(place.id as usize)?.as_mut()?;
        (counted.generation == place.generation).then_some(counted)
    }

    /// What has this number; `Err` behind the last one.
    pub fn numbered(&mut self, id: KeyId) -> Result<Option<&mut Counted>, NoMoreKeys> {
        let place = self.windows.get_mut(id as usize).ok_or(NoMoreKeys)?;
        Ok(place.as_mut())
    }

    /// Every key that calls have named, with what it has counted.
    pub fn named(&mut self) -> impl Iterator<Item = (&CounterKey, &mut Counted)> {
        let mut by_id: HashMap<KeyId, &CounterKey> =
            self.keys.iter().map(|(key, id)| (*id, key)).collect();
        let all = self.windows.iter_mut().enumerate();
        all.filter_map(move |(id, counted)| {
            Some((by_id.remove(&(id as KeyId))?, counted.as_mut()?))
        })
    }

    /// Whether nothing is counted that still matters.
    pub fn is_idle(&mut self, now: Duration) -> bool {
        let mut all = self.windows.iter_mut().flatten();
        all.all(|counted| counted.window.is_idle(now))
    }

    /// Whether another key can be kept. Those that count nothing any more make room.
    fn has_room(&mut self, owner: Option<Owner>, call: bool, now: Duration) -> bool {
        let full = |table: &Self| {
            let owned = owner.and_then(|owner| table.owners.get(&owner).copied());
            let own = owned.unwrap_or_default();
            let calls = call && own.calls >= MAX_GRANT_CALLS;
            table.windows.len() - table.free.len() >= MAX_KEYS || calls || own.all >= MAX_GRANT_KEYS
        };
        if !full(self) {
            return true;
        }
        if self.swept.is_some_and(|swept| now < swept + SWEEP_INTERVAL) {
            return false;
        }
        self.swept = Some(now);
        for (id, place) in self.windows.iter_mut().enumerate() {
            let Some(counted) = place else { continue };
            if !counted.window.is_idle(now) {
                continue;
            }
            if let Some(owner) = counted.owner
                && let Entry::Occupied(mut count) = self.owners.entry(owner)
            {
                let owned = count.get_mut();
                owned.all -= 1;
                owned.calls -= usize::from(counted.call);
                if owned.all == 0 {
                    count.remove();
                }
            }
            *place = None;
            self.free.push(id as KeyId);
        }
        let windows = &self.windows;
        let live = |id: &mut KeyId| windows.get(*id as usize).is_some_and(Option::is_some);
        self.keys.retain(|_, id| live(id));
        self.kept.retain(|_, id| live(id));
        !full(self)
    }

    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        (self.owners.len(), self.windows.len() - self.free.len())
    }
}

/// There are no further numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMoreKeys;

/// What stands for a grant where keys are kept.
pub fn owner(grant: &str) -> Owner {
    let mut owner = [0; 16];
    owner.copy_from_slice(&sha256(grant.as_bytes())[..16]);
    owner
}

/// What stands for a key in a journal: it says nothing of sessions, grants or arguments.
pub fn hash(key: &dyn CounterName) -> [u8; 32] {
    let CounterParts {
        server,
        namespace,
        policy,
        counter,
        scope,
        value,
        shadow,
    } = key.parts();
    let mut bytes = Vec::with_capacity(256);
    let scope = format!("{scope:?}");
    let texts = [server, namespace, policy, counter, &scope, value];
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.push(u8::from(shadow));
    sha256(&bytes)
}
