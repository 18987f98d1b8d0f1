//! The bundle on the API server.
//!
//! In: the bundle that should be in force, and the ConfigMap as it is. Out: the ConfigMap with that
//! bundle, signed. Must not do: put an old bundle back, or believe one that another writer has
//! written.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use tokio::time::Instant;

use super::build::config_map::config_map;
use super::error::DeliverError;
use super::fetch::Refs;
use super::memory::{Delivered, Remembered, ServerMemory};
use super::sequence;
use super::tampering::Foreign;
use crate::api::contract::BUNDLE_KEY;
use crate::controller::context::Context;
use crate::controller::key::OperatorKey;
use crate::controller::reports::poll;
use crate::controller::runtime::drift::WATCH_LAG;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::throttle::throttled;
use crate::controller::runtime::writer::Written;
use crate::controller::runtime::written::is_newer;
use crate::policy::bundle::Bundle;
use crate::policy::lint::lint;

/// The newest bundle of the operator's that is known: of the newest version of the ConfigMap, or,
/// while that holds something else, the one before.
pub fn stored_bundle(refs: &Refs, key: &OperatorKey, memory: &Remembered) -> Option<Arc<Bundle>> {
    if let Some(live) = refs.own(Kind::ConfigMap, &refs.ident.gateway()) {
        let known = memory.lock().bundle_version.clone();
        let is_news = known.is_none_or(|known| is_newer(live.resource_version(), &known));
        if is_news {
            saw(refs, memory, live, key);
        }
    }
    memory.lock().bundle.clone()
}

/// Takes a version of the ConfigMap in. What the operator did not sign, what it signed for another
/// server, and what it signed before what is known to be in force, another writer has put there.
/// Reads it without the lock: watches ask the memory too, and must not wait for a large bundle.
fn saw(refs: &Refs, memory: &Remembered, live: &ObservedChild, key: &OperatorKey) {
    let newest = {
        let memory = memory.lock();
        let known = memory.bundle.as_ref().map(|bundle| bundle.sequence);
        known.max(reported(&memory))
    };
    let found = read(live).filter(|bundle| {
        key.verify(bundle).is_ok()
            && is_for(refs, bundle)
            && newest.is_none_or(|newest| bundle.sequence >= newest)
    });
    let found = found.map(|bundle| (lint(&bundle), bundle));
    let mut memory = memory.lock();
    memory.foreign = found.is_none();
    memory.bundle_version = Some(live.resource_version().to_owned());
    match found {
        Some((warnings, bundle)) => memory.knows(bundle, warnings),
        None => memory.tampering.note(
            Kind::ConfigMap,
            &live.name_any(),
            &Foreign {
                field: format!("data.{BUNDLE_KEY}"),
                manager: live.manager_of(&format!("data.{BUNDLE_KEY}")),
            },
            Instant::now(),
        ),
    }
}

/// The signature holds for any server: a bundle of another one, or of an earlier one of that name,
/// could be put here.
fn is_for(refs: &Refs, bundle: &Bundle) -> bool {
    let (server, ident) = (&bundle.server, &refs.ident);
    (&server.namespace, &server.name, &server.uid) == (&ident.namespace, &ident.name, &ident.uid)
}

/// The highest sequence that a gateway says it has in force, and that can be believed.
fn reported(memory: &ServerMemory) -> Option<u64> {
    let newest = memory.newest.iter();
    let now = clock();
    newest
        .filter_map(|(pod, instance)| memory.reports.get(&(pod.clone(), instance.clone())))
        .filter_map(|report| report.sequence)
        .filter(|reported| sequence::is_plausible(*reported, now))
        .max()
}

/// The time in milliseconds.
fn clock() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(1)
}

fn read(live: &ObservedChild) -> Option<Bundle> {
    let text = live.data(BUNDLE_KEY)?;
    Bundle::parse(text.as_bytes()).ok()
}

/// Writes the bundle if it says something else than the stored one: whole, and only over what was
/// seen, so that a leader that was paused cannot put an old one back. Returns when to look again,
/// if it waits.
pub async fn deliver(
    ctx: &Context,
    refs: &Refs,
    key: &OperatorKey,
    wanted: &Bundle,
    memory: &Remembered,
) -> Result<Option<Duration>, DeliverError> {
    let ident = &refs.ident;
    let there = refs
        .children
        .contains_key(&(Kind::ConfigMap, ident.gateway()));
    let (version, known, delivered, foreign, reported) = {
        let memory = memory.lock();
        (
            memory.bundle_version.clone(),
            memory.bundle.clone(),
            memory.delivered.clone(),
            memory.foreign,
            reported(&memory),
        )
    };
    if refs.leaving && !there {
        return Ok(None);
    }
    let now = Instant::now();
    if let Some(known) = known
        .as_ref()
        .filter(|known| !foreign && known.revision == wanted.revision)
    {
        // A gateway that has something newer in force does not take this: the stored one was put
        // back by another writer.
        let behind = reported.is_some_and(|reported| reported > known.sequence);
        if there && !behind {
            return Ok(None);
        }
        // Removed, unless the watch has not brought it yet.
        let written = delivered.as_ref().map(|delivered| delivered.at);
        if let Some(left) = throttled(written, WATCH_LAG, now).filter(|_| !there) {
            return Ok(Some(left));
        }
    }
    let mut bundle = wanted.clone();
    bundle.sequence = sequence::next(known.map(|known| known.sequence), reported, clock());
    key.sign(&mut bundle);
    let text = serde_json::to_string(&bundle)?;
    let child = config_map(ident, &ident.gateway(), BUNDLE_KEY, text)?;
    let seen = version.or_else(|| {
        // Unreadable, but ours: it is written over.
        let live = refs.children.get(&(Kind::ConfigMap, ident.gateway()))?;
        Some(live.resource_version().to_owned())
    });
    let written = refs
        .writes(&ctx.client)
        .write(&child, seen.as_deref(), there)
        .await
        .map_err(DeliverError::Write)?;
    let written = match written {
        Written::Now(live) => live,
        Written::Otherwise(live) => {
            // Written over what it says the next time, which is now.
            saw(refs, memory, &live, key);
            return Ok(Some(Duration::ZERO));
        }
    };
    let revision = bundle.revision.clone();
    tracing::info!(
        namespace = ident.namespace,
        server = ident.name,
        revision,
        sequence = bundle.sequence,
        "delivered a bundle"
    );
    ctx.metrics.deliveries.inc();
    let warnings = lint(&bundle);
    {
        let mut memory = memory.lock();
        memory.bundle_version = Some(written.resource_version().to_owned());
        memory.knows(bundle, warnings);
        memory.foreign = false;
        memory.delivered = Some(Delivered { at: now });
        memory.delivering = Some((revision, now));
    }
    // The pods are asked at once whether they have it.
    poll::poll_now(ctx, &ident.key());
    Ok(None)
}
