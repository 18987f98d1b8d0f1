//! The operator: McpServers, McpPolicies and McpApprovals reconciled on a Kubernetes API.
//!
//! In: the API server's watches, the reports of gateways. Out: children, bundles, statuses, Events.
//! Only the holder of the Lease writes; the others keep their caches warm. Must not do: read
//! Secrets, dial a URL that a resource names, or judge a policy otherwise than the engine does.

mod approval;
mod args;
mod cache_freshness;
mod caches;
pub mod check;
mod cluster_issuer;
mod context;
mod events;
mod issuer_keys;
mod key;
mod memory;
pub mod metrics;
mod names;
mod policy;
mod queues;
mod reports;
mod run;
mod runtime;
mod server;
#[cfg(test)]
mod testing;
mod triggers;
mod watches;
mod workers;

pub use args::Args;
pub use run::{RunError, run};
