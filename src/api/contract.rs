//! What the operator and the gateways agree on: names of objects, keys and ports.
//!
//! In: the name and UID of an McpServer. Out: the names that the operator gives its objects, which
//! a gateway needs to find them or to report that they are missing. Must not do: name what one of
//! the two alone needs to know.

/// Label with the name of the McpServer.
pub const SERVER_LABEL: &str = "portcullis.dev/server";
/// Key of the bundle in its ConfigMap.
pub const BUNDLE_KEY: &str = "bundle.json";
/// Key of the sealing keys in their Secret.
pub const SEALING_KEY: &str = "keys";
/// Key of the bridge's bearer in its Secret.
pub const BEARER_KEY: &str = "bearer";
/// Port on which gateways serve probes, metrics and reports.
pub const ADMIN_PORT: u16 = 9090;

/// The Secret with the keys that seal what clients hand back. Named by UID, so that a server of the
/// same name that comes later never uses an earlier one's.
#[must_use]
pub fn sealing_secret(server: &str, uid: &str) -> String {
    format!("{server}-gateway-sealing-{uid}")
}

/// The Secret with the bearer of a stdio server's bridge, named as [`sealing_secret`].
#[must_use]
pub fn bearer_secret(server: &str, uid: &str) -> String {
    format!("{server}-upstream-bearer-{uid}")
}
