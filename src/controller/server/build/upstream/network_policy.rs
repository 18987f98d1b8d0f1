//! Only its gateway may connect to a stdio server.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::names::{BRIDGE_PORT, GATEWAY, Ident, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selector};

pub fn network_policy(ident: &Ident) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(ident, &ident.upstream(), UPSTREAM),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(ident, UPSTREAM)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(selector(ident, GATEWAY)),
                    ..NetworkPolicyPeer::default()
                }]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(BRIDGE_PORT.into())),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                }]),
            }]),
            egress: None,
        }),
    }
}
