//! McpServer: an MCP server under guard, and how its gateway reaches and exposes it.
//!
//! In: the document. Out: a typed spec that serializes back to what was written. Must not do: resolve Secrets or dial
//! anything.

mod gateway;
mod status;
mod upstream;

pub use gateway::*;
pub use status::*;
pub use upstream::*;

use super::{Risk, SecretKeyRef, Severity, Switch, Unknown, UnknownField, unknown::Collector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The MCP server to protect and the gateway in front of it.
// Columns share words such as their type, which the lint takes for attributes given twice.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpServer",
    plural = "mcpservers",
    shortname = "pcs",
    category = "portcullis",
    namespaced,
    status = "McpServerStatus",
    derive = "PartialEq",
    doc = "An MCP server under guard, with the gateway that agents call instead of it.",
    validation = Rule::new("size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 52 characters of a-z, 0-9 and -, starting with a letter and not ending with -, so that the names of the gateway's objects fit"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the gateway serves calls"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", description = "The URL to give to agents"),
    printcolumn(name = "Visible", type_ = "string", json_path = ".status.tools.summary", description = "Tools that some caller can list, of all tools"),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount", description = "Policies in force"),
    printcolumn(name = "Violations", type_ = "integer", json_path = ".status.violations.total", description = "Calls that were not let through"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", description = "Revision of the bundle that should be in force", priority = 1),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicas.summary", description = "Replicas that enforce the revision, of all replicas", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct McpServerSpec {
    /// The server under guard; exactly one of http and stdio.
    pub upstream: Upstream,
    /// Enforce carries refusals out; Audit forwards everything and records what would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Enforcement", extend("default" = "Enforce"))]
    pub enforcement: Option<Enforcement>,
    /// The built-in risk classes of known MLflow tools, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Catalog", extend("default" = "MLflow"))]
    pub catalog: Option<Catalog>,
    /// Overrides and pins for single tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<ToolOverride>,
    /// What the server may ask of clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientFeatures")]
    pub client_features: Option<ClientFeatures>,
    /// Whether clients get what the server writes for their model about itself. Absent drops it for callers from whom
    /// anything of the server is hidden, as it names tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Instructions")]
    pub instructions: Option<Instructions>,
    /// Who may call. Absent admits nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Authentication")]
    pub authentication: Option<Authentication>,
    /// Where limits are counted; in the gateway's memory if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Counters")]
    pub counters: Option<Counters>,
    /// What the audit log holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Audit")]
    pub audit: Option<Audit>,
    /// How the gateway runs and is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Gateway", extend("default" = serde_json::Map::new()))]
    pub gateway: Option<Gateway>,
}

impl McpServerSpec {
    /// The enforcement, Enforce where none is written.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement.unwrap_or(Enforcement::Enforce)
    }

    /// The catalogue, MLflow where none is written.
    pub fn catalog(&self) -> Catalog {
        self.catalog.unwrap_or(Catalog::MLflow)
    }

    /// What the server may ask of clients, nothing where none is written.
    pub fn client_features(&self) -> ClientFeatures {
        self.client_features.clone().unwrap_or_default()
    }

    /// What the audit log holds of arguments, their keys where nothing is written.
    pub fn audit_arguments(&self) -> AuditArguments {
        self.audit
            .as_ref()
            .and_then(|audit| audit.arguments)
            .unwrap_or(AuditArguments::Keys)
    }

    /// What becomes of calls that cannot be recorded: they are refused where nothing is written.
    pub fn audit_on_failure(&self) -> AuditFailure {
        self.audit
            .as_ref()
            .and_then(|audit| audit.on_failure)
            .unwrap_or(AuditFailure::Deny)
    }

    /// The gateway's settings, all defaults where none are written.
    pub fn gateway(&self) -> Gateway {
        self.gateway.clone().unwrap_or_default()
    }

    /// The override or pin of a tool.
    pub fn tool(&self, name: &str) -> Option<&ToolOverride> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Keys that no field has, in the places where a misspelt key could loosen a rule.
    pub fn unknown_fields(&self) -> Vec<UnknownField> {
        let mut found = Collector::default();
        for (i, tool) in self.tools.iter().enumerate() {
            found.add(&format!("spec.tools[{i}]"), &tool.unknown);
            for (name, form) in &tool.arguments {
                found.add(&format!("spec.tools[{i}].arguments.{name}"), &form.unknown);
            }
        }
        found.0
    }
}

/// Whether refusals are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Enforcement {
    /// Refusals are carried out.
    Enforce,
    /// Everything is forwarded, refusals are recorded.
    Audit,
}

