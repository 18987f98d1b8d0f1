//! A number for each caller's list of tools under one snapshot, which shows whether the list has
//! changed.
//!
//! In: the rules of a snapshot and a caller. Out: a number that stands for the list. It is made
//! once for all streams of a caller: a list can have 10,000 names, and a caller hundreds of
//! streams. Must not do: decide what a caller may see or call.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::policy::{Bound, Caller};

/// Lists of no more callers than this are remembered; then all are forgotten and made again as they
/// are asked for.
const MAX_CALLERS: usize = 1_024;

/// The lists that were made under a snapshot.
#[derive(Debug, Default)]
pub struct Lists {
    /// Conditions read the session: two of one caller can see different tools.
    by_session: bool,
    made: Mutex<HashMap<(String, String), Vec<Made>>>,
}

#[derive(Debug)]
struct Made {
    /// Two callers of one name may differ in what else is known of them.
    caller: Arc<Caller>,
    list: Arc<OnceLock<u64>>,
}

impl Lists {
    /// For policies whose conditions do or do not read the session.
    pub fn new(by_session: bool) -> Self {
        Lists {
            by_session,
            ..Lists::default()
        }
    }

    /// What stands for the list that the caller has under the rules of this snapshot.
    pub fn of(&self, bound: &Bound, caller: &Arc<Caller>, session: &str) -> u64 {
        // Only callers that ask for the same list at this moment wait for it.
        *self
            .entry(caller, session)
            .get_or_init(|| list(bound, caller, session))
    }

    fn entry(&self, caller: &Arc<Caller>, session: &str) -> Arc<OnceLock<u64>> {
        let session = if self.by_session { session } else { "" };
        let mut made = self.made.lock();
        if made.len() >= MAX_CALLERS {
            made.clear();
        }
        let key = (caller.grant.clone(), session.to_owned());
        let made = made.entry(key).or_default();
        if let Some(made) = made.iter().find(|made| made.caller == *caller) {
            return Arc::clone(&made.list);
        }
        if made.len() >= MAX_CALLERS {
            made.clear();
        }
        let list = Arc::default();
        made.push(Made {
            caller: Arc::clone(caller),
            list: Arc::clone(&list),
        });
        list
    }
}

fn list(bound: &Bound, caller: &Caller, session: &str) -> u64 {
    let now = Timestamp::now();
    let mut names = DefaultHasher::new();
    for tool in bound.tools() {
        if bound.visible(&tool.name, caller, session, now) {
            tool.name.hash(&mut names);
        }
    }
    names.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_is_made_for_all_streams_of_a_caller() {
        let (one, again) = (Arc::new(Caller::key("a")), Arc::new(Caller::key("a")));
        let other = Arc::new(Caller::key("b"));
        let lists = Lists::new(false);
        let first = lists.entry(&one, "s");
        assert!(Arc::ptr_eq(&first, &lists.entry(&again, "t")));
        assert!(!Arc::ptr_eq(&first, &lists.entry(&other, "s")));
        let lists = Lists::new(true);
        let first = lists.entry(&one, "s");
        assert!(Arc::ptr_eq(&first, &lists.entry(&again, "s")));
        assert!(!Arc::ptr_eq(&first, &lists.entry(&one, "t")));
        for number in 0..3 * MAX_CALLERS {
            lists.entry(&one, &number.to_string());
        }
        assert!(lists.made.lock().len() <= MAX_CALLERS);
    }
}
