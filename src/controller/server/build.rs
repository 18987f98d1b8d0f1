//! From a plan to the objects that carry it out.
//!
//! In: a valid server, its bundle's consequences, the operator's settings. Out: every child, whole. Pure. Must not do: look at
//! what is there, but for the replicas that somebody else may decide on.

use serde_json::{Value, json};

use crate::api::server::{McpServerSpec, PodOptions};
use crate::controller::args::{Egress, Peers};
use crate::controller::names::{self, Ident};
use crate::controller::runtime::kinds::{Child, Kind};
use crate::policy::signature::PublicKey;

mod gateway;
mod upstream;

/// What all children of all servers have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    pub gateway_image: String,
    pub gateway_image_pull_policy: String,
    pub admin_from: Peers,
    pub gateway_egress: Egress,
}

/// Of what children follow.
pub struct Wanted<'a> {
    pub ident: &'a Ident,
    pub spec: &'a McpServerSpec,
    pub settings: &'a Settings,
    /// What gateways believe bundles by.
    pub bundle_keys: &'a [PublicKey],
    /// Limits are counted in the gateway's memory, so there must never be two gateways at once.
    pub alone: bool,
    /// Replicas of the gateway as they are now, if there is one.
    pub replicas: Option<Replicas>,
}

/// Replicas of the gateway's Deployment on the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub now: i64,
    /// Somebody else decides on them.
    pub others: bool,
}

/// Every child but the ConfigMaps of bundle and ledger, which are written otherwise, in the order of writing.
pub fn children(wanted: &Wanted<'_>) -> Vec<Child> {
    let mut children = gateway::children(wanted);
    if let Some(stdio) = &wanted.spec.upstream.stdio {
        children.extend(upstream::children(wanted, stdio));
    }
    children.sort_by_key(|child| child.kind);
    children
}

/// Names and kinds that a server may have had children under; what is there and no longer wanted is removed.
pub fn possible(ident: &Ident) -> Vec<(Kind, String)> {
    vec![
        (Kind::PodDisruptionBudget, ident.gateway()),
        (Kind::HorizontalPodAutoscaler, ident.gateway()),
        (Kind::Deployment, ident.upstream()),
        (Kind::Service, ident.upstream()),
        (Kind::NetworkPolicy, ident.upstream()),
    ]
}

/// Labels by which pods are selected; they never change.
pub fn selector(ident: &Ident, component: &str) -> Value {
    json!({ names::SERVER: ident.name, names::COMPONENT: component })
}

/// Labels of a child.
pub fn labels(ident: &Ident, component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": format!("portcullis-{component}"),
        "app.kubernetes.io/instance": ident.name,
        names::COMPONENT: component,
        names::MANAGED_BY.0: names::MANAGED_BY.1,
        names::SERVER: ident.name,
    })
}

/// Metadata of a child: who owns it is what makes it ours.
pub fn metadata(ident: &Ident, name: &str, component: &str) -> Value {
    json!({
        "name": name,
        "namespace": ident.namespace,
        "labels": labels(ident, component),
        "ownerReferences": [{
            "apiVersion": crate::api::API_VERSION,
            "kind": "McpServer",
            "name": ident.name,
            "uid": ident.uid,
            "controller": true,
        }],
    })
}

fn child(kind: Kind, name: String, metadata: Value, content: Value) -> Child {
    let mut body = kind.object(metadata);
    if let (Some(body), Value::Object(content)) = (body.as_object_mut(), content) {
        body.extend(content);
    }
    Child { kind, name, body }
}

/// Labels of a pod: the user's, and ours over them.
fn pod_metadata(ident: &Ident, component: &str, options: &PodOptions) -> Value {
    let mut labels = labels(ident, component);
    if let Some(map) = labels.as_object_mut() {
        for (key, value) in &options.labels {
            map.entry(key).or_insert_with(|| json!(value));
        }
    }
    let mut metadata = json!({ "labels": labels });
    set(
        &mut metadata,
        "annotations",
        &options.annotations,
        options.annotations.is_empty(),
    );
    metadata
}

/// Puts a field that is not empty.
fn set(object: &mut Value, field: &str, value: impl serde::Serialize, empty: bool) {
    if let (false, Some(object), Ok(value)) =
        (empty, object.as_object_mut(), serde_json::to_value(value))
    {
        object.insert(field.to_owned(), value);
    }
}

/// Scheduling and the like, as the user wants it.
fn schedule(pod: &mut Value, options: &PodOptions) {
    let PodOptions {
        labels: _,
        annotations: _,
        node_selector,
        tolerations,
        affinity,
        priority_class_name,
    } = options;
    set(pod, "nodeSelector", node_selector, node_selector.is_empty());
    set(pod, "tolerations", tolerations, tolerations.is_empty());
    set(pod, "affinity", affinity, affinity.is_none());
    let class = priority_class_name.as_deref().unwrap_or_default();
    set(pod, "priorityClassName", class, class.is_empty());
}

/// What the restricted Pod Security Standard asks of a pod.
fn pod_security(user: i64) -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// What it asks of a container, and a file system that cannot be changed.
fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

fn probe(path: &str, port: &str, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": port },
        "periodSeconds": 5,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

#[cfg(test)]
mod tests;
