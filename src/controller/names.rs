//! What the operator calls things.

/// Who the operator is in `managedFields` (KEP-555).
pub const MANAGER: &str = "portcullis-operator";
/// Label and value that every child carries; informers select by it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portcullis");
/// Label with the name of the McpServer.
pub const SERVER: &str = "portcullis.dev/server";
/// Label with the part that a child belongs to.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT`] of what belongs to the gateway.
pub const GATEWAY: &str = "gateway";
/// Value of [`COMPONENT`] of what belongs to a stdio server.
pub const UPSTREAM: &str = "upstream";
/// Key of the bundle in its ConfigMap.
pub const BUNDLE_KEY: &str = "bundle.json";
/// Key of the ledger in its ConfigMap.
pub const LEDGER_KEY: &str = "ledger.json";
/// Port on which gateways serve probes, metrics and reports.
pub const ADMIN_PORT: u16 = 9090;
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

    /// Named by UID, so that a server of the same name that comes later never uses an earlier one's.
    pub fn sealing_secret(&self) -> String {
        format!("{}-gateway-sealing-{}", self.name, self.uid)
    }

    /// As [`Ident::sealing_secret`].
    pub fn bearer_secret(&self) -> String {
        format!("{}-upstream-bearer-{}", self.name, self.uid)
    }
}
