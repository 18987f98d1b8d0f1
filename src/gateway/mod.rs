//! The data plane: HTTP in, policy on every message, HTTP out or a child process.
//!
//! In: bundles, Secrets, requests of MCP clients. Out: answers, audit records, metrics, a report. One [`Gateway`] guards one
//! McpServer. It holds no policy of its own, and fails closed: without a snapshot every request is answered 503.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod again;
pub mod approvals;
pub mod body;
pub mod bridge;
pub mod budget;
pub mod counters;
pub mod enforce;
pub mod floor;
pub mod force;
pub mod grants;
mod hold;
mod hops;
pub mod http;
pub mod inventory;
pub mod observe;
mod offload;
mod opened;
mod permit;
pub mod process;
mod relay;
mod request_ids;
pub mod run;
pub mod server;
mod session;
mod trace;
pub mod upstream;

use self::approvals::Approvals;
use self::counters::{Counters, Local};
use self::force::tls::Transport;
use self::force::{Builder, Environment, Rejected, Sealing, Snapshot};
use self::hold::Holds;
use self::inventory::Inventory;
use self::observe::audit::AuditLog;
use self::observe::metrics::Metrics;
use self::observe::recorder::Recorder;
use self::opened::Opened;
use self::permit::Permit;
use self::request_ids::RequestIds;
use self::session::{Remembered, ServerRequests};
use crate::policy::bundle::{Bundle, BundleServer};
use crate::policy::inventory::Definition;
use crate::protocol::seal::Sealer;

/// How long an answer to an upstream's own request may take to be delivered.
const ANSWER_UPSTREAM: Duration = Duration::from_secs(10);
/// As many of them are under way at once.
const TELLINGS: usize = 64;

/// The gateway of one McpServer.
pub struct Gateway {
    uid: String,
    /// What its requests are known by when they come back.
    hop: ::http::HeaderValue,
    /// Counts and writes what became of calls.
    pub recorder: Recorder,
    counters: Arc<Local>,
    approvals: Approvals,
    holds: Holds,
    request_ids: RequestIds,
    requests: ServerRequests,
    ended: Remembered<()>,
    /// What callers have open at an HTTP server.
    opened: Opened,
    /// What is known of the upstream's tools.
    pub inventory: Inventory,
    /// Bounds what is told to the upstream at once: it decides how much there is to refuse.
    telling: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    transport: watch::Sender<Transport>,
    builder: Mutex<Builder>,
    last_error: Mutex<Option<String>>,
}

/// The server that a gateway is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// `namespace/name`.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Served {
    fn of(server: &BundleServer) -> Self {
        Served {
            name: format!("{}/{}", server.namespace, server.name),
            uid: server.uid.clone(),
        }
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.uid)
    }
}

/// What gateways of one process share.
#[derive(Clone)]
pub struct Shared {
    /// Names this run of the program.
    pub instance: String,
    /// Where decisions are written.
    pub audit: AuditLog,
    /// The metric families.
    pub metrics: Metrics,
    /// What seals that which clients hand back.
    pub sealing: Sealing,
    /// Where approvals are kept.
    pub approvals: Approvals,
    /// What limits have counted.
    pub counters: Counters,
}

impl Gateway {
    /// Makes the gateway of a bundle's server, which knows no tools before [`Gateway::keep_inventory`].
    ///
    /// # Errors
    /// [`Rejected`] when the bundle cannot be enforced or the upstream cannot be used as it is configured; nothing is left
    /// running then.
    pub fn new(
        shared: &Shared,
        environment: Environment,
        bundle: Bundle,
    ) -> Result<Arc<Gateway>, Rejected> {
        let server = Served::of(&bundle.server);
        let mut builder = Builder::new(environment, shared.sealing.clone());
        let first = builder.bundle(bundle)?;
        let gateway = Gateway::with(shared, builder, server);
        gateway.swap(&gateway.builder(), first);
        Ok(gateway)
    }

    /// Makes a gateway that waits for its first bundle and answers 503 until then. Must be called within a Tokio runtime.
    pub fn waiting(shared: &Shared, environment: Environment, server: Served) -> Arc<Gateway> {
        let builder = Builder::new(environment, shared.sealing.clone());
        let gateway = Gateway::with(shared, builder, server);
        gateway.keep_inventory();
        gateway
    }

