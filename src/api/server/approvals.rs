//! How people learn that a call waits for them.

use crate::SecretKeyRef;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens beside a request for approval.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalSettings {
    /// Where new requests are announced. The gateway whose call asked sends the announcement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub notify: Vec<ApprovalNotice>,
}

/// One place where new requests are announced.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalNotice {
    /// A web service that takes a POST for each request.
    pub webhook: ApprovalWebhook,
}

/// A web service that takes a POST for each request.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalWebhook {
    /// The source of its URL, which is often a credential itself.
    pub url_secret_ref: SecretKeyRef,
    /// The form of the body: Generic, an object with the request; or Slack, a message for an
    /// incoming webhook of Slack. Generic if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebhookFormat")]
    pub format: Option<WebhookFormat>,
    /// The source of the key that signs each POST with HMAC-SHA256, at least 16 bytes; unsigned if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub hmac_secret_ref: Option<SecretKeyRef>,
    /// The certificate authority of an https:// URL, in PEM; the system's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKeyRef")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// Whether the redacted arguments, and the observed state, are sent too; false if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub include_arguments: Option<bool>,
}

/// The form of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum WebhookFormat {
    /// An object with the request.
    Generic,
    /// A message for an incoming webhook of Slack.
    Slack,
}
