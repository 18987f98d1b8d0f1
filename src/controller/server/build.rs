//! From a plan to the objects that carry it out.
//!
//! In: a valid server, its bundle's consequences, the operator's settings. Out: every child, whole.
//! Pure. Must not do: read the existing objects, but for the replicas that another writer may
//! decide on.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use self::gateway::GatewayObjects;
use self::upstream::UpstreamObjects;
use self::wanted::Wanted;
use crate::controller::names::Ident;
use crate::controller::runtime::kinds::{Child, Kind};
use crate::controller::server::error::BuildError;

pub mod config_map;
mod gateway;
pub mod metadata;
mod network;
mod pod;
mod upstream;
pub mod wanted;

/// Every child but the ConfigMaps of bundle and ledger, which are written otherwise, in the order
/// of writing.
///
/// # Errors
/// [`BuildError`] if an object cannot be written as JSON.
pub fn build(wanted: &Wanted<'_>) -> Result<Vec<Child>, BuildError> {
    let GatewayObjects {
        service_account,
        role,
        role_binding,
        service,
        network_policy,
        deployment,
        disruption_budget,
        autoscaler,
    } = gateway::objects(wanted);
    let mut children = vec![
        Child::of(&service_account)?,
        Child::of(&role)?,
        Child::of(&role_binding)?,
        Child::of(&service)?,
        child_of_deployment(&deployment)?,
    ];
    children.extend(network_policy.as_ref().map(Child::of).transpose()?);
    children.extend(disruption_budget.as_ref().map(Child::of).transpose()?);
    children.extend(autoscaler.as_ref().map(Child::of).transpose()?);
    if let Some(stdio) = &wanted.spec.upstream.stdio {
        let UpstreamObjects {
            service,
            network_policy,
            deployment,
        } = upstream::objects(wanted, stdio);
        children.push(Child::of(&service)?);
        children.extend(network_policy.as_ref().map(Child::of).transpose()?);
        children.push(child_of_deployment(&deployment)?);
    }
    children.sort_by_key(|child| child.kind);
    Ok(children)
}

/// The API server refuses `rollingUpdate` beside Recreate, and a merge patch removes only what it
/// names as null, for which the type has no word.
fn child_of_deployment(deployment: &Deployment) -> Result<Child, BuildError> {
    let mut child = Child::of(deployment)?;
    let strategy = child.body.pointer_mut("/spec/strategy");
    if let Some(strategy) = strategy.and_then(Value::as_object_mut) {
        strategy.entry("rollingUpdate").or_insert(Value::Null);
    }
    Ok(child)
}

/// Names and kinds that a server may have had children under; an existing one that is no longer
/// wanted is removed.
pub fn possible(ident: &Ident) -> Vec<(Kind, String)> {
    vec![
        (Kind::PodDisruptionBudget, ident.gateway()),
        (Kind::HorizontalPodAutoscaler, ident.gateway()),
        (Kind::NetworkPolicy, ident.gateway()),
        (Kind::Deployment, ident.upstream()),
        (Kind::Service, ident.upstream()),
        (Kind::NetworkPolicy, ident.upstream()),
    ]
}

#[cfg(test)]
mod tests;
