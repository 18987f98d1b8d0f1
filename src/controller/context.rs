//! What all reconcilers share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Client;
use kube::core::ObjectMeta;
use tokio::time::Instant;

use crate::api::approval::McpApproval;
use crate::api::loose::Loose;
use crate::api::policy::{McpPolicy, McpPolicyStatus};
use crate::api::server::{McpServer, McpServerStatus};
use crate::controller::args::Args;
use crate::controller::events::Events;
use crate::controller::key::OperatorKey;
use crate::controller::metrics::Metrics;
use crate::controller::names::{Ident, Name, SERVER};
use crate::controller::policy::diagnostics::Verdicts;
use crate::controller::reports::merge::Reports;
use crate::controller::runtime::drift::Mark;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::{GatewayPod, Identity, LabelledNamespace, Live};
use crate::controller::runtime::store::Cache;
use crate::controller::runtime::workqueue::Queue;
use crate::controller::server::Compiled;
use crate::controller::server::build::Settings;
use crate::controller::server::tampering::Tampering;
use crate::policy::bundle::Bundle;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::lint::lint;
use crate::policy::target::{self, Labels};
use crate::status::accounting::Ledger;

pub struct Context {
    pub client: Client,
    pub args: Args,
    pub settings: Settings,
    /// There from when this replica leads.
    pub key: OnceLock<OperatorKey>,
    pub caches: Caches,
    pub queues: Arc<Queues>,
    pub verdicts: Verdicts,
    pub memory: Memory,
    pub metrics: Metrics,
    pub events: Events,
}

/// What the watches bring.
pub struct Caches {
    /// Namespaces of which something could not be listed, with how many kinds: nothing is done in them until it can be. What
    /// cannot be seen may be a policy.
    unseen: Mutex<BTreeMap<String, BTreeSet<usize>>>,
    pub servers: Cache<Loose<McpServer>>,
    pub policies: Cache<Loose<McpPolicy>>,
    pub approvals: Cache<Loose<McpApproval>>,
    pub pods: Cache<GatewayPod>,
    pub replica_sets: Cache<Identity<ReplicaSet>>,
    /// Their labels, which guardrails may select by.
    pub namespaces: Cache<LabelledNamespace>,
    children: BTreeMap<Kind, Cache<Live>>,
}

impl Caches {
    /// The number of watches for each kind of object around servers, for policies and for namespaces.
    pub fn new(watches: usize, policy_watches: usize, namespace_watches: usize) -> Self {
        Caches {
            unseen: Mutex::default(),
            servers: Cache::new(watches),
            policies: Cache::new(policy_watches),
            approvals: Cache::new(watches),
            pods: Cache::new(watches),
            replica_sets: Cache::new(watches),
            namespaces: Cache::new(namespace_watches),
            children: Kind::ALL
                .into_iter()
                .map(|kind| (kind, Cache::new(watches)))
                .collect(),
        }
    }

    /// Whether everything in a namespace can be seen.
    pub fn sees(&self, namespace: &str) -> bool {
        !lock(&self.unseen).contains_key(namespace)
    }

    /// One of a namespace's watches is refused.
    pub fn lose(&self, namespace: &str, watch: usize) {
        lock(&self.unseen)
            .entry(namespace.to_owned())
            .or_default()
            .insert(watch);
    }