    fn with(shared: &Shared, builder: Builder, server: Served) -> Arc<Gateway> {
        Arc::new(Gateway {
            recorder: Recorder::new(
                server.name,
                shared.instance.clone(),
                shared.audit.clone(),
                shared.metrics.clone(),
            ),
            counters: shared.counters.of(&server.uid),
            hop: hops::name(&server.uid),
            uid: server.uid,
            approvals: shared.approvals.clone(),
            holds: Holds::default(),
            request_ids: RequestIds::default(),
            requests: ServerRequests::default(),
            ended: Remembered::default(),
            opened: Opened::default(),
            inventory: Inventory::default(),
            telling: Arc::new(Semaphore::new(TELLINGS)),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            current: watch::Sender::new(None),
            transport: watch::Sender::new(builder.transport().clone()),
            builder: Mutex::new(builder),
            last_error: Mutex::new(None),
        })
    }

    /// Starts to list the server's tools, and goes on doing so. To be called once, when the gateway is where its clients find
    /// it: a server whose URL leads back to it is recognized only then. Must be called within a Tokio runtime.
    pub fn keep_inventory(self: &Arc<Self>) {
        self.tasks.spawn(inventory::keep(Arc::downgrade(self)));
    }

    /// The server that this gateway is for.
    pub fn served(&self) -> Served {
        Served {
            name: self.recorder.server().to_owned(),
            uid: self.uid.clone(),
        }
    }

    /// What is in force now; None before the first bundle, or while a Secret is missing.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }

    /// The sealer of what is in force.
    fn sealer(&self) -> Option<Arc<Sealer>> {
        let current = self.current.borrow();
        current
            .as_ref()
            .map(|snapshot| Arc::clone(&snapshot.sealer))
    }

    /// Follows how agents are to be spoken to.
    pub fn transport(&self) -> watch::Receiver<Transport> {
        self.transport.subscribe()
    }

