//! Sessions that callers have opened at an HTTP server: the server keeps them until they are ended,
//! and most clients never end them.
//!
//! In: a session that was opened or used. Out: the one that has to end because its caller has too
//! many. Must not do: end one of another caller, or speak to the server.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::session::Session;
use crate::gateway::permit::Envelope;
use crate::gateway::upstream::Upstream;

/// A caller has no more open sessions than this at a server.
const SESSIONS_PER_CALLER: usize = 64;

/// The open sessions of a server, as far as this gateway has seen them.
#[derive(Default)]
pub struct OpenSessions {
    by_grant: Mutex<HashMap<String, Vec<Open>>>,
}

struct Open {
    id: String,
    envelope: Envelope,
    /// What it was opened at, with the credential at that time; gone once that is no longer in
    /// force.
    upstream: Weak<Upstream>,
    /// Held while a connection or a stream of the session is open.
    session: Weak<Session>,
    used: Instant,
}

/// A session that has to end.
pub struct Surplus {
    /// Its id inside the gateway.
    pub id: String,
    /// What identifies it to the server.
    pub envelope: Envelope,
    /// Where to say that it ends; None where what it was opened with is gone: no other credential
    /// ends it.
    pub upstream: Option<Arc<Upstream>>,
}

impl OpenSessions {
    /// Takes note of a new session; returns the one that has to end for it: the one that was used
    /// longest ago, those first that no connection holds.
    pub fn opened(
        &self,
        grant: &str,
        session: &Arc<Session>,
        upstream: &Arc<Upstream>,
    ) -> Option<Surplus> {
        let envelope = session.envelope();
        // A server that gave no id keeps nothing.
        envelope.session.as_ref()?;
        let mut by_grant = self.lock();
        let opened = by_grant.entry(grant.to_owned()).or_default();
        let surplus = (opened.len() >= SESSIONS_PER_CALLER).then(|| {
            let oldest = opened
                .iter()
                .enumerate()
                .min_by_key(|(_, open)| (open.session.strong_count() > 0, open.used));
            let (at, _) = oldest?;
            let Open {
                id,
                envelope,
                upstream,
                ..
            } = opened.swap_remove(at);
            Some(Surplus {
                id,
                envelope,
                upstream: upstream.upgrade(),
            })
        });
        opened.push(Open {
            id: session.id.clone(),
            envelope,
            upstream: Arc::downgrade(upstream),
            session: Arc::downgrade(session),
            used: Instant::now(),
        });
        surplus.flatten()
    }

    /// Takes note that a session is in use, if it is known.
    pub fn touch(&self, grant: &str, session: &Arc<Session>) {
        let mut by_grant = self.lock();
        let mut opened = by_grant.get_mut(grant).into_iter().flatten();
        if let Some(known) = opened.find(|open| open.id == session.id) {
            known.used = Instant::now();
            known.session = Arc::downgrade(session);
        }
    }

    /// A session has another one at the server now.
    pub fn renewed(&self, grant: &str, session: &Arc<Session>) {
        let mut by_grant = self.lock();
        let mut opened = by_grant.get_mut(grant).into_iter().flatten();
        if let Some(known) = opened.find(|open| open.id == session.id) {
            known.envelope = session.envelope();
            known.session = Arc::downgrade(session);
            known.used = Instant::now();
        }
    }

    /// A session has ended.
    pub fn ended(&self, grant: &str, id: &str) {
        let mut by_grant = self.lock();
        if let Some(opened) = by_grant.get_mut(grant) {
            opened.retain(|open| open.id != id);
            if opened.is_empty() {
                by_grant.remove(grant);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Open>>> {
        self.by_grant.lock()
    }
}
