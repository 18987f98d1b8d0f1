//! McpPolicy: what callers may do with the tools, prompts and resources of the servers that it
//! targets.
//!
//! In: the document. Out: a typed spec that serializes back to the same document. Must not do:
//! compile globs or conditions; that is the policy engine's.

mod names;
mod rule;
mod status;

pub use names::*;
pub use rule::*;
pub use status::*;

use super::{Unknown, UnknownField, unknown::Collector};
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
        description = "Calls that the policy refused"
    ),
    printcolumn(
        name = "Audited",
        type_ = "integer",
        json_path = ".status.violations.audited",
        description = "Calls that were forwarded although the policy would refuse them"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.targetRefs) != has(self.targetSelector)").message("write either targetRefs or targetSelector: a policy must say which servers it is for, in one way"))]
#[x_kube(validation = Rule::new("!has(self.namespaceSelector) || has(self.targetSelector)").message("namespaceSelector goes with targetSelector: write targetSelector: {matchLabels: {}} for all servers of those namespaces"))]
pub struct McpPolicySpec {
    /// The servers, by name, in this namespace. Write these or targetSelector, not both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into(), "kind".into(), "name".into()]))]
    pub target_refs: Vec<TargetRef>,
    /// The servers, by label, instead of targetRefs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LabelSelector")]
    pub target_selector: Option<LabelSelector>,
    /// With targetSelector: only servers in namespaces with these labels; the label
    /// `kubernetes.io/metadata.name` is the namespace's name. For guardrails, whose targetSelector
    /// reaches every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LabelSelector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Enforce decides calls; Audit only records the calls that it would refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Mode", extend("default" = "Enforce"))]
    pub mode: Option<Mode>,
    /// What happens to tools that no rule matches. If unset, the policy has no default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DefaultAction")]
    pub default_action: Option<DefaultAction>,
    /// Rules for tools. All matching rules apply together, and the strictest action wins; their
    /// order does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    // `rule::` because the derive brings its own `Rule` into scope.
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<rule::Rule>,
    /// Rules for prompts. Prompts that no rule of any policy matches are hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub prompts: Vec<PromptRule>,
    /// Rules for resources and resource templates. Those that no rule of any policy matches are
    /// hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub resources: Vec<ResourceRule>,
}

impl McpPolicySpec {
    /// The mode, Enforce if unset.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Enforce)
    }

    /// Whether it has no effect on any call.
    pub fn is_empty(&self) -> bool {
        self.default_action.is_none()
            && self.rules.is_empty()
            && self.prompts.is_empty()
            && self.resources.is_empty()
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
        if let Some(selector) = &self.namespace_selector {
            found.add("spec.namespaceSelector", &selector.unknown);
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
                if let Some(observe) = &approval.observe {
                    found.add(&format!("{at}.approval.observe"), &observe.unknown);
                }
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

/// Objects by their labels; empty selects all.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct LabelSelector {
    /// Labels that an object must have with these values.
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
    /// The policy only records the calls that it would refuse.
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

/// The action of a rule; ordered by strictness, so that the greatest wins.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Action {
    /// Forward the call.
    Allow,
    /// Forward the call once a person has approved it.
    RequireApproval,
    /// Refuse the call with the reason.
    Deny,
    /// Act as if the tool did not exist.
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

/// What happens to tools that no rule matches; ordered by strictness like [`Action`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum DefaultAction {
    /// Forward the call.
    Allow,
    /// Refuse the call with the reason.
    Deny,
    /// Act as if the tool did not exist.
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
