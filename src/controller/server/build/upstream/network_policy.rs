//! Only its gateway may connect to a stdio server.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
};

use crate::api::server::GatewayNetworkPolicy;
use crate::controller::names::{BRIDGE_PORT, GATEWAY, Ident, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selector};
use crate::controller::server::build::network::with_further;

/// None where the McpServer wants none.
pub fn network_policy(ident: &Ident, options: GatewayNetworkPolicy) -> Option<NetworkPolicy> {
    if !options.enabled() {
        return None;
    }
    Some(NetworkPolicy {
        metadata: metadata(ident, &ident.upstream(), UPSTREAM),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(ident, UPSTREAM)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(selector(ident, GATEWAY)),
                    ..NetworkPolicyPeer::default()
                }]),
                ports: Some(with_further(BRIDGE_PORT.into(), options.ports)),
            }]),
            egress: None,
        }),
    })
}
