//! The sessions of clients at this gateway.
//!
//! In: tokens of clients, sessions that upstreams open. Out: sessions, and what is remembered about
//! them: those that have ended, those that a caller has open at an HTTP server, and requests of
//! upstreams that wait for an answer. Must not do: send anything to an upstream.

use std::sync::Arc;

use tokio::sync::watch;

use crate::gateway::force::Snapshot;
use crate::gateway::upstream::Upstream;
use crate::protocol::envelope::Id;
use crate::protocol::seal::Sealer;

mod open_sessions;
mod remembered;
mod renewals;
mod session;

use self::open_sessions::OpenSessions;
pub use self::open_sessions::Surplus;
use self::remembered::Remembered;
use self::renewals::Renewals;
pub use self::renewals::{Opening, Renewable};
use self::session::ServerRequests;
pub use self::session::{LastSession, Resumed, Session};

/// What a gateway remembers about the sessions of its clients.
pub struct ClientSessions {
    server_uid: String,
    in_force: watch::Receiver<Option<Arc<Snapshot>>>,
    ended: Remembered<()>,
    /// What callers have open at an HTTP server.
    open: OpenSessions,
    requests: ServerRequests,
    /// Those that can be opened again there.
    renewals: Renewals,
}

impl ClientSessions {
    /// For the server with this UID; sealed with the keys of what is in force.
    pub fn new(server_uid: String, in_force: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        ClientSessions {
            server_uid,
            in_force,
            ended: Remembered::default(),
            open: OpenSessions::default(),
            requests: ServerRequests::default(),
            renewals: Renewals::default(),
        }
    }

    /// The sealer of what is in force.
    fn sealer(&self) -> Option<Arc<Sealer>> {
        let in_force = self.in_force.borrow();
        in_force
            .as_ref()
            .map(|snapshot| Arc::clone(&snapshot.sealer))
    }

    /// Ends a caller's session: its token opens nothing from now on.
    pub fn end(&self, grant: &str, id: &str) {
        self.ended.insert(grant, id.to_owned(), ());
        self.renewals.forget(id);
    }

    /// Whether a session has ended.
    pub fn has_ended(&self, id: &str) -> bool {
        self.ended.contains(id)
    }

    /// Takes note of a new session at an HTTP server; returns the one that has to end for it, if
    /// its caller has too many. `opening` is what it can be opened with again.
    pub fn opened_upstream(
        &self,
        grant: &str,
        session: &Arc<Session>,
        upstream: &Arc<Upstream>,
        opening: Opening,
    ) -> Option<Surplus> {
        if session.is_upstreams() {
            self.renewals.opened(grant, &session.id, opening);
        }
        self.open.opened(grant, session, upstream)
    }

    /// What a session can be opened with again, if this gateway has opened it.
    pub fn renewable(&self, id: &str) -> Option<Arc<Renewable>> {
        self.renewals.of(id)
    }

    /// Takes note that a session has another one at its server now: `session` has both.
    pub fn renewed(&self, grant: &str, renewable: &Renewable, session: &Arc<Session>) {
        if let Some(upstream) = session.upstream() {
            self.renewals.renewed(renewable, upstream.clone());
            self.open.renewed(grant, session);
        }
    }

    /// A session is not opened again any more.
    pub fn not_renewable(&self, id: &str) {
        self.renewals.forget(id);
    }

    /// Takes note that a session has ended at an HTTP server.
    pub fn closed_upstream(&self, grant: &str, id: &str) {
        self.open.ended(grant, id);
    }

    /// Remembers a request of the upstream, which the client knows by its sealed id.
    pub fn remember_request(&self, grant: &str, session: &str, id: &Id<'_>, sealed: &str) {
        self.requests.remember(grant, session, id, sealed);
    }

    /// The upstream gives up a request of its own; returns the id by which the client knows it, if
    /// it is open.
    pub fn cancel_request(&self, session: &str, id: &Id<'_>) -> Option<String> {
        self.requests.cancel(session, id)
    }
}
