//! The writes that bring a plan about: Secrets, children, the bundle.
//!
//! In: a plan and what is there. Out: what is there afterwards. Must not do: write what is as it should be, or touch what is
//! not ours.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::build::{self, Replicas, Wanted};
use super::fetch::Refs;
use super::kinds::{Child, Kind};
use super::validate::Plan;
use super::{Remembered, ServerError, throttled};
use crate::controller::applied::{self, Step, WATCH_LAG};
use crate::controller::collect;
use crate::controller::context::{Context, Delivered, is_newer, lock};
use crate::controller::key;
use crate::controller::live::Live;
use crate::controller::names::{BUNDLE_KEY, GATEWAY, Ident, UPSTREAM};
use crate::controller::write::{self, Children, Created, WriteError, Written};
use crate::policy::bundle::Bundle;

/// The first and the longest wait before a bundle that somebody else writes again and again is written over: what gateways
/// enforce is not given up for long.
const BUNDLE_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What remains to be done later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    pub again: Option<Duration>,
}

/// The bundle that the gateways have: of the newest version of the ConfigMap that is known.
pub fn stored_bundle(refs: &Refs, memory: &Remembered) -> Option<Arc<Bundle>> {
    let live = refs.own(Kind::ConfigMap, &refs.ident.gateway());
    let mut memory = lock(memory);
    let seen = live.map(|live| live.resource_version());
    match (seen, &memory.bundle) {
        (Some(seen), Some((known, bundle))) if !is_newer(seen, known) => Some(Arc::clone(bundle)),
        (Some(seen), _) => {
            let bundle = live.and_then(read).map(Arc::new);
            memory.bundle = bundle.clone().map(|bundle| (seen.to_owned(), bundle));
            bundle
        }
        // Removed; or created just now, and the watch has not brought it yet.
        (None, known) => known.as_ref().map(|(_, bundle)| Arc::clone(bundle)),
    }
}

fn read(live: &Live) -> Option<Bundle> {
    let text = live.data(BUNDLE_KEY)?;
    Bundle::parse(text.as_bytes()).ok()
}

pub async fn apply(
    ctx: &Context,
    refs: &Refs,
    plan: &Plan,
    memory: &Remembered,
) -> Result<Applied, ServerError> {
    let ident = &refs.ident;
    let writes = refs.writes(ctx);
    let deployment = refs.children.get(&(Kind::Deployment, ident.gateway()));
    let wanted = Wanted {
        ident,
        spec: &plan.server.spec,
        settings: &ctx.settings,
        alone: plan.alone,
        replicas: deployment.map(|live| Replicas {
            now: live
                .value()
                .pointer("/spec/replicas")
                .and_then(serde_json::Value::as_i64)
                .unwrap_or(1),
            others: live.replicas_of_others,
        }),
    };
    let children = build::children(&wanted);
    // Nothing is half-made under a name that is somebody else's; what is in force already follows its policies all the same.
    let maps = [ident.gateway(), ident.ledger()].map(|name| (Kind::ConfigMap, name));
    let names = children
        .iter()
        .map(|child| (child.kind, child.name.clone()));
    if let Some((kind, name)) = maps
        .into_iter()
        .chain(names)
        .find(|(kind, name)| is_foreign(refs, *kind, name))
    {
        hold(ctx, refs, plan.held.as_ref(), memory).await?;
        let kind = kind.as_str();
        return Err(ServerError::Apply(WriteError::Foreign { kind, name }));
    }
    // What only policies say waits for nothing. Another server spec is in force only when the API server has taken all that
    // goes with it.
    let mut again = None;
    if plan.held.is_none() {
        again = deliver(ctx, &writes, refs, &plan.bundle, memory).await?;
    }
    match make(ctx, &writes, refs, plan, children, memory).await {
        Ok(later) => again = sooner(again, later),
        Err(error) => {
            hold(ctx, refs, plan.held.as_ref(), memory).await?;
            return Err(error);
        }
    }
    if plan.held.is_some() {
        let later = deliver(ctx, &writes, refs, &plan.bundle, memory).await?;
        again = sooner(again, later);
    }
    Ok(Applied { again })
}

/// Puts the policies of now in force on the server as it was accepted last.
pub async fn hold(
    ctx: &Context,
    refs: &Refs,
    held: Option<&Bundle>,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    let ident = &refs.ident;
    let writes = refs.writes(ctx);
    match held {
        Some(held) if !is_foreign(refs, Kind::ConfigMap, &ident.gateway()) => {
            deliver(ctx, &writes, refs, held, memory).await
        }
        _ => Ok(None),
    }
}