/// The built-in risk classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Catalog {
    /// The tools of the known MLflow MCP servers.
    MLflow,
    /// No tool is known.
    None,
}

/// What is different about one tool.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ToolOverride {
    /// Name of the tool.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its risk class, instead of the catalogue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Risk")]
    pub risk: Option<Risk>,
    /// Its severity; follows risk if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Severity")]
    pub severity: Option<Severity>,
    /// A pin: a tool whose definition has another digest is hidden and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "String",
        length(max = 71),
        regex(pattern = "^sha256:[0-9a-f]{64}$")
    )]
    pub definition_digest: Option<String>,
    /// JSON pointers (RFC 6901) into the arguments, never logged or previewed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 512), regex(pattern = "^(/([^~/]|~0|~1)*)+$"))
    )]
    pub redact: Vec<String>,
    /// Canonical forms of its arguments, by name, instead of the catalogue's. Where a rule reads the argument, another spelling
    /// is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub arguments: BTreeMap<String, ArgumentForm>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// The one form in which an argument is written.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ArgumentForm {
    /// A regular expression (RE2) that the whole value matches, for example `0|[1-9][0-9]*`; in a list, each element.
    #[schemars(length(min = 1, max = 1024))]
    pub pattern: String,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// What becomes of the server's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Instructions {
    /// Every caller gets them.
    Pass,
    /// Nobody gets them.
    Drop,
}

/// What the server may ask of clients. Deny strips the capability and refuses the server's request.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientFeatures {
    /// Asking the client's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub sampling: Option<Switch>,
    /// Asking the client's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub elicitation: Option<Switch>,
    /// Asking for the client's file roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub roots: Option<Switch>,
}

impl ClientFeatures {
    /// Whether the server may ask the client's model.
    pub fn sampling(&self) -> Switch {
        self.sampling.unwrap_or(Switch::Deny)
    }

    /// Whether the server may ask the client's user.
    pub fn elicitation(&self) -> Switch {
        self.elicitation.unwrap_or(Switch::Deny)
    }

    /// Whether the server may ask for the client's file roots.
    pub fn roots(&self) -> Switch {
        self.roots.unwrap_or(Switch::Deny)
    }
}

/// Where limits are counted.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// A Redis or Valkey server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RedisCounters")]
    pub redis: Option<RedisCounters>,
}

/// A Redis or Valkey server for counters.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisCounters {
    /// Where its URL is, password included.
    pub url_secret_ref: SecretKeyRef,
    /// What happens to limited calls while it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub on_unavailable: Option<Switch>,
}

impl RedisCounters {
    /// What happens while it cannot be reached, Deny where nothing is written.
    pub fn on_unavailable(&self) -> Switch {
        self.on_unavailable.unwrap_or(Switch::Deny)
    }
}

/// What the audit log holds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How much of a call's arguments; Full is redacted by tools[].redact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AuditArguments", extend("default" = "Keys"))]
    pub arguments: Option<AuditArguments>,
    /// What becomes of calls while the audit log cannot be written: Deny refuses them, Continue forwards them unrecorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AuditFailure", extend("default" = "Deny"))]
    pub on_failure: Option<AuditFailure>,
}

/// What becomes of calls that cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AuditFailure {
    /// They are refused.
    Deny,
    /// They are forwarded; what was lost is counted.
    Continue,
}

/// How much of a call's arguments is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AuditArguments {
    /// Nothing.
    None,
    /// The names of the top-level arguments.
    Keys,
    /// Everything but what is redacted.
    Full,
}
