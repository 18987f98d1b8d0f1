//! The watches: what they bring goes into the caches, and what it concerns into the queues.
//!
//! In: the API server's events. Out: keys of servers, policies and approvals to be looked at. Must not do: stop for an object
//! that is not understood, or for an API server that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::Api;
use kube::core::{DynamicResourceScope, NamespaceResourceScope};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::api::approval::McpApproval;
use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::controller::context::Context;
use crate::controller::names::{COMPONENT, GATEWAY, MANAGED_BY, Name, SERVER, UPSTREAM};
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::{GatewayPod, Identity, LabelledNamespace, Live};
use crate::controller::runtime::store::{Cache, Change, name_of};
use crate::policy::target;

/// What a policy says of itself waits so long for its bundles to be written.
const SERVERS_FIRST: Duration = Duration::from_millis(100);

/// Between two reads of a namespace's labels, where namespaces may not be watched.
const NAMESPACE_READ_INTERVAL: Duration = Duration::from_secs(10);

/// Objects in one answer to a list: each may be more than 1 MiB, and an answer is held as a whole, twice for a moment.
const PAGE: u32 = 20;

/// Before a list that is made because a watch could not be begun.
const LIST_AGAIN: Duration = Duration::from_secs(1);

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

/// So many watches are begun for servers and what is around them, and for policies.
pub fn counts(namespaces: &[String], own: &str) -> (usize, usize) {
    (
        scopes(namespaces).len(),
        policy_scopes(namespaces, own).len(),
    )
}

/// The number of watches of namespaces. A Role in a namespace can give the right to get that namespace, but not to watch it.
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

/// Begins every watch.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    // The API server ends a watch after so long, and it is begun again. One that has said nothing for a few seconds more is
    // given up and begun again too, so that one that hangs is noticed.
    let seconds = u32::try_from(ctx.args.watch_duration.as_secs()).unwrap_or(u32::MAX);
    let plain = watcher::Config::default().timeout(seconds).page_size(PAGE);
    let client = &ctx.client;
    let ours = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    for scope in scopes(&ctx.args.watch_namespace) {
        let labelled = plain.clone().labels(&ours);
        let pods = plain.clone().labels(&pod_labels());
        tasks.spawn(follow(
            Arc::clone(ctx),
            static_api(client, &scope),
            plain.clone(),
            scope.clone(),
            |ctx| &ctx.caches.servers,
            server_changed,
        ));
        tasks.spawn(follow(
            Arc::clone(ctx),
            static_api(client, &scope),
            plain.clone(),
            scope.clone(),
            |ctx| &ctx.caches.approvals,
            approval_changed,
        ));
        tasks.spawn(follow(
            Arc::clone(ctx),
            static_api(client, &scope),
            pods.clone(),
            scope.clone(),
            |ctx| &ctx.caches.pods,
            pod_changed,
        ));
        tasks.spawn(follow(
            Arc::clone(ctx),
            static_api(client, &scope),
            pods,
            scope.clone(),
            |ctx| &ctx.caches.replica_sets,
            set_changed,
        ));
        for kind in Kind::ALL {
            let api = dynamic_api(client, &scope, kind);
            tasks.spawn(follow(
                Arc::clone(ctx),
                api,
                labelled.clone(),
                scope.clone(),
                move |ctx| ctx.caches.children(kind),
                child_changed,
            ));
        }
    }
    if ctx.args.watch_namespace.is_empty() {
        tasks.spawn(follow(
            Arc::clone(ctx),
            Api::<LabelledNamespace>::all(client.clone()),
            plain.clone(),
            None,
            |ctx| &ctx.caches.namespaces,
            namespace_changed,
        ));
    }
    for namespace in scopes(&ctx.args.watch_namespace).into_iter().flatten() {
        tasks.spawn(read_namespace(Arc::clone(ctx), namespace));
    }
    for scope in policy_scopes(&ctx.args.watch_namespace, &ctx.args.namespace) {
        tasks.spawn(follow(
            Arc::clone(ctx),
            static_api(client, &scope),
            plain.clone(),
            scope,
            |ctx| &ctx.caches.policies,
            policy_changed,
        ));
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

fn dynamic_api(client: &Client, scope: &Option<String>, kind: Kind) -> Api<Live>
where
    Live: Resource<Scope = DynamicResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

async fn follow<K, C>(
    ctx: Arc<Context>,
    api: Api<K>,
    config: watcher::Config,
    scope: Option<String>,
    cache: C,
    changed: fn(&Context, Change<'_, K>),
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    C: Fn(&Context) -> &Cache<K>,
{
    let place = Place {
        scope,
        watch: number(),
    };
    let mut first = true;
    loop {
        let stream = watcher(api.clone(), config.clone()).default_backoff();
        feed(&ctx, stream, &place, &cache, changed, &mut first).await;
        tokio::time::sleep(LIST_AGAIN).await;
    }
}

/// A number that nobody else has.
pub fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
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
        all(ctx, |name| name.0 == namespace);
    }
}

/// One of the watches: over a namespace, or over all.
struct Place {
    scope: Option<String>,
    watch: usize,
}

impl Place {
    /// The namespace, if others can be worked on without it: the guardrails are in the operator's own.
    fn namespace(&self, ctx: &Context) -> Option<&str> {
        self.scope
            .as_deref()
            .filter(|namespace| *namespace != ctx.args.namespace)
    }
}

/// Takes what a watch brings, until it has to be begun anew with a list.
async fn feed<K: Resource>(
    ctx: &Context,
    stream: impl futures_util::Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    place: &Place,
    cache: &impl Fn(&Context) -> &Cache<K>,
    changed: fn(&Context, Change<'_, K>),
    first: &mut bool,
) {
    let mut listing = None;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let listed = matches!(event, watcher::Event::InitDone);
                let scope = place.scope.as_deref();
                cache(ctx).take(scope, &mut listing, first, event, |change| {
                    changed(ctx, change);
                });
                if listed && let Some(namespace) = place.namespace(ctx) {
                    regain(ctx, namespace, place.watch);
                }
            }
            Err(error) => {
                if is_forbidden(&error)
                    && let Some(namespace) = place.namespace(ctx)
                    && cache(ctx).give_up(first)
                {
                    lose(ctx, namespace, place.watch);
                }
                tracing::warn!(%error, "a watch is interrupted and goes on");
                if is_gone(&error) {
                    return;
                }
            }
        }
    }
}

