//! Who wants to hear of which resource of the shared child.
//!
//! In: sessions and URIs. Out: what to send to the child, and which sessions get an update. Bounded
//! in bytes, for all callers together and for each: a URI can be as long as a request.

use std::collections::{HashMap, HashSet};

use crate::gateway::bridge::session::BridgeSession;

/// For all subscriptions of a server.
const TOTAL_URI_BYTES: usize = 8 << 20;
/// For those of one caller.
const CALLER_URI_BYTES: usize = 1 << 20;
/// What one takes beside its URI, which is kept twice.
const OVERHEAD_BYTES: usize = 256;

/// The subscriptions of a child.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// Sessions by URI.
    by_uri: HashMap<String, HashSet<String>>,
    bytes: usize,
    by_caller: HashMap<String, usize>,
}

/// There is no room for another subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("this caller has as many subscriptions as one caller may have; unsubscribe from some")]
    Caller,
    #[error("this server has as many subscriptions as it can have; retry later")]
    All,
}

impl Subscribers {
    /// Whether that is new for the session.
    pub(super) fn subscribe(&mut self, session: &BridgeSession, uri: &str) -> Result<bool, NoRoom> {
        if self
            .by_uri
            .get(uri)
            .is_some_and(|sessions| sessions.contains(&session.id))
        {
            return Ok(false);
        }
        let cost = cost(uri);
        let own = self.by_caller.get(&session.caller).copied().unwrap_or(0);
        if own + cost > CALLER_URI_BYTES {
            return Err(NoRoom::Caller);
        }
        if self.bytes + cost > TOTAL_URI_BYTES {
            return Err(NoRoom::All);
        }
        self.bytes += cost;
        self.by_caller.insert(session.caller.clone(), own + cost);
        let sessions = self.by_uri.entry(uri.to_owned()).or_default();
        Ok(sessions.insert(session.id.clone()))
    }

    /// Whether that was the last one: only then does the child get the message.
    pub(super) fn unsubscribe(&mut self, session: &BridgeSession, uri: &str) -> bool {
        let Some(sessions) = self.by_uri.get_mut(uri) else {
            return false;
        };
        if !sessions.remove(&session.id) {
            return false;
        }
        let last = sessions.is_empty();
        if last {
            self.by_uri.remove(uri);
        }
        let cost = cost(uri);
        self.bytes = self.bytes.saturating_sub(cost);
        if let Some(own) = self.by_caller.get_mut(&session.caller) {
            *own = own.saturating_sub(cost);
            if *own == 0 {
                self.by_caller.remove(&session.caller);
            }
        }
        last
    }

    /// What a session is subscribed to.
    pub(super) fn of(&self, session: &str) -> Vec<String> {
        let of_it = self.by_uri.iter().filter(|(_, who)| who.contains(session));
        of_it.map(|(uri, _)| uri.clone()).collect()
    }

    /// Who is subscribed to it.
    pub(super) fn to(&self, uri: &str) -> Vec<String> {
        let sessions = self.by_uri.get(uri);
        sessions.map_or_else(Vec::new, |sessions| sessions.iter().cloned().collect())
    }

    /// Every URI with a subscription.
    pub(super) fn uris(&self) -> Vec<String> {
        self.by_uri.keys().cloned().collect()
    }
}

fn cost(uri: &str) -> usize {
    2 * uri.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_its_share_whatever_the_number_and_length_and_it_comes_back() {
        for length in [1, 1_000, 400_000] {
            let mut all = Subscribers::default();
            let (one, two) = (BridgeSession::new("greedy"), BridgeSession::new("greedy"));
            let calm = BridgeSession::new("calm");
            let mut held = Vec::new();
            let refused = (0..).find_map(|number| {
                let uri = format!("{number}{}", "x".repeat(length));
                let session = if number % 2 == 0 { &one } else { &two };
                let taken = all.subscribe(session, &uri);
                held.push((session, uri));
                taken.err()
            });
            assert_eq!(refused, Some(NoRoom::Caller));
            assert!(all.bytes <= CALLER_URI_BYTES);
            assert_eq!(all.subscribe(&calm, "file:///a"), Ok(true));
            assert_eq!(all.subscribe(&calm, "file:///a"), Ok(false));
            for (session, uri) in &held {
                all.unsubscribe(session, uri);
                assert!(!all.unsubscribe(session, uri), "once");
            }
            assert!(all.unsubscribe(&calm, "file:///a"));
            assert_eq!(
                (all.bytes, all.by_caller.len(), all.by_uri.len()),
                (0, 0, 0)
            );
        }
    }

    #[test]
    fn many_callers_together_have_a_bounded_amount() {
        let mut all = Subscribers::default();
        let refused = (0..1_000).find_map(|number| {
            let session = BridgeSession::new(&number.to_string());
            all.subscribe(&session, &"x".repeat(100_000)).err()
        });
        assert_eq!(refused, Some(NoRoom::All));
    }
}
