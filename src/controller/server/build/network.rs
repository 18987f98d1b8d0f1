//! What the NetworkPolicies of gateways and of stdio servers have in common.

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub fn tcp(port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}

/// The port and those that the McpServer adds. An entry without a port would open all of them.
pub fn with_further(port: i32, further: Vec<NetworkPolicyPort>) -> Vec<NetworkPolicyPort> {
    let mut ports = vec![tcp(port)];
    ports.extend(further.into_iter().filter(|one| one.port.is_some()));
    ports
}
