//! Approvals of calls: find or create the request for one call, wait for a person, use it once.
//!
//! In: what a call demands. Out: where its approval stands. The objects are the McpApprovals of the
//! API: a gateway in a cluster keeps them there, `serve` keeps them in memory. Must not do: decide;
//! people do, through the API or `decide`.

mod announcing;
mod cluster;
mod expiries;
mod memory;
mod standing;
mod steps;
#[cfg(test)]
mod tests;

pub use announcing::Unannounced;
pub use cluster::ClusterApprovals;
pub use memory::{Memory, NewDecision};
pub use steps::Records;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::Time;
use crate::api::approval::{Decision, McpApproval, McpApprovalSpec, Observed, ServerRef};
use crate::gateway::force::destination::Destination;
use crate::gateway::observe::audit::DecisionId;
use crate::policy::approval::{self, Subject};
use crate::policy::decision::RuleId;

/// At most this many open requests for one grant at one server.
pub const PENDING_PER_GRANT: usize = 20;
/// At most this many open requests for one server.
pub const PENDING_PER_SERVER: usize = 100;
/// Digits of a name that only the server's gateways can compute.
const NAME_DIGITS: usize = 20;

/// What a call asks approval for.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    /// Namespace of the McpServer.
    pub namespace: String,
    /// `<server>-<20 hex>`, of a keyed hash of the digest; a number is added. One for each of the
    /// server's sealing keys: a new request has the first, and one that is open already may have
    /// any.
    pub names: Vec<String>,
    /// Everything but the decision.
    pub spec: McpApprovalSpec,
    /// Digest of where the call goes.
    pub destination: String,
    /// Digest of the subject, without what was observed.
    subject: String,
    /// The rule observes the state that the call changes.
    observes: bool,
}

/// What is asked for besides the subject of an approval.
pub struct RequestParts<'a> {
    /// Namespace of the McpServer.
    pub namespace: &'a str,
    /// Name of the McpServer.
    pub server: &'a str,
    /// The rule that asks.
    pub by: &'a RuleId,
    /// Digest of the subject.
    pub digest: &'a str,
    /// The digest as only the server's gateways know it.
    pub names: &'a [String],
    /// What a person is shown.
    pub preview: String,
    /// Where the call goes.
    pub destination: &'a Destination,
    /// How long the request stays open.
    pub expires_after: Duration,
    /// How many people must approve.
    pub approvers: i64,
}

impl ApprovalRequest {
    /// The request for one very call.
    pub fn new(subject: &Subject<'_>, parts: RequestParts<'_>, now: Timestamp) -> Self {
        let RequestParts {
            namespace,
            server,
            by,
            digest,
            names,
            preview,
            destination,
            expires_after,
            approvers,
        } = parts;
        let expires = now.checked_add(expires_after).unwrap_or(Timestamp::MAX);
        let name = |keyed: &String| {
            let digits = keyed.get(..NAME_DIGITS).unwrap_or(keyed);
            format!("{server}-{digits}")
        };
        ApprovalRequest {
            namespace: namespace.to_owned(),
            names: names.iter().map(name).collect(),
            spec: McpApprovalSpec {
                server_ref: ServerRef {
                    name: server.to_owned(),
                },
                grant: subject.grant.to_owned(),
                tool: subject.tool.to_owned(),
                arguments_digest: format!("sha256:{digest}"),
                arguments_preview: preview,
                upstream: Some(destination.shown.clone()).filter(|shown| !shown.is_empty()),
                policy: by.policy_label().into_owned(),
                rule: by.rule.clone(),
                requested_at: Time(now),
                expires_at: Time(expires),
                approvers: (approvers != 1).then_some(approvers),
                decision_id: None,
                observed: None,
                decisions: Vec::new(),
            },
            destination: destination.digest.clone(),
            subject: digest.to_owned(),
            observes: subject.observe.is_some(),
        }
    }

    /// Binds the request to the current state, and shows it to approvers.
    pub fn observed(&mut self, observed: Observed) {
        self.spec.arguments_digest = self.digest_with(Some(&observed));
        self.spec.observed = Some(observed);
    }

    fn digest_with(&self, observed: Option<&Observed>) -> String {
        match observed {
            Some(observed) => format!("sha256:{}", approval::bound_to(&self.subject, observed)),
            None => format!("sha256:{}", self.subject),
        }
    }

