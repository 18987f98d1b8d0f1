//! What every child says of itself: whose it is, and what selects it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

use crate::api::contract::SERVER_LABEL;
use crate::controller::names::{self, Ident};

/// Labels by which pods are selected; they never change.
pub fn selecting(ident: &Ident, component: &str) -> BTreeMap<String, String> {
    [
        (SERVER_LABEL, ident.name.clone()),
        (names::COMPONENT, component.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// A selector of a component's pods.
pub fn selector(ident: &Ident, component: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selecting(ident, component)),
        match_expressions: None,
    }
}

/// Labels of a child.
pub fn labels(ident: &Ident, component: &str) -> BTreeMap<String, String> {
    [
        (
            "app.kubernetes.io/name",
            format!("portcullis-{component}").as_str(),
        ),
        ("app.kubernetes.io/instance", ident.name.as_str()),
        (names::COMPONENT, component),
        names::MANAGED_BY,
        (SERVER_LABEL, ident.name.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Metadata of a child: who owns it is what makes it ours.
pub fn metadata(ident: &Ident, name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(ident.namespace.clone()),
        labels: Some(labels(ident, component)),
        owner_references: Some(vec![OwnerReference {
            api_version: crate::api::API_VERSION.to_owned(),
            kind: "McpServer".to_owned(),
            name: ident.name.clone(),
            uid: ident.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}
