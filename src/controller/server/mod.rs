//! Reconciling an McpServer: fetch → validate → build → apply → status. Only the ends do I/O.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::condition::Reason;
use crate::controller::context::Context;
use crate::controller::metrics::Kind as Reconciled;
use crate::controller::names::Name;
use crate::controller::runtime::workqueue::Action;
use crate::controller::runtime::writer::WriteError;
use crate::status::server::Refusal;

mod account;
mod apply;
pub mod build;
mod fetch;
pub mod memory;
mod sequence;
mod status;
pub mod tampering;
mod validate;

/// What the API server refused is tried again after this long, should what it was refused for have gone (an admission policy).
const REFUSED_AGAIN: Duration = Duration::from_secs(300);
/// The same for what a quota or missing rights forbid, which comes and goes.
const FORBIDDEN_AGAIN: Duration = Duration::from_secs(30);
/// The same for a name that another object has. That object is not watched, and may be removed at any time.
const NAME_CONFLICT_AGAIN: Duration = Duration::from_secs(5);

/// Labels of a namespace that are not known; a watch or the next read brings them.
const NAMESPACE_UNKNOWN_AGAIN: Duration = Duration::from_secs(2);

/// A gateway that was not heard of yet: its report, or that there is none, makes the server be looked at anyhow.
const UNHEARD_AGAIN: Duration = Duration::from_secs(1);

