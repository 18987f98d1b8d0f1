//! McpApproval: one call that waits for a person.
//!
//! In: the document. Out: a typed request, its decision and its state. Must not do: compute digests
//! or decide; the policy engine and the gateway do.

use super::Time;
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A call that a gateway holds until people decide; every field but decisions is immutable.
// Columns share words such as their type, which the lint takes for attributes given twice.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpApproval",
    plural = "mcpapprovals",
    shortname = "pca",
    category = "portcullis",
    namespaced,
    status = "McpApprovalStatus",
    derive = "PartialEq",
    doc = "One tool call that waits for a person; made by a gateway, decided by people, consumed once.",
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.consumedAt) || (has(self.status) && has(self.status.consumedAt) && self.status.consumedAt == oldSelf.status.consumedAt && has(self.status.consumedBy) == has(oldSelf.status.consumedBy) && (!has(self.status.consumedBy) || self.status.consumedBy == oldSelf.status.consumedBy))")
        .message("consumedAt is permanent, and so is consumedBy then: the approved call was made, and a repeated call makes a new request"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.serverRef.name", description = "The server whose gateway asks"),
    printcolumn(name = "Tool", type_ = "string", json_path = ".spec.tool", description = "The tool that was called"),
    printcolumn(name = "Grant", type_ = "string", json_path = ".spec.grant", description = "The identity that called"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the request stands"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.decisions[*].by", description = "Who decided"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.serverRef == oldSelf.serverRef && self.grant == oldSelf.grant && self.tool == oldSelf.tool && self.argumentsDigest == oldSelf.argumentsDigest && self.argumentsPreview == oldSelf.argumentsPreview && self.policy == oldSelf.policy && self.rule == oldSelf.rule && self.requestedAt == oldSelf.requestedAt && self.expiresAt == oldSelf.expiresAt && has(self.upstream) == has(oldSelf.upstream) && (!has(self.upstream) || self.upstream == oldSelf.upstream) && has(self.observed) == has(oldSelf.observed) && (!has(self.observed) || self.observed == oldSelf.observed) && has(self.approvers) == has(oldSelf.approvers) && (!has(self.approvers) || self.approvers == oldSelf.approvers) && has(self.decisionId) == has(oldSelf.decisionId) && (!has(self.decisionId) || self.decisionId == oldSelf.decisionId)").message("a request cannot be changed; only decisions can be added"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decisions) || (has(self.decisions) && oldSelf.decisions.all(d, self.decisions.exists(e, e == d)))").message("a decision is final; add yours beside those of others"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decisions) || !has(self.decisions) || self.decisions.size() == oldSelf.decisions.size() || !(oldSelf.decisions.exists(d, d.verdict == 'Denied') || oldSelf.decisions.size() >= (has(oldSelf.approvers) ? oldSelf.approvers : 1))").message("enough people have decided; a changed call makes a new request"))]
#[x_kube(validation = Rule::new("oldSelf.hasValue() || !has(self.decisions)").message("a new request carries no decisions; people add them afterwards").optional_old_self(true))]
pub struct McpApprovalSpec {
    /// The server whose gateway asks, in this namespace.
    pub server_ref: ServerRef,
    /// The identity that called.
    #[schemars(length(min = 1, max = 512))]
    pub grant: String,
    /// The tool that was called.
    #[schemars(length(min = 1, max = 256))]
    pub tool: String,
    /// Digest over everything that the approval is bound to, the arguments included.
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub arguments_digest: String,
    /// The whole arguments, redacted, control and bidirectional characters escaped.
    #[schemars(length(max = 4096))]
    pub arguments_preview: String,
    /// Where the call goes: the server's URL, or its command and image, and the names of the
    /// credentials that it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 8192))]
    pub upstream: Option<String>,
    /// The policy that asks for approval.
    #[schemars(length(min = 1, max = 317))]
    pub policy: String,
    /// The rule that asks for approval.
    #[schemars(length(min = 1, max = 63))]
    pub rule: String,
    /// When the call was made.
    pub requested_at: Time,
    /// When the request, approved or not, stops being of use.
    pub expires_at: Time,
    /// How many people must approve, 1 if absent; one of them denies for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 3))]
    pub approvers: Option<i64>,
    /// The decision id, as the audit log has it, of the call that asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 128))]
    pub decision_id: Option<String>,
    /// The state when the request was made, if the rule observes one. It is read again
    /// before the approved call is forwarded: if it differs, the approval is stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Observed")]
    pub observed: Option<Observed>,
    /// What people decided: one entry a person, added by that person and final.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["by".into()]))]
    pub decisions: Vec<Decision>,
}

/// The server of an approval.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerRef {
    /// Name of the McpServer.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 253)
    )]
    pub name: String,
}

/// What a tool that only reads said of the state that the call changes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The tool that was asked.
    #[schemars(length(min = 1, max = 256))]
    pub tool: String,
    /// The beginning of its result, redacted, control and bidirectional characters escaped.
    #[schemars(length(max = 4096))]
    pub preview: String,
    /// Digest of the whole result, without what the rule ignores.
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
}

/// What a person decided.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Approved or Denied.
    pub verdict: Verdict,
    /// Who decided.
    #[schemars(length(min = 1, max = 512))]
    pub by: String,
    /// The reason; the agent gets it when the call is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 1024))]
    pub reason: Option<String>,
    /// When; informs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub at: Option<Time>,
}

/// The two decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Verdict {
    /// The call may be made, once.
    Approved,
    /// The call may not be made.
    Denied,
}

