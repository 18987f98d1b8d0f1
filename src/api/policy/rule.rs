//! Rules for tools: selector, callers, condition, limits and approval.

use super::Action;
use crate::{DurationString, Risk, Severity, Unknown};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A rule for tools. It matches when its selector, its callers and its condition all hold.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("!has(self.limits) || self.action == 'Allow' || self.action == 'RequireApproval'").message("limits go with Allow or RequireApproval; a call that is hidden or denied is not counted"))]
#[x_kube(validation = Rule::new("!has(self.approval) || self.action == 'RequireApproval'").message("approval goes with the action RequireApproval; write that action or remove approval"))]
pub struct Rule {
    /// Name of the rule, unique among the policy's rules.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub name: String,
    /// The tools that it applies to.
    pub tools: ToolSelector,
    /// What happens to calls that match.
    pub action: Action,
    /// The callers that it applies to.
    #[serde(flatten)]
    pub by: RuleCallers,
    /// A CEL condition over args, tool, caller, session and now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// Limits that apply once a call that the rule matches is allowed or approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["counter".into()]))]
    pub limits: Vec<Limit>,
    /// How approval works; only with RequireApproval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ApprovalRule")]
    pub approval: Option<ApprovalRule>,
    /// The reason that the agent gets, if the action shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// The callers that a rule of any kind applies to.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCallers {
    /// Globs over grant names, such as `serviceaccount:ml/*`; every caller if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// Globs over grant names that the rule does not apply to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_callers: Vec<String>,
}

/// Tools by name and class; all given fields must match. `names: ["*"]` selects every tool.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("has(self.names) || has(self.exceptNames) || has(self.risks) || has(self.minSeverity)").message("tools says nothing about tools: to select every tool write names: [\"*\"]"))]
pub struct ToolSelector {
    /// Globs over tool names; `*` matches any characters and nothing else is special.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 512)))]
    pub names: Vec<String>,
    /// Globs over tool names that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 512)))]
    pub except_names: Vec<String>,
    /// Risk classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 5))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub risks: Vec<Risk>,
    /// The lowest severity that is selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Severity")]
    pub min_severity: Option<Severity>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// At most `max` units in any window of this length.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Limit {
    /// Name of the counter; rules of one policy that name the same counter share it.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub counter: String,
    /// Units in any window.
    #[schemars(range(min = 1, max = 1000000000))]
    pub max: i64,
    /// Length of the window, 1s to 31d.
    pub window: DurationString,
    /// What has a counter of its own: each grant (also if unset), each session, the whole server,
    /// or each call that one grant repeats (the same tool with the same arguments).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Scope")]
    pub scope: Option<Scope>,
    /// A CEL expression over args for the units of one call, a non-negative integer; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 4096))]
    pub cost: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

impl Limit {
    /// The scope, Grant if unset.
    pub fn scope(&self) -> Scope {
        self.scope.unwrap_or(Scope::Grant)
    }
}

/// What has a counter of its own.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Scope {
    /// Each grant.
    Grant,
    /// Each session.
    Session,
    /// The whole server.
    Server,
    /// Each call of a grant: the same tool with the same arguments.
    Call,
}

/// How long a call waits for an approval, and how long the request stays open.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ApprovalRule {
    /// How long a request stays open, 30m if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString")]
    pub expires_after: Option<DurationString>,
    /// How long the gateway holds the call before it answers that approval is pending, 15s if
    /// unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString")]
    pub wait_up_to: Option<DurationString>,
    /// How many people must approve, 1 to 3, 1 if unset; one of them denies for all. Of several
    /// rules that ask about one call, the highest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 3))]
    pub approvers: Option<i64>,
    /// JSON pointers to arguments that the approver does not see. In a guardrail they replace the
    /// server's tools[].redact; in other policies they add to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 512), regex(pattern = "^(/([^~/]|~0|~1)*)+$"))
    )]
    pub redact: Vec<String>,
    /// What the gateway reads when it asks, and again just before it forwards the approved call.
    /// People are shown the result; if it has changed, the approval is stale and the call is not
    /// forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Observe")]
    pub observe: Option<Observe>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// A read of the server that shows the state that an approved call changes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Observe {
    /// Name of a tool of the same server with the risk Read, which the caller may call without
    /// approval.
    #[schemars(length(min = 1, max = 256))]
    pub tool: String,
    /// Its arguments: for each a CEL expression over args, tool, caller, session and now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "minLength": 1, "maxLength": 4096}))]
    pub args: BTreeMap<String, String>,
    /// What a result with isError means. Deny, which counts where nothing is written, refuses the
    /// call. Show takes it for the state, for tools that answer so for objects that do not exist
    /// yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnToolError")]
    pub on_tool_error: Option<OnToolError>,
    /// JSON pointers into the result: members that are neither shown nor compared, such as the time
    /// of the read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 512), regex(pattern = "^(/([^~/]|~0|~1)*)+$"))
    )]
    pub ignore: Vec<String>,
    /// JSON pointers into the result: members that are compared and not shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 512), regex(pattern = "^(/([^~/]|~0|~1)*)+$"))
    )]
    pub redact: Vec<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

impl Observe {
    /// What a result with `isError` means, Deny where nothing is written.
    pub fn on_tool_error(&self) -> OnToolError {
        self.on_tool_error.unwrap_or(OnToolError::Deny)
    }
}

/// What a result with `isError` means to an observation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum OnToolError {
    /// The call is refused.
    Deny,
    /// The error is the state.
    Show,
}

impl ApprovalRule {
    /// How long a request stays open, 30m if unset.
    pub fn expires_after(&self) -> DurationString {
        self.expires_after
            .clone()
            .unwrap_or_else(|| DurationString::from("30m"))
    }

    /// How many people must approve, 1 where nothing is written.
    pub fn approvers(&self) -> i64 {
        self.approvers.unwrap_or(1)
    }

    /// How long the gateway holds the call, 15s where nothing is written.
    pub fn wait_up_to(&self) -> DurationString {
        self.wait_up_to
            .clone()
            .unwrap_or_else(|| DurationString::from("15s"))
    }
}
