//! Who may connect to a gateway, and where it may connect to.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicySpec,
};

use crate::api::contract::ADMIN_PORT;
use crate::api::server::{Gateway, GatewayNetworkPolicy, McpServerSpec};
use crate::controller::names::{BRIDGE_PORT, GATEWAY, Ident, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selector};
use crate::controller::server::build::network::{tcp, with_further};
use crate::controller::server::build::wanted::Settings;

/// None where the McpServer wants none and the platform does not restrict egress.
pub fn network_policy(
    ident: &Ident,
    spec: &McpServerSpec,
    settings: &Settings,
    gateway: &Gateway,
) -> Option<NetworkPolicy> {
    let options = gateway.network_policy.clone().unwrap_or_default();
    let ingress = options
        .enabled()
        .then(|| ingress(settings, gateway, options));
    let egress = egress(ident, spec, settings);
    let types: Vec<String> = [("Ingress", ingress.is_some()), ("Egress", egress.is_some())]
        .into_iter()
        .filter(|(_, is_restricted)| *is_restricted)
        .map(|(one, _)| one.to_owned())
        .collect();
    // A policy without types would restrict ingress.
    if types.is_empty() {
        return None;
    }
    Some(NetworkPolicy {
        metadata: metadata(ident, &ident.gateway(), GATEWAY),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(ident, GATEWAY)),
            policy_types: Some(types),
            ingress,
            egress,
        }),
    })
}

fn ingress(
    settings: &Settings,
    gateway: &Gateway,
    options: GatewayNetworkPolicy,
) -> Vec<NetworkPolicyIngressRule> {
    let GatewayNetworkPolicy {
        enabled: _,
        from,
        ports,
    } = options;
    // An empty list of peers would admit everybody.
    let mut rules = vec![NetworkPolicyIngressRule {
        from: (!from.is_empty()).then_some(from),
        ports: Some(with_further(gateway.port(), ports)),
    }];
    if !settings.admin_from.0.is_empty() {
        rules.push(NetworkPolicyIngressRule {
            from: Some(settings.admin_from.0.clone()),
            ports: Some(vec![tcp(ADMIN_PORT.into())]),
        });
    }
    rules
}

/// What the platform allows, and the way to the gateway's own stdio server.
fn egress(
    ident: &Ident,
    spec: &McpServerSpec,
    settings: &Settings,
) -> Option<Vec<NetworkPolicyEgressRule>> {
    let mut rules = settings.gateway_egress.0.clone()?;
    if spec.upstream.stdio.is_some() {
        rules.push(NetworkPolicyEgressRule {
            to: Some(vec![NetworkPolicyPeer {
                pod_selector: Some(selector(ident, UPSTREAM)),
                ..NetworkPolicyPeer::default()
            }]),
            ports: Some(vec![tcp(BRIDGE_PORT.into())]),
        });
    }
    Some(rules)
}