/// Why a server could not be reconciled; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("writing children: {0}")]
    Apply(#[source] WriteError),
    #[error("writing the ledger: {0}")]
    Ledger(#[source] WriteError),
    #[error("writing the status: {0}")]
    Status(#[source] WriteError),
    #[error("making keys: {0}")]
    Key(#[from] crate::controller::key::KeyError),
    #[error("the operator has no key yet")]
    NoKey,
}

impl ServerError {
    /// The write that failed, if it was one.
    pub fn write(&self) -> Option<&WriteError> {
        match self {
            ServerError::Apply(error) | ServerError::Ledger(error) | ServerError::Status(error) => {
                Some(error)
            }
            ServerError::Key(_) | ServerError::NoKey => None,
        }
    }

    /// What of it the user can mend, and when to look whether that was done by something that is not watched.
    fn refusal(&self) -> Option<(Refusal, Duration)> {
        let ServerError::Apply(error) = self else {
            return None;
        };
        let (reason, again) = match error {
            WriteError::Foreign { .. } => (Reason::NameConflict, NAME_CONFLICT_AGAIN),
            WriteError::Refused { forbidden, .. } => {
                let again = if *forbidden {
                    FORBIDDEN_AGAIN
                } else {
                    REFUSED_AGAIN
                };
                (Reason::Invalid, again)
            }
            WriteError::Conflict { .. } | WriteError::Api { .. } => return None,
        };
        let message = format!("{error}.");
        Some((Refusal { reason, message }, again))
    }
}

/// Brings one server about, as far as that can be done now.
pub async fn reconcile(ctx: &Context, name: &Name) -> Result<Action, ServerError> {
    let Some(refs) = fetch::fetch(ctx, name) else {
        // Again, as a reconciliation may have been under way when it went.
        forget(ctx, name);
        return Ok(Action::AwaitChange);
    };
    let memory = ctx.memory.server(name, &refs.ident.uid);
    if refs.object.metadata().deletion_timestamp.is_some() {
        // Owner references do the rest; somebody's finalizer may make it wait.
        reconciled_once(ctx, &refs, &memory);
        return Ok(Action::AwaitChange);
    }
    if refs.namespace_unknown {
        let (namespace, server) = (&name.0, &name.1);
        tracing::warn!(
            namespace,
            server,
            "a guardrail selects by labels of the namespace, and the operator does not know them yet; the server is reconciled \
             when it does (it needs the right to get namespaces)"
        );
        return Ok(Action::RequeueAfter(NAMESPACE_UNKNOWN_AGAIN));
    }
    let key = ctx.key.get().ok_or(ServerError::NoKey)?;
    let stored = apply::stored_bundle(&refs, key, &memory);
    // Of a policy that is not valid now the form in the stored bundle goes on. A leader that is new must first hear from the
    // gateways that this is not an old bundle that somebody has put back.
    let carried = refs.policies.iter().any(|policy| !policy.errors.is_empty());
    if carried && status::unheard(&refs, &memory) {
        ctx.queues.reports.add(name.clone());
        return Ok(Action::RequeueAfter(UNHEARD_AGAIN));
    }
    let mut compiled = std::mem::take(&mut memory.lock().compiled);
    let verdict = validate::validate(&refs, stored.as_deref(), key, &mut compiled);
    // What is in force stays, under the policies of now.
    let held = match &verdict {
        Ok(_) => None,
        Err(_) => validate::held(&refs, stored.as_deref(), key, &mut compiled),
    };
    memory.lock().compiled = compiled;
    let applied = match &verdict {
        Ok(plan) => apply::apply(ctx, &refs, plan, &memory).await,
        Err(_) => {
            let again = apply::hold(ctx, &refs, held.as_ref(), &memory).await;
            again.map(|again| apply::Applied { again })
        }
    };
    // Whatever became of the children: what gateways reported is stored, and the status says what is known.
    let (applied, refusal, failed) = match applied {
        Ok(applied) => (applied, verdict.as_ref().err().cloned(), None),
        Err(error) => match (error.refusal(), verdict.as_ref().err()) {
            (Some((refusal, again)), None) => {
                let again = Some(again);
                (apply::Applied { again }, Some(refusal), None)
            }
            (_, refusal) => (apply::Applied::default(), refusal.cloned(), Some(error)),
        },
    };
    let ledger = account::keep(ctx, &refs, &memory).await;
    // A status says what is stored, whether or not more could be; but not less than that because it could not be read.
    let ledger = match ledger {
        Err(error) if memory.lock().ledger.is_none() => return Err(error),
        ledger => ledger,
    };
    let wrote = status::write(ctx, &refs, verdict.as_ref().ok(), refusal.as_ref(), &memory).await;
    // A status that cannot be written holds up no policy of this server.
    if !matches!(wrote, Ok(status::Wrote::Unknown)) {
        reconciled_once(ctx, &refs, &memory);
    }
    let status_again = match wrote? {
        status::Wrote::Current => None,
        status::Wrote::Later(left) => Some(left),
        status::Wrote::Unknown => {
            ctx.queues.reports.add(name.clone());
            Some(UNHEARD_AGAIN)
        }
    };
    let ledger_again = ledger?;
    if let Some(error) = failed {
        return Err(error);
    }
    tell_of_tampering(ctx, &refs, &memory);
    let quiet = memory.lock().tampering.quiet_in(Instant::now());
    let again = [applied.again, ledger_again, status_again, quiet]
        .into_iter()
        .flatten()
        .min();
    Ok(again.map_or(Action::AwaitChange, Action::RequeueAfter))
}

/// Events of what others changed of the server's objects.
fn tell_of_tampering(ctx: &Context, refs: &fetch::Refs, memory: &Remembered) {
    for note in memory.lock().tampering.untold(Instant::now()) {
        ctx.events.tampering(refs.object.metadata(), &note);
    }
}

/// The server has been looked at: policies may say what became of it. The first time they are told to.
fn reconciled_once(ctx: &Context, refs: &fetch::Refs, memory: &Remembered) {
    if !std::mem::replace(&mut memory.lock().reconciled_once, true) {
        status::tell_policies(ctx, refs);
    }
}

/// A server is gone.
pub fn forget(ctx: &Context, name: &Name) {
    ctx.memory.forget_server(name);
    ctx.metrics.resources.forget(Reconciled::McpServer, name);
}

type Remembered = Arc<parking_lot::Mutex<memory::ServerMemory>>;

/// When something that is done at most so often may be done again; None for now.
pub fn throttled(last: Option<Instant>, every: Duration, now: Instant) -> Option<Duration> {
    let left = every.checked_sub(now.saturating_duration_since(last?))?;
    (!left.is_zero()).then_some(left)
}
