//! Portcullis: a policy gateway for MLflow MCP servers.
//!
//! The folder is the architecture; `tests/offline/layering.rs` checks who may import whom.

pub use portcullis_api as api;

/// Risk classes of the known MLflow MCP tools.
pub mod catalog;
/// One file per subcommand of `portcullis`.
pub mod cli;
/// The operator: controllers, delivery of policy, accounting, the Lease.
pub mod controller;
/// The data plane: HTTP, sessions, enforcement, upstreams, the stdio bridge.
pub mod gateway;
/// The strict JSON reader for everything on the wire. Pure.
pub mod json;
/// YAML files to API objects.
pub mod manifest;
/// The policy engine: bundle to program, call to decision. Pure.
pub mod policy;
/// MCP on the wire: strict JSON, envelopes, versions, SSE, answers. Pure.
pub mod protocol;
/// A set of the newest values, for what must not grow. Pure.
pub mod recent;
/// An API server for tests that answers what a script says.
#[cfg(test)]
mod scripted_api;
/// Objects, bundle and reports to status. Pure.
pub mod status;
/// Logging, metrics registry and the admin endpoints.
pub mod telemetry;
