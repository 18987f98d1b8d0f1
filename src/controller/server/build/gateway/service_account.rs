//! The account that the gateway's pods run as.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::controller::names::{GATEWAY, Ident};
use crate::controller::server::build::metadata::metadata;

pub fn service_account(ident: &Ident) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(ident, &ident.gateway(), GATEWAY),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
