//! The Lease that the leader holds (coordination.k8s.io/v1).
//!
//! In: a Lease's name, who we are. Out: leadership, for as long as it is renewed. Must not do:
//! compare clocks of different machines: whether a holder is gone is judged by how long its record
//! has not changed here, as client-go does; and every write carries the resource version that was
//! seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Error};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A leader that could not renew for this part of the duration takes itself for deposed: well
/// before others do.
const RENEWAL_DEADLINE_FRACTION: (u32, u32) = (2, 3);
/// The number of renewals within the duration.
const RENEWALS_PER_DURATION: u32 = 3;
/// The number of retries within the duration after a renewal that failed.
const RETRIES_PER_DURATION: u32 = 15;
/// Between looks at a Lease that another replica holds, beside the watch.
const HELD_LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Until when this process may write; read before each write.
#[derive(Clone)]
pub struct WriteFence {
    start: Instant,
    until: Arc<AtomicU64>,
}

impl Default for WriteFence {
    fn default() -> Self {
        WriteFence {
            start: Instant::now(),
            until: Arc::new(AtomicU64::new(0)),
        }
    }
}

impl WriteFence {
    /// Whether this process is the leader, even if it was stopped for a while just now.
    pub fn is_open(&self) -> bool {
        self.millis(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    pub(super) fn open_until(&self, at: Instant) {
        self.until.store(self.millis(at), Ordering::Release);
    }

    fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A contender for the Lease.
pub struct LeaderElector {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    fence: WriteFence,
    changed: Arc<Notify>,
    /// The record that was seen last, and since when it has not changed.
    seen: Option<(String, Instant)>,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Create,
    Take,
    /// Another replica's, for at least that long.
    Wait(Duration),
}

impl LeaderElector {
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        duration: Duration,
        fence: WriteFence,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        LeaderElector {
            api,
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration,
            fence,
            changed: Arc::new(Notify::new()),
            seen: None,
        }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        let watching = tokio::spawn(watch(
            self.api.clone(),
            self.name.clone(),
            Arc::clone(&self.changed),
        ));
        loop {
            let wait = match self.attempt().await {
                Ok(None) => break,
                Ok(Some(wait)) => wait,
                Err(error) => {
                    tracing::warn!(%error, lease = self.name, "the Lease could not be read or written; trying again");
                    HELD_LEASE_CHECK_INTERVAL
                }
            };
            // Released, it is seen by the watch; the wait is for a holder that has died.
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait.min(HELD_LEASE_CHECK_INTERVAL)) => {}
            }
        }
        watching.abort();
    }

    /// Renews until that fails for too long, or another replica has it.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        let mut wait = self.duration / RENEWALS_PER_DURATION;
        loop {
            tokio::time::sleep(wait).await;
            wait = self.duration / RETRIES_PER_DURATION;
            match tokio::time::timeout(self.duration / RENEWALS_PER_DURATION, self.attempt()).await
            {
                Ok(Ok(None)) => {
                    renewed = Instant::now();
                    wait = self.duration / RENEWALS_PER_DURATION;
                }
                Ok(Ok(Some(_))) => break,
                Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be renewed"),
                Err(_) => tracing::warn!("the Lease was not renewed in time"),
            }
            if renewed.elapsed() > self.deadline() {
                break;
            }
        }
        self.fence.close();
    }

    /// Gives the Lease up, so that another replica takes over at once.
    pub async fn release(&mut self) {
        self.fence.close();
        let mut released = self.give_up().await;
        // A renewal may have been under way.
        if matches!(&released, Err(Error::Api(status)) if status.is_conflict()) {
            released = self.give_up().await;
        }
        if let Err(error) = released {
            tracing::warn!(%error, "the Lease could not be released; another replica waits until it ends");
        }
    }

    async fn give_up(&self) -> Result<(), Error> {
        let mut lease = self.api.get(&self.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }

    fn deadline(&self) -> Duration {
        self.duration * RENEWAL_DEADLINE_FRACTION.0 / RENEWAL_DEADLINE_FRACTION.1
    }

    /// Takes or renews the Lease if it may be; None if it is ours now, else how long to wait.
    async fn attempt(&mut self) -> Result<Option<Duration>, Error> {
        // From before the write: the record that others see is not older.
        let now = Instant::now();
        let lease = self.api.get_opt(&self.name).await?;
        let params = PostParams::default();
        let written = match self.turn(lease.as_ref(), now) {
            Turn::Wait(wait) => return Ok(Some(wait)),
            Turn::Create => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.spec(None)),
                };
                self.api.create(&params, &lease).await
            }
            Turn::Take => {
                let mut lease = lease.unwrap_or_default();
                lease.spec = Some(self.spec(lease.spec.as_ref()));
                self.api.replace(&self.name, &params, &lease).await
            }
        };
        match written {
            Ok(_) => {
                self.fence.open_until(now + self.deadline());
                Ok(None)
            }
            // Another was faster; but who holds it may have met a request of its own that it took
            // for lost, and looks again.
            Err(Error::Api(status)) if status.code == 409 && !self.fence.is_open() => {
                Ok(Some(HELD_LEASE_CHECK_INTERVAL))
            }
            Err(error) => Err(error),
        }
    }

    fn turn(&mut self, lease: Option<&Lease>, now: Instant) -> Turn {
        let Some(lease) = lease else {
            return Turn::Create;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Turn::Take;
        }
        let record = format!("{holder} {:?}", spec.renew_time);
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => {
                self.seen = Some((record, now));
                now
            }
        };
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        match lasts.checked_sub(now.saturating_duration_since(since)) {
            Some(left) if !left.is_zero() => Turn::Wait(left),
            _ => Turn::Take,
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let held =
            before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before
            .and_then(|before| before.lease_transitions)
            .unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: if held {
                before.and_then(|before| before.acquire_time.clone())
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if held || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }
}

/// Tells of every change of the Lease.
async fn watch(api: Api<Lease>, name: String, changed: Arc<Notify>) {
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(60);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        if event.is_ok() {
            changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
