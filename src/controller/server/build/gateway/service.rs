//! The Service that agents call.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::server::{Gateway, GatewayService, ServiceType};
use crate::controller::names::{GATEWAY, Ident};
use crate::controller::server::build::metadata::{metadata, selecting};
use crate::controller::server::build::pod::unless_empty;

pub fn service(ident: &Ident, gateway: &Gateway) -> Service {
    let service = gateway.service.clone().unwrap_or_default();
    let kind = match service.type_() {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
    };
    let protocol = if gateway.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let app_protocol = service.app_protocol(protocol).map(str::to_owned);
    let GatewayService {
        type_: _,
        annotations,
        app_protocol: _,
    } = service;
    Service {
        metadata: ObjectMeta {
            annotations: unless_empty(annotations),
            ..metadata(ident, &ident.gateway(), GATEWAY)
        },
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(selecting(ident, GATEWAY)),
            ports: Some(vec![ServicePort {
                name: Some(protocol.to_owned()),
                app_protocol,
                port: gateway.port(),
                target_port: Some(IntOrString::String("http".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
