//! Sends announcements.
//!
//! In: requests for approval that have not been announced, the server's webhooks. Out: a POST to
//! each webhook for each request, repeated with pauses until it is accepted or the request no
//! longer waits. A webhook that fails holds up no other one, and no call. Must not do: keep a
//! queue; the requests that wait are the queue, and their number is bounded.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::webhook::{Webhook, Webhooks};
use crate::gateway::Gateway;
use crate::gateway::approvals::Unannounced;

/// The pause after the first failure of a webhook; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How often requests of other gateways are looked through.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// One webhook's state.
#[derive(Default)]
struct Channel {
    failures: u32,
    not_before: Option<Instant>,
    fault: Option<String>,
    /// What it has accepted.
    accepted: HashSet<String>,
}

impl Gateway {
    /// Announces requests for approval until the gateway is gone or closing.
    pub fn notify_approvers(self: &Arc<Self>) {
        self.lifetime.spawn(notify(Arc::downgrade(self)));
    }
}

async fn notify(gateway: Weak<Gateway>) {
    let Some(strong) = gateway.upgrade() else {
        return;
    };
    let (mut snapshots, closing) = (strong.subscribe(), strong.lifetime.closing());
    let mut changes = strong.calls.approvals().changes();
    drop(strong);
    let mut channels: Vec<Channel> = Vec::new();
    let mut webhooks: Arc<Webhooks> = Arc::default();
    loop {
        let Some(strong) = gateway.upgrade() else {
            return;
        };
        changes.mark_unchanged();
        snapshots.mark_unchanged();
        let current = strong
            .snapshot()
            .map(|snapshot| Arc::clone(&snapshot.webhooks));
        if let Some(current) = current
            && !Arc::ptr_eq(&current, &webhooks)
        {
            channels = current.iter().map(|_| Channel::default()).collect();
            webhooks = current;
        }
        let until = if webhooks.is_empty() {
            None
        } else {
            announce(&strong, &webhooks, &mut channels).await
        };
        strong.notices.set(faults(&webhooks, &channels));
        drop(strong);
        let until = until.filter(|_| !webhooks.is_empty());
        let timer = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = snapshots.changed() => if changed.is_err() { return },
            () = timer => {}
        }
    }
}

fn faults(webhooks: &Webhooks, channels: &[Channel]) -> Vec<String> {
    let all = webhooks.iter().zip(channels).enumerate();
    let fault = |(at, (webhook, channel)): (usize, (&Result<Webhook, String>, &Channel))| {
        let why = webhook.as_ref().err().or(channel.fault.as_ref())?;
        Some(format!("spec.approvals.notify[{at}].webhook: {why}"))
    };
    all.filter_map(fault).collect()
}

/// Announces what waits; returns when there may be more to do.
async fn announce(
    gateway: &Arc<Gateway>,
    webhooks: &Webhooks,
    channels: &mut [Channel],
) -> Option<Instant> {
    let approvals = gateway.calls.approvals();
    let served = gateway.served();
    let (namespace, server) = served.name.split_once('/')?;
    let waiting = approvals.unannounced(namespace, server, Timestamp::now());
    let mut wanted: HashMap<String, &Unannounced> = HashMap::new();
    let mut order = Vec::new();
    for one in &waiting {
        let id = format!("{:?}", one.id());
        wanted.insert(id.clone(), one);
        order.push(id);
    }
    let all = webhooks.iter().zip(channels.iter_mut()).enumerate();
    let sends = all.map(|(at, (webhook, channel))| {
        let (wanted, order) = (&wanted, &order);
        async move {
            channel.accepted.retain(|id| wanted.contains_key(id));
            let Ok(webhook) = webhook else { return };
            for id in order {
                let Some(one) = wanted.get(id) else { continue };
                let paused = channel.not_before.is_some_and(|at| at > Instant::now());
                if paused || channel.accepted.contains(id) {
                    continue;
                }
                if !approvals.may_announce(&one.key, &one.object, Timestamp::now()).await {
                    continue;
                }
                match webhook.announce(&one.object, Timestamp::now()).await {
                    Ok(()) => {
                        channel.accepted.insert(id.clone());
                        channel.failures = 0;
                        channel.fault = None;
                    }
                    Err(why) => {
                        if channel.fault.as_ref() != Some(&why) {
                            tracing::warn!(
                                server = gateway.observe.server(),
                                "the webhook of spec.approvals.notify[{at}] did not accept the announcement of a request for approval: {why}; trying again while it waits"
                            );
                        }
                        let pause = FIRST_PAUSE.saturating_mul(1 << channel.failures.min(6));
                        channel.failures = channel.failures.saturating_add(1);
                        channel.fault = Some(why);
                        channel.not_before = Some(Instant::now() + pause.min(LAST_PAUSE));
                    }
                }
            }
        }
    });
    join_all(sends).await;
    for (id, one) in &wanted {
        let all = webhooks.iter().zip(channels.iter());
        // One that cannot be used at all waits for its Secret.
        if all
            .clone()
            .all(|(_, channel)| channel.accepted.contains(id))
        {
            approvals
                .announced(&one.key, &one.object, Timestamp::now())
                .await;
        }
    }
    let pauses = channels.iter().filter_map(|channel| channel.not_before);
    let next = pauses.filter(|at| *at > Instant::now()).min();
    let look = Instant::now() + LOOK_INTERVAL;
    Some(next.map_or(look, |next| next.min(look)))
}
