//! Reconciling an McpServer: fetch → validate → build → apply → account → status.
//!
//! In: the name of a server. Out: its children, bundle, ledger and status, and when to look again.
//! `fetch`, `validate` and `build` only read; the others write. Must not do: leave the ledger or
//! the status as they are because the children cannot be written.

use std::time::Duration;

use tokio::time::Instant;

use self::apply::Applied;
use self::build::wanted::Wanted;
use self::error::{AccountError, ApplyError, ServerError, StatusError};
use self::fetch::Refs;
use self::memory::Remembered;
use self::status::StatusWrite;
use crate::controller::context::Context;
use crate::controller::metrics::Kind as Reconciled;
use crate::controller::names::Name;
use crate::controller::runtime::blocking::in_place;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::workqueue::Action;

mod account;
mod apply;
pub mod build;
mod deliver;
pub mod error;
mod fetch;
pub mod memory;
mod secrets;
mod sequence;
mod status;
pub mod tampering;
mod validate;

/// Labels of a namespace that are not known; a watch or the next read brings them.
const NAMESPACE_UNKNOWN_AGAIN: Duration = Duration::from_secs(2);
/// A gateway that was not heard of yet: its report, or that there is none, makes the server be
/// reconciled anyway.
const UNHEARD_AGAIN: Duration = Duration::from_secs(1);

/// Why no step was taken.
enum NotReady {
    /// There is no such server.
    Gone,
    /// It is being deleted, and no gateway of it can be in force. Owner references do the rest.
    Leaving,
    /// A guardrail selects by labels of the namespace, which are not known.
    NamespaceUnknown,
    NoKey,
    /// A gateway must be heard first.
    Unheard,
}

/// What became of the steps that write. Each was taken whatever became of the ones before.
struct StepOutcomes {
    applied: Result<Applied, ApplyError>,
    /// When the ledger may be written, if that was too soon.
    accounted: Result<Option<Duration>, AccountError>,
    status: Result<StatusWrite, StatusError>,
    /// When the condition about changes by others ends.
    tampering_ends: Option<Duration>,
}

/// Reconciles one server, as far as that can be done now. Errors are retried after a wait that
/// grows.
pub async fn reconcile(ctx: &Context, name: &Name) -> Result<Action, ServerError> {
    match steps(ctx, name).await {
        Err(NotReady::Gone | NotReady::Leaving) => Ok(Action::AwaitChange),
        Err(NotReady::NamespaceUnknown) => Ok(Action::RequeueAfter(NAMESPACE_UNKNOWN_AGAIN)),
        Err(NotReady::Unheard) => Ok(Action::RequeueAfter(UNHEARD_AGAIN)),
        Err(NotReady::NoKey) => Err(ServerError::NoKey),
        // Of several errors one is logged. All of them are met again.
        Ok(StepOutcomes {
            status: Err(error), ..
        }) => Err(error.into()),
        Ok(StepOutcomes {
            accounted: Err(error),
            ..
        }) => Err(error.into()),
        Ok(StepOutcomes {
            applied: Err(error),
            ..
        }) => Err(error.into()),
        Ok(StepOutcomes {
            applied: Ok(applied),
            accounted: Ok(account_again),
            status: Ok(status),
            tampering_ends,
        }) => {
            let status_again = match status {
                StatusWrite::Current => None,
                StatusWrite::Later(left) => Some(left),
                StatusWrite::Unheard => Some(UNHEARD_AGAIN),
            };
            let waits = [applied.again, account_again, status_again, tampering_ends];
            let again = waits.into_iter().flatten().min();
            Ok(again.map_or(Action::AwaitChange, Action::RequeueAfter))
        }
    }
}