    /// Whether another one asks for the very call, whatever was observed.
    pub fn is_same_call(&self, other: &ApprovalRequest) -> bool {
        self.subject == other.subject
            && self.observes == other.observes
            && standing::same_call(&self.spec, &other.spec)
    }

    /// Whether an object is a request for the very call, bound to what it says was observed.
    fn is_asked_by(&self, spec: &McpApprovalSpec) -> bool {
        spec.observed.is_some() == self.observes
            && spec.arguments_digest == self.digest_with(spec.observed.as_ref())
            && standing::same_call(spec, &self.spec)
    }
}

/// One request among the others: namespace and name.
pub type ApprovalKey = (String, String);

/// The call that asks, or that uses an approval.
#[derive(Clone, Copy, Debug)]
pub struct CallContext<'a> {
    /// The session's id inside the gateway.
    pub session: &'a str,
    /// The decision on it.
    pub decision: DecisionId<'a>,
}

/// Where the approval of a call stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Not decided yet; open until this time.
    Pending(ApprovalKey, Timestamp),
    /// Approved, not expired, not used; with the version that `consume` starts from, and what was
    /// observed when it was asked for.
    Approved(ApprovalKey, String, Option<Box<Observed>>),
    /// Denied, until it expires.
    Denied(ApprovalKey, Decision),
    /// The call would go elsewhere now, or what was observed has changed.
    Stale(ApprovalKey),
    /// It was given up, or had to make room for another caller's.
    Withdrawn(ApprovalKey),
    /// It ran out before it was used.
    Expired(ApprovalKey),
    /// A call has used it.
    Used(ApprovalKey),
}

/// Why there is no approval to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRequested {
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
    /// The Kubernetes API does not answer.
    #[error("the Kubernetes API, where approvals are kept, cannot be used now")]
    Unavailable,
    /// The Kubernetes API takes no such request.
    #[error(
        "the Kubernetes API refused the request for approval; the log of the gateway says why, so tell its operator"
    )]
    Rejected,
}

/// Why an approval was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotConsumed {
    /// Another call has used it, or it is not approved any more.
    Lost,
    /// The Kubernetes API does not answer, so whether it was used is not known.
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
    /// Each person decides once.
    #[error("you have decided `{0}` already; it waits for other people")]
    Twice(String),
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
    /// It is not asked for any more.
    #[error(
        "`{0}` was withdrawn: the agent cancelled the call or ended its session, or its caller had more calls waiting than others"
    )]
    Withdrawn(String),
    /// It would go elsewhere now.
    #[error(
        "`{0}` is stale: the server that the call would go to, or the observed state, has changed; the agent has to make the call again"
    )]
    Stale(String),
    /// The person has seen another call.
    #[error(
        "`{name}` is not the call with the digest that was given; look at it with `portcullis approvals show {name}`"
    )]
    OtherDigest {
        /// The request.
        name: String,
    },
}

/// An approval that one call has used up. Only [`Approvals::consume`] makes one.
#[derive(Debug)]
pub struct Consumed(());

/// The place where a gateway's approvals are.
#[derive(Clone)]
pub enum Approvals {
    /// In this process, shared by all gateways of `serve`.
    Memory(Arc<Memory>),
    /// In the cluster, shared by all gateways of a server.
    Cluster(Arc<ClusterApprovals>),
}

impl Approvals {
    /// Waits until it is known whether approvals can be asked for: at most some seconds after the
    /// gateway's start, and not at all later.
    pub async fn started(&self) {
        match self {
            Approvals::Memory(_) => {}
            Approvals::Cluster(cluster) => cluster.started().await,
        }
    }

