//! Children as they are on the API server, kept small.
//!
//! In: any object of a child's kind. Out: its metadata and its text without what is never compared.
//! Must not do: drop anything that the operator writes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::pod_trouble;
use crate::api;
use crate::api::raw::{Object, members, read};
use crate::controller::names::MANAGER;
use crate::controller::names::{Ident, SERVER_LABEL};

/// A child.
#[derive(Clone, Debug)]
pub struct ObservedChild {
    metadata: ObjectMeta,
    /// Everything but status and what the API server adds to metadata, as JSON; nothing of an
    /// object that is not ours, as anybody may put our labels onto large ones.
    body: Box<str>,
    /// Whether another writer decides on `spec.replicas` (an autoscaler, `kubectl scale`).
    pub replicas_of_others: bool,
    /// Why a Deployment has no pods.
    pub trouble: Option<String>,
    /// Fields of the content that others manage: the manager, and the paths.
    others: Box<[(String, Vec<String>)]>,
}

/// Paths that are kept of one object's other managers.
const MAX_FOREIGN_PATHS: usize = 64;

impl ObservedChild {
    /// Who else manages a field, or something in it, or all that it is in.
    pub fn manager_of(&self, field: &str) -> Option<String> {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let mut others = self.others.iter();
        let found = others.find(|(_, paths)| {
            let mut paths = paths.iter();
            paths.any(|path| within(path, field) || within(field, path))
        });
        found.map(|(manager, _)| manager.clone())
    }

    /// The text, parsed; null of an object that is not ours.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The UID of the McpServer that controls it.
    pub fn controller(&self) -> Option<&str> {
        self.metadata
            .owner_references
            .iter()
            .flatten()
            .map(|owner| owner.uid.as_str())
            .next()
    }

    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn resource_version(&self) -> &str {
        self.metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
    }

    /// What changes with every change of the object: its generation, or, where a kind has none,
    /// its resource version.
    pub fn stamp(&self) -> String {
        match self.metadata.generation {
            Some(generation) => format!("g{generation}"),
            None => format!("r{}", self.resource_version()),
        }
    }

    /// The value of `data.KEY`, of a ConfigMap.
    pub fn data(&self, key: &str) -> Option<String> {
        let mut value = self.value();
        match value.get_mut("data")?.get_mut(key)?.take() {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for ObservedChild {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        let metadata = small(object.metadata());
        let (mut body, mut others, mut managers) = (None, false, Vec::new());
        let mut trouble = None;
        if is_child(&metadata) {
            // One that cannot be read is not as it should be, and is written over.
            body = object.value(&["status"]).ok().map(|body| body.to_string());
            let members = object.members();
            let status = members
                .get("status")
                .and_then(|status| read::<Value>(status));
            trouble = status.and_then(|status| pod_trouble::of_deployment(&status));
            if let Some(text) = members.get("metadata") {
                let entries = managed_fields(text);
                others = entries.iter().any(replicas_of_others);
                managers = others_fields(&entries);
            }
        }
        Ok(ObservedChild {
            metadata,
            body: body.unwrap_or_default().into_boxed_str(),
            replicas_of_others: others,
            others: managers.into_boxed_slice(),
            trouble,
        })
    }
}

/// Metadata with what is used of it here, and of the owners only the one that controls the object:
/// labels may be as large as the whole object.
fn small(metadata: ObjectMeta) -> ObjectMeta {
    let mut labels = metadata.labels.unwrap_or_default();
    labels.retain(|label, _| label == SERVER_LABEL);
    let mut owners = metadata.owner_references.unwrap_or_default();
    owners.retain(|owner| owner.controller == Some(true));
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        labels: Some(labels),
        owner_references: Some(owners),
        ..ObjectMeta::default()
    }
}

/// Whether an object says that it belongs to an McpServer, and has one of the names that its
/// children have. What only claims so goes soon: the API server's garbage collector removes what no
/// living object owns.
fn is_child(metadata: &ObjectMeta) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| {
        let ident = Ident {
            namespace: String::new(),
            name: owner.name.clone(),
            uid: String::new(),
        };
        let name = metadata.name.as_deref();
        owner.kind == "McpServer"
            && owner.api_version.split('/').next() == Some(api::GROUP)
            && [ident.gateway(), ident.upstream(), ident.ledger()]
                .iter()
                .any(|of| Some(of.as_str()) == name)
    })
}