/// Brings Secrets and children about, each after what it needs, and removes those that are wanted no more.
async fn make(
    ctx: &Context,
    writes: &Children<'_>,
    refs: &Refs,
    plan: &Plan,
    children: Vec<Child>,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    secrets(ctx, refs, plan, memory).await?;
    let mut again: Option<Duration> = None;
    let mut kept = Vec::new();
    for child in children {
        kept.push((child.kind, child.name.clone()));
        again = sooner(again, one(writes, refs, child, memory).await?);
    }
    for (kind, name) in build::possible(&refs.ident) {
        if kept.contains(&(kind, name.clone())) {
            continue;
        }
        if let Some(live) = refs.own(kind, &name) {
            writes
                .delete(kind, live, &name)
                .await
                .map_err(ServerError::Apply)?;
        }
    }
    Ok(again)
}

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn is_foreign(refs: &Refs, kind: Kind, name: &str) -> bool {
    let live = refs.children.get(&(kind, name.to_owned()));
    live.is_some_and(|live| live.controller() != Some(&refs.ident.uid))
}

/// Brings one child about. Returns when to look again, if it waits.
async fn one(
    writes: &Children<'_>,
    refs: &Refs,
    child: Child,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    let child = applied::stamped(child);
    let key = (child.kind, child.name.clone());
    let mark = lock(memory).marks.get(&key).cloned();
    let live = refs.children.get(&key).map(Arc::as_ref);
    let owner = writes.owner;
    let mut step = applied::step(&child, live, mark.as_ref(), owner, Instant::now());
    if step == Step::Create {
        match writes.create(&child).await.map_err(ServerError::Apply)? {
            Created::New(live) => {
                remember(memory, &child, &live, false);
                return Ok(None);
            }
            // The caches did not have it yet, or somebody has taken its labels off.
            Created::Ours(live) => {
                step = applied::step(&child, Some(&live), mark.as_ref(), owner, Instant::now());
                if let Step::Apply { drift } = step {
                    return write_over(writes, &child, &live, memory, drift).await;
                }
            }
        }
    }
    match (step, live) {
        (Step::Apply { drift }, Some(live)) => {
            write_over(writes, &child, live, memory, drift).await
        }
        (Step::Wait(left), _) => Ok(Some(left)),
        (Step::Foreign, _) => Err(ServerError::Apply(WriteError::Foreign {
            kind: child.kind.as_str(),
            name: child.name,
        })),
        (Step::Nothing | Step::Create | Step::Apply { .. }, _) => Ok(None),
    }
}

async fn write_over(
    writes: &Children<'_>,
    child: &Child,
    live: &Live,
    memory: &Remembered,
    drift: bool,
) -> Result<Option<Duration>, ServerError> {
    if drift {
        tracing::info!(
            kind = child.kind.as_str(),
            namespace = writes.namespace,
            name = child.name,
            "putting right what somebody changed"
        );
    }
    let mut written = writes
        .apply(child, live.uid(), drift)
        .await
        .map_err(ServerError::Apply)?;
    // An apply leaves what somebody has put into a list beside ours: a container, a volume, a port.
    if drift && !applied::holds(&written.value(), &child.body) {
        written = writes
            .merge(child, live.uid())
            .await
            .map_err(ServerError::Apply)?;
    }
    remember(memory, child, &written, drift);
    Ok(None)
}

fn remember(memory: &Remembered, child: &Child, live: &Live, drift: bool) {
    let key = (child.kind, child.name.clone());
    let mut memory = lock(memory);
    let mark = applied::mark(child, live, memory.marks.get(&key), drift, Instant::now());
    memory.marks.insert(key, mark);
}

/// The keys that pods mount. They are made once and never read: of one that is there, nobody asks what is in it.
async fn secrets(
    ctx: &Context,
    refs: &Refs,
    plan: &Plan,
    memory: &Remembered,
) -> Result<(), ServerError> {
    let ident = &refs.ident;
    let ready = refs.pods.iter().any(|pod| pod.ready);
    // They were made before the Deployment that mounts them; ready pods have found them, unless a report says otherwise.
    let there = |name: &str, deployment: String| {
        let memory = lock(memory);
        let missing = memory.reports.values().any(|report| {
            let keys = &report.missing_secret_keys;
            keys.iter().any(|key| key.split('/').next() == Some(name))
        });
        let mounted = ready && refs.children.contains_key(&(Kind::Deployment, deployment));
        !missing && (mounted || memory.secrets_made.contains(name))
    };
    let mut wanted = vec![(ident.sealing_secret(), GATEWAY, "keys", ident.gateway())];
    if plan.server.spec.upstream.stdio.is_some() {
        wanted.push((ident.bearer_secret(), UPSTREAM, "bearer", ident.upstream()));
    }
    for (name, component, key, deployment) in wanted {
        if there(&name, deployment) {
            continue;
        }
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": build::metadata(ident, &name, component),
            "stringData": { key: key::random_text()? },
        });
        write::secret(&ctx.client, &secret, &ident.namespace)
            .await
            .map_err(ServerError::Apply)?;
        lock(memory).secrets_made.insert(name);
    }
    Ok(())
}

