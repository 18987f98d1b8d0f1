//! Calls that the shared child has not answered yet.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gateway::bridge::session::BridgeSession;
use crate::gateway::bridge::stream::Sender;
use crate::gateway::bridge::wire::Id;

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Origin {
    Client {
        session: Arc<BridgeSession>,
        /// As the client knows it.
        id: Id,
        /// The client's progress token, raw.
        token: Option<String>,
        reply: Sender,
        /// The resource that this subscribes to, if the child agrees.
        subscribes: Option<String>,
    },
    /// The bridge itself, which does not look at the answer.
    Bridge,
}

/// Why a call cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Duplicate,
    TooMany,
    /// The child that it was meant for has ended.
    Gone,
}

/// The table of calls, by our id.
#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: HashMap<i64, (u64, Origin)>,
    /// Our ids by session and client id.
    by_session: HashMap<String, HashMap<Id, i64>>,
    /// Children up to this one take no more calls.
    ended: u64,
}

impl Pending {
    pub(super) fn insert(
        &mut self,
        ours: i64,
        generation: u64,
        origin: Origin,
        most: usize,
    ) -> Result<(), Refused> {
        if generation <= self.ended {
            return Err(Refused::Gone);
        }
        if let Origin::Client { session, id, .. } = &origin {
            let ids = self.by_session.get(&session.id);
            if let Some(used) = ids.and_then(|ids| ids.get(id)).copied() {
                // One whose client no longer reads is over for that client, which may use its id
                // again.
                if !self.is_unread(used) {
                    return Err(Refused::Duplicate);
                }
                self.take(used);
            }
            let of_session = self.by_session.get(&session.id);
            if of_session.map_or(0, HashMap::len) >= most && !self.forget_one(&session.id) {
                return Err(Refused::TooMany);
            }
            let ids = self.by_session.entry(session.id.clone()).or_default();
            ids.insert(id.clone(), ours);
        }
        self.calls.insert(ours, (generation, origin));
        Ok(())
    }

    /// Drops the oldest call of a session whose client no longer reads; its answer will go nowhere.
    fn forget_one(&mut self, session: &str) -> bool {
        let Some(ids) = self.by_session.get(session) else {
            return false;
        };
        let unread = ids.values().copied().filter(|ours| self.is_unread(*ours));
        let oldest = unread.min();
        oldest.is_some_and(|ours| self.take(ours).is_some())
    }

    fn is_unread(&self, ours: i64) -> bool {
        matches!(self.get(ours), Some(Origin::Client { reply, .. }) if reply.is_closed())
    }

    pub(super) fn get(&self, ours: i64) -> Option<&Origin> {
        self.calls.get(&ours).map(|(_, origin)| origin)
    }

    pub(super) fn take(&mut self, ours: i64) -> Option<Origin> {
        let (_, origin) = self.calls.remove(&ours)?;
        if let Origin::Client { session, id, .. } = &origin
            && let Some(ids) = self.by_session.get_mut(&session.id)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.by_session.remove(&session.id);
            }
        }
        Some(origin)
    }

    pub(super) fn take_of(&mut self, session: &str, id: &Id) -> Option<(i64, Origin)> {
        let ours = *self.by_session.get(session)?.get(id)?;
        Some((ours, self.take(ours)?))
    }

    /// All calls of a session that ends.
    pub(super) fn take_all_of(&mut self, session: &str) -> Vec<Origin> {
        let ids = self.by_session.get(session);
        let ours: Vec<i64> = ids.map_or_else(Vec::new, |ids| ids.values().copied().collect());
        ours.into_iter()
            .filter_map(|ours| self.take(ours))
            .collect()
    }

    /// Whether a client of the session waits for an answer and still reads.
    pub(super) fn awaited(&self, session: &str) -> bool {
        let Some(ids) = self.by_session.get(session) else {
            return false;
        };
        ids.values().any(|ours| {
            matches!(self.get(*ours), Some(Origin::Client { reply, .. }) if !reply.is_closed())
        })
    }

    /// Closes the table for a child, and gives what it leaves unanswered.
    pub(super) fn end(&mut self, generation: u64) -> Vec<Origin> {
        self.ended = self.ended.max(generation);
        let left: Vec<i64> = self.calls.keys().copied().collect();
        left.into_iter()
            .filter_map(|ours| self.take(ours))
            .collect()
    }
}
