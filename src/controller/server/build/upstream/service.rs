//! The Service by which the gateway reaches the bridge.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::names::{BRIDGE_PORT, Ident, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selecting};

pub fn service(ident: &Ident) -> Service {
    Service {
        metadata: metadata(ident, &ident.upstream(), UPSTREAM),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selecting(ident, UPSTREAM)),
            ports: Some(vec![ServicePort {
                name: Some("bridge".to_owned()),
                app_protocol: Some("http".to_owned()),
                port: BRIDGE_PORT.into(),
                target_port: Some(IntOrString::String("bridge".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
