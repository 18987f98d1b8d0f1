//! Approvals as the gateway sees them: find or create the request for one call, wait for a person, use it once.
//!
//! In: what a call demands. Out: where its approval stands. The objects are the McpApprovals of the API; `serve` keeps them
//! in memory, a gateway that has no place for them refuses such calls. Must not do: decide; people do, through `decide`.

mod memory;
#[cfg(test)]
mod tests;

pub use memory::Memory;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::Time;
use crate::api::approval::{Decision, McpApprovalSpec, ServerRef};
use crate::policy::approval::Subject;
use crate::policy::decision::RuleId;

/// At most this many open requests for one grant at one server.
pub const PENDING_PER_GRANT: usize = 20;
/// At most this many open requests for one server.
pub const PENDING_PER_SERVER: usize = 100;

/// What a call asks approval for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Namespace of the McpServer.
    pub namespace: String,
    /// `<server>-<20 hex of the digest>`; a number is added.
    pub name: String,
    /// Everything but the decision.
    pub spec: McpApprovalSpec,
}

impl Wanted {
    /// The request for one very call.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        namespace: &str,
        server: &str,
        subject: &Subject<'_>,
        by: &RuleId,
        digest: &str,
        preview: String,
        now: Timestamp,
        expires_after: Duration,
    ) -> Self {
        let expires = now.checked_add(expires_after).unwrap_or(Timestamp::MAX);
        Wanted {
            namespace: namespace.to_owned(),
            name: format!("{server}-{}", digest.get(..20).unwrap_or(digest)),
            spec: McpApprovalSpec {
                server_ref: ServerRef {
                    name: server.to_owned(),
                },
                grant: subject.grant.to_owned(),
                tool: subject.tool.to_owned(),
                arguments_digest: format!("sha256:{digest}"),
                arguments_preview: preview,
                policy: by.policy_label().into_owned(),
                rule: by.rule.clone(),
                requested_at: time(now),
                expires_at: time(expires),
                decision: None,
            },
        }
    }
}

/// One request among the others: namespace and name.
pub type Key = (String, String);

/// Where the approval of a call stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has decided yet.
    Pending(Key),
    /// Approved, not expired, not used; the number is the version that `consume` must still find.
    Approved(Key, u64),
    /// Denied, until it expires.
    Denied(Key, Decision),
}

/// Why there is no approval to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The grant has its share of open requests.
    #[error(
        "{PENDING_PER_GRANT} calls of this caller already wait for approval; repeat the call when some are decided"
    )]
    GrantFull,
    /// The server has its share of open requests.
    #[error(
        "{PENDING_PER_SERVER} calls already wait for approval at this server; repeat the call when some are decided"
    )]
    ServerFull,
    /// Requests cannot be kept here.
    #[error(
        "approvals in a cluster come with a later release; until then calls that need one are denied"
    )]
    Unavailable,
}

/// Why a decision was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// No such request.
    #[error("there is no approval `{0}`; `portcullis approvals list` shows them")]
    NotFound(String),
    /// The name stands for requests in several namespaces.
    #[error("`{0}` is in several namespaces; write NAMESPACE/NAME")]
    Ambiguous(String),
    /// Decisions are set once.
    #[error("`{name}` was already decided ({verdict}, by {by}); a decision cannot be changed")]
    Decided {
        /// The request.
        name: String,
        /// What was decided.
        verdict: &'static str,
        /// By whom.
        by: String,
    },
    /// Too late.
    #[error("`{0}` has expired; the agent has to make the call again")]
    Expired(String),
}

/// An approval that one call has used up. Only [`Approvals::consume`] makes one.
#[derive(Debug)]
pub struct Consumed(());

/// The place where a gateway's approvals are.
#[derive(Clone)]
pub enum Approvals {
    /// In this process, shared by all gateways of `serve`.
    Memory(Arc<Memory>),
    /// Nowhere: in a cluster, until a later release keeps them there.
    Unavailable,
}

impl Approvals {
    /// Finds the open request for this call, or creates it.
    ///
    /// # Errors
    /// [`Refused`] when it may not be created.
    pub fn request(&self, wanted: &Wanted, now: Timestamp) -> Result<Standing, Refused> {
        match self {
            Approvals::Memory(memory) => memory.request(wanted, now),
            Approvals::Unavailable => Err(Refused::Unavailable),
        }
    }

    /// Looks again; None when it has expired or was used meanwhile.
    pub fn look(&self, wanted: &Wanted, key: &Key, now: Timestamp) -> Option<Standing> {
        match self {
            Approvals::Memory(memory) => memory.look(wanted, key, now),
            Approvals::Unavailable => None,
        }
    }

    /// Uses it up, for exactly one caller, and only while it is what `look` or `request` said.
    #[must_use]
    pub fn consume(&self, key: &Key, version: u64, now: Timestamp) -> Option<Consumed> {
        let consumed = match self {
            Approvals::Memory(memory) => memory.consume(key, version, now),
            Approvals::Unavailable => false,
        };
        consumed.then_some(Consumed(()))
    }

    /// Tells of changes to any request.
    pub fn changes(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Approvals::Memory(memory) => Some(memory.changed.subscribe()),
            Approvals::Unavailable => None,
        }
    }
}

fn time(at: Timestamp) -> Time {
    Time(at)
}