async fn steps(ctx: &Context, name: &Name) -> Result<StepOutcomes, NotReady> {
    let Some(refs) = fetch::fetch(ctx, name) else {
        // Again, as a reconciliation may have been under way when it went.
        forget(ctx, name);
        return Err(NotReady::Gone);
    };
    let memory = ctx.memory.servers.of(name, &refs.ident.uid);
    // While a finalizer holds it, its gateway continues, under the current policies.
    if refs.leaving && refs.own(Kind::ConfigMap, &refs.ident.gateway()).is_none() {
        reconciled_once(ctx, &refs, &memory);
        return Err(NotReady::Leaving);
    }
    if refs.namespace_unknown {
        let (namespace, server) = (&name.0, &name.1);
        tracing::warn!(
            namespace,
            server,
            "a guardrail selects by labels of the namespace, and the operator does not know them yet; the server is reconciled \
             when it does (it needs the right to get namespaces)"
        );
        return Err(NotReady::NamespaceUnknown);
    }
    let key = ctx.key.get().ok_or(NotReady::NoKey)?;
    let stored = deliver::stored_bundle(&refs, key, &memory);
    // Of a policy that is not valid now the form in the stored bundle stays in force. A leader that
    // is new must first hear from the gateways that this is not an old bundle that another writer
    // has put back.
    if refs.has_rejected_policy() && status::unheard(&refs, &memory) {
        ctx.queues.reports.add(name.clone());
        return Err(NotReady::Unheard);
    }

    let mut compiled = std::mem::take(&mut memory.lock().compiled);
    let verdict = in_place(|| validate::validate(&refs, stored.as_deref(), key, &mut compiled));
    memory.lock().compiled = compiled;

    let children = match &verdict.plan {
        Ok(plan) => build::build(&Wanted {
            ident: &refs.ident,
            spec: &plan.server.spec,
            settings: &ctx.settings,
            bundle_keys: key.public(),
            alone: plan.alone,
            replicas: refs.gateway_replicas(),
        }),
        Err(_) => Ok(Vec::new()),
    };

    let applied = apply::apply(ctx, &refs, key, &verdict, children, &memory).await;

    let accounted = account::account(ctx, &refs, &memory).await;

    let status = match &accounted {
        // A status says what is stored, whether or not more could be; but not less than that
        // because it could not be read.
        Err(_) if memory.lock().ledger.is_none() => Ok(StatusWrite::Current),
        _ => {
            let refusal = match (&verdict.plan, &applied) {
                (Err(refusal), _) => Some(refusal),
                (Ok(_), Ok(applied)) => applied.refusal.as_ref(),
                (Ok(_), Err(_)) => None,
            };
            let planned = verdict.plan.is_ok();
            let written = status::write(ctx, &refs, planned, refusal, &memory).await;
            // A status that cannot be written holds up no policy of this server.
            if !matches!(written, Ok(StatusWrite::Unheard)) {
                reconciled_once(ctx, &refs, &memory);
            }
            written
        }
    };

    tell_of_tampering(ctx, &refs, &memory);
    let tampering_ends = memory.lock().tampering.quiet_in(Instant::now());
    Ok(StepOutcomes {
        applied,
        accounted,
        status,
        tampering_ends,
    })
}

/// Events of what others changed of the server's objects.
fn tell_of_tampering(ctx: &Context, refs: &Refs, memory: &Remembered) {
    for note in memory.lock().tampering.untold(Instant::now()) {
        ctx.events.tampering(refs.object.metadata(), &note);
    }
}

/// The server has been reconciled: policies may say what became of it. The first time they
/// are enqueued.
fn reconciled_once(ctx: &Context, refs: &Refs, memory: &Remembered) {
    if !std::mem::replace(&mut memory.lock().reconciled_once, true) {
        status::tell_policies(ctx, refs);
    }
}

/// A server is gone.
pub fn forget(ctx: &Context, name: &Name) {
    ctx.memory.servers.forget(name);
    ctx.metrics.resources.forget(Reconciled::McpServer, name);
}

#[cfg(test)]
mod tests;
