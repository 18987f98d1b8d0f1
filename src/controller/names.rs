//! What the operator calls things. What gateways must know as well is in [`contract`].

use crate::api::contract;
pub use crate::api::contract::SERVER_LABEL;

/// Who the operator is in `managedFields` (KEP-555).
pub const MANAGER: &str = "portcullis-operator";
/// Label and value that every child carries; informers select by it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portcullis");
/// Label with the part that a child belongs to.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT`] of what belongs to the gateway.
pub const GATEWAY: &str = "gateway";
/// Value of [`COMPONENT`] of what belongs to a stdio server.
pub const UPSTREAM: &str = "upstream";
/// Key of the ledger in its ConfigMap.
pub const LEDGER_KEY: &str = "ledger.json";
/// Port of the bridge in front of a stdio server.
pub const BRIDGE_PORT: u16 = 8000;

/// Namespace and name.
pub type Name = (String, String);

/// The identity of one McpServer, of which names and labels follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Ident {
    pub fn key(&self) -> Name {
        (self.namespace.clone(), self.name.clone())
    }

    pub fn gateway(&self) -> String {
        format!("{}-gateway", self.name)
    }

    pub fn upstream(&self) -> String {
        format!("{}-upstream", self.name)
    }

    pub fn ledger(&self) -> String {
        format!("{}-gateway-ledger", self.name)
    }

    pub fn sealing_secret(&self) -> String {
        contract::sealing_secret(&self.name, &self.uid)
    }

    pub fn bearer_secret(&self) -> String {
        contract::bearer_secret(&self.name, &self.uid)
    }
}