    /// Follows what is in force.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.current.subscribe()
    }

    /// Puts another bundle into force; calls under way end under the old one.
    ///
    /// # Errors
    /// [`Rejected`]; what was in force stays, and the report says why.
    pub fn apply(&self, bundle: Bundle) -> Result<(), Rejected> {
        // Held until the swap: of two changes at once, the one that was built last must also be in force last.
        let mut builder = self.builder();
        let server = Served::of(&bundle.server);
        let built = if server == self.served() {
            builder.bundle(bundle)
        } else {
            Err(Rejected::Foreign {
                offered: server.to_string(),
                own: self.served().to_string(),
            })
        };
        self.took(&builder, built)
    }

    /// Takes note of a bundle that cannot even be read: what is in force stays, and the report says why.
    pub fn refuse(&self, why: String) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.recorder.bundle_refused();
    }

    /// Reads Secrets again, from another environment if one is given.
    ///
    /// # Errors
    /// [`Rejected`]; what was in force stays, but for callers whose keys are gone.
    pub fn refresh(&self, environment: Option<Environment>) -> Result<(), Rejected> {
        let mut builder = self.builder();
        if let Some(environment) = environment {
            builder.environment(environment);
        }
        let built = builder.again();
        let taken = self.took(&builder, built);
        if taken.is_err()
            && let Some(snapshot) = self.snapshot()
            && let Some(regranted) = builder.with_callers_of_now(&snapshot)
        {
            self.current.send_replace(Some(regranted));
        }
        taken
    }

    /// Takes a listing of the upstream's tools.
    /// False if they are another upstream's than the one in force: what that one lists says nothing of this one.
    fn set_listing(&self, of: &Arc<upstream::Upstream>, listing: Vec<Definition>) -> bool {
        let mut builder = self.builder();
        if !builder.is_upstream(of) {
            return false;
        }
        match builder.listing(listing) {
            Ok(None) => {}
            Ok(Some(snapshot)) => {
                self.current.send_replace(Some(snapshot));
            }
            Err(error) => {
                tracing::error!(server = self.recorder.server(), %error, "a listing could not be used")
            }
        }
        true
    }

    fn took(
        &self,
        builder: &Builder,
        built: Result<Option<Arc<Snapshot>>, Rejected>,
    ) -> Result<(), Rejected> {
        match built {
            Ok(snapshot) => {
                *self
                    .last_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = None;
                self.swap(builder, snapshot);
                Ok(())
            }
            Err(error) => {
                self.refuse(error.to_string());
                self.speak_as(builder);
                Err(error)
            }
        }
    }

    fn swap(&self, builder: &Builder, snapshot: Option<Arc<Snapshot>>) {
        let now_in_force = snapshot.as_ref().map(|snapshot| {
            let server = Arc::clone(&snapshot.server);
            (server, Arc::clone(&snapshot.destination))
        });
        if let Some(snapshot) = &snapshot {
            self.recorder.in_force(&snapshot.revision);
            if let Some(bundle) = builder.in_force() {
                let policies = bundle.policies.iter().map(|policy| &policy.uid);
                let blocked = bundle.blocked.iter().map(|blocked| &blocked.uid);
                let uids: HashSet<&str> = policies.chain(blocked).map(String::as_str).collect();
                self.recorder.settle(|by| uids.contains(&*by.uid));
            }
        }
        // The listener first: under a spec that asks for TLS nobody is to be let in without.
        self.speak_as(builder);
        self.current.send_replace(snapshot);
        // Afterwards: calls that still look at the former snapshot are held to the new one before they use an approval.
        if let Some((server, destination)) = now_in_force {
            let (namespace, name) = (&server.namespace, &server.name);
            self.approvals.destination_changed(
                namespace,
                name,
                &destination.digest,
                Timestamp::now(),
            );
        }
    }

    /// A session has ended: its token opens no more, and what it asked people for is withdrawn.
    fn end_session(&self, id: &str) {
        self.ended.insert(id.to_owned(), ());
        self.approvals.session_ended(id, Timestamp::now());
    }

    fn speak_as(&self, builder: &Builder) {
        self.transport.send_if_modified(|transport| {
            let modified = !transport.same(builder.transport());
            transport.clone_from(builder.transport());
            modified
        });
    }

    fn builder(&self) -> MutexGuard<'_, Builder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the gateway cannot take traffic; None when it can.
    pub fn unready(&self) -> Option<String> {
        if self.closing.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        if self.snapshot().is_some() {
            let why = self.unrecordable();
            return why.map(|why| format!("{why}; every call is refused"));
        }
        let missing = self.builder().missing().to_vec();
        Some(match missing.as_slice() {
            [] if self.last_error().is_some() => {
                "no bundle is in force; the newest was refused, and the log says why".to_owned()
            }
            [] => "no bundle is in force".to_owned(),
            missing => format!("Secrets are missing: {}", missing.join(", ")),
        })
    }

    /// Why calls are refused that cannot be recorded; None while they can be, or go on without.
    pub fn unrecordable(&self) -> Option<String> {
        let refuses = self.snapshot()?.settings.must_record;
        let unwritten = self.recorder.unwritten().filter(|_| refuses)?;
        Some(unwritten.to_string())
    }

    /// Secrets, or their keys (`NAME/KEY`), that are referred to and not there.
    pub fn missing_secrets(&self) -> Vec<String> {
        self.builder().missing().to_vec()
    }

    /// Why the latest bundle was refused, if it was.
    pub fn last_error(&self) -> Option<String> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The sequence and revision of the bundle in force.
    pub fn in_force(&self) -> Option<(u64, String)> {
        self.builder()
            .in_force()
            .map(|bundle| (bundle.sequence, bundle.revision.clone()))
    }

    /// How many calls wait for a person now.
    pub fn held(&self) -> usize {
        self.holds.count()
    }

    /// Tells the upstream something in a client's session, such as a refusal of its own request.
    async fn answer_upstream(&self, permit: Permit) {
        let Some(snapshot) = self.snapshot() else {
            return;
        };
        if let Err(error) = snapshot.upstream.call(permit, ANSWER_UPSTREAM).await {
            tracing::debug!(server = self.recorder.server(), %error, "an answer to the upstream was not delivered");
        }
    }

    /// Stops taking requests, ends streams, and stops a stdio server's processes. Calls under way go on until their own end;
    /// the HTTP server that carries them waits for them before this is called.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let snapshot = self.current.send_replace(None);
        if let Some(snapshot) = snapshot
            && let upstream::Upstream::Bridge(bridge) = &*snapshot.upstream
        {
            bridge.shutdown().await;
        }
    }

    /// Ends streams and refuses new ones, so that clients go elsewhere; calls go on.
    pub fn drain(&self) {
        self.closing.cancel();
    }
}
