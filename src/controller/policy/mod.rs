//! Reconciling an McpPolicy: its acceptance, its targets, and the violations that it caused. Its
//! rules reach gateways through the servers that it targets.

pub mod diagnostics;
pub mod memory;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::policy::{McpPolicy, McpPolicyStatus};
use crate::api::server::McpServerStatus;
use crate::controller::context::Context;
use crate::controller::metrics::Kind as Reconciled;
use crate::controller::names::Name;
use crate::controller::runtime::throttle::{STATUS_WRITE_INTERVAL, throttled};
use crate::controller::runtime::workqueue::Action;
use crate::controller::runtime::writer::{self, WriteError};
use crate::policy::bundle::Bundle;
use crate::policy::diagnostic::Diagnostic;
use crate::status::accounting::Ledger;
use crate::status::policy::{Inputs, Target, status};

/// A server that a policy targets, as it was reconciled last.
struct Seen {
    name: Name,
    bundle: Option<Arc<Bundle>>,
    warnings: Arc<Vec<Diagnostic>>,
    status: Arc<McpServerStatus>,
    ledger: Arc<Ledger>,
}

/// Brings one policy's status up to date.
pub async fn reconcile(ctx: &Context, name: &Name) -> Result<Action, WriteError> {
    let Some(object) = ctx.caches.policies.get(name) else {
        // Again, as a reconciliation may have been under way when it went.
        forget(ctx, name);
        return Ok(Action::AwaitChange);
    };
    let metadata = object.metadata();
    let Some(uid) = metadata
        .uid
        .as_deref()
        .filter(|_| metadata.deletion_timestamp.is_none())
    else {
        return Ok(Action::AwaitChange);
    };
    let (policy, errors) = (
        diagnostics::readable(&object),
        ctx.diagnostics.errors(&object),
    );
    let Some(seen) = targets(ctx, &policy) else {
        // A server that has not been reconciled yet enqueues its policies when it has been.
        return Ok(Action::AwaitChange);
    };
    let targets: Vec<Target<'_>> = seen
        .iter()
        .map(|seen| Target {
            namespace: &seen.name.0,
            name: &seen.name.1,
            bundle: seen.bundle.as_deref(),
            warnings: &seen.warnings,
            status: &seen.status,
            ledger: &seen.ledger,
        })
        .collect();
    let missing: Vec<String> = policy
        .spec
        .target_refs
        .iter()
        .map(|target| &target.name)
        .filter(|target| {
            !seen
                .iter()
                .any(|seen| seen.name.0 == name.0 && seen.name.1 == **target)
        })
        .cloned()
        .collect();
    let memory = ctx.memory.policies.of(name, uid);
    let cached = object.status(|policy| &policy.status);
    let (metadata, previous, written) = {
        let memory = memory.lock();
        let (metadata, previous) = memory.written.newest(metadata, cached);
        (metadata, previous, memory.written.at)
    };
    let now = status(&Inputs {
        policy: &policy,
        findings: &errors,
        warnings: &ctx.diagnostics.warnings(&object),
        missing: &missing,
        targets: &targets,
        previous: previous.as_ref(),
        now: Timestamp::now(),
    });
    let before = previous.unwrap_or_default();
    if now != before {
        let only_figures = McpPolicyStatus {
            violations: before.violations.clone(),
            ..now.clone()
        } == before;
        if only_figures
            && let Some(left) = throttled(written, STATUS_WRITE_INTERVAL, Instant::now())
        {
            return Ok(Action::RequeueAfter(left));
        }
        let version = writer::status::<McpPolicy>(&ctx.client, &metadata, &now).await?;
        memory.lock().written.set(version, now.clone());
        ctx.events.acceptance(
            Reconciled::McpPolicy,
            &metadata,
            &before.conditions,
            &now.conditions,
        );
    }
    let counts = now.violations.as_ref().map(|violations| &violations.counts);
    ctx.metrics
        .resources
        .show(Reconciled::McpPolicy, name, &now.conditions, counts);
    Ok(Action::AwaitChange)
}

/// The servers that a policy targets; None while one of them has not been reconciled, which comes
/// soon. One that could not be reconciled keeps its status, or has none.
fn targets(ctx: &Context, policy: &McpPolicy) -> Option<Vec<Seen>> {
    let servers = ctx.caches.servers.filter(|server| {
        let metadata = server.metadata();
        // While not every server can be seen, nothing is done, and nothing is reported.
        ctx.targets(policy, metadata)
            && ctx
                .caches
                .sees(metadata.namespace.as_deref().unwrap_or_default())
    });
    let mut seen = Vec::with_capacity(servers.len());
    for server in servers {
        let name = crate::controller::runtime::store::name_of(&*server);
        let memory = ctx.memory.servers.known(&name)?;
        let memory = memory.lock();
        if Some(memory.uid.as_str()) != server.metadata().uid.as_deref() || !memory.reconciled_once
        {
            return None;
        }
        let status = memory.status.as_ref().map(Arc::clone);
        let before = || server.status(|server| &server.status).unwrap_or_default();
        seen.push(Seen {
            bundle: memory.bundle.clone(),
            warnings: Arc::clone(&memory.warnings),
            status: status.unwrap_or_else(|| Arc::new(before())),
            ledger: memory
                .ledger
                .as_ref()
                .map(|(_, ledger)| Arc::clone(ledger))
                .unwrap_or_default(),
            name,
        });
    }
    Some(seen)
}

/// A policy is gone.
pub fn forget(ctx: &Context, name: &Name) {
    ctx.memory.policies.forget(name);
    ctx.metrics.resources.forget(Reconciled::McpPolicy, name);
}

#[cfg(test)]
mod tests;
