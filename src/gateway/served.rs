//! The server that a gateway is for.

use crate::policy::bundle::BundleServer;

/// The server that a gateway is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// `namespace/name`.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Served {
    /// The server of a bundle.
    pub fn of(server: &BundleServer) -> Self {
        Served {
            name: format!("{}/{}", server.namespace, server.name),
            uid: server.uid.clone(),
        }
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.uid)
    }
}
