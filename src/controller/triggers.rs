//! Which change enqueues what.
//!
//! In: an object before and after a change. Out: keys of servers, policies and approvals in the
//! work queues. Must not do: judge or compile what changed, or call the API server.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::Resource;
use kube::core::PartialObjectMeta;

use crate::api::approval::McpApproval;
use crate::api::contract::SERVER_LABEL;
use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::controller::context::Context;
use crate::controller::names::Name;
use crate::controller::policy::diagnostics::readable;
use crate::controller::runtime::objects::{GatewayPod, ObjectId, ObservedChild};
use crate::controller::runtime::store::{ObjectEvent, name_of};
use crate::policy::target;

/// The API server has another name or other keys as an issuer of tokens.
pub fn issuer_changed(ctx: &Context) {
    let accepts = |server: &Loose<McpServer>| {
        let authentication = server
            .object()
            .ok()
            .and_then(|server| server.spec.authentication.as_ref());
        authentication.is_some_and(|authentication| authentication.service_accounts.is_some())
    };
    for server in ctx.caches.servers.filter(accepts) {
        ctx.queues.servers.add(name_of(&*server));
    }
}

/// How long a policy's status waits for its bundles to be written.
const SERVERS_FIRST: Duration = Duration::from_millis(100);

/// A server's own status does not matter to it, if it is what was written.
pub fn server_changed(ctx: &Context, change: ObjectEvent<'_, Loose<McpServer>>) {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && let Some((name, version)) = version_of(&**after)
    {
        let status = |object: &Arc<Loose<McpServer>>| object.status(|server| &server.status);
        // Another writer's status is corrected.
        if !ctx.memory.servers.seen(&name, version) && status(before) != status(after) {
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
        if ctx.targets(&readable(&policy), server.metadata()) {
            ctx.queues.policies.add(name_of(&*policy));
        }
    }
}

pub fn policy_changed(ctx: &Context, change: ObjectEvent<'_, Loose<McpPolicy>>) {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && let Some((name, version)) = version_of(&**after)
    {
        let status = |object: &Arc<Loose<McpPolicy>>| object.status(|policy| &policy.status);
        if !ctx.memory.policies.seen(&name, version) && status(before) != status(after) {
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
        let targeting = readable(policy);
        let own = &ctx.args.namespace;
        for server in ctx.caches.servers.filter(|_| true) {
            let name = name_of(&*server);
            // One that is not accepted may be in force in an earlier form, which targeted others.
            // Whether it is accepted is for workers to find out: here one policy that is slow to
            // compile would delay all others.
            let near = server.metadata().namespace == policy.metadata().namespace
                || policy.metadata().namespace.as_ref() == Some(own);
            if ctx.targets(&targeting, server.metadata()) || (near && may_hold(ctx, &name, policy))
            {
                delivered = true;
                ctx.queues.servers.add(name);
            }
        }
    }
    let Some(object) = change.after.or(change.before) else {
        return;
    };
    let name = name_of(&**object);
    if change.after.is_none() {
        ctx.diagnostics.forget(object);
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

/// Whether a policy may be in the bundle of a server, in whatever form; what is not known may be.
fn may_hold(ctx: &Context, server: &Name, policy: &Loose<McpPolicy>) -> bool {
    let memory = ctx.memory.servers.known(server);
    let bundle = memory.and_then(|memory| memory.lock().bundle.clone());
    let uid = policy.metadata().uid.as_deref();
    bundle.is_none_or(|bundle| {
        let mut held = bundle.policies.iter().map(|policy| &policy.uid);
        held.any(|held| Some(held.as_str()) == uid)
    })
}

/// Guardrails that select by labels of namespaces reach other servers.
pub fn namespace_changed(ctx: &Context, change: ObjectEvent<'_, PartialObjectMeta<Namespace>>) {
    let labels = |object: &Arc<PartialObjectMeta<Namespace>>| {
        object.metadata.labels.clone().unwrap_or_default()
    };
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
        .filter(|policy| target::needs_namespace_labels(&readable(policy)))
        .peekable();
    if selecting.peek().is_none() {
        return;
    }
    all(ctx, |server| server.0 == name);
    for policy in selecting {
        ctx.queues.policies.add(name_of(&**policy));
    }
}

pub fn approval_changed(ctx: &Context, change: ObjectEvent<'_, Loose<McpApproval>>) {
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
    let server = metadata.labels.as_ref()?.get(SERVER_LABEL)?;
    Some((metadata.namespace.clone()?, server.clone()))
}

pub fn child_changed(ctx: &Context, change: ObjectEvent<'_, ObservedChild>) {
    // Owners and labels change no generation.
    let said = |live: &Arc<ObservedChild>| {
        let (uid, owner) = (live.uid().to_owned(), live.controller().map(str::to_owned));
        let labels = live.meta().labels.clone();
        (uid, owner, labels, live.stamp(), live.trouble.clone())
    };
    if change.before.map(said) == change.after.map(said) {
        return;
    }
    for live in [change.before, change.after].into_iter().flatten() {
        if let Some(server) = owner_of(&**live) {
            ctx.queues.servers.add(server);
        }
    }
}

pub fn pod_changed(ctx: &Context, change: ObjectEvent<'_, GatewayPod>) {
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
        crate::controller::reports::poll::poll_now(ctx, &server);
        ctx.queues.servers.add(server);
    }
}

pub fn set_changed(ctx: &Context, change: ObjectEvent<'_, ObjectId<ReplicaSet>>) {
    if change.before.is_none() != change.after.is_none()
        && let Some(server) = change
            .after
            .or(change.before)
            .and_then(|set| owner_of(&**set))
    {
        ctx.queues.servers.add(server);
    }
}

/// Everything that there is and that `wanted` picks, for a replica that has just become the leader,
/// or a namespace that has come into sight.
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
    tracing::info!(
        servers,
        policies,
        "queued all objects for an initial reconcile"
    );
}

#[cfg(test)]
mod tests;
