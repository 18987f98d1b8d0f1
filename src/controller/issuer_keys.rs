//! What is known of the API server as an issuer of service account tokens.
//!
//! In: what it publishes. Out: the same, for bundles. Must not do: fetch it.

use parking_lot::RwLock;

use crate::policy::bundle::BundleIssuer;

/// What is known of the issuer.
#[derive(Default)]
pub struct ClusterIssuer {
    known: RwLock<Option<BundleIssuer>>,
}

impl ClusterIssuer {
    /// The issuer with its keys, once the API server has said them.
    pub fn current(&self) -> Option<BundleIssuer> {
        self.known.read().clone()
    }

    /// Takes what the API server publishes now; says whether that changed.
    pub fn set(&self, issuer: BundleIssuer) -> bool {
        let mut known = self.known.write();
        let news = known.as_ref() != Some(&issuer);
        *known = Some(issuer);
        news
    }
}