    /// One of a namespace's watches has listed everything. True if it was the last that was missing.
    pub fn regain(&self, namespace: &str, watch: usize) -> bool {
        let mut unseen = lock(&self.unseen);
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

    pub fn children(&self, kind: Kind) -> &Cache<Live> {
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
        Some(object.labels().clone())
    }

    /// Pods of a server's gateway: only those whose ReplicaSet belongs to that Deployment. Anybody can put our labels on a pod.
    pub fn pods_of(&self, ident: &Ident, deployment: &str) -> Vec<Arc<GatewayPod>> {
        let named = |labels: Option<&BTreeMap<String, String>>| {
            labels.and_then(|labels| labels.get(SERVER)) == Some(&ident.name)
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

impl Context {
    /// Whether a policy applies to a server.
    pub fn targets(&self, policy: &McpPolicy, server: &ObjectMeta) -> bool {
        let namespace = server.namespace.as_deref().unwrap_or_default();
        let labels = target::needs_namespace_labels(policy)
            .then(|| self.caches.namespace_labels(namespace))
            .flatten();
        target::targets(policy, server, labels.as_ref(), &self.args.namespace)
    }
}

/// What is to be reconciled.
#[derive(Default)]
pub struct Queues {
    pub servers: Queue<Name>,
    pub policies: Queue<Name>,
    pub approvals: Queue<Name>,
    /// Servers whose gateways' reports are to be read.
    pub reports: Queue<Name>,
}

/// What is remembered of servers and policies between reconciliations. Nothing depends on it but speed and thrift.
#[derive(Default)]
pub struct Memory {
    servers: Mutex<HashMap<Name, Arc<Mutex<ServerMemory>>>>,
    policies: Mutex<HashMap<Name, Arc<Mutex<PolicyMemory>>>>,
}

#[derive(Default)]
pub struct ServerMemory {
    pub uid: String,
    pub marks: HashMap<(Kind, String), Mark>,
    /// The newest bundle of the operator's that is known; changed by [`ServerMemory::knows`].
    pub bundle: Option<Arc<Bundle>>,
    /// What looks wrong about the policies in it.
    pub warnings: Arc<Vec<Diagnostic>>,
    /// The resource version of the ConfigMap that was looked at last.
    pub bundle_version: Option<String>,
    /// That version holds something else than `bundle`, which somebody else has written.
    pub foreign: bool,
    /// What others changed of what is ours.
    pub tampering: Tampering,
    /// When a bundle was written last.
    pub delivered: Option<Delivered>,
    pub compiled: Compiled,
    /// The stored ledger, likewise.
    pub ledger: Option<(String, Arc<Ledger>)>,
    pub ledger_written: Option<Instant>,
    /// What was sent to be stored last, whether or not an answer came.
    pub ledger_sent: Option<Arc<Ledger>>,
    /// What is stored must be written again whatever it should say: it was damaged, or its labels are gone.
    pub ledger_astray: bool,
    pub reports: Reports,
    /// The newest instance of each pod.
    pub newest: BTreeMap<String, String>,
    /// It was reconciled since this replica leads, with whatever result.
    pub looked_at: bool,
    /// When each pod's report was read, and whether that worked.
    pub polls: HashMap<String, Poll>,
    /// The status as it was computed last: what policies are judged by.
    pub status: Option<Arc<McpServerStatus>>,
    /// The status that was written last.
    pub written: Written<McpServerStatus>,
    /// The revision that was written last, and when; until every ready replica runs it.
    pub delivering: Option<(String, Instant)>,
    /// When each Secret was made, or was found to exist when it was to be made.
    pub secrets_made: BTreeMap<String, Instant>,
}

impl ServerMemory {
    /// Another bundle of the operator's is the newest.
    pub fn knows(&mut self, bundle: Bundle) {
        self.warnings = Arc::new(lint(&bundle));
        self.bundle = Some(Arc::new(bundle));
    }
}

/// A bundle that was written.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub at: Instant,
}

/// What is known of reading one pod's report.
#[derive(Clone, Debug)]
pub struct Poll {
    pub next: Instant,
    /// It is to be asked whenever it is next looked at.
    pub hurried: bool,
    /// It was asked at least once, with whatever result.
    pub asked: bool,
    /// Calls that the last report told of, and since when that has not changed.
    pub calls: u64,
    pub quiet_since: Instant,
    /// When a report last had violations that the one before had not.
    pub violated_at: Option<Instant>,
    pub failures: u32,
    /// Since when something is waited for that makes it be asked often.
    pub eager_since: Option<Instant>,
}

impl Poll {
    /// To be asked now, and often if anything is waited for.
    pub fn hurry(&mut self) {
        self.hurried = true;
        self.eager_since = None;
    }
}

#[derive(Default)]
pub struct PolicyMemory {
    pub uid: String,
    pub written: Written<McpPolicyStatus>,
}

/// A status that was written, with the resource version that this came to, and when. The caches may be behind it.
pub struct Written<S> {
    last: Option<(String, S)>,
    version: String,
    pub at: Option<Instant>,
}

impl<S> Default for Written<S> {
    fn default() -> Self {
        Written {
            last: None,
            version: String::new(),
            at: None,
        }
    }
}

impl<S: Clone> Written<S> {
    /// The newest status that is known, with the metadata to write over it.
    pub fn newest(&self, cached: &ObjectMeta, status: Option<S>) -> (ObjectMeta, Option<S>) {
        let mut metadata = cached.clone();
        match (&self.last, &cached.resource_version) {
            (Some((version, written)), Some(seen)) if is_newer(version, seen) => {
                metadata.resource_version = Some(version.clone());
                (metadata, Some(written.clone()))
            }
            _ => (metadata, status),
        }
    }

    /// The caches have that version now: what is not newer need not be remembered. False if it is not the one that was written.
    pub fn seen(&mut self, cached: &str) -> bool {
        self.last.take_if(|(version, _)| !is_newer(version, cached));
        self.version == cached
    }

    pub fn set(&mut self, version: String, status: S) {
        self.version.clone_from(&version);
        self.last = Some((version, status));
        self.at = Some(Instant::now());
    }
}

/// Resource versions grow (KEP-5504).
pub fn is_newer(seen: &str, known: &str) -> bool {
    match (seen.parse::<u64>(), known.parse::<u64>()) {
        (Ok(seen), Ok(known)) => seen > known,
        _ => seen != known,
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// What is remembered of a server; of an earlier one of the same name nothing is.
    pub fn server(&self, name: &Name, uid: &str) -> Arc<Mutex<ServerMemory>> {
        let mut servers = lock(&self.servers);
        let entry = servers.entry(name.clone()).or_default();
        let same = lock(entry).uid == uid;
        if !same {
            *entry = Arc::new(Mutex::new(ServerMemory {
                uid: uid.to_owned(),
                ..ServerMemory::default()
            }));
        }
        Arc::clone(entry)
    }

    pub fn known_server(&self, name: &Name) -> Option<Arc<Mutex<ServerMemory>>> {
        lock(&self.servers).get(name).cloned()
    }

    pub fn forget_server(&self, name: &Name) {
        lock(&self.servers).remove(name);
    }

    /// A watch brought a server. Whether it is as this operator wrote it last.
    pub fn server_seen(&self, name: &Name, version: &str) -> bool {
        self.known_server(name)
            .is_some_and(|memory| lock(&memory).written.seen(version))
    }

    /// A watch brought a policy. Whether it is as this operator wrote it last.
    pub fn policy_seen(&self, name: &Name, version: &str) -> bool {
        let memory = lock(&self.policies).get(name).cloned();
        memory.is_some_and(|memory| lock(&memory).written.seen(version))
    }

    pub fn policy(&self, name: &Name, uid: &str) -> Arc<Mutex<PolicyMemory>> {
        let mut policies = lock(&self.policies);
        let entry = policies.entry(name.clone()).or_default();
        let same = lock(entry).uid == uid;
        if !same {
            *entry = Arc::new(Mutex::new(PolicyMemory {
                uid: uid.to_owned(),
                ..PolicyMemory::default()
            }));
        }
        Arc::clone(entry)
    }

    pub fn forget_policy(&self, name: &Name) {
        lock(&self.policies).remove(name);
    }
}
