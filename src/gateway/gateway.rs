//! The gateway of one McpServer: its parts, each of which owns what it keeps.

use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::gateway::approvals::Approvals;
use crate::gateway::counters::Counters;
use crate::gateway::enforce::calls::Calls;
use crate::gateway::force::tls::Transport;
use crate::gateway::force::{Builder, Environment, Followers, Force, Rejected, Sealing, Snapshot};
use crate::gateway::hops;
use crate::gateway::inventory::Inventory;
use crate::gateway::lifetime::Lifetime;
use crate::gateway::notify::Notices;
use crate::gateway::observe::audit::AuditLog;
use crate::gateway::observe::metrics::Metrics;
use crate::gateway::observe::recorder::{ProgramRun, Recorder};
use crate::gateway::served::Served;
use crate::gateway::sessions::ClientSessions;
use crate::gateway::upstream::Upstream;
use crate::policy::bundle::Bundle;
use crate::policy::inventory::Definition;

/// The gateway of one McpServer.
pub struct Gateway {
    served: Served,
    /// What its requests are known by when they come back.
    pub(super) hop: HeaderValue,
    /// The bundle, Secrets and listing that requests are answered by.
    pub(super) force: Force,
    /// What calls have used up, which wait for a person, which are under way.
    pub(super) calls: Calls,
    /// The sessions of clients.
    pub(super) sessions: ClientSessions,
    /// Counts and writes what became of calls.
    pub observe: Recorder,
    /// What is known of the upstream's tools.
    pub inventory: Inventory,
    /// What became of announcements of requests for approval.
    pub notices: Notices,
    pub(super) lifetime: Lifetime,
}

/// What gateways of one process share.
#[derive(Clone)]
pub struct Shared {
    /// This run of the program.
    pub run: ProgramRun,
    /// Where decisions are written.
    pub audit: AuditLog,
    /// The metric families.
    pub metrics: Metrics,
    /// Seals the tokens that clients hand back.
    pub sealing: Sealing,
    /// Where approvals are kept.
    pub approvals: Approvals,
    /// What limits have counted.
    pub counters: Counters,
}

impl Shared {
    /// The name that requests of this server's gateway carry, by which it knows one that comes
    /// back. Replicas share it. A gateway with sealing keys of its own has no replicas, and its
    /// server's UID may be another program's as well, so the name is its own too.
    fn hop(&self, served: &Served) -> HeaderValue {
        match &self.sealing {
            Sealing::Own(_) => hops::name(&format!("{} {}", self.run.name(), served.uid)),
            Sealing::Secret { .. } => hops::name(&served.uid),
        }
    }
}

impl Gateway {
    /// Makes the gateway of a bundle's server, which knows no tools before
    /// [`Gateway::keep_inventory`].
    ///
    /// # Errors
    /// [`Rejected`] when the bundle cannot be enforced or the upstream cannot be used as it is
    /// configured; nothing is left running then.
    pub fn new(
        shared: &Shared,
        environment: Environment,
        bundle: Bundle,
    ) -> Result<Arc<Gateway>, Rejected> {
        let server = Served::of(&bundle.server);
        let mut builder = Builder::new(environment, shared.sealing.clone(), shared.hop(&server));
        let first = builder.bundle(bundle)?;
        let gateway = Gateway::with(shared, builder, server);
        gateway.force.start(first, gateway.followers());
        Ok(gateway)
    }

    /// Makes a gateway that waits for its first bundle and answers 503 until then.
    pub fn waiting(shared: &Shared, environment: Environment, server: Served) -> Arc<Gateway> {
        let builder = Builder::new(environment, shared.sealing.clone(), shared.hop(&server));
        Gateway::with(shared, builder, server)
    }

    fn with(shared: &Shared, builder: Builder, served: Served) -> Arc<Gateway> {
        let force = Force::new(builder);
        Arc::new(Gateway {
            hop: shared.hop(&served),
            calls: Calls::new(shared.counters.of(&served.uid), shared.approvals.clone()),
            sessions: ClientSessions::new(served.uid.clone(), force.subscribe()),
            observe: Recorder::new(
                served.name.clone(),
                shared.run.clone(),
                shared.audit.clone(),
                shared.metrics.clone(),
            ),
            inventory: Inventory::default(),
            notices: Notices::default(),
            lifetime: Lifetime::default(),
            force,
            served,
        })
    }

