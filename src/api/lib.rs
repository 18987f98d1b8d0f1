//! The custom resources of `portcullis.dev/v1alpha1`.
//!
//! In: a person's document, as JSON or YAML. Out: typed objects, and the CRD that makes an API
//! server refuse a bad one.
//! Must not do: any I/O, or decide anything; a spec that is read and written again is the same
//! document, so that bundles carry it verbatim.

pub mod approval;
pub mod condition;
pub mod contract;
mod duration;
pub mod loose;
mod nulls;
pub mod policy;
pub mod raw;
pub mod server;
mod unknown;

pub use duration::{DurationError, DurationString};
pub use unknown::{Unknown, UnknownField};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The API group of every kind here.
pub const GROUP: &str = "portcullis.dev";
/// The version of the API group.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as it is written in documents.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";

/// The definitions of all three kinds for an API server: [`definitions`], with rules that refuse
/// null in every optional field that people write.
pub fn crds() -> [CustomResourceDefinition; 3] {
    let mut crds = definitions();
    // Only gateways write McpApprovals.
    let written = crds
        .iter_mut()
        .filter(|crd| crd.spec.names.kind != "McpApproval");
    for schema in written.flat_map(schemas) {
        if let Some(spec) = schema
            .properties
            .as_mut()
            .and_then(|properties| properties.get_mut("spec"))
        {
            nulls::refuse(spec);
        }
    }
    crds
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// The definitions, generated from the types.
///
/// Descriptions inside embedded core types are left out: they are Kubernetes' own, and with them
/// the definition of McpServer comes near the 262,144 bytes that `kubectl apply` can keep in its
/// annotation.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    let mut crds = [
        server::McpServer::crd(),
        policy::McpPolicy::crd(),
        approval::McpApproval::crd(),
    ];
    for schema in crds.iter_mut().flat_map(schemas) {
        shorten_core_types(schema);
    }
    crds
}

/// Properties whose type is one of Kubernetes' own.
const CORE: [&str; 11] = [
    "affinity",
    "conditions",
    "env",
    "envFrom",
    "from",
    "imagePullSecrets",
    "ports",
    "resources",
    "tolerations",
    "volumeMounts",
    "volumes",
];

fn shorten_core_types(schema: &mut JSONSchemaProps) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        if is_core(name, property) {
            let kept = property.description.take();
            remove_descriptions(property);
            property.description = kept;
        } else {
            shorten_core_types(property);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        shorten_core_types(items);
    }
}

/// Whether the type of a property is one of Kubernetes' own. McpPolicy has a list of rules that is
/// also called resources.
fn is_core(name: &str, schema: &JSONSchemaProps) -> bool {
    let is_rules = name == "resources" && schema.type_.as_deref() == Some("array");
    CORE.contains(&name) && !is_rules
}

fn remove_descriptions(schema: &mut JSONSchemaProps) {
    schema.description = None;
    for property in schema.properties.iter_mut().flatten() {
        remove_descriptions(property.1);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        remove_descriptions(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        remove_descriptions(values);
    }
}

/// What a tool can do to the system behind it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Risk {
    /// Only reads.
    Read,
    /// Creates or changes something that can be changed back.
    Write,
    /// Runs code or models.
    Execute,
    /// Spends money.
    Financial,
    /// Loses something that cannot be restored.
    Destructive,
}

impl Risk {
    /// Every class, mildest first.
    pub const ALL: [Risk; 5] = [
        Risk::Read,
        Risk::Write,
        Risk::Execute,
        Risk::Financial,
        Risk::Destructive,
    ];

    /// The name as it is written in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Risk::Read => "Read",
            Risk::Write => "Write",
            Risk::Execute => "Execute",
            Risk::Financial => "Financial",
            Risk::Destructive => "Destructive",
        }
    }

    /// The severity of a tool of this class without a stated severity.
    pub const fn default_severity(self) -> Severity {
        match self {
            Risk::Read => Severity::Low,
            Risk::Write => Severity::Medium,
            Risk::Execute => Severity::High,
            Risk::Financial | Risk::Destructive => Severity::Critical,
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How bad one wrong call of a tool is; ordered, so that `minSeverity` can compare.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum Severity {
    /// Hardly matters.
    Low,
    /// Has to be corrected.
    Medium,
    /// Reaches production or costs money.
    High,
    /// Cannot be corrected.
    Critical,
}

impl Severity {
    /// The name as it is written in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "Low",
            Severity::Medium => "Medium",
            Severity::High => "High",
            Severity::Critical => "Critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Allow or deny, for switches that have only these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Switch {
    /// Refuse.
    Deny,
    /// Allow it.
    Allow,
}

/// One key of a Secret in the namespace of the object that refers to it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A whole Secret in the namespace of the object that refers to it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// Violations by the answer to the caller; the kinds are disjoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ViolationCounts {
    /// Sum of hidden, denied, limited and unapproved.
    pub total: i64,
    /// Calls of existing tools that were answered as unknown.
    pub hidden: i64,
    /// Calls that were denied.
    pub denied: i64,
    /// Calls refused because a counter was exhausted, full or unavailable.
    pub limited: i64,
    /// Calls answered as pending, denied or expired approvals.
    pub unapproved: i64,
    /// Calls forwarded although Audit rules would refuse them; not part of the total.
    pub audited: i64,
}

/// The outcome of a call that counts as a violation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub enum ViolationOutcome {
    /// An existing tool was answered as unknown.
    Hidden,
    /// The call was denied.
    Denied,
    /// A counter was exhausted, full or unavailable.
    Limited,
    /// The call was answered as a pending, denied or expired approval.
    Unapproved,
    /// The call was forwarded although the shadow decision refuses it.
    Audited,
}

/// One violation, as it is shown in a status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RecentViolation {
    /// When the call was decided.
    pub time: Time,
    /// Name of the tool, prompt or resource.
    pub tool: String,
    /// The identity that called.
    pub grant: String,
    /// The policy, written namespace/name.
    pub policy: String,
    /// The rule of that policy, or `(default)`.
    pub rule: String,
    /// The outcome of the call.
    pub outcome: ViolationOutcome,
}

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[cfg(test)]
mod tests;
