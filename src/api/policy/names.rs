//! Rules for what has only a name: prompts and resources.

use super::{Action, RuleCallers};
use crate::Unknown;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A rule for prompts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct PromptRule {
    /// Name of the rule, unique among the policy's prompt rules.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub name: String,
    /// Globs over prompt names.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub names: Vec<String>,
    /// Globs over prompt names that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_names: Vec<String>,
    /// What happens to requests that match: Hide, Deny or Allow.
    #[x_kube(validation = Rule::new("self != 'RequireApproval'").message("prompts cannot wait for an approval: write Hide, Deny or Allow"))]
    pub action: Action,
    /// The callers that it applies to.
    #[serde(flatten)]
    pub by: RuleCallers,
    /// The reason that the agent gets, if the action shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// A rule for resources and resource templates.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ResourceRule {
    /// Name of the rule, unique among the policy's resource rules.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub name: String,
    /// Globs over resource URIs. URIs with dot segments or encoded separators are refused before
    /// matching.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub uris: Vec<String>,
    /// Globs over resource URIs that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_uris: Vec<String>,
    /// What happens to requests that match: Hide, Deny or Allow.
    #[x_kube(validation = Rule::new("self != 'RequireApproval'").message("resources cannot wait for an approval: write Hide, Deny or Allow"))]
    pub action: Action,
    /// The callers that it applies to.
    #[serde(flatten)]
    pub by: RuleCallers,
    /// The reason that the agent gets, if the action shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}
