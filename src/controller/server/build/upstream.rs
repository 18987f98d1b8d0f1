//! The objects of a stdio server: its pod with the bridge in front, and the way to it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::wanted::Wanted;
use crate::api::server::StdioUpstream;

mod deployment;
mod network_policy;
mod service;

/// The objects of a stdio server.
pub(super) struct UpstreamObjects {
    pub(super) service: Service,
    pub(super) network_policy: Option<NetworkPolicy>,
    pub(super) deployment: Deployment,
}

pub(super) fn objects(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> UpstreamObjects {
    let options = wanted.spec.gateway().network_policy;
    UpstreamObjects {
        service: service::service(wanted.ident),
        network_policy: network_policy::network_policy(wanted.ident, options.unwrap_or_default()),
        deployment: deployment::deployment(wanted, stdio),
    }
}
