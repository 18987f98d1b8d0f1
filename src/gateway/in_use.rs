//! Which request ids are in use at the upstream, and whether anything else spoke of one while it was.
//!
//! A limit's units come back when the upstream itself answers a call with an error. A client must not be able to bring that
//! about for a call that was made: by cancelling it (servers answer a cancelled call with an error, whatever it has done),
//! or by making another request under its id (a server may give the answer of one to the other).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::upstream::Envelope;

/// The request's id, a line feed, which no id as JSON holds, and the session as the upstream knows it.
type Key = Arc<[u8]>;

/// Every id of a gateway that is in use.
#[derive(Clone, Default)]
pub struct InUse {
    ids: Arc<Mutex<HashMap<Key, Users>>>,
}

struct Users {
    count: usize,
    disputed: Arc<AtomicBool>,
}

impl InUse {
    /// Uses an id (as JSON) until the guard is dropped. A cancellation of the id uses it too, for as long as it is on its way.
    pub fn enter(&self, envelope: &Envelope, id: &str) -> Use {
        let session = envelope.session.as_ref();
        let session = session.map_or(&[][..], |session| session.as_bytes());
        // A server may take the string "7" and the number 7 for one id.
        let id = id.trim_matches('"').as_bytes();
        let key: Key = [id, b"\n", session].concat().into();
        let disputed = match self.lock().entry(Arc::clone(&key)) {
            Entry::Occupied(mut entry) => {
                let users = entry.get_mut();
                users.count += 1;
                users.disputed.store(true, Ordering::SeqCst);
                Arc::clone(&users.disputed)
            }
            Entry::Vacant(entry) => {
                let disputed = Arc::new(AtomicBool::new(false));
                entry.insert(Users {
                    count: 1,
                    disputed: Arc::clone(&disputed),
                });
                disputed
            }
        };
        Use {
            of: self.clone(),
            key,
            disputed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Users>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One use of an id.
pub struct Use {
    of: InUse,
    key: Key,
    disputed: Arc<AtomicBool>,
}

impl Use {
    /// Tells, also after this use, whether something else used the id at the same time.
    pub fn dispute(&self) -> Dispute {
        Dispute(Arc::clone(&self.disputed))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut ids = self.of.lock();
        if let Entry::Occupied(mut entry) = ids.entry(Arc::clone(&self.key)) {
            entry.get_mut().count -= 1;
            if entry.get().count == 0 {
                entry.remove();
            }
        }
    }
}

/// Whether an id was used twice at once.
#[derive(Clone)]
pub struct Dispute(Arc<AtomicBool>);

impl Dispute {
    /// True from the moment at which something else used it.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_used_twice_at_once_is_disputed_for_all_its_users() {
        let (ids, session) = (InUse::default(), Envelope::default());
        let call = ids.enter(&session, "7");
        let other = ids.enter(&session, "8");
        assert!(!call.dispute().is_open());
        drop(ids.enter(&session, "\"7\""));
        assert!(call.dispute().is_open() && !other.dispute().is_open());
        drop(call);
        assert!(!ids.enter(&session, "7").dispute().is_open());
        drop(other);
        assert!(ids.lock().is_empty());
    }

    #[test]
    fn sessions_of_the_upstream_have_ids_of_their_own() {
        let ids = InUse::default();
        let session = |id: &'static str| Envelope {
            session: Some(http::HeaderValue::from_static(id)),
            ..Envelope::default()
        };
        let call = ids.enter(&session("a"), "7");
        let _other = ids.enter(&session("b"), "7");
        assert!(!call.dispute().is_open());
    }
}
