//! What is in force: turns bundles, Secrets and listings into one snapshot for requests.
//!
//! In: bundles, listings, another environment. Out: the snapshot in force, and how the listener is
//! to speak. A change that is refused keeps the previous snapshot. Must not do: apply two changes
//! in another order than they were built.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

mod builder;
mod callers;
mod counters;
pub mod credentials;
pub mod destination;
mod lists;
pub mod plan;
mod rejected;
mod replays;
pub mod secrets;
pub mod settings;
pub mod snapshot;
pub mod tls;
pub mod withheld;

pub use self::builder::{Builder, Environment, Sealing};
pub use self::lists::Lists;
pub use self::rejected::Rejected;
pub use self::replays::Replays;
pub use self::settings::Settings;
pub use self::snapshot::Snapshot;

use self::tls::Transport;
use crate::gateway::approvals::Approvals;
use crate::gateway::observe::recorder::Recorder;
use crate::gateway::served::Served;
use crate::gateway::upstream::Upstream;
use crate::policy::bundle::Bundle;
use crate::policy::inventory::Definition;

/// What is in force in one gateway, and what it is built from.
pub struct Force {
    current: watch::Sender<Option<Arc<Snapshot>>>,
    transport: watch::Sender<Transport>,
    builder: Mutex<Builder>,
    last_error: Mutex<Option<String>>,
}

/// The parts that follow every change.
#[derive(Clone, Copy)]
pub struct Followers<'a> {
    /// Counts by the rules in force.
    pub recorder: &'a Recorder,
    /// Asks people about calls to the server in force.
    pub approvals: &'a Approvals,
}

impl Force {
    /// Nothing is in force yet.
    pub fn new(builder: Builder) -> Self {
        Force {
            current: watch::Sender::new(None),
            transport: watch::Sender::new(builder.transport().clone()),
            builder: Mutex::new(builder),
            last_error: Mutex::new(None),
        }
    }

    /// The snapshot in force; None before the first bundle, or while a Secret is missing.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }

    /// Follows how the listener speaks to agents.
    pub fn transport(&self) -> watch::Receiver<Transport> {
        self.transport.subscribe()
    }

    /// Follows what is in force.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.current.subscribe()
    }

    /// Puts the first snapshot into force.
    pub fn start(&self, first: Option<Arc<Snapshot>>, followers: Followers<'_>) {
        self.swap(&self.builder(), first, followers);
    }

    /// Puts another bundle into force, if it is for the server that is `own`.
    ///
    /// # Errors
    /// [`Rejected`]; the previous bundle stays in force.
    pub fn apply(
        &self,
        bundle: Bundle,
        own: &Served,
        followers: Followers<'_>,
    ) -> Result<(), Rejected> {
        // Held until the swap: of two changes at once, the one that was built last must also be in
        // force last.
        let mut builder = self.builder();
        let server = Served::of(&bundle.server);
        let built = if server == *own {
            builder.bundle(bundle)
        } else {
            Err(Rejected::Foreign {
                offered: server.to_string(),
                own: own.to_string(),
            })
        };
        self.took(&builder, built, followers)
    }

    /// Notes a bundle that cannot be used: the previous bundle stays in force, and the report says
    /// why.
    pub fn refuse(&self, why: String, recorder: &Recorder) {
        *self.lock_error() = Some(why);
        recorder.bundle_refused();
    }

    /// Reads Secrets again, from another environment if one is given.
    ///
    /// # Errors
    /// [`Rejected`]; the previous snapshot stays in force, except for callers whose keys are gone.
    pub fn refresh(
        &self,
        environment: Option<Environment>,
        followers: Followers<'_>,
    ) -> Result<(), Rejected> {
        let mut builder = self.builder();
        if let Some(environment) = environment {
            builder.environment(environment);
        }
        let built = builder.again();
        let taken = self.took(&builder, built, followers);
        if taken.is_err()
            && let Some(snapshot) = self.snapshot()
            && let Some(regranted) = builder.with_current_callers(&snapshot)
        {
            self.current.send_replace(Some(regranted));
        }
        taken
    }

    /// Takes a listing of the upstream's tools. False if they are another upstream's than the one
    /// in force: what that one lists says nothing of this one.
    pub fn set_listing(
        &self,
        of: &Arc<Upstream>,
        listing: Vec<Definition>,
        recorder: &Recorder,
    ) -> bool {
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
                tracing::error!(server = recorder.server(), %error, "a listing could not be used")
            }
        }
        true
    }

    fn took(
        &self,
        builder: &Builder,
        built: Result<Option<Arc<Snapshot>>, Rejected>,
        followers: Followers<'_>,
    ) -> Result<(), Rejected> {
        match built {
            Ok(snapshot) => {
                *self.lock_error() = None;
                self.swap(builder, snapshot, followers);
                Ok(())
            }
            Err(error) => {
                self.refuse(error.to_string(), followers.recorder);
                self.speak_as(builder);
                Err(error)
            }
        }
    }

    fn swap(&self, builder: &Builder, snapshot: Option<Arc<Snapshot>>, followers: Followers<'_>) {
        let now_in_force = snapshot.as_ref().map(|snapshot| {
            let server = Arc::clone(&snapshot.server);
            (server, Arc::clone(&snapshot.destination))
        });
        if let Some(snapshot) = &snapshot {
            followers.recorder.in_force(&snapshot.rules_revision);
            if let Some(bundle) = builder.in_force() {
                let policies = bundle.policies.iter().map(|policy| &policy.uid);
                let blocked = bundle.blocked.iter().map(|blocked| &blocked.uid);
                let uids: HashSet<&str> = policies.chain(blocked).map(String::as_str).collect();
                followers.recorder.settle(|by| uids.contains(&*by.uid));
            }
        }
        // The listener first: a spec that asks for TLS must not let in a client without it.
        self.speak_as(builder);
        self.current.send_replace(snapshot);
        // Afterwards: calls that still look at the former snapshot are held to the new one before
        // they use an approval.
        if let Some((server, destination)) = now_in_force {
            followers.approvals.destination_changed(
                &server.namespace,
                &server.name,
                &destination.digest,
                Timestamp::now(),
            );
        }
    }

    /// Withdraws the snapshot at shutdown; returns it.
    pub fn end(&self) -> Option<Arc<Snapshot>> {
        self.current.send_replace(None)
    }

    fn speak_as(&self, builder: &Builder) {
        self.transport.send_if_modified(|transport| {
            let modified = !transport.same(builder.transport());
            transport.clone_from(builder.transport());
            modified
        });
    }

    /// Secrets, or their keys (`NAME/KEY`), that are referred to and not there.
    pub fn missing_secrets(&self) -> Vec<String> {
        self.builder().missing().to_vec()
    }

    /// Why the latest bundle was refused, if it was.
    pub fn last_error(&self) -> Option<String> {
        self.lock_error().clone()
    }

    /// The sequence and revision of the bundle in force.
    pub fn in_force(&self) -> Option<(u64, String)> {
        self.builder()
            .in_force()
            .map(|bundle| (bundle.sequence, bundle.revision.clone()))
    }

    fn builder(&self) -> MutexGuard<'_, Builder> {
        self.builder.lock()
    }

    fn lock_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock()
    }
}