/// Whether the operator may not list.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}

/// Whether a watch cannot be begun from where the last one ended. kube lists anew when an event says so, but not when the
/// answer does, which an API server may choose (API concepts, "410 Gone" responses).
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// A server's own status does not matter to it, if it is what was written.
fn server_changed(ctx: &Context, change: Change<'_, Loose<McpServer>>) {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && let Some((name, version)) = version_of(&**after)
    {
        let status = |object: &Arc<Loose<McpServer>>| object.status(|server| &server.status);
        // Somebody else's status is put right.
        if !ctx.memory.server_seen(&name, version) && status(before) != status(after) {
            ctx.queues.servers.add(name);
        }
    }
    let said = |object: &Arc<Loose<McpServer>>| {
        let metadata = object.metadata();
        (
            metadata.uid.clone(),
            metadata.generation,
            metadata.labels.clone(),
        )
    };
    let (before, after) = (change.before.map(said), change.after.map(said));
    if before == after {
        return;
    }
    let Some(object) = change.after.or(change.before) else {
        return;
    };
    let name = name_of(&**object);
    ctx.queues.servers.add(name.clone());
    let labels_same = matches!((&before, &after), (Some(before), Some(after)) if before.0 == after.0 && before.2 == after.2);
    if !labels_same {
        policies_of(ctx, change.before);
        policies_of(ctx, change.after);
    }
    if change.after.is_none() {
        crate::controller::server::forget(ctx, &name);
    }
}

/// Policies that target a server that came, went, or has other labels.
fn policies_of(ctx: &Context, server: Option<&Arc<Loose<McpServer>>>) {
    let Some(server) = server else {
        return;
    };
    for policy in ctx.caches.policies.filter(|_| true) {
        let (readable, _) = ctx.verdicts.of(&policy);
        if ctx.targets(&readable, server.metadata()) {
            ctx.queues.policies.add(name_of(&*policy));
        }
    }
}

fn policy_changed(ctx: &Context, change: Change<'_, Loose<McpPolicy>>) {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && let Some((name, version)) = version_of(&**after)
    {
        let status = |object: &Arc<Loose<McpPolicy>>| object.status(|policy| &policy.status);
        if !ctx.memory.policy_seen(&name, version) && status(before) != status(after) {
            ctx.queues.policies.add(name);
        }
    }
    let said = |object: &Arc<Loose<McpPolicy>>| {
        (object.metadata().uid.clone(), object.metadata().generation)
    };
    if change.before.map(said) == change.after.map(said) {
        return;
    }
    let mut delivered = false;
    for policy in [change.before, change.after].into_iter().flatten() {
        let (readable, errors) = ctx.verdicts.of(policy);
        let own = &ctx.args.namespace;
        for server in ctx.caches.servers.filter(|_| true) {
            // One that is not accepted may be in force in an earlier form.
            let near = server.metadata().namespace == policy.metadata().namespace
                || policy.metadata().namespace.as_ref() == Some(own);
            if ctx.targets(&readable, server.metadata()) || (near && !errors.is_empty()) {
                delivered = true;
                ctx.queues.servers.add(name_of(&*server));
            }
        }
    }
    let Some(object) = change.after.or(change.before) else {
        return;
    };
    let name = name_of(&**object);
    if change.after.is_none() {
        ctx.verdicts.forget(object);
        crate::controller::policy::forget(ctx, &name);
    }
    // Its servers come first: they tell it what became of the edit, mostly sooner than this.
    let after = if delivered {
        SERVERS_FIRST
    } else {
        Duration::ZERO
    };
    ctx.queues.policies.add_after(name, after);
}

