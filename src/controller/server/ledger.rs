//! The ledger of a server: what gateways reported, stored before any status says so.
//!
//! In: reports, the stored ledger. Out: the stored ledger. Written at most every ten seconds, and only if it changed; at once
//! when a gateway is about to end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::apply::config_map;
use super::fetch::Refs;
use super::kinds::Kind;
use super::{Remembered, ServerError, throttled};
use crate::controller::accounts;
use crate::controller::context::{Context, ServerMemory, is_newer, lock};
use crate::controller::live::Live;
use crate::controller::names::LEDGER_KEY;
use crate::controller::write::{Children, WriteError, Written};
use crate::status::accounting::Ledger;

/// One object is not written more often.
pub const EVERY: Duration = Duration::from_secs(10);

/// Brings the stored ledger up to date. Returns when to look again, if it was too soon.
pub async fn keep(
    ctx: &Context,
    refs: &Refs,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    let ident = &refs.ident;
    let live = refs
        .children
        .get(&(Kind::ConfigMap, ident.ledger()))
        .filter(|live| live.controller() == Some(&ident.uid));
    let pods: BTreeSet<String> = refs.pods.iter().map(|pod| pod.uid().to_owned()).collect();
    let (stored, next) = {
        let mut memory = lock(memory);
        let stored = stored(&mut memory, live.map(Arc::as_ref));
        let next = accounts::advance(&stored, &memory.reports, &memory.newest, &pods);
        if next == *stored {
            forget_ended(&mut memory, &pods);
            return Ok(None);
        }
        let urgent = refs.pods.iter().any(|pod| pod.terminating);
        if !urgent && let Some(left) = throttled(memory.ledger_written, EVERY, Instant::now()) {
            return Ok(Some(left));
        }
        (stored, next)
    };
    let writes = Children {
        client: &ctx.client,
        namespace: &ident.namespace,
        owner: &ident.uid,
    };
    let text = serde_json::to_string(&next).map_err(|error| {
        ServerError::Ledger(WriteError::Api {
            kind: "ConfigMap",
            name: ident.ledger(),
            source: Box::new(kube::Error::SerdeError(error)),
        })
    })?;
    let child = config_map(ident, &ident.ledger(), LEDGER_KEY, &text);
    let seen = lock(memory)
        .ledger
        .as_ref()
        .map(|(version, _)| version.clone());
    let written = match writes
        .write(&child, seen.as_deref(), live.is_some())
        .await
        .map_err(ServerError::Ledger)?
    {
        Written::Now(live) => live,
        // Counted on top of it the next time.
        Written::Otherwise(live) => {
            take(&mut lock(memory), &live);
            return Err(ServerError::Ledger(WriteError::Conflict {
                kind: child.kind.as_str(),
                name: child.name,
            }));
        }
    };
    let recent = next.sum().recent;
    {
        let mut memory = lock(memory);
        memory.ledger = Some((written.resource_version().to_owned(), Arc::new(next)));
        memory.ledger_written = Some(Instant::now());
        forget_ended(&mut memory, &pods);
    }
    // What the ledger held before was told of before.
    ctx.events
        .known(refs.object.metadata(), &stored.sum().recent);
    ctx.events.violations(refs.object.metadata(), &recent);
    Ok(None)
}

/// The stored ledger, of the newest version that is known.
pub fn stored(memory: &mut ServerMemory, live: Option<&Live>) -> Arc<Ledger> {
    if let Some(live) = live {
        let newer = memory
            .ledger
            .as_ref()
            .is_none_or(|(known, _)| is_newer(live.resource_version(), known));
        if newer {
            take(memory, live);
        }
    }
    memory
        .ledger
        .as_ref()
        .map(|(_, ledger)| Arc::clone(ledger))
        .unwrap_or_default()
}

/// Remembers what is stored. Of what cannot be read only the version is taken, so that it is written over.
fn take(memory: &mut ServerMemory, live: &Live) {
    let ledger = live
        .data(LEDGER_KEY)
        .and_then(|text| serde_json::from_str::<Ledger>(&text).ok())
        .map(Arc::new);
    let known = memory.ledger.take().map(|(_, ledger)| ledger);
    let ledger = ledger.or(known).unwrap_or_default();
    memory.ledger = Some((live.resource_version().to_owned(), ledger));
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
