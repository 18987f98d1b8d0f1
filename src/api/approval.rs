//! McpApproval: one call that waits for a person.
//!
//! In: the document. Out: a typed request, its decision and its state. Must not do: compute digests
//! or decide; the policy engine and the gateway do.

use super::Time;
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A call that a gateway holds until a person decides; every field but decision is immutable.
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
    doc = "One tool call that waits for a person; made by a gateway, decided once, consumed once.",
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.consumedAt) || (has(self.status) && has(self.status.consumedAt) && self.status.consumedAt == oldSelf.status.consumedAt)")
        .message("consumedAt is permanent: the approved call was made, and a repeated call makes a new request"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.consumedAt) || (has(self.status) && has(self.status.consumedBy) == has(oldSelf.status.consumedBy) && (!has(self.status.consumedBy) || self.status.consumedBy == oldSelf.status.consumedBy))")
        .message("consumedBy is permanent once consumedAt is set"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.serverRef.name", description = "The server that the call is for"),
    printcolumn(name = "Tool", type_ = "string", json_path = ".spec.tool", description = "The tool that was called"),
    printcolumn(name = "Grant", type_ = "string", json_path = ".spec.grant", description = "The identity that called"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the request stands"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.decision.by", description = "The user who decided"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.serverRef == oldSelf.serverRef && self.grant == oldSelf.grant && self.tool == oldSelf.tool && self.argumentsDigest == oldSelf.argumentsDigest && self.argumentsPreview == oldSelf.argumentsPreview && self.policy == oldSelf.policy && self.rule == oldSelf.rule && self.requestedAt == oldSelf.requestedAt && self.expiresAt == oldSelf.expiresAt && has(self.upstream) == has(oldSelf.upstream) && (!has(self.upstream) || self.upstream == oldSelf.upstream)").message("a request cannot be changed; only decision can be set"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decision) || (has(self.decision) && self.decision == oldSelf.decision)").message("a decision is final; a changed call makes a new request"))]
#[x_kube(validation = Rule::new("oldSelf.hasValue() || !has(self.decision)").message("a new request carries no decision; it is set afterwards, by a person").optional_old_self(true))]
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
    /// What a person decided; set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Decision")]
    pub decision: Option<Decision>,
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
    /// For people; gateways trust only spec.decision and consumedAt.
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
    /// When the server that the call goes to was found to have changed: the approval is for nothing
    /// since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub stale_at: Option<Time>,
    /// When the request was withdrawn: the call was cancelled, or its session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub withdrawn_at: Option<Time>,
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
    /// The server that the call goes to has changed since it was asked for.
    Stale,
    /// The call was cancelled, or its session ended, before a decision.
    Withdrawn,
    /// The approved call was forwarded.
    Consumed,
}

impl McpApproval {
    /// The decision that settles the request; None while it waits. One by the caller itself counts for nothing, whatever let
    /// it through.
    pub fn ruling(&self) -> Option<&Decision> {
        let own = |by: &str| {
            let account = self.spec.grant.strip_prefix("serviceaccount:");
            by == self.spec.grant
                || account
                    .and_then(|account| account.split_once('/'))
                    .is_some_and(|(namespace, name)| {
                        by.strip_prefix("system:serviceaccount:")
                            .and_then(|by| by.split_once(':'))
                            == Some((namespace, name))
                    })
        };
        self.spec
            .decision
            .as_ref()
            .filter(|decision| !own(&decision.by))
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
