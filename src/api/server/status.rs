//! What the operator reports about a server.

use crate::{RecentViolation, Time, ViolationCounts, condition::Condition, policy::Mode};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator reports about a server and its gateway.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct McpServerStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// Accepted, UpstreamReady, Authenticated, Enforced, LimitsDurable, Programmed and Ready;
    /// Reconciling and Stalled only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The URL to give to agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// Revision of the rules that the gateways should enforce: the digest of what the server and
    /// its policies say, as `portcullis validate -o yaml` prints it for files, and as audit lines
    /// name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub revision: Option<String>,
    /// The gateway's replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ReplicaCounts")]
    pub replicas: Option<ReplicaCounts>,
    /// The number of policies that are in force here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub policy_count: Option<i64>,
    /// The policies that target the server: in force here, or not accepted, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub policies: Vec<ServerPolicy>,
    /// The upstream's tools in figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ToolCounts")]
    pub tools: Option<ToolCounts>,
    /// Violations at this server's gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServerViolations")]
    pub violations: Option<ServerViolations>,
}

/// The gateway's replicas in figures.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaCounts {
    /// The desired number of replicas.
    pub desired: i64,
    /// The number of ready replicas.
    pub ready: i64,
    /// The number of ready replicas that run status.revision.
    pub programmed: i64,
    /// programmed/desired.
    pub summary: String,
}

/// A policy that targets a server.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerPolicy {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub name: String,
    /// Enforce or Audit.
    pub mode: Mode,
    /// Why the policy is not accepted here; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub reason: Option<String>,
    /// The same in words, with the change to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub message: Option<String>,
}

/// The upstream's tools in figures.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCounts {
    /// Tools that the upstream lists.
    pub discovered: i64,
    /// Tools that some caller can list.
    pub visible: i64,
    /// Tools that no caller can list.
    pub hidden: i64,
    /// Tools that neither the catalogue nor an override classifies.
    pub unclassified: i64,
    /// Tools that differ from their pin or from every catalogued form.
    pub drifted: i64,
    /// visible/discovered.
    pub summary: String,
}

/// Violations at a server's gateways.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerViolations {
    /// Counts by outcome.
    #[serde(flatten)]
    pub counts: ViolationCounts,
    /// When the last one happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub last_time: Option<Time>,
    /// The newest 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub recent: Vec<RecentViolation>,
}
