//! McpServer: an MCP server under guard, and how its gateway reaches and exposes it.
//!
//! In: the document. Out: a typed spec that serializes back to the same document. Must not do:
//! resolve Secrets or dial anything.

mod approvals;
mod gateway;
mod status;
mod upstream;

pub use approvals::*;
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
    doc = "A protected MCP server, and the gateway that agents call instead of it.",
    validation = Rule::new("size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 52 characters of a-z, 0-9 and -, starting with a letter and not ending with -, so that the names of the gateway's objects fit"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the gateway serves calls"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.enforcement", description = "Enforce, or Audit: every call is forwarded"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", description = "The URL to give to agents"),
    printcolumn(name = "Visible", type_ = "string", json_path = ".status.tools.summary", description = "Tools that some caller can list, of all tools"),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount", description = "Policies in force"),
    printcolumn(name = "Violations", type_ = "integer", json_path = ".status.violations.total", description = "Calls that were refused"),
    printcolumn(name = "Audited", type_ = "integer", json_path = ".status.violations.audited", description = "Calls that were forwarded although Audit rules would refuse them"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", description = "Revision of the rules that the gateways should enforce", priority = 1),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicas.summary", description = "Replicas that enforce the revision, of all replicas", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct McpServerSpec {
    /// The protected server; exactly one of http and stdio.
    pub upstream: Upstream,
    /// Enforce refuses calls; Audit forwards everything and records the calls that would be
    /// refused.
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
    /// The requests that the server may send to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientFeatures")]
    pub client_features: Option<ClientFeatures>,
    /// Whether clients get the server's instructions for their model. If absent, they are dropped
    /// for callers from whom anything of the server is hidden, because they name tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Instructions")]
    pub instructions: Option<Instructions>,
    /// The callers that are admitted. If absent, every caller is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Authentication")]
    pub authentication: Option<Authentication>,
    /// The storage for the counters of limits; a journal of the gateway if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Counters")]
    pub counters: Option<Counters>,
    /// The content of the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Audit")]
    pub audit: Option<Audit>,
    /// How people learn that a call waits for their approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ApprovalSettings")]
    pub approvals: Option<ApprovalSettings>,
    /// The gateway's pods and addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Gateway", extend("default" = serde_json::Map::new()))]
    pub gateway: Option<Gateway>,
}

impl McpServerSpec {
    /// Where new requests for approval are announced.
    pub fn approval_webhooks(&self) -> impl Iterator<Item = &ApprovalWebhook> {
        let settings = self.approvals.iter();
        settings.flat_map(|settings| settings.notify.iter().map(|notice| &notice.webhook))
    }

    /// The Redis or Valkey server that counts limits, if one does.
    pub fn redis(&self) -> Option<&RedisCounters> {
        self.counters.as_ref()?.redis.as_ref()
    }

    /// The enforcement, Enforce if unset.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement.unwrap_or(Enforcement::Enforce)
    }

    /// The catalogue, MLflow if unset.
    pub fn catalog(&self) -> Catalog {
        self.catalog.unwrap_or(Catalog::MLflow)
    }

    /// The requests that the server may send to clients, none if unset.
    pub fn client_features(&self) -> ClientFeatures {
        self.client_features.clone().unwrap_or_default()
    }

    /// The part of arguments in the audit log, their keys if unset.
    pub fn audit_arguments(&self) -> AuditArguments {
        self.audit
            .as_ref()
            .and_then(|audit| audit.arguments)
            .unwrap_or(AuditArguments::Keys)
    }

    /// What happens to calls that cannot be recorded: refused if unset.
    pub fn audit_on_failure(&self) -> AuditFailure {
        self.audit
            .as_ref()
            .and_then(|audit| audit.on_failure)
            .unwrap_or(AuditFailure::Deny)
    }

    /// The gateway's settings, all defaults if unset.
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
        let Upstream { http, stdio, .. } = &self.upstream;
        if let Some(http) = http {
            found.add("spec.upstream.http", &http.unknown);
            for (i, entry) in http.credentials.iter().enumerate() {
                found.add(
                    &format!("spec.upstream.http.credentials[{i}]"),
                    &entry.unknown,
                );
            }
        }
        if let Some(stdio) = stdio {
            found.add("spec.upstream.stdio", &stdio.unknown);
            for (i, entry) in stdio.credentials.iter().enumerate() {
                found.add(
                    &format!("spec.upstream.stdio.credentials[{i}]"),
                    &entry.unknown,
                );
            }
        }
        for (i, tool) in self.tools.iter().enumerate() {
            found.add(&format!("spec.tools[{i}]"), &tool.unknown);
            for (name, form) in &tool.arguments {
                found.add(&format!("spec.tools[{i}].arguments.{name}"), &form.unknown);
            }
        }
        found.0
    }
}

