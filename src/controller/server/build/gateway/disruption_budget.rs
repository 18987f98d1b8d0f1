//! How many of several gateways may be evicted at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::server::Gateway;
use crate::controller::names::{GATEWAY, Ident};
use crate::controller::server::build::metadata::{metadata, selector};

/// None where there is only one gateway: a budget would keep it from being evicted at all.
pub fn disruption_budget(
    ident: &Ident,
    gateway: &Gateway,
    alone: bool,
) -> Option<PodDisruptionBudget> {
    let least = match &gateway.autoscaling {
        Some(autoscaling) => autoscaling.min_replicas(),
        None => gateway.replicas(),
    };
    (least > 1 && !alone).then(|| PodDisruptionBudget {
        metadata: metadata(ident, &ident.gateway(), GATEWAY),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(selector(ident, GATEWAY)),
            min_available: None,
        }),
        status: None,
    })
}