/// Reads one namespace again and again.
async fn read_namespace(ctx: Arc<Context>, name: String) {
    let api: Api<LabelledNamespace> = Api::all(ctx.client.clone());
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
                    |change| namespace_changed(&ctx, change),
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

/// Guardrails that select by labels of namespaces reach other servers.
fn namespace_changed(ctx: &Context, change: Change<'_, LabelledNamespace>) {
    let labels = |object: &Arc<LabelledNamespace>| object.labels().clone();
    if change.before.map(labels) == change.after.map(labels) {
        return;
    }
    let Some(namespace) = change.after.or(change.before) else {
        return;
    };
    let name = name_of(&**namespace).1;
    let selecting = ctx.caches.policies.filter(|_| true);
    let mut selecting = selecting
        .iter()
        .filter(|policy| target::needs_namespace_labels(&ctx.verdicts.of(policy).0))
        .peekable();
    if selecting.peek().is_none() {
        return;
    }
    all(ctx, |server| server.0 == name);
    for policy in selecting {
        ctx.queues.policies.add(name_of(&**policy));
    }
}

fn approval_changed(ctx: &Context, change: Change<'_, Loose<McpApproval>>) {
    if let Some(object) = change.after {
        ctx.queues.approvals.add(name_of(&**object));
    }
}

fn version_of<K: Resource>(object: &K) -> Option<(Name, &str)> {
    let version = object.meta().resource_version.as_deref()?;
    Some((name_of(object), version))
}

/// The server that an object with our labels belongs to.
fn owner_of<K: Resource>(object: &K) -> Option<Name> {
    let metadata = object.meta();
    let server = metadata.labels.as_ref()?.get(SERVER)?;
    Some((metadata.namespace.clone()?, server.clone()))
}

fn child_changed(ctx: &Context, change: Change<'_, Live>) {
    let said = |live: &Arc<Live>| (live.uid().to_owned(), live.stamp(), live.trouble.clone());
    if change.before.map(said) == change.after.map(said) {
        return;
    }
    for live in [change.before, change.after].into_iter().flatten() {
        if let Some(server) = owner_of(&**live) {
            ctx.queues.servers.add(server);
        }
    }
}

fn pod_changed(ctx: &Context, change: Change<'_, GatewayPod>) {
    let said = |pod: &Arc<GatewayPod>| {
        let trouble = pod.trouble.clone();
        (
            pod.uid().to_owned(),
            pod.ip,
            pod.ready,
            pod.terminating,
            trouble,
        )
    };
    if change.before.map(said) == change.after.map(said) {
        return;
    }
    if let Some(server) = change
        .after
        .or(change.before)
        .and_then(|pod| owner_of(&**pod))
    {
        crate::controller::reports::poll::hurry(ctx, &server);
        ctx.queues.servers.add(server);
    }
}

fn set_changed(ctx: &Context, change: Change<'_, Identity<ReplicaSet>>) {
    if change.before.is_none() != change.after.is_none()
        && let Some(server) = change
            .after
            .or(change.before)
            .and_then(|set| owner_of(&**set))
    {
        ctx.queues.servers.add(server);
    }
}

/// Everything that there is and that `wanted` picks, for a replica that has just become the leader, or a namespace that has come
/// into sight.
pub fn all(ctx: &Context, wanted: impl Fn(&Name) -> bool) {
    let (mut servers, mut policies) = (0, 0);
    for name in ctx.caches.servers.names().into_iter().filter(&wanted) {
        servers += 1;
        ctx.queues.reports.add(name.clone());
        ctx.queues.servers.add(name);
    }
    for name in ctx.caches.policies.names().into_iter().filter(&wanted) {
        policies += 1;
        ctx.queues.policies.add(name);
    }
    for name in ctx.caches.approvals.names().into_iter().filter(&wanted) {
        ctx.queues.approvals.add(name);
    }
    // Counted, so that it is plain that nothing is left out of sight.
    tracing::info!(servers, policies, "looking at everything once");
}