/// Whether the gateway enforces decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Enforcement {
    /// Calls are refused.
    Enforce,
    /// Everything is forwarded, and refusals are recorded.
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

/// Overrides for one tool.
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
    /// Canonical forms of its arguments, by name, instead of the catalogue's. If a rule reads the
    /// argument, any other spelling is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub arguments: BTreeMap<String, ArgumentForm>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// The only accepted form of an argument.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ArgumentForm {
    /// A regular expression (RE2) that the whole value matches, for example `0|[1-9][0-9]*`; in a
    /// list, each element.
    #[schemars(length(min = 1, max = 1024))]
    pub pattern: String,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// What happens to the server's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Instructions {
    /// Every caller gets them.
    Pass,
    /// No caller gets them.
    Drop,
}

/// The requests that the server may send to clients. Deny strips the capability and refuses the
/// request.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientFeatures {
    /// Requests to the client's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub sampling: Option<Switch>,
    /// Requests to the client's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub elicitation: Option<Switch>,
    /// Requests for the client's file roots.
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

/// The storage for the counters of limits.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.local) || !has(self.redis)").message("counters are kept in one place; write local or redis, not both"))]
pub struct Counters {
    /// A journal of the only gateway, which survives its restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LocalCounters")]
    pub local: Option<LocalCounters>,
    /// A Redis or Valkey server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RedisCounters")]
    pub redis: Option<RedisCounters>,
}

impl Counters {
    /// The claim that keeps the journal of a gateway in a cluster.
    pub fn claim(&self) -> Option<&str> {
        let local = self.local.as_ref()?;
        Some(&local.persistent_volume_claim.as_ref()?.claim_name)
    }
}

/// The journal of one gateway.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalCounters {
    /// The claim that keeps the journal. If absent, a pod that is deleted forgets what was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CountersClaim")]
    pub persistent_volume_claim: Option<CountersClaim>,
}

/// The PersistentVolumeClaim of a journal.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersClaim {
    /// Its name, in the server's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// A Redis or Valkey server for counters.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisCounters {
    /// The source of its URL, user and password included: redis://… or, with TLS, rediss://….
    pub url_secret_ref: SecretKeyRef,
    /// What happens to limited calls while it cannot be reached. Allow forwards them uncounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub on_unavailable: Option<Switch>,
    /// The certificate authority of a rediss:// URL, in PEM; the system's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

impl RedisCounters {
    /// What happens while it cannot be reached, Deny if unset.
    pub fn on_unavailable(&self) -> Switch {
        self.on_unavailable.unwrap_or(Switch::Deny)
    }
}

/// The content of the audit log.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How much of a call's arguments; Full is redacted by tools[].redact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AuditArguments", extend("default" = "Keys"))]
    pub arguments: Option<AuditArguments>,
    /// What happens to calls while the audit log cannot be written: Deny refuses them, Continue
    /// forwards them unrecorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AuditFailure", extend("default" = "Deny"))]
    pub on_failure: Option<AuditFailure>,
}

/// What happens to calls that cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AuditFailure {
    /// They are refused.
    Deny,
    /// They are forwarded, and lost records are counted.
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
    /// Everything except redacted values.
    Full,
}
