//! The ledger of a server: what gateways reported, stored before any status says so.
//!
//! In: reports, the stored ledger. Out: the stored ledger. Written at most every ten seconds, and
//! only if it changed; at once when a gateway is about to end. Must not do: be stuck on what
//! another writer made of the object, or put less over what is stored there because it was not
//! seen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::build::config_map::config_map;
use super::error::AccountError;
use super::fetch::Refs;
use super::memory::{Remembered, ServerMemory};
use super::tampering::EVENT_INTERVAL;
use crate::controller::context::Context;
use crate::controller::names::LEDGER_KEY;
use crate::controller::reports::merge;
use crate::controller::runtime::drift::WATCH_LAG;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::throttle::{STATUS_WRITE_INTERVAL, throttled};
use crate::controller::runtime::writer::{Children, WriteError, Written};
use crate::controller::runtime::written::is_newer;
use crate::status::accounting::{Kept, Ledger};

/// The version of a ledger that is known not to be there.
const NONE: &str = "";

/// Brings the stored ledger up to date. Returns when to look again, if it was too soon.
pub async fn account(
    ctx: &Context,
    refs: &Refs,
    memory: &Remembered,
) -> Result<Option<Duration>, AccountError> {
    let ident = &refs.ident;
    let live = refs.own(Kind::ConfigMap, &ident.ledger());
    let pods: BTreeSet<String> = refs.pods.iter().map(|pod| pod.uid().to_owned()).collect();
    let writes = refs.writes(&ctx.client);
    if live.is_none() && refs.leaving {
        return Ok(None);
    }
    if live.is_none()
        && let Some(left) = look(ctx, refs, memory, &writes).await?
    {
        return Ok(Some(left));
    }
    let (stored, next) = {
        let mut memory = memory.lock();
        let stored = stored(ctx, refs, &mut memory, live);
        let bundle = memory.bundle.clone();
        let kept = bundle.as_deref().map(Kept::of);
        let seen = merge::Seen {
            reports: &memory.reports,
            newest: &memory.newest,
            pods: &pods,
            kept: kept.as_ref(),
        };
        let next = merge::advance(&stored, seen, Timestamp::now());
        if next == *stored && !memory.ledger_astray {
            forget_ended(&mut memory, &pods);
            return Ok(None);
        }
        let urgent = refs.pods.iter().any(|pod| pod.terminating);
        if !urgent
            && let Some(left) =
                throttled(memory.ledger_written, STATUS_WRITE_INTERVAL, Instant::now())
        {
            return Ok(Some(left));
        }
        (stored, next)
    };
    let text = serde_json::to_string(&next)?;
    let child = config_map(ident, &ident.ledger(), LEDGER_KEY, text)?;
    let seen = memory
        .lock()
        .ledger
        .as_ref()
        .map(|(version, _)| version.clone())
        .filter(|version| version != NONE);
    let next = Arc::new(next);
    memory.lock().ledger_sent = Some(Arc::clone(&next));
    let written = writes
        .write(&child, seen.as_deref(), live.is_some())
        .await
        .map_err(AccountError::Write)?;
    let written = match written {
        Written::Now(live) => live,
        // Counted on top of it the next time.
        Written::Otherwise(live) => {
            let mut memory = memory.lock();
            self::stored(ctx, refs, &mut memory, Some(&live));
            memory.ledger_astray = true;
            return Err(AccountError::Write(WriteError::Conflict {
                kind: child.kind.as_str(),
                name: child.name,
            }));
        }
    };
    let together = next.together();
    if together > stored.together() {
        tracing::info!(
            namespace = ident.namespace,
            name = ident.ledger(),
            together,
            "violations of policies or rules that the bundle does not have are counted together"
        );
    }
    let recent = next.sum().recent;
    {
        let mut memory = memory.lock();
        memory.ledger = Some((written.resource_version().to_owned(), next));
        memory.ledger_written = Some(Instant::now());
        memory.ledger_astray = false;
        forget_ended(&mut memory, &pods);
    }
    // What the ledger held before was reported before.
    ctx.events
        .known(refs.object.metadata(), &stored.sum().recent);
    ctx.events.violations(refs.object.metadata(), &recent);
    Ok(None)
}

