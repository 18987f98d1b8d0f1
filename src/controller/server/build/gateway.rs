//! The gateway's own objects.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

use super::wanted::Wanted;
use crate::api::server::McpServerSpec;

mod autoscaler;
mod deployment;
mod disruption_budget;
mod network_policy;
mod role;
mod role_binding;
mod service;
mod service_account;

/// The objects of a gateway.
pub(super) struct GatewayObjects {
    pub(super) service_account: ServiceAccount,
    pub(super) role: Role,
    pub(super) role_binding: RoleBinding,
    pub(super) service: Service,
    pub(super) network_policy: Option<NetworkPolicy>,
    pub(super) deployment: Deployment,
    pub(super) disruption_budget: Option<PodDisruptionBudget>,
    pub(super) autoscaler: Option<HorizontalPodAutoscaler>,
}

pub(super) fn objects(wanted: &Wanted<'_>) -> GatewayObjects {
    let Wanted {
        ident,
        spec,
        settings,
        bundle_keys: _,
        alone,
        replicas: _,
    } = *wanted;
    let gateway = spec.gateway();
    GatewayObjects {
        service_account: service_account::service_account(ident),
        role: role::role(ident),
        role_binding: role_binding::role_binding(ident),
        service: service::service(ident, &gateway),
        network_policy: network_policy::network_policy(ident, spec, settings, &gateway),
        deployment: deployment::deployment(wanted, &gateway),
        disruption_budget: disruption_budget::disruption_budget(ident, &gateway, alone),
        autoscaler: gateway
            .autoscaling
            .as_ref()
            .map(|autoscaling| autoscaler::autoscaler(ident, autoscaling)),
    }
}

/// Names of the Secrets that the gateway itself reads, in order.
fn secrets(spec: &McpServerSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(http) = &spec.upstream.http {
        let by_caller = http.credentials.iter().flat_map(|entry| &entry.headers);
        let headers = http
            .headers
            .iter()
            .chain(by_caller)
            .filter_map(|header| header.value_from.as_ref());
        names.extend(headers.map(|source| source.secret_key_ref.name.clone()));
        let ca = http.tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref());
        let proxy = http.proxy.as_ref();
        let proxy = proxy.and_then(|proxy| proxy.credentials_secret_ref.as_ref());
        names.extend(
            [ca, proxy]
                .into_iter()
                .flatten()
                .map(|reference| reference.name.clone()),
        );
    }
    let keys = spec
        .authentication
        .as_ref()
        .and_then(|authentication| authentication.api_keys.as_ref());
    names.extend(keys.map(|keys| keys.secret_ref.name.clone()));
    let providers = spec
        .authentication
        .iter()
        .flat_map(|authentication| &authentication.jwt);
    for jwks in providers.map(|provider| &provider.jwks) {
        let references = [&jwks.secret_key_ref, &jwks.ca_secret_ref];
        names.extend(
            references
                .into_iter()
                .flatten()
                .map(|reference| reference.name.clone()),
        );
    }
    let redis = spec.redis().into_iter();
    let references =
        redis.flat_map(|redis| [Some(&redis.url_secret_ref), redis.ca_secret_ref.as_ref()]);
    names.extend(references.flatten().map(|reference| reference.name.clone()));
    let webhooks = spec.approval_webhooks().flat_map(|webhook| {
        [
            Some(&webhook.url_secret_ref),
            webhook.hmac_secret_ref.as_ref(),
            webhook.ca_secret_ref.as_ref(),
        ]
    });
    names.extend(webhooks.flatten().map(|reference| reference.name.clone()));
    let tls = spec
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.tls.as_ref());
    names.extend(tls.map(|tls| tls.secret_ref.name.clone()));
    names
}
