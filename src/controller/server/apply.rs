//! The writes that bring a plan about: Secrets, children, the bundle.
//!
//! In: a plan and what is there. Out: what is there afterwards. Must not do: write what is as it should be, or touch what is
//! not ours.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::build::{self, Replicas, Wanted};
use super::fetch::Refs;
use super::validate::Plan;
use super::{Remembered, ServerError, sequence, throttled};
use crate::controller::context::Context;
use crate::controller::key::{self, OperatorKey};
use crate::controller::names::{BUNDLE_KEY, GATEWAY, Ident, UPSTREAM};
use crate::controller::reports::poll;
use crate::controller::runtime::drift::{self, ChildAction, WATCH_LAG};
use crate::controller::runtime::kinds::{Child, Kind};
use crate::controller::runtime::objects::{GatewayPod, ObservedChild};
use crate::controller::runtime::writer::{self, Children, Created, WriteError, Written};
use crate::controller::runtime::written::is_newer;
use crate::controller::server::memory::{Delivered, ServerMemory};
use crate::controller::server::tampering::Foreign;
use crate::policy::bundle::Bundle;

/// Between two attempts to make a Secret that a pod may be waiting for.
const SECRET_AGAIN: Duration = Duration::from_secs(15);

/// What remains to be done later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    pub again: Option<Duration>,
}

/// The newest bundle of the operator's that is known: of the newest version of the ConfigMap, or, while that holds something
/// else, the one before.
pub fn stored_bundle(refs: &Refs, key: &OperatorKey, memory: &Remembered) -> Option<Arc<Bundle>> {
    let live = refs.own(Kind::ConfigMap, &refs.ident.gateway());
    let mut memory = memory.lock();
    if let Some(live) = live
        && memory
            .bundle_version
            .as_deref()
            .is_none_or(|known| is_newer(live.resource_version(), known))
    {
        saw(&mut memory, live, key);
    }
    memory.bundle.clone()
}

