//! The protected server: how to reach it, or how to run it.

use super::PodOptions;
use crate::{DurationString, SecretKeyRef, Unknown};
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements, Volume, VolumeMount,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The protected server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.http) != has(self.stdio)").message("write exactly one of http (a server that is reached by URL) and stdio (a server that is run for you)"))]
pub struct Upstream {
    /// A server that speaks Streamable HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpUpstream")]
    pub http: Option<HttpUpstream>,
    /// A server that speaks stdio; Portcullis runs it behind a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StdioUpstream")]
    pub stdio: Option<StdioUpstream>,
    /// The time that a whole call may take. Each message that the server sends before its answer
    /// (progress, a question, a log line) restarts this time, up to ten times in all; comments of
    /// an event stream do not.
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
    /// The time that a whole call may take, 60s if unset.
    pub fn timeout(&self) -> DurationString {
        self.timeout
            .clone()
            .unwrap_or_else(|| DurationString::from("60s"))
    }

    /// The largest request body, 4Mi if unset.
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

/// Why a string is not a number of bytes.
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
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("!has(self.tls) || self.url.startsWith('https://')").message("tls is for https URLs only; write https:// or remove tls"))]
pub struct HttpUpstream {
    /// The server's Streamable HTTP endpoint, http or https.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+([/?][^# ]*)?$')").message("url must be the http or https URL of a Streamable HTTP endpoint, such as http://mlflow-mcp.ml.svc:8080/mcp, without user, password or fragment; write credentials as headers"))]
    pub url: String,
    /// Headers that are sent to the server; agents never see them. With `credentials`, only the
    /// gateway's own listing of the server's tools has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name.lowerAscii() == a.name.lowerAscii()))").message("the same header is there twice: the case of its name does not matter; write it once"))]
    pub headers: Vec<UpstreamHeader>,
    /// How the server's certificate is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpstreamTls")]
    pub tls: Option<UpstreamTls>,
    /// The Host header that the server gets, where it insists on another one than that of the URL:
    /// a name, and a port if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 261))]
    #[x_kube(validation = Rule::new("self.matches('^([-.0-9A-Za-z_]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?$')").message("host is a name, and a port if need be, such as mlflow.example.com or mlflow:5000"))]
    pub host: Option<String>,
    /// The HTTP proxy through which the server is reached. Without it, HTTPS_PROXY, HTTP_PROXY and
    /// NO_PROXY of the gateway's own environment count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpstreamProxy")]
    pub proxy: Option<UpstreamProxy>,
    /// The server's credentials by caller; the first entry that matches a caller counts. A caller
    /// that no entry matches is refused. If absent, every caller goes with `headers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub credentials: Vec<HttpCredential>,
    /// Keys that this version does not know: a misspelt `credentials` must not share one credential
    /// among all callers.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// An HTTP proxy.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamProxy {
    /// Its http URL, such as http://proxy.example.com:3128.
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^http://[^/?#@ ]+/?$')").message("url must be the http URL of a proxy, such as http://proxy.example.com:3128, without user, password or path; name the Secret that holds USER:PASSWORD in credentialsSecretRef"))]
    pub url: String,
    /// The user and the password, as USER:PASSWORD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub credentials_secret_ref: Option<SecretKeyRef>,
}

/// What some callers' requests to the server carry.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct HttpCredential {
    /// Globs over grant names, such as `serviceaccount:ml/trainer` or `jwt:corp/*`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// All headers that their requests get from this McpServer; `headers` of the server are not
    /// added.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name.lowerAscii() == a.name.lowerAscii()))").message("the same header is there twice: the case of its name does not matter; write it once"))]
    pub headers: Vec<UpstreamHeader>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
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
    /// The value, if it is not a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "String",
        length(max = 4096),
        regex(pattern = "^[\\t\\x20-\\x7e]*$")
    )]
    pub value: Option<String>,
    /// The source of the value, if it is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HeaderSource")]
    pub value_from: Option<HeaderSource>,
}

/// The source of a header's value.
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
    /// The certificate authority (PEM) to trust, instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// A stdio server and how to run it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("!has(self.credentials) || (has(self.sessions) && self.sessions == 'PerSession')").message("credentials need a process for each session, as one process acts as one user; write sessions: PerSession"))]
pub struct StdioUpstream {
    /// The container image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The program and its leading arguments. Required, because Kubernetes does not expose the
    /// image's own entry point.
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
    /// A session that is not used for this long ends, and with `sessions: PerSession` its process.
    /// A shared session is opened again when its client comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationString", extend("default" = "30m"))]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("sessionIdleTimeout must be longer than nothing, for example 30m"))]
    pub session_idle_timeout: Option<DurationString>,
    /// Environment variables by caller, with `sessions: PerSession`; the first entry that matches a
    /// caller counts. A caller that no entry matches is refused. If absent, every process has `env`
    /// and `envFrom` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub credentials: Vec<StdioCredential>,
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
    /// Resources of the server's container; if absent, it requests 50m CPU and 128Mi memory and is
    /// limited to 2 CPUs and, with `Shared` sessions, 2Gi, else 4Gi.
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
    /// Keys that this version does not know: a misspelt `credentials` must not share one credential
    /// among all callers.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// What the processes of some callers' sessions get.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct StdioCredential {
    /// Globs over grant names, such as `serviceaccount:ml/trainer` or `jwt:corp/*`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub callers: Vec<String>,
    /// Environment variables over those of `env`, each with `value` or `valueFrom.secretKeyRef`.
    #[schemars(length(min = 1, max = 16))]
    pub env: Vec<EnvVar>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

impl StdioUpstream {
    /// The session mode, Shared if unset.
    pub fn sessions(&self) -> Sessions {
        self.sessions.unwrap_or(Sessions::Shared)
    }

    /// The time after which an unused session ends, 30m if unset.
    pub fn session_idle_timeout(&self) -> DurationString {
        self.session_idle_timeout
            .clone()
            .unwrap_or_else(|| DurationString::from("30m"))
    }

    /// The user, 65532 if unset.
    pub fn run_as_user(&self) -> i64 {
        self.run_as_user.unwrap_or(65_532)
    }
}

/// The processes for the sessions of a stdio server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Sessions {
    /// One process for all sessions.
    Shared,
    /// One process for each session.
    PerSession,
}
