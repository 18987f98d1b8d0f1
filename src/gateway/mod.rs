//! The data plane: HTTP in, policy on every message, HTTP out or a child process.
//!
//! In: bundles, Secrets, requests of MCP clients. Out: answers, audit records, metrics, a report.
//! One [`Gateway`] guards one McpServer. It holds no policy of its own, and fails closed: without a
//! snapshot every request is answered 503.
//!
//! This file is the map: nothing is defined here.

pub mod approvals;
pub mod body;
pub mod bridge;
mod cluster_api;
pub mod counters;
pub mod enforce;
pub mod fairness;
pub mod force;
#[expect(
    clippy::module_inception,
    reason = "the room is named after the struct that owns what is in it"
)]
mod gateway;
pub mod grants;
mod hops;
pub mod http;
pub mod inventory;
mod lifetime;
pub mod listener;
mod lost_session;
pub mod notify;
pub mod observe;
mod permit;
pub mod process;
mod relay;
mod rotation;
pub mod run;
mod served;
mod sessions;
mod tokens;
pub mod upstream;

pub use self::gateway::{Gateway, Shared};
pub use self::served::Served;
