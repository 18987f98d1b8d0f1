//! The operator: McpServers, McpPolicies and McpApprovals reconciled on a Kubernetes API.
//!
//! In: the API server's watches, the reports of gateways. Out: children, bundles, statuses, Events. Only the holder of the
//! Lease writes; the others keep their caches warm. Must not do: read Secrets, dial a URL that a resource names, or judge a
//! policy otherwise than the engine does.

mod accounts;
mod applied;
mod approval;
mod args;
mod cache;
pub mod check;
mod client;
mod collect;
mod context;
mod current;
mod drift;
mod events;
mod key;
mod lease;
mod live;
pub mod metrics;
mod names;
mod policy;
mod quantity;
mod queue;
mod run;
mod server;
mod tampering;
mod trouble;
mod verdicts;
mod watch;
mod write;

pub use args::Args;
pub use run::{RunError, run};

/// Who the operator is in `managedFields` (KEP-555).
const MANAGER: &str = "portcullis-operator";
