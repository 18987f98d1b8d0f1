//! The newest of many values.
//!
//! In: values. Out: whether one is among the newest. Must not do: grow beyond its capacity, however
//! many values come.

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// A set of a fixed capacity that forgets the value that was inserted first when it is full.
#[derive(Debug)]
pub struct RecentSet<T> {
    capacity: usize,
    order: VecDeque<T>,
    known: HashSet<T>,
}

impl<T: Clone + Eq + Hash> RecentSet<T> {
    /// An empty set of that many values at most.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        RecentSet {
            capacity,
            order: VecDeque::new(),
            known: HashSet::new(),
        }
    }

    /// Whether the value is among the newest.
    pub fn contains<Q>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.known.contains(value)
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Inserts a value and says whether it is new. A known one keeps its age.
    pub fn insert(&mut self, value: T) -> bool {
        if !self.known.insert(value.clone()) {
            return false;
        }
        self.order.push_back(value);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Forgets a value and says whether it was known.
    pub fn remove<Q>(&mut self, value: &Q) -> bool
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let known = self.known.remove(value);
        if known {
            self.order.retain(|other| other.borrow() != value);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_newest_values_and_no_more_than_its_capacity() {
        let mut recent = RecentSet::new(2);
        assert!(recent.insert("first".to_owned()));
        assert!(recent.insert("second".to_owned()));
        assert!(!recent.insert("first".to_owned()), "known");
        assert!(recent.insert("third".to_owned()));
        // What was known keeps its age.
        assert!(!recent.contains("first"));
        assert!(recent.contains("second") && recent.contains("third"));
        assert!(recent.insert("first".to_owned()), "forgotten, so new");
        assert_eq!((recent.order.len(), recent.known.len()), (2, 2));
    }

    #[test]
    fn a_value_that_was_removed_is_new_again_and_leaves_its_room() {
        let mut recent = RecentSet::new(2);
        assert!(recent.insert(1) && recent.insert(2));
        assert!(recent.remove(&1) && !recent.remove(&1));
        assert!(recent.insert(3));
        assert!(recent.contains(&2) && recent.contains(&3));
        assert!(recent.insert(1));
        assert_eq!((recent.order.len(), recent.known.len()), (2, 2));
    }
}
