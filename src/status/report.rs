//! The report of one gateway about itself, at `/report`.
//!
//! In: the gateway's state. Out: JSON that the operator and `portcullis status` read. Must not do:
//! contain Secret values or arguments of calls. Unknown fields are ignored, so that an older reader
//! accepts a newer report.

pub use crate::api::ViolationOutcome;
use crate::policy::Bound;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod bounds;
pub use bounds::MAX_REPORT_BYTES;
use bounds::{
    MAX_CALLER_BYTES, MAX_COUNTS, MAX_ERROR_BYTES, MAX_ISSUERS, MAX_MISSING_KEYS, MAX_NAME_BYTES,
    MAX_RECENT, MAX_TOOLS, MAX_WEBHOOKS, list, maybe_text, text, texts,
};

/// Policy and rule under which the violations of policies that no longer apply are counted
/// together.
pub const FORMER: &str = "(former)";
/// Rule under which the violations of rules without an entry of their own are counted together.
pub const OTHER: &str = "(other)";

/// The report of one run of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Names this run: a restarted gateway counts from zero under a new name.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub instance: String,
    /// Revision of the bundle in force; none before the first.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_NAME_BYTES>"
    )]
    pub revision: Option<String>,
    /// Sequence of the bundle in force: the operator writes above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Calls that were decided since start.
    #[serde(default)]
    pub calls: u64,
    /// Violations since start, by policy, rule and outcome.
    #[serde(default, deserialize_with = "list::<_, _, MAX_COUNTS>")]
    pub violations: Vec<ReportedCount>,
    /// The newest 20 violations.
    #[serde(default, deserialize_with = "list::<_, _, MAX_RECENT>")]
    pub recent: Vec<ReportedViolation>,
    /// The upstream's tools as last listed.
    #[serde(default, deserialize_with = "list::<_, _, MAX_TOOLS>")]
    pub tools: Vec<ReportedTool>,
    /// Missing keys of referenced Secrets, as `name/key`.
    #[serde(
        default,
        deserialize_with = "texts::<_, MAX_CALLER_BYTES, MAX_MISSING_KEYS>"
    )]
    pub missing_secret_keys: Vec<String>,
    /// API keys that are too short to be accepted, by the names of their grants.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "texts::<_, MAX_CALLER_BYTES, MAX_MISSING_KEYS>"
    )]
    pub refused_keys: Vec<String>,
    /// API keys that are refused because another grant has the same, by the names of their grants.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "texts::<_, MAX_CALLER_BYTES, MAX_MISSING_KEYS>"
    )]
    pub equal_keys: Vec<String>,
    /// Why tokens of issuers are refused: keys that cannot be used or fetched.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "texts::<_, MAX_ERROR_BYTES, MAX_ISSUERS>"
    )]
    pub issuer_faults: Vec<String>,
    /// Why the newest bundle is not in force, if it is not.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_ERROR_BYTES>"
    )]
    pub bundle_error: Option<String>,
    /// The last listing of the upstream's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<ReportedListing>,
    /// What is wrong with the upstream although its tools can be listed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_ERROR_BYTES>"
    )]
    pub upstream_note: Option<String>,
    /// Why calls cannot be recorded and are refused, if that is so.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_ERROR_BYTES>"
    )]
    pub audit_error: Option<String>,
    /// Why calls with limits cannot be counted and are refused, if that is so.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_ERROR_BYTES>"
    )]
    pub counters_error: Option<String>,
    /// Why requests for approval cannot be announced.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "texts::<_, MAX_ERROR_BYTES, MAX_WEBHOOKS>"
    )]
    pub webhook_faults: Vec<String>,
}

/// Violations of one policy, rule and outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedCount {
    /// Namespace of the policy; empty where no policy decided.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub namespace: String,
    /// Name of the policy.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub policy: String,
    /// UID of the policy, so that a later policy of the same name counts from zero; empty if
    /// unknown.
    #[serde(default, deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub policy_uid: String,
    /// Name of the rule, or `(default)` and the like.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub rule: String,
    /// The outcome of the calls.
    pub outcome: ViolationOutcome,
    /// The number of violations.
    pub count: u64,
    /// The time of the last one.
    pub last_time: Timestamp,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedViolation {
    /// When the call was decided.
    pub time: Timestamp,
    /// The tool, prompt or resource.
    #[serde(deserialize_with = "text::<_, MAX_CALLER_BYTES>")]
    pub tool: String,
    /// The identity that called.
    #[serde(deserialize_with = "text::<_, MAX_CALLER_BYTES>")]
    pub grant: String,
    /// Namespace of the policy; empty where no policy decided.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub namespace: String,
    /// Name of the policy.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub policy: String,
    /// Its UID, as in [`ReportedCount`].
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text::<_, MAX_NAME_BYTES>"
    )]
    pub policy_uid: String,
    /// Name of the rule.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub rule: String,
    /// The outcome of the call.
    pub outcome: ViolationOutcome,
}

/// One tool of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedTool {
    /// Its name.
    #[serde(deserialize_with = "text::<_, MAX_CALLER_BYTES>")]
    pub name: String,
    /// Digest of its definition, usable as a pin.
    #[serde(deserialize_with = "text::<_, MAX_NAME_BYTES>")]
    pub digest: String,
    /// Whether some caller can list it.
    pub visible: bool,
    /// Whether nothing classifies it.
    pub unclassified: bool,
    /// Whether it differs from its pin or from every catalogued form.
    pub drifted: bool,
    /// Why it is hidden from all callers, if a rule is not the cause.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_CALLER_BYTES>"
    )]
    pub withheld: Option<String>,
}

/// The last listing of the upstream's tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedListing {
    /// When it ended.
    pub time: Timestamp,
    /// Why it failed, if it did.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_text::<_, MAX_ERROR_BYTES>"
    )]
    pub error: Option<String>,
}

/// The tools of a report, from the inventory that calls are decided with.
pub fn tools(bound: &Bound) -> Vec<ReportedTool> {
    bound
        .tools()
        .iter()
        .map(|tool| ReportedTool {
            name: tool.name.clone(),
            digest: tool.digest.clone(),
            visible: bound.visible_to_some(tool),
            unclassified: tool.class.is_none(),
            drifted: tool.drifted,
            withheld: tool.withheld.as_ref().map(|withheld| withheld.describe()),
        })
        .collect()
}
