//! What is in force at one moment, in one immutable value: rules bound to tools, settings,
//! credentials, upstream.
//!
//! In: the parts, from the builder. Out: what requests read without a lock of their own. Must not
//! do: change.

use std::sync::Arc;

use super::destination::Destination;
use super::lists::Lists;
use super::replays::Replays;
use super::settings::Settings;
use crate::gateway::counters::SharedCounters;
use crate::gateway::grants::Grants;
use crate::gateway::upstream::Upstream;
use crate::policy::Bound;
use crate::policy::bundle::BundleServer;
use crate::protocol::seal::Sealer;

/// Everything that requests are answered by.
#[derive(Clone)]
pub struct Snapshot {
    /// The bundle's revision.
    pub revision: String,
    /// The server, its spec included.
    pub server: Arc<BundleServer>,
    /// What of the spec requests need, parsed.
    pub settings: Settings,
    /// Rules bound to tools.
    pub bound: Arc<Bound>,
    /// Whether the tools are from a listing; until the first one nothing is known.
    pub listed: bool,
    /// Accepted credentials.
    pub grants: Arc<Grants>,
    /// Where limits are counted, if not in this process.
    pub counters: Option<Arc<SharedCounters>>,
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The same in words, and as approvals are bound to it.
    pub destination: Arc<Destination>,
    /// Seals what clients hand back.
    pub sealer: Arc<Sealer>,
    /// The lists that callers have under it.
    pub lists: Arc<Lists>,
    /// What callers got for the lists of the upstream under it.
    pub replays: Arc<Replays>,
    /// Whether the listener speaks TLS only.
    pub secure: bool,
}
