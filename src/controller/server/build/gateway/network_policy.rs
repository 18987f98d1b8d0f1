//! Who may connect to a gateway, and where it may connect to.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::contract::ADMIN_PORT;
use crate::api::server::{Gateway, McpServerSpec};
use crate::controller::names::{BRIDGE_PORT, GATEWAY, Ident, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selector};
use crate::controller::server::build::wanted::Settings;

pub fn network_policy(
    ident: &Ident,
    spec: &McpServerSpec,
    settings: &Settings,
    gateway: &Gateway,
) -> NetworkPolicy {
    let mut ingress = vec![NetworkPolicyIngressRule {
        from: None,
        ports: Some(tcp(gateway.port())),
    }];
    // An empty list of peers would admit everybody.
    if !settings.admin_from.0.is_empty() {
        ingress.push(NetworkPolicyIngressRule {
            from: Some(settings.admin_from.0.clone()),
            ports: Some(tcp(ADMIN_PORT.into())),
        });
    }
    let egress = settings.gateway_egress.0.clone().map(|mut rules| {
        if spec.upstream.stdio.is_some() {
            rules.push(NetworkPolicyEgressRule {
                to: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(selector(ident, UPSTREAM)),
                    ..NetworkPolicyPeer::default()
                }]),
                ports: Some(tcp(BRIDGE_PORT.into())),
            });
        }
        rules
    });
    let types: &[&str] = match egress {
        Some(_) => &["Ingress", "Egress"],
        None => &["Ingress"],
    };
    NetworkPolicy {
        metadata: metadata(ident, &ident.gateway(), GATEWAY),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(ident, GATEWAY)),
            policy_types: Some(types.iter().map(|&one| one.to_owned()).collect()),
            ingress: Some(ingress),
            egress,
        }),
    }
}

fn tcp(port: i32) -> Vec<NetworkPolicyPort> {
    vec![NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }]
}
