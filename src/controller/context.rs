//! What all reconcilers share.

use std::sync::{Arc, OnceLock};

use kube::Client;
use kube::core::ObjectMeta;

use crate::api::policy::McpPolicy;
use crate::controller::args::Args;
use crate::controller::caches::Caches;
use crate::controller::events::Events;
use crate::controller::issuer_keys::ClusterIssuer;
use crate::controller::key::OperatorKey;
use crate::controller::memory::Memory;
use crate::controller::metrics::Metrics;
use crate::controller::policy::diagnostics::PolicyDiagnostics;
use crate::controller::queues::Queues;
use crate::controller::server::build::wanted::Settings;
use crate::policy::target;

pub struct Context {
    pub client: Client,
    pub args: Args,
    pub settings: Settings,
    /// There from when this replica leads.
    pub key: OnceLock<OperatorKey>,
    pub caches: Caches,
    pub queues: Arc<Queues>,
    pub diagnostics: PolicyDiagnostics,
    pub memory: Memory,
    pub metrics: Metrics,
    pub events: Events,
    pub issuer: ClusterIssuer,
}

impl Context {
    /// Whether a policy applies to a server.
    pub fn targets(&self, policy: &McpPolicy, server: &ObjectMeta) -> bool {
        let namespace = server.namespace.as_deref().unwrap_or_default();
        let labels = target::needs_namespace_labels(policy)
            .then(|| self.caches.namespace_labels(namespace))
            .flatten();
        target::targets(policy, server, labels.as_ref(), &self.args.namespace)
    }
}