fn managed_fields(metadata: &RawValue) -> Vec<Value> {
    let entries: Vec<&RawValue> = members(metadata)
        .get("managedFields")
        .and_then(|entries| serde_json::from_str(entries.get()).ok())
        .unwrap_or_default();
    entries.into_iter().filter_map(read::<Value>).collect()
}

fn is_others(entry: &Value) -> bool {
    entry.get("manager").and_then(Value::as_str) != Some(MANAGER)
}

fn replicas_of_others(entry: &Value) -> bool {
    is_others(entry) && entry.pointer("/fieldsV1/f:spec/f:replicas").is_some()
}

/// The paths of content, status and metadata apart, that others manage, as KEP-555 writes them.
fn others_fields(entries: &[Value]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut left = MAX_FOREIGN_PATHS;
    for entry in entries.iter().filter(|entry| is_others(entry)) {
        // What is written through a subresource is not a change of the content, the scale apart.
        if entry.get("subresource").and_then(Value::as_str) == Some("status") {
            continue;
        }
        let mut paths = Vec::new();
        let fields = entry.get("fieldsV1").and_then(Value::as_object);
        for (key, below) in fields.into_iter().flatten() {
            if !matches!(key.as_str(), "f:metadata" | "f:status") {
                paths_below(String::new(), key, below, &mut paths, left);
            }
        }
        left = left.saturating_sub(paths.len());
        if let (false, Some(manager)) = (
            paths.is_empty(),
            entry.get("manager").and_then(Value::as_str),
        ) {
            found.push((manager.to_owned(), paths));
        }
    }
    found
}

fn paths_below(before: String, key: &str, below: &Value, found: &mut Vec<String>, left: usize) {
    let path = if let Some(field) = key.strip_prefix("f:") {
        if before.is_empty() {
            field.to_owned()
        } else {
            format!("{before}.{field}")
        }
    } else if let Some(item) = key.strip_prefix("k:") {
        let item: Value = serde_json::from_str(item).unwrap_or_default();
        let named = item.get("name").and_then(Value::as_str).map(str::to_owned);
        let first = || Some(item.as_object()?.values().next()?.to_string());
        format!("{before}[{}]", named.or_else(first).unwrap_or_default())
    } else if key.starts_with("v:") || key.starts_with("i:") {
        format!("{before}[{}]", key.get(2..).unwrap_or_default())
    } else {
        // ".": the list or object itself.
        return;
    };
    let mut deeper = false;
    for (key, below) in below.as_object().into_iter().flatten() {
        if key != "." {
            deeper = true;
            paths_below(path.clone(), key, below, found, left);
        }
    }
    if !deeper && found.len() < left {
        found.push(path);
    }
}

impl Resource for ObservedChild {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }
    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }
    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }
    fn api_version(dt: &ApiResource) -> Cow<'_, str> {
        dt.api_version.as_str().into()
    }
    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A pod of a gateway or of a stdio server: what is needed to find it, to ask a gateway for its
/// report, and to say why it does not run.
#[derive(Clone, Debug, Default)]
pub struct GatewayPod {
    metadata: ObjectMeta,
    pub ip: Option<IpAddr>,
    pub ready: bool,
    /// It was asked to stop.
    pub terminating: bool,
    /// Why it does not run, or not for long.
    pub trouble: Option<String>,
    /// UID of the ReplicaSet that controls it.
    pub replica_set: Option<String>,
}

impl GatewayPod {
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for GatewayPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        let mut metadata = small(object.metadata());
        let status = object
            .members()
            .get("status")
            .and_then(|status| read(status));
        let status: Value = status.unwrap_or_default();
        let owners = metadata.owner_references.take().unwrap_or_default();
        let replica_set = owners
            .into_iter()
            .find(|owner| owner.kind == "ReplicaSet")
            .map(|owner| owner.uid);
        let terminating = metadata.deletion_timestamp.is_some();
        let conditions = status.get("conditions").and_then(Value::as_array);
        let ready = conditions.into_iter().flatten().any(|condition| {
            condition.get("type").and_then(Value::as_str) == Some("Ready")
                && condition.get("status").and_then(Value::as_str) == Some("True")
        });
        let ip = status
            .get("podIP")
            .and_then(Value::as_str)
            .and_then(|ip| ip.parse().ok());
        Ok(GatewayPod {
            trouble: pod_trouble::of_pod(&status),
            metadata,
            ip,
            // One that stops gets no more calls.
            ready: ready && !terminating,
            terminating,
            replica_set,
        })
    }
}

