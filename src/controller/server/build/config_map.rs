//! The ConfigMaps that the operator writes its own data to: a server's bundle, and its ledger.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata::metadata;
use crate::controller::names::{GATEWAY, Ident};
use crate::controller::runtime::kinds::{Child, NotJson};

/// A ConfigMap of the gateway's with one key.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn config_map(ident: &Ident, name: &str, key: &str, text: String) -> Result<Child, NotJson> {
    Child::of(&ConfigMap {
        metadata: metadata(ident, name, GATEWAY),
        data: Some(BTreeMap::from([(key.to_owned(), text)])),
        ..ConfigMap::default()
    })
}
