//! The objects that watches bring.
//!
//! In: events of watches. Out: objects as they were last seen, and which namespaces cannot be seen
//! whole. Must not do: ask the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;

use crate::api::approval::McpApproval;
use crate::api::contract::SERVER_LABEL;
use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::controller::names::Ident;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::{GatewayPod, ObjectId, ObservedChild};
use crate::controller::runtime::store::Store;
use crate::policy::target::Labels;

/// What the watches bring.
pub struct Caches {
    /// Namespaces of which something could not be listed, with how many kinds: nothing is done in
    /// them until it can be. What cannot be seen may be a policy.
    unseen: Mutex<BTreeMap<String, BTreeSet<usize>>>,
    pub servers: Store<Loose<McpServer>>,
    pub policies: Store<Loose<McpPolicy>>,
    pub approvals: Store<Loose<McpApproval>>,
    pub pods: Store<GatewayPod>,
    pub replica_sets: Store<ObjectId<ReplicaSet>>,
    /// Their labels, which guardrails may select by.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    children: BTreeMap<Kind, Store<ObservedChild>>,
}

impl Caches {
    /// The number of watches for each kind of object around servers, for policies and for
    /// namespaces.
    pub fn new(watches: usize, policy_watches: usize, namespace_watches: usize) -> Self {
        Caches {
            unseen: Mutex::default(),
            servers: Store::new(watches),
            policies: Store::new(policy_watches),
            approvals: Store::new(watches),
            pods: Store::new(watches),
            replica_sets: Store::new(watches),
            namespaces: Store::new(namespace_watches),
            children: Kind::ALL
                .into_iter()
                .map(|kind| (kind, Store::new(watches)))
                .collect(),
        }
    }

    /// Whether everything in a namespace can be seen.
    pub fn sees(&self, namespace: &str) -> bool {
        !self.unseen.lock().contains_key(namespace)
    }

    /// One of a namespace's watches is refused.
    pub fn lose(&self, namespace: &str, watch: usize) {
        self.unseen
            .lock()
            .entry(namespace.to_owned())
            .or_default()
            .insert(watch);
    }

    /// One of a namespace's watches has listed everything. True if it was the last that was
    /// missing.
    pub fn regain(&self, namespace: &str, watch: usize) -> bool {
        let mut unseen = self.unseen.lock();
        let Some(watches) = unseen.get_mut(namespace) else {
            return false;
        };
        watches.remove(&watch);
        let all = watches.is_empty();
        if all {
            unseen.remove(namespace);
        }
        all
    }

    pub fn children(&self, kind: Kind) -> &Store<ObservedChild> {
        // Every kind is put in by `new`.
        #[allow(clippy::indexing_slicing)]
        &self.children[&kind]
    }

    /// Waits until everything has been listed once.
    pub async fn listed(&self) {
        self.servers.listed().await;
        self.policies.listed().await;
        self.approvals.listed().await;
        self.pods.listed().await;
        self.replica_sets.listed().await;
        self.namespaces.listed().await;
        for cache in self.children.values() {
            cache.listed().await;
        }
    }

    /// The labels of a namespace, if they are known.
    pub fn namespace_labels(&self, namespace: &str) -> Option<Labels> {
        let object = self
            .namespaces
            .get(&(String::new(), namespace.to_owned()))?;
        Some(object.metadata.labels.clone().unwrap_or_default())
    }

    /// Pods of a server's gateway: only those whose ReplicaSet belongs to that Deployment. Anybody
    /// can put our labels on a pod.
    pub fn pods_of(&self, ident: &Ident, deployment: &str) -> Vec<Arc<GatewayPod>> {
        let named = |labels: Option<&BTreeMap<String, String>>| {
            labels.and_then(|labels| labels.get(SERVER_LABEL)) == Some(&ident.name)
        };
        // Their names begin with the Deployment's, and so with the server's.
        let sets = self
            .replica_sets
            .beginning(&ident.namespace, &ident.name, |set| {
                kube::Resource::meta(set)
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|owner| owner.controller == Some(true) && owner.uid == deployment)
            });
        let ours = |uid: &str| {
            sets.iter()
                .any(|set| kube::Resource::meta(&**set).uid.as_deref() == Some(uid))
        };
        self.pods.beginning(&ident.namespace, &ident.name, |pod| {
            named(kube::Resource::meta(pod).labels.as_ref())
                && pod.replica_set.as_deref().is_some_and(ours)
        })
    }
}
