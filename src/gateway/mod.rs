//! The data plane: HTTP in, policy on every message, HTTP out or a child process.
//!
//! In: bundles, Secrets, requests of MCP clients. Out: answers, audit records, metrics, a report. One [`Gateway`] guards one
//! McpServer. It holds no policy of its own, and fails closed: without a snapshot every request is answered 503.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod again;
pub mod approvals;
pub mod audit;
pub mod body;
pub mod bridge;
pub mod counters;
pub mod enforce;
pub mod grants;
mod hold;
pub mod http;
mod in_use;
pub mod inventory;
pub mod metrics;
pub mod record;
mod relay;
pub mod report;
pub mod server;
mod session;
pub mod snapshot;
mod trace;
pub mod upstream;

use self::approvals::Approvals;
use self::audit::AuditLog;
use self::counters::Local;
use self::enforce::Permit;
use self::hold::Holds;
use self::in_use::InUse;
use self::inventory::Inventory;
use self::metrics::Metrics;
use self::record::Recorder;
use self::session::{Remembered, ServerRequests, Session};
use self::snapshot::{Builder, Environment, Rejected, Snapshot};
use crate::policy::bundle::Bundle;
use crate::policy::inventory::Definition;
use crate::protocol::seal::Sealer;

/// How long an answer to an upstream's own request may take to be delivered.
const ANSWER_UPSTREAM: Duration = Duration::from_secs(10);
/// As many of them are under way at once.
const TELLINGS: usize = 64;

/// The gateway of one McpServer.
pub struct Gateway {
    uid: String,
    /// Counts and writes what became of calls.
    pub recorder: Recorder,
    counters: Local,
    approvals: Approvals,
    holds: Holds,
    in_use: InUse,
    requests: ServerRequests,
    ended: Remembered<()>,
    /// What is known of the upstream's tools.
    pub inventory: Inventory,
    sealer: Arc<Sealer>,
    /// Bounds what is told to the upstream at once: it decides how much there is to refuse.
    telling: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    builder: Mutex<Builder>,
    last_error: Mutex<Option<String>>,
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
    /// Seals what clients hand back.
    pub sealer: Arc<Sealer>,
    /// Where approvals are kept.
    pub approvals: Approvals,
}

impl Gateway {
    /// Makes the gateway of a bundle's server and starts to list its tools. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Rejected`] when the bundle cannot be enforced or the upstream cannot be used as it is configured; nothing is left
    /// running then.
    pub fn start(
        shared: &Shared,
        environment: Environment,
        bundle: Bundle,
    ) -> Result<Arc<Gateway>, Rejected> {
        let server = format!("{}/{}", bundle.server.namespace, bundle.server.name);
        let uid = bundle.server.uid.clone();
        let mut builder = Builder::new(environment);
        let first = builder.bundle(bundle)?;
        let gateway = Arc::new(Gateway {
            recorder: Recorder::new(
                server,
                shared.instance.clone(),
                shared.audit.clone(),
                shared.metrics.clone(),
            ),
            uid,
            counters: Local::default(),
            approvals: shared.approvals.clone(),
            holds: Holds::default(),
            in_use: InUse::default(),
            requests: ServerRequests::default(),
            ended: Remembered::default(),
            inventory: Inventory::default(),
            sealer: Arc::clone(&shared.sealer),
            telling: Arc::new(Semaphore::new(TELLINGS)),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            current: watch::Sender::new(None),
            builder: Mutex::new(builder),
            last_error: Mutex::new(None),
        });
        gateway.swap(first);
        gateway
            .tasks
            .spawn(inventory::keep(Arc::downgrade(&gateway)));
        Ok(gateway)
    }

    /// What is in force now; None before the first bundle, or while a Secret is missing.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
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
        let built = builder.bundle(bundle);
        self.took(built)
    }

    /// Reads Secrets again, from another environment if one is given.
    ///
    /// # Errors
    /// [`Rejected`]; what was in force stays.
    pub fn refresh(&self, environment: Option<Environment>) -> Result<(), Rejected> {
        let mut builder = self.builder();
        if let Some(environment) = environment {
            builder.environment(environment);
        }
        let built = builder.again();
        self.took(built)
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

    fn took(&self, built: Result<Option<Arc<Snapshot>>, Rejected>) -> Result<(), Rejected> {
        let mut last_error = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match built {
            Ok(snapshot) => {
                *last_error = None;
                drop(last_error);
                self.swap(snapshot);
                Ok(())
            }
            Err(error) => {
                *last_error = Some(error.to_string());
                self.recorder.bundle_refused();
                Err(error)
            }
        }
    }

    fn swap(&self, snapshot: Option<Arc<Snapshot>>) {
        if let Some(snapshot) = &snapshot {
            self.recorder.in_force(&snapshot.revision);
        }
        self.current.send_replace(snapshot);
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
            return None;
        }
        let missing = self.builder().missing().to_vec();
        Some(match missing.as_slice() {
            [] => "no bundle is in force".to_owned(),
            missing => format!("Secrets are missing: {}", missing.join(", ")),
        })
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

    /// Tells the upstream something in a client's session: a refusal of its own request.
    async fn answer_upstream(&self, session: &Session, body: Vec<u8>) {
        let Some(snapshot) = self.snapshot() else {
            return;
        };
        let permit = Permit::undecided(::http::Method::POST, session.envelope(), body.into());
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