/// Takes a version of the ConfigMap in. What the operator did not sign, and what it signed before what is known to be in force,
/// somebody else has put there.
fn saw(memory: &mut ServerMemory, live: &ObservedChild, key: &OperatorKey) {
    let known = memory.bundle.as_ref().map(|bundle| bundle.sequence);
    let newest = known.max(reported(memory));
    let found = read(live).filter(|bundle| {
        key.verify(bundle).is_ok() && newest.is_none_or(|newest| bundle.sequence >= newest)
    });
    memory.foreign = found.is_none();
    memory.bundle_version = Some(live.resource_version().to_owned());
    match found {
        Some(found) => memory.knows(found),
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

/// The highest sequence that a gateway says it has in force.
fn reported(memory: &ServerMemory) -> Option<u64> {
    let newest = memory.newest.iter();
    newest
        .filter_map(|(pod, instance)| memory.reports.get(&(pod.clone(), instance.clone())))
        .filter_map(|report| report.sequence)
        .max()
}

fn read(live: &ObservedChild) -> Option<Bundle> {
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
        bundle_keys: ctx.key.get().map_or(&[], |key| key.public()),
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
    let mut again = secrets(ctx, refs, plan, memory).await?;
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
    let child = drift::stamped(child);
    let key = (child.kind, child.name.clone());
    let mark = memory.lock().marks.get(&key).cloned();
    let live = refs.children.get(&key).map(Arc::as_ref);
    let owner = writes.owner;
    let mut step = drift::step(&child, live, mark.as_ref(), owner, Instant::now());
    if step == ChildAction::Create {
        match writes.create(&child).await.map_err(ServerError::Apply)? {
            Created::New(live) => {
                remember(memory, &child, &live, false);
                return Ok(None);
            }
            // The caches did not have it yet, or somebody has taken its labels off.
            Created::Ours(live) => {
                step = drift::step(&child, Some(&live), mark.as_ref(), owner, Instant::now());
                if let ChildAction::Apply { drift } = step {
                    return write_over(writes, &child, &live, memory, drift).await;
                }
            }
        }
    }
    match (step, live) {
        (ChildAction::Apply { drift }, Some(live)) => {
            write_over(writes, &child, live, memory, drift).await
        }
        (ChildAction::Wait(left), _) => Ok(Some(left)),
        (ChildAction::Foreign, _) => Err(ServerError::Apply(WriteError::Foreign {
            kind: child.kind.as_str(),
            name: child.name,
        })),
        (ChildAction::Nothing | ChildAction::Create | ChildAction::Apply { .. }, _) => Ok(None),
    }
}

async fn write_over(
    writes: &Children<'_>,
    child: &Child,
    live: &ObservedChild,
    memory: &Remembered,
    drift: bool,
) -> Result<Option<Duration>, ServerError> {
    if drift {
        let changes = drift::changes(child, live);
        let mut memory = memory.lock();
        for change in changes.iter().filter(|change| change.widens) {
            let field = change.field();
            let manager = live.manager_of(&field);
            let foreign = Foreign { field, manager };
            memory
                .tampering
                .note(child.kind, &child.name, &foreign, Instant::now());
        }
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
    // An apply leaves what somebody has added beside ours: a field, a container, a volume, a port.
    let left = if drift {
        drift::changes(child, &written)
    } else {
        Vec::new()
    };
    if !left.is_empty() {
        written = writes
            .merge(child, live.uid(), &left)
            .await
            .map_err(ServerError::Apply)?;
    }
    remember(memory, child, &written, drift);
    Ok(None)
}

fn remember(memory: &Remembered, child: &Child, live: &ObservedChild, drift: bool) {
    let key = (child.kind, child.name.clone());
    let mut memory = memory.lock();
    let mark = drift::mark(child, live, memory.marks.get(&key), drift, Instant::now());
    memory.marks.insert(key, mark);
}

/// The keys that pods mount. They are made once and never read: the operator has no right to. While a pod that mounts one is not
/// ready, the Secret may be missing (somebody has deleted it, and the kubelet waits for it), so the operator tries to create it
/// again. Returns when to try the next time.
async fn secrets(
    ctx: &Context,
    refs: &Refs,
    plan: &Plan,
    memory: &Remembered,
) -> Result<Option<Duration>, ServerError> {
    let ident = &refs.ident;
    let runs = |pods: &[Arc<GatewayPod>]| {
        let mut lasting = pods.iter().filter(|pod| !pod.terminating).peekable();
        lasting.peek().is_some() && lasting.all(|pod| pod.ready)
    };
    let gateway = runs(&refs.pods);
    let mut wanted = vec![(ident.sealing_secret(), GATEWAY, "keys", gateway)];
    if plan.server.spec.upstream.stdio.is_some() {
        let both = gateway && runs(&refs.upstream_pods);
        wanted.push((ident.bearer_secret(), UPSTREAM, "bearer", both));
    }
    let mut again = None;
    for (name, component, key, mounted) in wanted {
        let missing = memory.lock().reports.values().any(|report| {
            let keys = &report.missing_secret_keys;
            keys.iter()
                .any(|key| key.split('/').next() == Some(name.as_str()))
        });
        if mounted && !missing {
            continue;
        }
        let made = memory.lock().secrets_made.get(&name).copied();
        if let Some(left) = throttled(made, SECRET_AGAIN, Instant::now()) {
            again = sooner(again, Some(left));
            continue;
        }
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": build::metadata(ident, &name, component),
            "stringData": { key: key::random_text()? },
        });
        writer::secret(&ctx.client, &secret, &ident.namespace)
            .await
            .map_err(ServerError::Apply)?;
        memory.lock().secrets_made.insert(name, Instant::now());
        again = sooner(again, Some(SECRET_AGAIN));
    }
    Ok(again)
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
    let key = ctx.key.get().ok_or(ServerError::NoKey)?;
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
    let now = Instant::now();
    if let Some(known) = known
        .as_ref()
        .filter(|known| !foreign && known.revision == wanted.revision)
    {
        // A gateway that has something newer in force does not take this: what is there was put back by somebody.
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
    let clock = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(1);
    bundle.sequence = sequence::next(known.map(|known| known.sequence), reported, clock);
    key.sign(&mut bundle);
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
            saw(&mut memory.lock(), &live, key);
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
        let mut memory = memory.lock();
        memory.bundle_version = Some(written.resource_version().to_owned());
        memory.knows(bundle);
        memory.foreign = false;
        memory.delivered = Some(Delivered { at: now });
        memory.delivering = Some((revision, now));
    }
    // The pods are asked at once whether they have it.
    poll::poll_now(ctx, &ident.key());
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
