//! The complete, accepted configuration of one gateway, in one document.
//!
//! In: a server, its policies and related settings, specs verbatim. Out: JSON with a revision that
//! two bundles share exactly if their content is the same. Must not do: contain Secret values, or
//! check the policies; the compiler does that.

use super::{canonical, content};
use crate::api::{policy::McpPolicySpec, server::McpServerSpec};
use crate::json;
use serde::{Deserialize, Serialize};

/// The format that this release writes. It does not read newer ones.
pub const FORMAT: u32 = 2;

/// One server with everything that its gateways enforce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Version of this layout.
    pub format: u32,
    /// Grows with every write: a gateway refuses a bundle older than the one in force.
    pub sequence: u64,
    /// SHA-256 of the canonical form without `revision`, `sequence` and `signature`, in
    /// hexadecimal.
    pub revision: String,
    /// The server.
    pub server: BundleServer,
    /// Accepted policies that target it.
    #[serde(default)]
    pub policies: Vec<BundlePolicy>,
    /// Policies that target it and have never been accepted: while there is one, every call is
    /// denied.
    #[serde(default)]
    pub blocked: Vec<Blocked>,
    /// Keys of token issuers, by issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<BundleIssuer>,
    /// SHA-256 of the bearer that may read the gateway's report, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_token_sha256: Option<String>,
    /// What the rules say, in one digest: [`Bundle::rules_revision`]. Empty in bundles of the first
    /// releases.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rules: String,
    /// The operator's signature, in hexadecimal; none outside a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// An issuer of tokens whose keys come with the bundle: this cluster's API server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleIssuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Its JSON Web Key Set (RFC 7517), as it published it.
    pub jwks: serde_json::Value,
}

/// The server of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleServer {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, under which counters and approvals are kept.
    pub uid: String,
    /// Its spec, verbatim.
    pub spec: McpServerSpec,
}

/// An accepted policy of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundlePolicy {
    /// Its namespace; another than the server's for guardrails.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The generation of the spec.
    pub generation: i64,
    /// Its spec, verbatim; if the policy is not accepted, possibly without parts that do not fit.
    pub spec: McpPolicySpec,
    /// Why the policy is not accepted at this server, if it is not: it then restricts calls and
    /// allows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_accepted: Option<NotAccepted>,
}

/// Why a policy that compiles is not accepted at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotAccepted {
    /// The reason of the policy's condition.
    pub reason: String,
    /// What is wrong and what to change.
    pub message: String,
}

/// A policy that has never been accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// The policy, as namespace/name.
    pub policy: String,
    /// Its UID, under which refusals because of it are counted; empty in bundles of the first
    /// releases.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Why it was not accepted.
    pub message: String,
}

/// Why a document is not an enforceable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not strict JSON: a duplicate member, for example, where readers might use either.
    #[error("the bundle is not strict JSON: {0}; write it again")]
    Strict(#[from] json::Error),
    /// Not the JSON of a bundle.
    #[error("the bundle cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a newer release.
    #[error(
        "the bundle has format {0} and this release reads up to {FORMAT}: upgrade the gateway first"
    )]
    Format(u32),
    /// Damaged in transit.
    #[error(
        "the bundle has revision {stated} but its content has revision {found}: write it again"
    )]
    Revision {
        /// The stated revision.
        stated: String,
        /// The revision of the content.
        found: String,
    },
}

impl Bundle {
    /// Reads a bundle; one that is damaged or newer than this release is refused.
    ///
    /// The revision is taken over the text's own content, so that unknown fields count too.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        json::check(bytes)?;
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let found = revision(value.clone());
        let bundle: Bundle = serde_json::from_value(value)?;
        if bundle.format == 0 || bundle.format > FORMAT {
            return Err(BundleError::Format(bundle.format));
        }
        if found != bundle.revision {
            return Err(BundleError::Revision {
                stated: bundle.revision,
                found,
            });
        }
        Ok(bundle)
    }

    /// A bundle with its revision filled in.
    pub fn sealed(mut self) -> Result<Self, BundleError> {
        self.rules = self.digest_of_rules();
        self.revision = self.computed_revision()?;
        Ok(self)
    }

    /// The digest of what the server and its policies say, in hexadecimal: what people are shown as
    /// the revision. Unlike [`Bundle::revision`], which vouches for the whole document, it is the
    /// same for the same files everywhere.
    pub fn rules_revision(&self) -> String {
        match self.rules.as_str() {
            "" => self.digest_of_rules(),
            rules => rules.to_owned(),
        }
    }

    fn digest_of_rules(&self) -> String {
        let server = &self.server;
        // A spec that cannot be written as JSON cannot be in a bundle.
        let spec = serde_json::to_value(&server.spec).unwrap_or_default();
        let policies = self.policies.iter().map(|policy| {
            let spec = serde_json::to_value(&policy.spec).unwrap_or_default();
            (policy.namespace.as_str(), policy.name.as_str(), spec)
        });
        let blocked: Vec<&str> = self
            .blocked
            .iter()
            .map(|blocked| blocked.policy.as_str())
            .collect();
        content::digest((&server.namespace, &server.name, spec), policies, &blocked)
    }

    /// The revision of the bundle's current content.
    pub fn computed_revision(&self) -> Result<String, BundleError> {
        Ok(revision(serde_json::to_value(self)?))
    }
}

fn revision(mut bundle: serde_json::Value) -> String {
    if let Some(object) = bundle.as_object_mut() {
        object.remove("revision");
        object.remove("sequence");
        object.remove("signature");
    }
    hex::encode(canonical::sha256(canonical::plain(&bundle).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_was_stored_before_blocked_policies_had_uids_is_read() {
        let mut stored = serde_json::json!({
            "format": 1, "sequence": 4,
            "server": {"namespace": "ml", "name": "mlflow", "uid": "u", "spec": {"upstream": {"http": {"url": "http://a/mcp"}}}},
            "policies": [], "blocked": [{"policy": "ml/broken", "message": "nonsense"}],
        });
        stored["revision"] = revision(stored.clone()).into();
        let bundle = Bundle::parse(stored.to_string().as_bytes()).unwrap();
        assert_eq!(bundle.blocked[0].uid, "");
        assert_eq!(bundle.computed_revision().unwrap(), bundle.revision);
    }
}
