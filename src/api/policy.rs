//! McpPolicy: what callers may do with the tools, prompts and resources of the servers that it targets.
//!
//! In: the document. Out: a typed spec that serializes back to what was written. Must not do: compile globs or conditions;
//! that is the policy engine's.

mod status;

pub use status::*;

use super::{DurationString, Risk, Severity, Unknown, UnknownField, unknown::Collector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What agents may do with the MCP servers that this policy targets.
// Columns share words such as their type, which the lint takes for attributes given twice.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpPolicy",
    plural = "mcppolicies",
    shortname = "pcp",
    category = "portcullis",
    namespaced,
    status = "McpPolicyStatus",
    derive = "PartialEq",
    doc = "Rules for what agents may do with the tools, prompts and resources of MCP servers.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "Enforce or Audit"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the policy is valid"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status",
        description = "Whether every target enforces the policy"
    ),
    printcolumn(
        name = "Targets",
        type_ = "string",
        json_path = ".status.targets.summary",
        description = "Servers that enforce the policy, of all that it matches"
    ),
    printcolumn(
        name = "Violations",
        type_ = "integer",
        json_path = ".status.violations.total",
        description = "Calls that the policy did not let through"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.targetRefs) != has(self.targetSelector)").message("write either targetRefs or targetSelector: a policy must say which servers it is for, in one way"))]
pub struct McpPolicySpec {
    /// The servers, by name, in this namespace. Write these or targetSelector, not both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into(), "kind".into(), "name".into()]))]
    pub target_refs: Vec<TargetRef>,
    /// The servers, by label, instead of targetRefs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TargetSelector")]
    pub target_selector: Option<TargetSelector>,
    /// Enforce decides calls; Audit only records what it would refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Mode", extend("default" = "Enforce"))]
    pub mode: Option<Mode>,
    /// What happens to tools that no rule decides. Unset is no opinion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DefaultAction")]
    pub default_action: Option<DefaultAction>,
    /// Rules for tools. All that match apply together; the strictest action wins, whatever their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    // `self::` because the derive brings its own `Rule` into scope.
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<self::Rule>,
    /// Rules for prompts. What no rule of any policy matches is hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub prompts: Vec<PromptRule>,
    /// Rules for resources and resource templates. What no rule of any policy matches is hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub resources: Vec<ResourceRule>,
}

impl McpPolicySpec {
    /// The mode, Enforce where none is written.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Enforce)
    }

    /// Keys that no field has, in the places where a misspelt key could loosen a rule.
    pub fn unknown_fields(&self) -> Vec<UnknownField> {
        let mut found = Collector::default();
        for (i, target) in self.target_refs.iter().enumerate() {
            found.add(&format!("spec.targetRefs[{i}]"), &target.unknown);
        }
        if let Some(selector) = &self.target_selector {
            found.add("spec.targetSelector", &selector.unknown);
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let at = format!("spec.rules[{i}]");
            found.add(&at, &rule.unknown);
            found.add(&format!("{at}.tools"), &rule.tools.unknown);
            for (j, limit) in rule.limits.iter().enumerate() {
                found.add(&format!("{at}.limits[{j}]"), &limit.unknown);
            }
            if let Some(approval) = &rule.approval {
                found.add(&format!("{at}.approval"), &approval.unknown);
            }
        }
        for (i, rule) in self.prompts.iter().enumerate() {
            found.add(&format!("spec.prompts[{i}]"), &rule.unknown);
        }
        for (i, rule) in self.resources.iter().enumerate() {
            found.add(&format!("spec.resources[{i}]"), &rule.unknown);
        }
        found.0
    }
}

/// A server in the policy's own namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("self.group == 'portcullis.dev' && self.kind == 'McpServer'").message("a policy targets servers: write group: portcullis.dev and kind: McpServer"))]
pub struct TargetRef {
    /// Always portcullis.dev.
    #[schemars(length(max = 63))]
    pub group: String,
    /// Always McpServer.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Name of the McpServer.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 253)
    )]
    pub name: String,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// Servers by their labels; empty selects all.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct TargetSelector {
    /// Labels that a server must have with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// Whether a policy decides or only watches.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Mode {
    /// The policy decides calls.
    Enforce,
    /// The policy records what it would refuse.
    Audit,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Enforce => "Enforce",
            Mode::Audit => "Audit",
        })
    }
}

/// What a rule does; the order is that of strictness, so that the greatest wins.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Action {
    /// Forward the call.
    Allow,
    /// Forward the call once a person has approved it.
    RequireApproval,
    /// Refuse the call and tell why.
    Deny,
    /// Act as if there were no such tool.
    Hide,
}

impl Action {
    /// The name as it is written in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "Allow",
            Action::RequireApproval => "RequireApproval",
            Action::Deny => "Deny",
            Action::Hide => "Hide",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happens to tools that no rule decides; ordered by strictness like [`Action`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum DefaultAction {
    /// Forward the call.
    Allow,
    /// Refuse the call and tell why.
    Deny,
    /// Act as if there were no such tool.
    Hide,
}

impl From<DefaultAction> for Action {
    fn from(action: DefaultAction) -> Self {
        match action {
            DefaultAction::Allow => Action::Allow,
            DefaultAction::Deny => Action::Deny,
            DefaultAction::Hide => Action::Hide,
        }
    }
}

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
    /// The tools that it is for.
    pub tools: ToolSelector,
    /// What it does.
    pub action: Action,
    /// Globs over grant names, such as `serviceaccount:ml/*`; every caller if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// Globs over grant names that the rule is not for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_callers: Vec<String>,
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
    /// Told to the agent where the action shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// Tools by name and class; all that is given must hold, and nothing given selects all.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
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

/// At most so many units in any window of this length.
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
    /// What has a counter of its own: each grant, each session, or the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Scope", extend("default" = "Grant"))]
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
    /// The scope, Grant where none is written.
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
}

/// How long an approval is waited for and stays open.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ApprovalRule {
    /// How long a request stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString", extend("default" = "30m"))]
    pub expires_after: Option<DurationString>,
    /// How long the gateway holds the call before it answers that approval is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString", extend("default" = "15s"))]
    pub wait_up_to: Option<DurationString>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

impl ApprovalRule {
    /// How long a request stays open, 30m where nothing is written.
    pub fn expires_after(&self) -> DurationString {
        self.expires_after
            .clone()
            .unwrap_or_else(|| DurationString::from("30m"))
    }

    /// How long the gateway holds the call, 15s where nothing is written.
    pub fn wait_up_to(&self) -> DurationString {
        self.wait_up_to
            .clone()
            .unwrap_or_else(|| DurationString::from("15s"))
    }
}

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
    /// What it does: Hide, Deny or Allow.
    #[x_kube(validation = Rule::new("self != 'RequireApproval'").message("prompts cannot wait for an approval: write Hide, Deny or Allow"))]
    pub action: Action,
    /// Globs over grant names; every caller if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// Globs over grant names that the rule is not for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_callers: Vec<String>,
    /// Told to the agent where the action shows it.
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
    /// Globs over resource URIs. URIs with dot segments or encoded separators are refused before matching.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub uris: Vec<String>,
    /// Globs over resource URIs that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_uris: Vec<String>,
    /// What it does: Hide, Deny or Allow.
    #[x_kube(validation = Rule::new("self != 'RequireApproval'").message("resources cannot wait for an approval: write Hide, Deny or Allow"))]
    pub action: Action,
    /// Globs over grant names; every caller if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// Globs over grant names that the rule is not for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub except_callers: Vec<String>,
    /// Told to the agent where the action shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}
