//! The gateway's own settings: its callers, its pods and its addresses.

use crate::{SecretKeyRef, SecretRef, Switch};
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration,
};
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The callers that are admitted. A credential that is sent and not valid is refused, never treated
/// as anonymous.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Tokens of this cluster's service accounts; grants are `serviceaccount:<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceAccounts")]
    pub service_accounts: Option<ServiceAccounts>,
    /// Tokens of other issuers; grants are `jwt:<name>/<claim>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub jwt: Vec<JwtProvider>,
    /// Keys in a Secret; grants are `key:<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ApiKeys")]
    pub api_keys: Option<ApiKeys>,
    /// Whether callers without a credential are admitted, as the grant `anonymous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Switch", extend("default" = "Deny"))]
    pub anonymous: Option<Switch>,
}

impl Authentication {
    /// Whether callers with some kind of credential are admitted.
    pub fn takes_credentials(&self) -> bool {
        self.service_accounts.is_some() || !self.jwt.is_empty() || self.api_keys.is_some()
    }

    /// Whether callers without a credential are admitted; not if unset.
    pub fn anonymous(&self) -> Switch {
        self.anonymous.unwrap_or(Switch::Deny)
    }
}

/// Tokens of this cluster's service accounts.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccounts {
    /// Audiences that a token may be for; `portcullis:<namespace>/<name>` if absent, and never the
    /// API server's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("!self.exists(a, a in ['https://kubernetes.default.svc', 'https://kubernetes.default.svc.cluster.local', 'https://kubernetes.default', 'kubernetes.default.svc', 'kubernetes'])").message("tokens for the API server's own audience must not be sent to a gateway; choose an audience such as portcullis:<namespace>/<name>"))]
    pub audiences: Vec<String>,
}

/// An issuer of JSON Web Tokens.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtProvider {
    /// Name of the provider, part of the grant's name.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub name: String,
    /// The `iss` claim that tokens must have.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^(https://|http://(127[.]0[.]0[.]1|localhost)(:[0-9]+)?(/|$))')").message("issuer must be an https URL, exactly as it stands in the iss claim"))]
    pub issuer: String,
    /// The `aud` values; a token must have one of them.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
    pub audiences: Vec<String>,
    /// The source of the issuer's keys.
    pub jwks: Jwks,
    /// The claim that names the caller, `sub` if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 64))]
    pub grant_claim: Option<String>,
    /// Scopes that a token must carry, all of them, in the claim `scope` or `scp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(s, !s.contains(' '))").message("write each of requiredScopes as an entry of its own"))]
    pub required_scopes: Vec<String>,
}

impl JwtProvider {
    /// The claim that names the caller, `sub` if unset.
    pub fn grant_claim(&self) -> &str {
        self.grant_claim.as_deref().unwrap_or("sub")
    }
}

/// The source of an issuer's keys; exactly one of url and secretKeyRef.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.url) != has(self.secretKeyRef)").message("write exactly one of url and secretKeyRef"))]
pub struct Jwks {
    /// The URL of the JSON Web Key Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(https://[^/?#@ \
    ]+|http://(127[.]0[.]0[.]1|localhost)(:[0-9]+)?)([/?][^# ]*)?$')").message("jwks.url must be an https URL: an attacker who can change the keys in transit can call as anyone"))]
    pub url: Option<String>,
    /// A key of a Secret with the JSON Web Key Set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// A key of a Secret with PEM certificates: with url, only they are trusted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// API keys: each key of the Secret is a grant's name, its value the API key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// The Secret with the keys.
    pub secret_ref: SecretRef,
}

/// The gateway's pods and addresses.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))").message("write replicas or autoscaling, not both"))]
pub struct Gateway {
    /// The number of replicas; 1 if absent. Not together with autoscaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// The port that agents call; not 9090, which is the admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", extend("default" = 8080), range(min = 1, max = 65535))]
    #[x_kube(validation = Rule::new("self != 9090").message("port 9090 is the gateway's admin port; choose another one, such as 8080"))]
    pub port: Option<i32>,
    /// The URL by which agents reach the gateway, if not by its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')").message("publicUrl must be the http or https URL under which agents reach the gateway, without query or fragment"))]
    pub public_url: Option<String>,
    /// Accepted values of the Origin header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(o, o.matches('^[a-z][-+.a-z0-9]*://[^/?# ]+$'))").message("each of allowedOrigins is a scheme and a host, with a port if it has one, such as https://app.example"))]
    pub allowed_origins: Vec<String>,
    /// Additional accepted values of the Host header; the Service's names and loopback are always
    /// accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(h, h.matches(r'^([-.A-Za-z0-9]+|\\[[:0-9A-Fa-f]+\\])(:[0-9]+)?$'))").message("each of allowedHosts is a host, with a port if it has one, such as mcp.example or mcp.example:8443"))]
    pub allowed_hosts: Vec<String>,
    /// Serves HTTPS instead of HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GatewayTls")]
    pub tls: Option<GatewayTls>,
    /// The gateway's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GatewayService")]
    pub service: Option<GatewayService>,
    /// The NetworkPolicies of the gateway and of its stdio server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GatewayNetworkPolicy")]
    pub network_policy: Option<GatewayNetworkPolicy>,
    /// Resources of the gateway's container; if absent, it requests 50m CPU and 32Mi memory and is
    /// limited to 2 CPUs and 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ResourceRequirements")]
    pub resources: Option<ResourceRequirements>,
    /// Secrets to pull the gateway's image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels, annotations and scheduling of the gateway's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodOptions")]
    pub pod: Option<PodOptions>,
    /// Lets the number of replicas follow the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Autoscaling")]
    pub autoscaling: Option<Autoscaling>,
}