    fn followers(&self) -> Followers<'_> {
        Followers {
            recorder: &self.observe,
            approvals: self.calls.approvals(),
        }
    }

    /// The server that this gateway is for.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// The snapshot in force; None before the first bundle, or while a Secret is missing.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.force.snapshot()
    }

    /// Follows how the listener speaks to agents.
    pub fn transport(&self) -> watch::Receiver<Transport> {
        self.force.transport()
    }

    /// Follows what is in force.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.force.subscribe()
    }

    /// Puts another bundle into force; calls under way end under the old one.
    ///
    /// # Errors
    /// [`Rejected`]; the previous bundle stays in force, and the report says why.
    pub fn apply(&self, bundle: Bundle) -> Result<(), Rejected> {
        self.force.apply(bundle, &self.served, self.followers())
    }

    /// Notes a bundle that cannot even be read: the previous bundle stays in force, and the report
    /// says why.
    pub fn refuse(&self, why: String) {
        self.force.refuse(why, &self.observe);
    }

    /// Reads Secrets again, from another environment if one is given.
    ///
    /// # Errors
    /// [`Rejected`]; the previous snapshot stays in force, except for callers whose keys are gone.
    pub fn refresh(&self, environment: Option<Environment>) -> Result<(), Rejected> {
        self.force.refresh(environment, self.followers())
    }

    /// Takes a listing of the upstream's tools; false if they are another upstream's than the one
    /// in force.
    pub(super) fn set_listing(&self, of: &Arc<Upstream>, listing: Vec<Definition>) -> bool {
        self.force.set_listing(of, listing, &self.observe)
    }

    /// Ends a caller's session: its token opens nothing any more, and its requests for approval are
    /// withdrawn.
    pub(super) fn end_session(&self, grant: &str, id: &str) {
        self.sessions.end(grant, id);
        self.calls.approvals().session_ended(id, Timestamp::now());
    }

    /// Why the gateway cannot take traffic; None when it can.
    pub fn unready(&self) -> Option<String> {
        if self.lifetime.is_closing() {
            return Some("shutting down".to_owned());
        }
        if self.snapshot().is_some() {
            let why = self.unrecordable();
            return why.map(|why| format!("{why}; every call is refused"));
        }
        let missing = self.missing_secrets();
        Some(match missing.as_slice() {
            [] if self.last_error().is_some() => {
                "no bundle is in force; the newest was refused, and the log says why".to_owned()
            }
            [] => "no bundle is in force".to_owned(),
            missing => format!("Secrets are missing: {}", missing.join(", ")),
        })
    }

    /// Why calls are refused that cannot be recorded; None while they can be, or may go unrecorded.
    pub fn unrecordable(&self) -> Option<String> {
        let refuses = self.snapshot()?.settings.must_record;
        let unwritten = self.observe.unwritten().filter(|_| refuses)?;
        Some(unwritten.to_string())
    }

    /// Why calls with limits are refused whatever they have used; None while they are counted, or
    /// while nothing has a limit.
    pub fn uncounted(&self) -> Option<String> {
        let snapshot = self.snapshot()?;
        if !snapshot.bound.has_limits() {
            return None;
        }
        match &snapshot.counters {
            Some(shared) => shared.trouble(),
            None => self.calls.counters().trouble(),
        }
    }

    /// Secrets, or their keys (`NAME/KEY`), that are referred to and not there.
    pub fn missing_secrets(&self) -> Vec<String> {
        self.force.missing_secrets()
    }

    /// Why the latest bundle was refused, if it was.
    pub fn last_error(&self) -> Option<String> {
        self.force.last_error()
    }

    /// The sequence and revision of the bundle in force.
    pub fn in_force(&self) -> Option<(u64, String)> {
        self.force.in_force()
    }

    /// How many calls wait for a person now.
    pub fn held(&self) -> usize {
        self.calls.held()
    }

    /// Stops taking requests, ends streams, and stops a stdio server's processes. Calls under way
    /// run to their own end; the HTTP server that carries them waits for them before this is
    /// called.
    pub async fn shutdown(&self) {
        self.lifetime.close();
        self.lifetime.ended().await;
        if let Some(snapshot) = self.force.end()
            && let Upstream::Bridge(bridge, _) = &**snapshot.upstreams.own()
        {
            bridge.shutdown().await;
        }
    }

    /// Ends streams and refuses new ones, so that clients go elsewhere; calls continue.
    pub fn drain(&self) {
        self.lifetime.close();
    }
}
