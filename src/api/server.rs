//! McpServer: an MCP server under guard, and how its gateway reaches and exposes it.
//!
//! In: the document. Out: a typed spec that serializes back to what was written. Must not do: resolve Secrets or dial
//! anything.

mod gateway;
mod status;

pub use gateway::*;
pub use status::*;

use super::{
    DurationString, Risk, SecretKeyRef, Severity, Switch, Unknown, UnknownField, unknown::Collector,
};
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements, Volume, VolumeMount,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
        }
        found.0
    }
}

/// The server under guard.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.http) != has(self.stdio)").message("write exactly one of http (a server that is reached by URL) and stdio (a server that is run for you)"))]
pub struct Upstream {
    /// A server that speaks Streamable HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpUpstream")]
    pub http: Option<HttpUpstream>,
    /// A server that speaks stdio; it is run for you, wrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StdioUpstream")]
    pub stdio: Option<StdioUpstream>,
    /// How long a whole call may take; streams have an idle time-out instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString", extend("default" = "60s"))]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("timeout must be longer than nothing, for example 60s"))]
    pub timeout: Option<DurationString>,
    /// The largest request body, as a Kubernetes quantity of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ByteQuantity", extend("default" = "4Mi"))]
    pub max_request_bytes: Option<ByteQuantity>,
}

impl Upstream {
    /// How long a whole call may take, 60s where nothing is written.
    pub fn timeout(&self) -> DurationString {
        self.timeout
            .clone()
            .unwrap_or_else(|| DurationString::from("60s"))
    }

    /// The largest request body, 4Mi where nothing is written.
    pub fn max_request_bytes(&self) -> ByteQuantity {
        self.max_request_bytes
            .clone()
            .unwrap_or_else(|| ByteQuantity("4Mi".to_owned()))
    }
}

/// A number of bytes such as `4Mi` or `65536`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ByteQuantity(
    #[schemars(
        length(min = 1, max = 12),
        regex(pattern = "^[1-9][0-9]{0,9}(Ki|Mi|Gi|k|M|G)?$")
    )]
    pub String,
);

/// Why a string is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size: write a whole number of bytes, with Ki, Mi or Gi if you like, for example `4Mi`"
)]
pub struct ByteQuantityError(pub String);

impl ByteQuantity {
    /// The number of bytes, or why there is none.
    pub fn parse(&self) -> Result<u64, ByteQuantityError> {
        let error = || ByteQuantityError(self.0.chars().take(40).collect());
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number
            .checked_mul(factor)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(error)
    }
}

/// A Streamable HTTP server.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tls) || self.url.startsWith('https://')").message("tls is for https URLs only; write https:// or remove tls"))]
pub struct HttpUpstream {
    /// The server's Streamable HTTP endpoint, http or https.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+([/?][^# ]*)?$')").message("url must be the http or https URL of a Streamable HTTP endpoint, such as http://mlflow-mcp.ml.svc:8080/mcp, without user, password or fragment; write credentials as headers"))]
    pub url: String,
    /// Headers that are sent to the server; agents never see them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name.lowerAscii() == a.name.lowerAscii()))").message("the same header is there twice: the case of its name does not matter; write it once"))]
    pub headers: Vec<UpstreamHeader>,
    /// How the server's certificate is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpstreamTls")]
    pub tls: Option<UpstreamTls>,
}

/// A header for the server, with its value here or in a Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)").message("write exactly one of value and valueFrom; secrets belong into valueFrom"))]
pub struct UpstreamHeader {
    /// Name of the header.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")
    )]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['accept', 'accept-encoding', 'connection', 'content-encoding', 'content-length', 'content-type', 'host', 'last-event-id', 'mcp-method', 'mcp-name', 'mcp-protocol-version', 'mcp-session-id', 'te', 'trailer', 'transfer-encoding', 'upgrade'])").message("the gateway sets this header itself; remove it from headers"))]
    pub name: String,
    /// The value, if it is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "String",
        length(max = 4096),
        regex(pattern = "^[\\t\\x20-\\x7e]*$")
    )]
    pub value: Option<String>,
    /// Where the value is, if it is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HeaderSource")]
    pub value_from: Option<HeaderSource>,
}

/// Where a header's value is.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderSource {
    /// A key of a Secret.
    pub secret_key_ref: SecretKeyRef,
}

/// How an upstream's certificate is checked.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    /// The certificate authority (PEM) that signed it, instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// A stdio server and how it is run.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StdioUpstream {
    /// The container image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The program and its leading arguments. Required, as Kubernetes cannot tell the image's own entry point.
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// Further arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 4096)))]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub env: Vec<EnvVar>,
    /// Sources of environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env_from: Vec<EnvFromSource>,
    /// One process for all sessions, or one for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Sessions", extend("default" = "Shared"))]
    pub sessions: Option<Sessions>,
    /// The user that the server runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", extend("default" = 65532), range(min = 1, max = 2147483647))]
    pub run_as_user: Option<i64>,
    /// Service account of the server's pod; without one no token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "String",
        regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 253)
    )]
    pub service_account_name: Option<String>,
    /// Volumes of the server's pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volumes: Vec<Volume>,
    /// Where the volumes are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Resources of the server's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ResourceRequirements")]
    pub resources: Option<ResourceRequirements>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels, annotations and scheduling of the server's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodOptions")]
    pub pod: Option<PodOptions>,
}

impl StdioUpstream {
    /// The session mode, Shared where none is written.
    pub fn sessions(&self) -> Sessions {
        self.sessions.unwrap_or(Sessions::Shared)
    }

    /// The user, 65532 where none is written.
    pub fn run_as_user(&self) -> i64 {
        self.run_as_user.unwrap_or(65_532)
    }
}

/// How many processes serve the sessions of a stdio server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Sessions {
    /// One process for all.
    Shared,
    /// One process for each session.
    PerSession,
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
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
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