/// Looks for a ledger that the watch does not show: without our labels it is still what was stored.
/// Returns when to look again, if it is too soon to tell.
async fn look(
    ctx: &Context,
    refs: &Refs,
    memory: &Remembered,
    writes: &Children<'_>,
) -> Result<Option<Duration>, AccountError> {
    let (known, written) = {
        let memory = memory.lock();
        let version = memory.ledger.as_ref().map(|(version, _)| version.clone());
        (version, memory.ledger_written)
    };
    if known.as_deref() == Some(NONE) {
        return Ok(None);
    }
    // A server without violations has none, and is not asked about. One that has reported
    // violations has one, or had.
    let previous = refs.object.status(|server| &server.status);
    let told = previous
        .and_then(|status| status.violations)
        .is_some_and(|violations| violations.last_time.is_some());
    let reported = || {
        let memory = memory.lock();
        memory
            .reports
            .values()
            .any(|one| !one.violations.is_empty())
    };
    if known.is_none() && !told && !reported() {
        return Ok(None);
    }
    // The watch may not have brought it yet.
    if let Some(left) = throttled(written, WATCH_LAG, Instant::now()) {
        return Ok(Some(left));
    }
    let there = writes
        .get(Kind::ConfigMap, &refs.ident.ledger())
        .await
        .map_err(AccountError::Read)?
        .filter(|live| live.controller() == Some(&refs.ident.uid));
    let mut memory = memory.lock();
    match there {
        Some(live) => {
            stored(ctx, refs, &mut memory, Some(&live));
            // To bring it back into sight.
            memory.ledger_astray = true;
        }
        // It is made again, from what is remembered of it.
        None => {
            memory.ledger_astray = memory.ledger.is_some();
            let (version, _) = memory.ledger.get_or_insert_default();
            NONE.clone_into(version);
        }
    }
    Ok(None)
}

/// The stored ledger, of the newest version that is known. Of one that cannot be read, or that says
/// something else than what was written here (only a leader writes, and one that is deposed ends),
/// the version counts, to write over it, and what was remembered takes the place of its content.
fn stored(
    ctx: &Context,
    refs: &Refs,
    memory: &mut ServerMemory,
    live: Option<&ObservedChild>,
) -> Arc<Ledger> {
    let newer = |live: &&ObservedChild| {
        let known = memory.ledger.as_ref();
        known.is_none_or(|(known, _)| is_newer(live.resource_version(), known))
    };
    if let Some(live) = live.filter(newer) {
        let text = live.data(LEDGER_KEY).unwrap_or_default();
        let ours = |ledger: &Ledger| {
            let sent = memory.ledger_sent.as_deref() == Some(ledger);
            sent || memory.ledger.as_ref().is_none_or(|(version, known)| {
                let begun = version == NONE && **known == Ledger::default();
                begun || **known == *ledger
            })
        };
        let found = serde_json::from_str::<Ledger>(&text).map_err(|error| error.to_string());
        let ledger = match found {
            Ok(ledger) if ours(&ledger) => Arc::new(ledger),
            found => {
                memory.ledger_astray = true;
                let changed = "another writer has changed them".to_owned();
                let known = known(memory);
                // Another writer may do it as often as it likes.
                let now = Instant::now();
                if throttled(memory.ledger_told, EVENT_INTERVAL, now).is_none() {
                    memory.ledger_told = Some(now);
                    unreadable(ctx, refs, &found.err().unwrap_or(changed), known.is_some());
                }
                known.unwrap_or_default()
            }
        };
        memory.ledger = Some((live.resource_version().to_owned(), ledger));
    }
    known(memory).unwrap_or_default()
}

/// The stored ledger as it was read or written last.
pub fn known(memory: &ServerMemory) -> Option<Arc<Ledger>> {
    memory.ledger.as_ref().map(|(_, ledger)| Arc::clone(ledger))
}

fn unreadable(ctx: &Context, refs: &Refs, error: &str, known: bool) {
    let instead = if known {
        "it is written again from what the operator remembers"
    } else {
        "it starts again with what the gateways that run now have counted"
    };
    let name = refs.ident.ledger();
    tracing::error!(
        namespace = refs.ident.namespace,
        name,
        error,
        "a stored ledger is of no use; {instead}"
    );
    let note =
        format!("The violations stored in ConfigMap {name} are of no use ({error}); {instead}.");
    ctx.events.ledger_unreadable(refs.object.metadata(), &note);
}

/// Reports of runs that are over and stored.
fn forget_ended(memory: &mut ServerMemory, pods: &BTreeSet<String>) {
    let newest = &memory.newest;
    memory
        .reports
        .retain(|(pod, instance), _| pods.contains(pod) && newest.get(pod) == Some(instance));
    memory.newest.retain(|pod, _| pods.contains(pod));
    memory.polls.retain(|pod, _| pods.contains(pod));
}
