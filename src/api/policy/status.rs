//! What the operator reports about a policy.

use crate::{RecentViolation, Time, ViolationCounts, condition::Condition};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator reports about a policy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct McpPolicyStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// Accepted, Programmed and Ready; Reconciling and Stalled only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The number of servers that the policy matches, and the number of those that enforce it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TargetCounts")]
    pub targets: Option<TargetCounts>,
    /// The state of the policy at each target (GEP-713), the first 16, failing ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<Ancestor>,
    /// Violations that this policy's rules decided, over its current targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PolicyViolations")]
    pub violations: Option<PolicyViolations>,
}

/// Targets in figures.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetCounts {
    /// Servers that the policy matches.
    pub matched: i64,
    /// Servers whose every ready replica enforces this generation.
    pub programmed: i64,
    /// Both as programmed/matched.
    pub summary: String,
}

/// One target, and the state of the policy there.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// The server.
    pub ancestor_ref: AncestorRef,
    /// The controller that wrote this entry.
    pub controller_name: String,
    /// Accepted and Programmed, for this server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The object that a policy is attached to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Violations that a policy's rules decided.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyViolations {
    /// Counts by outcome.
    #[serde(flatten)]
    pub counts: ViolationCounts,
    /// When the last one happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub last_time: Option<Time>,
    /// Counts by rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["rule".into()]))]
    pub by_rule: Vec<RuleViolations>,
    /// The newest 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub recent: Vec<RecentViolation>,
}

/// Violations that one rule decided.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleViolations {
    /// Name of the rule, or `(default)`.
    pub rule: String,
    /// The number of violations.
    pub count: i64,
    /// When the last one happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub last_time: Option<Time>,
}