impl Resource for GatewayPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An object of which only its identity matters: its name, version, server and owner.
#[derive(Debug)]
pub struct ObjectId<K> {
    metadata: ObjectMeta,
    of: PhantomData<fn() -> K>,
}

impl<K> Clone for ObjectId<K> {
    fn clone(&self) -> Self {
        ObjectId {
            metadata: self.metadata.clone(),
            of: PhantomData,
        }
    }
}

impl<'de, K> Deserialize<'de> for ObjectId<K> {
    /// Skips all else without keeping it for a moment: there are thousands in a list.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            name: Option<String>,
            namespace: Option<String>,
            uid: Option<String>,
            resource_version: Option<String>,
            labels: Option<BTreeMap<String, String>>,
            owner_references: Option<Vec<OwnerReference>>,
        }
        let Object { metadata } = Object::deserialize(deserializer)?;
        Ok(ObjectId {
            metadata: small(ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                labels: metadata.labels,
                owner_references: metadata.owner_references,
                ..ObjectMeta::default()
            }),
            of: PhantomData,
        })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for ObjectId<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_child_keeps_what_is_compared_and_tells_who_scales_it() {
        let by = |manager: &str, fields: Value| json!({"manager": manager, "fieldsV1": fields});
        let object = |managers: Value| -> ObservedChild {
            serde_json::from_str(
                &json!({
                    "apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": {
                        "name": "m-gateway", "namespace": "ml", "generation": 3, "resourceVersion": "7",
                        "managedFields": managers,
                        "ownerReferences": [{"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": "u", "controller": true}],
                    },
                    "spec": {"replicas": 2}, "status": {"replicas": 2, "observedGeneration": 3},
                })
                .to_string(),
            )
            .unwrap()
        };
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let own = object(json!([by(MANAGER, replicas.clone())]));
        assert!(!own.replicas_of_others);
        assert_eq!(own.controller(), Some("u"));
        assert_eq!(own.stamp(), "g3");
        assert_eq!(own.value().get("status"), None);
        assert_eq!(own.value()["spec"]["replicas"], json!(2));
        assert!(object(json!([by("kubectl", replicas)])).replicas_of_others);
        assert!(!object(json!([by("kubectl", json!({"f:spec": {}}))])).replicas_of_others);
    }

    #[test]
    fn nothing_is_kept_of_what_only_bears_our_labels() {
        let object = |name: &str, owner: Value| -> ObservedChild {
            let text = json!({
                "metadata": {"name": name, "uid": "x", "ownerReferences": owner},
                "data": {"bundle.json": "kept"},
            })
            .to_string();
            serde_json::from_str(&text).unwrap()
        };
        let owner = |kind: &str, version: &str, controller: bool| json!([{"apiVersion": version, "kind": kind, "name": "m", "uid": "u", "controller": controller}]);
        let ours = owner("McpServer", "portcullis.dev/v1alpha1", true);
        for name in ["m-gateway", "m-gateway-ledger", "m-upstream"] {
            let kept = object(name, ours.clone());
            assert_eq!(kept.data("bundle.json").as_deref(), Some("kept"), "{name}");
        }
        let foreign = [
            object("m-gateway", Value::Null),
            object("m-other", ours),
            object(
                "m-gateway",
                owner("McpServer", "portcullis.dev/v1alpha1", false),
            ),
            object("m-gateway", owner("McpServer", "example.com/v1", true)),
            object("m-gateway", owner("Deployment", "apps/v1", true)),
        ];
        for foreign in foreign {
            assert_eq!((foreign.value(), foreign.body.len()), (Value::Null, 0));
            // That it is there is what matters.
            assert_eq!(foreign.uid(), "x");
        }
    }
}
