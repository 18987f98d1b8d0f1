//! The binding of the gateway's Role to its account.

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use crate::controller::names::{GATEWAY, Ident};
use crate::controller::server::build::metadata::metadata;

pub fn role_binding(ident: &Ident) -> RoleBinding {
    let name = ident.gateway();
    RoleBinding {
        metadata: metadata(ident, &name, GATEWAY),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(ident.namespace.clone()),
            api_group: None,
        }]),
    }
}