/// Writes the bundle if it says something else than the stored one: whole, and only over what was seen, so that a leader that
/// was paused cannot put an old one back.
async fn deliver(
    ctx: &Context,
    writes: &Children<'_>,
    refs: &Refs,
    wanted: &Bundle,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    let ident = &refs.ident;
    let there = refs
        .children
        .contains_key(&(Kind::ConfigMap, ident.gateway()));
    let (stored, delivered) = {
        let memory = lock(memory);
        (memory.bundle.clone(), memory.delivered.clone())
    };
    let now = Instant::now();
    let (version, known) = stored.unzip();
    if known
        .as_ref()
        .is_some_and(|known| known.revision == wanted.revision)
    {
        if there {
            // It may have been somebody else who wrote it.
            let mut memory = lock(memory);
            memory
                .delivered
                .take_if(|before| before.revision != wanted.revision);
            return Ok(None);
        }
        // Removed, unless the watch has not brought it yet.
        let written = delivered.as_ref().map(|delivered| delivered.at);
        if let Some(left) = throttled(written, WATCH_LAG, now) {
            return Ok(Some(left));
        }
    }
    let delivered = delivered.filter(|delivered| delivered.revision == wanted.revision);
    // Somebody has put something else in place of what was delivered: not without pause.
    let repairs = match &delivered {
        Some(before) => {
            if let Some(left) = applied::wait(BUNDLE_WAITS, before.repairs, before.repaired, now) {
                return Ok(Some(left));
            }
            before.repairs.saturating_add(1)
        }
        None => 0,
    };
    let mut bundle = wanted.clone();
    let next = known.map_or(0, |known| known.sequence.saturating_add(1));
    // One that is made anew must stand above whatever was there before it.
    let floor = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(1);
    bundle.sequence = if there && next > 0 {
        next
    } else {
        floor.max(next)
    };
    let child = config_map(ident, &ident.gateway(), BUNDLE_KEY, &text(&bundle)?);
    let seen = version.or_else(|| {
        // Unreadable, but ours: it is written over.
        let live = refs.children.get(&(Kind::ConfigMap, ident.gateway()))?;
        Some(live.resource_version().to_owned())
    });
    let written = match writes
        .write(&child, seen.as_deref(), there)
        .await
        .map_err(ServerError::Apply)?
    {
        Written::Now(live) => live,
        Written::Otherwise(live) => {
            // Written over what it says the next time, which is now.
            let unreadable = || {
                Arc::new(Bundle {
                    revision: String::new(),
                    ..bundle.clone()
                })
            };
            let found = read(&live).map_or_else(unreadable, Arc::new);
            lock(memory).bundle = Some((live.resource_version().to_owned(), found));
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
    {
        let mut memory = lock(memory);
        memory.bundle = Some((written.resource_version().to_owned(), Arc::new(bundle)));
        memory.delivered = Some(Delivered {
            revision: revision.clone(),
            at: now,
            repairs,
            repaired: (repairs > 0).then_some(now),
        });
        memory.delivering = Some((revision, now));
    }
    // The pods are asked at once whether they have it.
    collect::hurry(ctx, &ident.key());
    Ok(None)
}

fn text(bundle: &Bundle) -> Result<String, ServerError> {
    serde_json::to_string(bundle).map_err(|error| {
        ServerError::Apply(WriteError::Api {
            kind: "ConfigMap",
            name: bundle.server.name.clone(),
            source: Box::new(kube::Error::SerdeError(error)),
        })
    })
}

/// A ConfigMap of the gateway's with one key.
pub fn config_map(ident: &Ident, name: &str, key: &str, text: &str) -> Child {
    let mut body = Kind::ConfigMap.object(build::metadata(ident, name, GATEWAY));
    if let Some(body) = body.as_object_mut() {
        body.insert("data".to_owned(), json!({ key: text }));
    }
    Child {
        kind: Kind::ConfigMap,
        name: name.to_owned(),
        body,
    }
}
