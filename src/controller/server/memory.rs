//! What is remembered of one server between reconciliations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::server::McpServerStatus;
use crate::controller::reports::merge::Reports;
use crate::controller::reports::schedule::Poll;
use crate::controller::runtime::drift::AppliedState;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::written::Written;
use crate::controller::server::tampering::Tampering;
use crate::policy::acceptance;
use crate::policy::bundle::Bundle;
use crate::policy::diagnostic::Diagnostic;
use crate::status::accounting::Ledger;

/// What is remembered of one server, shared between its reconciliation, the reads of its reports
/// and the watches.
pub type Remembered = Arc<Mutex<ServerMemory>>;

#[derive(Default)]
pub struct ServerMemory {
    pub uid: String,
    pub marks: HashMap<(Kind, String), AppliedState>,
    /// The newest bundle of the operator's that is known; changed by [`ServerMemory::knows`].
    pub bundle: Option<Arc<Bundle>>,
    /// What looks wrong about the policies in it.
    pub warnings: Arc<Vec<Diagnostic>>,
    /// The resource version of the ConfigMap that was read last.
    pub bundle_version: Option<String>,
    /// That version holds something else than `bundle`, which another writer has put there.
    pub foreign: bool,
    /// What others changed of what is ours.
    pub tampering: Tampering,
    /// When a bundle was written last.
    pub delivered: Option<Delivered>,
    pub compiled: acceptance::Memory,
    /// The stored ledger, likewise.
    pub ledger: Option<(String, Arc<Ledger>)>,
    pub ledger_written: Option<Instant>,
    /// What was sent to be stored last, whether or not an answer came.
    pub ledger_sent: Option<Arc<Ledger>>,
    /// What is stored must be written again whatever it should say: it was damaged, or its labels
    /// are gone.
    pub ledger_astray: bool,
    /// When an Event said last that the stored ledger is of no use.
    pub ledger_told: Option<Instant>,
    pub reports: Reports,
    /// The newest instance of each pod.
    pub newest: BTreeMap<String, String>,
    /// It was reconciled since this replica leads, with whatever result.
    pub reconciled_once: bool,
    /// When each pod's report was read, and whether that worked.
    pub polls: HashMap<String, Poll>,
    /// The status as it was computed last: what policies are judged by.
    pub status: Option<Arc<McpServerStatus>>,
    /// The status that was written last.
    pub written: Written<McpServerStatus>,
    /// The revision that was written last, and when; until every ready replica runs it.
    pub delivering: Option<(String, Instant)>,
    /// When each Secret was made, or was found to exist when it was to be made.
    pub secrets_made: BTreeMap<String, Instant>,
}

impl ServerMemory {
    /// Another bundle of the operator's is the newest.
    pub fn knows(&mut self, bundle: Bundle, warnings: Vec<Diagnostic>) {
        self.warnings = Arc::new(warnings);
        self.bundle = Some(Arc::new(bundle));
    }
}

/// A bundle that was written.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub at: Instant,
}
