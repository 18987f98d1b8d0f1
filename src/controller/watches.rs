//! The watches that the operator needs, and where.
//!
//! In: the namespaces to watch. Out: a task for each watch, which fills its store and triggers
//! reconciliations. Must not do: stop for an object that is not understood, or for an API server
//! that is away.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::core::{DynamicResourceScope, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Client, Resource};
use tokio::task::JoinSet;

use crate::controller::context::Context;
use crate::controller::names::{COMPONENT, GATEWAY, MANAGED_BY, UPSTREAM};
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::reflector::{self, Sink};
use crate::controller::runtime::store::{ObjectEvent, Store};
use crate::controller::triggers;

/// Between two reads of a namespace's labels, where namespaces may not be watched.
const NAMESPACE_READ_INTERVAL: Duration = Duration::from_secs(10);

/// Objects in one answer to a list: each may be more than 1 MiB, and an answer is held as a whole,
/// twice for a moment.
const LIST_PAGE_OBJECTS: u32 = 20;

/// A watch of the operator: where its objects go, and what their changes trigger.
struct Watch<K, S> {
    ctx: Arc<Context>,
    scope: Option<String>,
    number: usize,
    store: S,
    changed: fn(&Context, ObjectEvent<'_, K>),
}

impl<K, S: Fn(&Context) -> &Store<K>> Watch<K, S> {
    fn new(
        ctx: &Arc<Context>,
        scope: &Option<String>,
        store: S,
        changed: fn(&Context, ObjectEvent<'_, K>),
    ) -> Self {
        Watch {
            ctx: Arc::clone(ctx),
            scope: scope.clone(),
            number: reflector::number(),
            store,
            changed,
        }
    }

    /// The namespace, if others can be reconciled without it: the guardrails are in the operator's
    /// own.
    fn namespace(&self) -> Option<&str> {
        let own = &self.ctx.args.namespace;
        self.scope.as_deref().filter(|namespace| namespace != own)
    }
}

impl<K, S> Sink<K> for Watch<K, S>
where
    K: Resource,
    S: Fn(&Context) -> &Store<K>,
{
    fn store(&self) -> &Store<K> {
        (self.store)(&self.ctx)
    }

    fn changed(&self, event: ObjectEvent<'_, K>) {
        (self.changed)(&self.ctx, event);
    }

    fn listed(&self) {
        if let Some(namespace) = self.namespace() {
            regain(&self.ctx, namespace, self.number);
        }
    }

    fn may_go_without(&self) -> bool {
        self.namespace().is_some()
    }

    fn forbidden(&self) {
        if let Some(namespace) = self.namespace() {
            lose(&self.ctx, namespace, self.number);
        }
    }
}

/// The namespaces to watch; None is all of them.
pub fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() {
        return vec![None];
    }
    let mut scopes: Vec<_> = namespaces.iter().cloned().map(Some).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

/// The number of watches for servers and the objects around them, and for policies.
pub fn counts(namespaces: &[String], own: &str) -> (usize, usize) {
    (
        scopes(namespaces).len(),
        policy_scopes(namespaces, own).len(),
    )
}

/// The number of watches of namespaces. A Role in a namespace can give the right to get that
/// namespace, but not to watch it.
pub fn namespace_watches(namespaces: &[String]) -> usize {
    usize::from(namespaces.is_empty())
}

/// Guardrails are in the operator's own namespace, watched or not.
pub fn policy_scopes(namespaces: &[String], own: &str) -> Vec<Option<String>> {
    let mut namespaces = namespaces.to_vec();
    if !namespaces.is_empty() {
        namespaces.push(own.to_owned());
    }
    scopes(&namespaces)
}

/// Selects the pods and ReplicaSets of gateways and of stdio servers.
pub fn pod_labels() -> String {
    format!(
        "{}={},{COMPONENT} in ({GATEWAY},{UPSTREAM})",
        MANAGED_BY.0, MANAGED_BY.1
    )
}

/// Starts every watch.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    // The API server ends a watch after this time, and it is started again. One that is silent for
    // a few seconds more is given up and started again too, so that one that hangs is noticed.
    let seconds = u32::try_from(ctx.args.watch_duration.as_secs()).unwrap_or(u32::MAX);
    let plain = watcher::Config::default()
        .timeout(seconds)
        .page_size(LIST_PAGE_OBJECTS);
    let client = &ctx.client;
    let ours = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    for scope in scopes(&ctx.args.watch_namespace) {
        let pods = plain.clone().labels(&pod_labels());
        let sink = Watch::new(
            ctx,
            &scope,
            |ctx| &ctx.caches.servers,
            triggers::server_changed,
        );
        let api = static_api(client, &scope);
        tasks.spawn(reflector::follow(api, plain.clone(), scope.clone(), sink));
        let sink = Watch::new(
            ctx,
            &scope,
            |ctx| &ctx.caches.approvals,
            triggers::approval_changed,
        );
        let api = static_api(client, &scope);
        tasks.spawn(reflector::follow(api, plain.clone(), scope.clone(), sink));
        let sink = Watch::new(ctx, &scope, |ctx| &ctx.caches.pods, triggers::pod_changed);
        let api = static_api(client, &scope);
        tasks.spawn(reflector::follow(api, pods.clone(), scope.clone(), sink));
        let sink = Watch::new(
            ctx,
            &scope,
            |ctx| &ctx.caches.replica_sets,
            triggers::set_changed,
        );
        let api = static_api(client, &scope);
        tasks.spawn(reflector::follow(api, pods, scope.clone(), sink));
        for kind in Kind::ALL {
            let changed = triggers::child_changed;
            let sink = Watch::new(ctx, &scope, move |ctx| ctx.caches.children(kind), changed);
            let api = dynamic_api(client, &scope, kind);
            let (labelled, scope) = (plain.clone().labels(&ours), scope.clone());
            tasks.spawn(async move {
                reflector::follow_as(api, labelled, kind.as_str(), scope, sink).await;
            });
        }
    }
    if ctx.args.watch_namespace.is_empty() {
        let sink = Watch::new(
            ctx,
            &None,
            |ctx| &ctx.caches.namespaces,
            triggers::namespace_changed,
        );
        let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        tasks.spawn(reflector::follow(api, plain.clone(), None, sink));
    }
    for namespace in scopes(&ctx.args.watch_namespace).into_iter().flatten() {
        tasks.spawn(read_namespace(Arc::clone(ctx), namespace));
    }
    for scope in policy_scopes(&ctx.args.watch_namespace, &ctx.args.namespace) {
        let sink = Watch::new(
            ctx,
            &scope,
            |ctx| &ctx.caches.policies,
            triggers::policy_changed,
        );
        let api = static_api(client, &scope);
        tasks.spawn(reflector::follow(api, plain.clone(), scope, sink));
    }
    tasks
}

pub fn static_api<K>(client: &Client, scope: &Option<String>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn dynamic_api(client: &Client, scope: &Option<String>, kind: Kind) -> Api<ObservedChild>
where
    ObservedChild: Resource<Scope = DynamicResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

/// Reads one namespace again and again.
async fn read_namespace(ctx: Arc<Context>, name: String) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(ctx.client.clone());
    let mut said = None;
    loop {
        match api.get(&name).await {
            Ok(object) => {
                said = None;
                ctx.caches.namespaces.take(
                    None,
                    &mut None,
                    &mut false,
                    watcher::Event::Apply(object),
                    |change| triggers::namespace_changed(&ctx, change),
                );
            }
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::warn!(
                        namespace = name,
                        error,
                        "the namespace cannot be read; trying again"
                    );
                    said = Some(error);
                }
            }
        }
        tokio::time::sleep(NAMESPACE_READ_INTERVAL).await;
    }
}

/// Something in a namespace may not be listed.
pub fn lose(ctx: &Context, namespace: &str, watch: usize) {
    ctx.caches.lose(namespace, watch);
    tracing::error!(
        namespace,
        "not everything in the namespace may be listed, so nothing is done there until it may; give the operator its Role there \
         again, or take the namespace out of --watch-namespace"
    );
}

/// What could not be listed in a namespace has been.
pub fn regain(ctx: &Context, namespace: &str, watch: usize) {
    if ctx.caches.regain(namespace, watch) {
        tracing::info!(namespace, "everything in the namespace can be listed");
        triggers::all(ctx, |name| name.0 == namespace);
    }
}

#[cfg(test)]
mod tests;
