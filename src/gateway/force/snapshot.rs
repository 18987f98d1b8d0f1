//! What is in force at one moment, in one immutable value: rules bound to tools, settings,
//! credentials, upstream.
//!
//! In: the parts, from the builder. Out: what requests read without a lock of their own. Must not
//! do: change.

use std::sync::Arc;

use super::credentials::Upstreams;
use super::destination::Destination;
use super::lists::Lists;
use super::replays::Replays;
use super::settings::Settings;
use crate::gateway::counters::SharedCounters;
use crate::gateway::grants::{Grant, Grants};
use crate::gateway::notify::webhook::Webhooks;
use crate::policy::Bound;
use crate::policy::bundle::BundleServer;
use crate::protocol::seal::Sealer;

/// Everything that requests are answered by.
#[derive(Clone)]
pub struct Snapshot {
    /// The bundle's revision, which vouches for all of it.
    pub revision: String,
    /// The revision of its rules, by which people find the files.
    pub rules_revision: String,
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
    /// Where requests for approval are announced.
    pub webhooks: Arc<Webhooks>,
    /// The upstream, by caller.
    pub upstreams: Arc<Upstreams>,
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

impl Snapshot {
    /// Where calls of a caller go, in words for the person who is asked about one.
    pub fn destination_of(&self, grant: &str) -> &Arc<Destination> {
        self.upstreams
            .destination(grant)
            .unwrap_or(&self.destination)
    }

    /// Whether a session that was opened under this grant continues: its caller would still be
    /// admitted, and reaches the upstream with the credential that the session was opened with.
    pub fn carries_on(&self, grant: &Grant) -> bool {
        self.grants.still_holds(grant)
            && self
                .upstreams
                .of(&grant.caller.grant)
                .is_ok_and(|reached| reached.binding == grant.binding)
    }
}
