//! McpApproval: one call that waits for a person.
//!
//! In: the document. Out: a typed request, its decision and its state. Must not do: compute digests or decide; the policy
//! engine and the gateway do.

use super::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A call that a gateway holds until a person decides; every field but decision is immutable.
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
    doc = "One tool call that waits for a person; made by a gateway, decided once, consumed once."
)]
#[serde(rename_all = "camelCase")]
pub struct McpApprovalSpec {
    /// The server whose gateway asks, in this namespace.
    pub server_ref: ServerRef,
    /// The identity that called.
    pub grant: String,
    /// The tool that was called.
    pub tool: String,
    /// Digest over everything that the approval is bound to, the arguments included.
    pub arguments_digest: String,
    /// The whole arguments, redacted, control and bidirectional characters escaped.
    pub arguments_preview: String,
    /// The policy that asks for approval.
    pub policy: String,
    /// The rule that asks for approval.
    pub rule: String,
    /// When the call was made.
    pub requested_at: Time,
    /// When the request, approved or not, stops being of use.
    pub expires_at: Time,
    /// What a person decided; set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

/// The server of an approval.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerRef {
    /// Name of the McpServer.
    pub name: String,
}

/// What a person decided.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Approved or Denied.
    pub verdict: Verdict,
    /// Who decided.
    pub by: String,
    /// Why; told to the agent when the call is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When; informs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    pub phase: Option<Phase>,
    /// When the approved call was forwarded; permanent once set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed_at: Option<Time>,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// Nobody has decided yet.
    Pending,
    /// Approved and not yet used.
    Approved,
    /// Denied.
    Denied,
    /// Past expiresAt without having been used.
    Expired,
    /// The approved call was forwarded.
    Consumed,
}
