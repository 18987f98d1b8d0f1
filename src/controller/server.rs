//! Reconciling an McpServer: fetch → validate → build → apply → status. Only the ends do I/O.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::metrics::Kind as Reconciled;
use super::names::Name;
use super::queue::Done;
use super::write::WriteError;
use crate::api::condition::Reason;
use crate::status::server::Refusal;

mod apply;
pub mod build;
mod fetch;
pub mod kinds;
mod ledger;
mod status;
mod validate;

pub use validate::Compiled;

/// What the API server refused is tried again after this long, should what it was refused for have gone (a quota, an admission
/// policy).
const REFUSED_AGAIN: Duration = Duration::from_secs(300);

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
    Key(#[from] super::key::KeyError),
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
}

/// Brings one server about, as far as that can be done now.
pub async fn reconcile(ctx: &Context, name: &Name) -> Result<Done, ServerError> {
    let Some(refs) = fetch::fetch(ctx, name) else {
        // Again, as a reconciliation may have been under way when it went.
        forget(ctx, name);
        return Ok(Done::Settled);
    };
    if refs.object.metadata().deletion_timestamp.is_some() {
        // Owner references do the rest.
        return Ok(Done::Settled);
    }
    let memory = ctx.memory.server(name, &refs.ident.uid);
    let stored = apply::stored_bundle(&refs, &memory);
    let key = ctx.key.get().ok_or(ServerError::NoKey)?;
    let mut compiled = std::mem::take(&mut super::context::lock(&memory).compiled);
    let verdict = validate::validate(&refs, stored.as_deref(), key, &mut compiled);
    super::context::lock(&memory).compiled = compiled;
    let applied = match &verdict {
        Ok(plan) => apply::apply(ctx, &refs, plan, &memory).await,
        // What is in force stays.
        Err(_) => Ok(apply::Applied::default()),
    };
    let (applied, refusal) = match (applied, verdict.as_ref().err()) {
        (Ok(applied), refusal) => (applied, refusal.cloned()),
        (Err(ServerError::Apply(error)), None) => match refusal_of(&error) {
            Some(refusal) => (
                apply::Applied {
                    again: Some(REFUSED_AGAIN),
                },
                Some(refusal),
            ),
            None => return Err(ServerError::Apply(error)),
        },
        (Err(error), _) => return Err(error),
    };
    let ledger_again = ledger::keep(ctx, &refs, &memory).await?;
    let known = status::write(ctx, &refs, verdict.as_ref().ok(), refusal.as_ref(), &memory).await?;
    if !known {
        ctx.queues.reports.add(name.clone());
    }
    let unknown = (!known).then_some(UNHEARD_AGAIN);
    let again = [applied.again, ledger_again, unknown]
        .into_iter()
        .flatten()
        .min();
    Ok(again.map_or(Done::Settled, Done::Later))
}

/// What of an error the user can mend.
fn refusal_of(error: &WriteError) -> Option<Refusal> {
    let reason = match error {
        WriteError::Foreign { .. } => Reason::NameConflict,
        WriteError::Refused { .. } => Reason::Invalid,
        WriteError::Conflict { .. } | WriteError::Api { .. } => return None,
    };
    Some(Refusal {
        reason,
        message: format!("{error}."),
    })
}

/// A server is gone.
pub fn forget(ctx: &Context, name: &Name) {
    ctx.memory.forget_server(name);
    ctx.metrics.resources.forget(Reconciled::McpServer, name);
}

type Remembered = Arc<std::sync::Mutex<super::context::ServerMemory>>;

/// When something that is done at most so often may be done again; None for now.
pub fn throttled(last: Option<Instant>, every: Duration, now: Instant) -> Option<Duration> {
    let left = every.checked_sub(now.saturating_duration_since(last?))?;
    (!left.is_zero()).then_some(left)
}