/// The state of an approval.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct McpApprovalStatus {
    /// For people; gateways trust only spec.decisions and consumedAt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Phase")]
    pub phase: Option<Phase>,
    /// When the approved call was forwarded; permanent once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub consumed_at: Option<Time>,
    /// The decision id, as the audit log has it, of the call that used the approval; permanent once
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 128))]
    pub consumed_by: Option<String>,
    /// When the server that the call goes to, or what the rule observes, was found to have changed:
    /// the approval is for nothing since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub stale_at: Option<Time>,
    /// When the request was withdrawn: the call was cancelled, or its session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub withdrawn_at: Option<Time>,
    /// When the request was announced to every webhook of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub notified_at: Option<Time>,
    /// The gateway that announces the request, once that is not the one whose call asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Notifying")]
    pub notifying: Option<Notifying>,
    /// When a gateway recorded in its audit log that the request has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub expired_at: Option<Time>,
    /// How many of the decisions are in the audit log of a gateway, so that each is written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0, max = 3))]
    pub audited_decisions: Option<i64>,
    /// The run of a gateway that wrote lines about the request last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 128))]
    pub audited_by: Option<String>,
}

/// A gateway that announces a request.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notifying {
    /// The run of the gateway.
    #[schemars(length(min = 1, max = 128))]
    pub by: String,
    /// Until when no other gateway does it.
    pub until: Time,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// Not decided yet.
    Pending,
    /// Approved and not yet used.
    Approved,
    /// Denied.
    Denied,
    /// Past expiresAt without having been used.
    Expired,
    /// The server that the call goes to, or what the rule observes, has changed since it was asked
    /// for.
    Stale,
    /// The call was cancelled, or its session ended, before a decision.
    Withdrawn,
    /// The approved call was forwarded.
    Consumed,
}

impl McpApprovalSpec {
    /// Where the call goes, which rule asks, and until when, as part of a sentence.
    pub fn circumstances(&self) -> String {
        format!(
            "at {} (policy {}, rule {}), until {}",
            self.server_ref.name,
            self.policy,
            self.rule,
            self.expires_at.0.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
    }

    /// How many people must approve, 1 where nothing is written.
    pub fn approvers(&self) -> usize {
        let approvers = usize::try_from(self.approvers.unwrap_or(1));
        approvers.unwrap_or(1).max(1)
    }

    /// Whether that user of the API server is known to stand behind the grant that asks.
    fn is_caller(&self, user: &str) -> bool {
        let account = self.grant.strip_prefix("serviceaccount:");
        let account = account.and_then(|account| account.split_once('/'));
        user == self.grant
            || account.is_some_and(|account| {
                let user = user.strip_prefix("system:serviceaccount:");
                user.and_then(|user| user.split_once(':')) == Some(account)
            })
    }
}

impl McpApproval {
    /// How many people must approve.
    pub fn approvers(&self) -> usize {
        self.spec.approvers()
    }

    /// The decision that settles the request: the first Denied, or else the Approved that makes
    /// enough; None while it waits.
    pub fn ruling(&self) -> Option<&Decision> {
        let denied = self
            .counted()
            .find(|decision| decision.verdict == Verdict::Denied);
        denied.or_else(|| self.counted().nth(self.approvers() - 1))
    }

    /// Who has approved so far.
    pub fn approved_by(&self) -> impl Iterator<Item = &str> {
        let approved = |decision: &&Decision| decision.verdict == Verdict::Approved;
        self.counted()
            .filter(approved)
            .map(|decision| decision.by.as_str())
    }

    /// The decisions that are not in an audit log yet.
    pub fn unaudited(&self) -> &[Decision] {
        let status = self.status.as_ref();
        let audited = status.and_then(|status| status.audited_decisions);
        let audited = audited.and_then(|audited| usize::try_from(audited).ok());
        let decisions = &self.spec.decisions;
        decisions.get(audited.unwrap_or(0)..).unwrap_or_default()
    }

    /// How many people have approved so far.
    pub fn approved(&self) -> usize {
        self.approved_by().count()
    }

    /// The decisions that count: one a person, and none by the caller itself, whatever let it
    /// through.
    fn counted(&self) -> impl Iterator<Item = &Decision> {
        let all = &self.spec.decisions;
        all.iter().enumerate().filter_map(move |(at, decision)| {
            let again = all[..at].iter().any(|other| other.by == decision.by);
            (!again && !self.spec.is_caller(&decision.by)).then_some(decision)
        })
    }

    /// When the approval was used, or when something else than the clock ended it.
    pub fn ended_at(&self) -> Option<Timestamp> {
        let status = self.status.as_ref()?;
        let ended = [&status.consumed_at, &status.stale_at, &status.withdrawn_at];
        ended.into_iter().flatten().next().map(|at| at.0)
    }

    /// Where it stands at that time.
    pub fn phase_at(&self, now: Timestamp) -> Phase {
        let has = |of: fn(&McpApprovalStatus) -> &Option<Time>| {
            self.status
                .as_ref()
                .is_some_and(|status| of(status).is_some())
        };
        if has(|status| &status.consumed_at) {
            return Phase::Consumed;
        }
        if has(|status| &status.stale_at) {
            return Phase::Stale;
        }
        if has(|status| &status.withdrawn_at) {
            return Phase::Withdrawn;
        }
        match self.ruling().map(|decision| decision.verdict) {
            Some(Verdict::Denied) => Phase::Denied,
            _ if now >= self.spec.expires_at.0 => Phase::Expired,
            Some(Verdict::Approved) => Phase::Approved,
            None => Phase::Pending,
        }
    }
}
