//! A bounded memory that callers share fairly.
//!
//! In: keys with values, and the caller that each belongs to. Out: the values, until they are
//! removed or make room. Must not do: let one caller push out what belongs to another that has
//! less.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

/// The most entries that one memory holds for all callers.
const REMEMBERED: usize = 10_000;

/// Keys and values. Beyond its capacity the caller with the most entries loses its oldest one.
pub struct Remembered<V> {
    capacity: usize,
    entries: Mutex<Entries<V>>,
}

struct Entries<V> {
    by_key: HashMap<String, (Arc<str>, V)>,
    /// The keys of each caller, the oldest first.
    by_grant: HashMap<Arc<str>, VecDeque<String>>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Remembered::with_capacity(REMEMBERED)
    }
}

impl<V> Remembered<V> {
    /// With room for this number of entries.
    pub fn with_capacity(capacity: usize) -> Self {
        Remembered {
            capacity,
            entries: Mutex::new(Entries {
                by_key: HashMap::new(),
                by_grant: HashMap::new(),
            }),
        }
    }

    /// Remembers a key for a caller; says whether the key is new. The value of a known key is
    /// replaced.
    pub fn insert(&self, grant: &str, key: String, value: V) -> bool {
        let mut entries = self.entries.lock();
        if let Some((_, known)) = entries.by_key.get_mut(&key) {
            *known = value;
            return false;
        }
        let grant = match entries.by_grant.get_key_value(grant) {
            Some((grant, _)) => Arc::clone(grant),
            None => Arc::from(grant),
        };
        let keys = entries.by_grant.entry(Arc::clone(&grant)).or_default();
        keys.push_back(key.clone());
        entries.by_key.insert(key, (grant, value));
        if entries.by_key.len() > self.capacity {
            entries.forget_one();
        }
        true
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<V>
    where
        V: Clone,
    {
        let entries = self.entries.lock();
        entries.by_key.get(key).map(|(_, value)| value.clone())
    }

    /// Forgets a key and returns its value.
    pub fn remove(&self, key: &str) -> Option<V> {
        let mut entries = self.entries.lock();
        let (grant, value) = entries.by_key.remove(key)?;
        if let Some(keys) = entries.by_grant.get_mut(&grant) {
            if let Some(at) = keys.iter().position(|other| other == key) {
                keys.remove(at);
            }
            if keys.is_empty() {
                entries.by_grant.remove(&grant);
            }
        }
        Some(value)
    }

    /// Whether the key is remembered.
    pub fn contains(&self, key: &str) -> bool {
        let entries = self.entries.lock();
        !entries.by_key.is_empty() && entries.by_key.contains_key(key)
    }
}

impl<V> Entries<V> {
    /// Forgets the oldest entry of the caller with the most.
    fn forget_one(&mut self) {
        let most = self.by_grant.values_mut().max_by_key(|keys| keys.len());
        if let Some(oldest) = most.and_then(VecDeque::pop_front) {
            self.by_key.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(capacity: usize, entries: &[(&str, &str)]) -> Remembered<u32> {
        let remembered = Remembered::with_capacity(capacity);
        for (grant, key) in entries {
            assert!(remembered.insert(grant, (*key).to_owned(), 0), "{key}");
        }
        remembered
    }

    #[test]
    fn a_caller_with_many_entries_loses_its_own_and_nobody_elses() {
        let remembered = with(4, &[("calm", "first"), ("calm", "second")]);
        for number in 0..1_000 {
            assert!(remembered.insert("greedy", number.to_string(), number));
        }
        assert!(remembered.contains("first") && remembered.contains("second"));
        assert!(remembered.contains("999") && remembered.contains("998"));
        assert!(!remembered.contains("997"), "the capacity holds");
        assert_eq!(remembered.entries.lock().by_key.len(), 4);
    }

    #[test]
    fn a_key_is_new_once_and_its_last_value_counts() {
        let remembered = with(4, &[("calm", "one")]);
        assert!(!remembered.insert("calm", "one".to_owned(), 7));
        assert_eq!(remembered.remove("one"), Some(7));
        assert_eq!(remembered.remove("one"), None);
        assert!(
            remembered.entries.lock().by_grant.is_empty(),
            "nothing is left of the caller"
        );
        assert!(remembered.insert("calm", "one".to_owned(), 8));
    }
}