impl Gateway {
    /// The number of replicas, 1 if unset.
    pub fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }

    /// The port, 8080 if unset.
    pub fn port(&self) -> i32 {
        self.port.unwrap_or(8080)
    }
}

/// The gateway's certificate.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayTls {
    /// A Secret of type kubernetes.io/tls.
    pub secret_ref: SecretRef,
}

/// The gateway's Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayService {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceType", extend("default" = "ClusterIP"))]
    pub type_: Option<ServiceType>,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// The protocol of its port, for meshes and load balancers; `http`, or `https` with tls, if
    /// absent. A LoadBalancer has none if absent, as some clouds then probe the path `/`. Write ""
    /// for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 317))]
    #[x_kube(validation = Rule::new("self.matches('^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$')").message("appProtocol must be a name such as http, https or kubernetes.io/h2c"))]
    pub app_protocol: Option<String>,
}

impl GatewayService {
    /// The type, ClusterIP if unset.
    pub fn type_(&self) -> ServiceType {
        self.type_.unwrap_or(ServiceType::ClusterIP)
    }

    /// The protocol of its port, `default` if unset; None for none.
    pub fn app_protocol<'a>(&'a self, default: &'a str) -> Option<&'a str> {
        match (self.app_protocol.as_deref(), self.type_()) {
            (Some(""), _) | (None, ServiceType::LoadBalancer) => None,
            (Some(stated), _) => Some(stated),
            (None, ServiceType::ClusterIP | ServiceType::NodePort) => Some(default),
        }
    }
}

/// Who may connect to the pods of an McpServer, where the cluster enforces NetworkPolicies.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.enabled) && !self.enabled) || !has(self.from) && !has(self.ports)").message("enabled: false makes no NetworkPolicy: remove from and ports"))]
pub struct GatewayNetworkPolicy {
    /// Whether the operator makes NetworkPolicies; true if absent. Without them every pod can
    /// connect to the gateway's admin port and to a stdio server's port, which ask for a bearer for
    /// all but metrics and probes. What the chart's `gateway.egress` says holds all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool", extend("default" = true))]
    pub enabled: Option<bool>,
    /// Peers that may connect to the port that agents call, and to `ports`; everyone if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(p, has(p.ipBlock) || has(p.podSelector) || has(p.namespaceSelector))").message("each entry of from has a podSelector, a namespaceSelector or an ipBlock"))]
    pub from: Vec<NetworkPolicyPeer>,
    /// Further ports of the gateway's pods, and of the stdio server's pod for the gateway, that can
    /// be reached: 15008 in an ambient mesh, for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(p, has(p.port) && p.port != null)").message("each entry of ports has a port, such as { port: 15008 }"))]
    pub ports: Vec<NetworkPolicyPort>,
}

impl GatewayNetworkPolicy {
    /// Whether the operator makes NetworkPolicies, true if unset.
    pub fn enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }
}

/// The supported types of Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ServiceType {
    /// Reachable inside the cluster.
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through a load balancer.
    LoadBalancer,
}

/// Labels, annotations and scheduling of pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOptions {
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('portcullis.dev/'))").message("labels under portcullis.dev/ are the operator's own; choose others"))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Scheduling constraints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Affinity")]
    pub affinity: Option<Affinity>,
    /// Name of a PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 253))]
    pub priority_class_name: Option<String>,
}

/// The number of replicas, following the load.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.minReplicas) ? self.minReplicas : 2) <= (has(self.maxReplicas) ? self.maxReplicas : 8)").message("minReplicas (2 if absent) must not be greater than maxReplicas (8 if absent)"))]
pub struct Autoscaling {
    /// The minimum number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", extend("default" = 2), range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
    /// The maximum number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", extend("default" = 8), range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,
    /// The target for the average use of requested CPU, in percent.
    #[serde(
        default,
        rename = "targetCPUUtilizationPercentage",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "i32", extend("default" = 70), range(min = 1, max = 100))]
    pub target_cpu_utilization_percentage: Option<i32>,
}

impl Autoscaling {
    /// The minimum number of replicas, 2 if unset.
    pub fn min_replicas(&self) -> i32 {
        self.min_replicas.unwrap_or(2)
    }

    /// The maximum number of replicas, 8 if unset.
    pub fn max_replicas(&self) -> i32 {
        self.max_replicas.unwrap_or(8)
    }

    /// The target for the average use of CPU, 70 if unset.
    pub fn target_cpu_utilization_percentage(&self) -> i32 {
        self.target_cpu_utilization_percentage.unwrap_or(70)
    }
}