    /// Finds the open request for this call, or one that has expired and that no answer has named
    /// yet; None where there is room for a new one.
    ///
    /// # Errors
    /// [`NotRequested`] when none could be created.
    pub fn find(
        &self,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Option<Standing>, NotRequested> {
        match self {
            Approvals::Memory(memory) => memory.find(wanted, context, now),
            Approvals::Cluster(cluster) => cluster.find(wanted, context, now),
        }
    }

    /// Finds the request for this call as [`Self::find`] does, or creates it.
    ///
    /// # Errors
    /// [`NotRequested`] when it may not or cannot be created.
    pub async fn request(
        &self,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Standing, NotRequested> {
        match self {
            Approvals::Memory(memory) => memory.request(wanted, context, now),
            Approvals::Cluster(cluster) => cluster.request(wanted, context, now).await,
        }
    }

    /// Looks again; None when it is no longer there, or not for this call.
    pub fn look(
        &self,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        now: Timestamp,
    ) -> Option<Standing> {
        match self {
            Approvals::Memory(memory) => memory.look(wanted, key, now),
            Approvals::Cluster(cluster) => cluster.look(wanted, key, now),
        }
    }

    /// Uses it up, for exactly one caller. `version` is what `look` or `request` said.
    ///
    /// # Errors
    /// [`NotConsumed`]: the call must not be forwarded.
    pub async fn consume(
        &self,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        version: &str,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Consumed, NotConsumed> {
        match self {
            Approvals::Memory(memory) => memory
                .consume(key, version, context, now)
                .then_some(Consumed(()))
                .ok_or(NotConsumed::Lost),
            Approvals::Cluster(cluster) => {
                let used = cluster.consume(wanted, key, version, context).await;
                used.map(|()| Consumed(()))
            }
        }
    }

    /// What was observed has changed since: no call gets this approval from now on. `version` is
    /// what `look` or `request` said.
    pub fn state_changed(&self, key: &ApprovalKey, version: &str, now: Timestamp) {
        match self {
            Approvals::Memory(memory) => memory.state_changed(key, version, now),
            Approvals::Cluster(cluster) => cluster.state_changed(key, version, now),
        }
    }

    /// A session has given up a call: its request is withdrawn, unless it has been decided or
    /// another session asks too.
    pub fn withdraw(&self, key: &ApprovalKey, session: &str, now: Timestamp) {
        match self {
            Approvals::Memory(memory) => memory.withdraw(Some(key), session, now),
            Approvals::Cluster(cluster) => cluster.withdraw(Some(key), session, now),
        }
    }

    /// A session has ended: all of its requests are withdrawn, as [`Self::withdraw`] says.
    pub fn session_ended(&self, session: &str, now: Timestamp) {
        match self {
            Approvals::Memory(memory) => memory.withdraw(None, session, now),
            Approvals::Cluster(cluster) => cluster.withdraw(None, session, now),
        }
    }

    /// Calls of a server go to `destination` from now on: open requests for another one are stale.
    pub fn destination_changed(
        &self,
        namespace: &str,
        server: &str,
        destination: &str,
        now: Timestamp,
    ) {
        match self {
            Approvals::Memory(memory) => {
                memory.destination_changed(namespace, server, destination, now);
            }
            Approvals::Cluster(cluster) => cluster.destination_changed(destination, now),
        }
    }

    /// Since when requests wait for people, one for each.
    pub fn waiting(&self, namespace: &str, server: &str, now: Timestamp) -> Vec<Timestamp> {
        match self {
            Approvals::Memory(memory) => memory.waiting(namespace, server, now),
            Approvals::Cluster(cluster) => cluster.waiting(now),
        }
    }

    /// The requests that wait and have not been announced, the oldest first, without those that
    /// another gateway announces.
    pub fn unannounced(&self, namespace: &str, server: &str, now: Timestamp) -> Vec<Unannounced> {
        match self {
            Approvals::Memory(memory) => memory.unannounced(namespace, server, now),
            Approvals::Cluster(cluster) => cluster.unannounced(now),
        }
    }

    /// Whether this gateway is to announce a request now. No other one does it for a while then.
    pub async fn may_announce(
        &self,
        key: &ApprovalKey,
        object: &McpApproval,
        now: Timestamp,
    ) -> bool {
        match self {
            Approvals::Memory(_) => true,
            Approvals::Cluster(cluster) => cluster.may_announce(key, object, now).await,
        }
    }

    /// Every webhook has accepted the announcement of a request.
    pub async fn announced(&self, key: &ApprovalKey, object: &McpApproval, now: Timestamp) {
        match self {
            Approvals::Memory(memory) => memory.announced(key, object, now),
            Approvals::Cluster(cluster) => cluster.announced(key, object, now).await,
        }
    }

    /// Tells of changes to any request.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match self {
            Approvals::Memory(memory) => memory.changed.subscribe(),
            Approvals::Cluster(cluster) => cluster.changes(),
        }
    }
}
