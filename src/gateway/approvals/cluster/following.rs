//! One watch on a server's McpApprovals, shared by all calls of a gateway.
//!
//! In: the API's list and events. Out: what is kept, and whether the API can be used at all. A gap
//! in the events is closed by another list. Must not do: poll, or give up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use jiff::Timestamp;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ClusterApprovals;
use crate::api::approval::McpApproval;
use crate::api::contract::SERVER_LABEL;
use crate::api::loose::Loose;
use crate::gateway::cluster_api::{connect, describe, random};

/// A request has this long to be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch that has not ended this long after its timeout hangs.
const OVERTIME: Duration = Duration::from_secs(5);
/// Objects in one answer; each may have some 16 KiB.
const PAGE: u32 = 100;
/// Delay before the first retry; doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest delay between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Why following starts over.
#[derive(Debug)]
enum Interrupted {
    /// The version is too old (410 Gone): it has to be listed again.
    Expired,
    /// The API does not answer, or refuses.
    Failed(String),
}

impl ClusterApprovals {
    /// Follows the API for ever. Watches are renewed after a while, so that one that went silent
    /// without ending is noticed.
    pub async fn follow(self: Arc<Self>, renewed_after: Duration) {
        let mut failures = 0_u32;
        let mut complained = None;
        loop {
            let interrupted = match connect().await {
                Ok(client) => {
                    let mut following = Following {
                        approvals: &self,
                        api: self.loose(client.clone()),
                        client,
                        renewed_after,
                        listed: false,
                    };
                    let interrupted = following.follow(&mut complained).await;
                    if following.listed {
                        failures = 0;
                    }
                    interrupted
                }
                Err(why) => why,
            };
            self.offline();
            if complained.as_ref() != Some(&interrupted) {
                tracing::warn!(
                    "McpApprovals cannot be watched: {interrupted}; calls that need approval are denied until they can"
                );
                complained = Some(interrupted);
            }
            let whole = FIRST_RETRY
                .saturating_mul(1 << failures.min(16))
                .min(LAST_RETRY);
            failures = failures.saturating_add(1);
            sleep(whole / 2 + (whole / 2).mul_f64(random())).await;
        }
    }

    /// Until McpApprovals are listed again, no call gets an approval.
    fn offline(&self) {
        self.can_be_used(None);
    }

    fn can_be_used(&self, client: Option<Client>) {
        {
            let mut state = self.lock();
            state.client = client;
            state.starting = false;
        }
        self.notify();
    }
}

/// Following over one connection.
struct Following<'a> {
    approvals: &'a ClusterApprovals,
    client: Client,
    api: Api<Loose<McpApproval>>,
    renewed_after: Duration,
    listed: bool,
}

impl Following<'_> {
    /// Returns why it cannot continue.
    async fn follow(&mut self, complained: &mut Option<String>) -> String {
        loop {
            let mut version = match self.list().await {
                Ok(version) => version,
                Err(Interrupted::Expired) => continue,
                Err(Interrupted::Failed(why)) => return why,
            };
            self.listed = true;
            self.approvals.can_be_used(Some(self.client.clone()));
            if complained.take().is_some() {
                tracing::info!("McpApprovals are watched again");
            }
            loop {
                match self.watch(&mut version).await {
                    Ok(()) => {}
                    Err(Interrupted::Expired) => break,
                    Err(Interrupted::Failed(why)) => return why,
                }
            }
            // The API server may say so at once, over and over.
            sleep(FIRST_RETRY).await;
        }
    }

    async fn list(&self) -> Result<String, Interrupted> {
        let mut names = HashSet::new();
        let mut params = ListParams::default().labels(&self.selector()).limit(PAGE);
        loop {
            let page = timeout(REQUEST_TIMEOUT, self.api.list(&params))
                .await
                .map_err(|_| Interrupted::Failed("no answer".to_owned()))?
                .map_err(|error| interrupted(&error))?;
            for object in &page.items {
                names.extend(object.metadata().name.clone());
                self.approvals.took(object, Timestamp::now());
            }
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => params = params.continue_token(&more),
                None => {
                    self.approvals.lock().kept.retain(&names);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    fn selector(&self) -> String {
        format!("{SERVER_LABEL}={}", self.approvals.server)
    }

    /// One watch until its end, as watches have one.
    async fn watch(&self, version: &mut String) -> Result<(), Interrupted> {
        let silent = |_| Interrupted::Failed("it says nothing on an open watch".to_owned());
        let seconds = u32::try_from(self.renewed_after.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default()
            .labels(&self.selector())
            .timeout(seconds);
        let opened = Instant::now();
        let until = opened + self.renewed_after + OVERTIME;
        let events = timeout(REQUEST_TIMEOUT, self.api.watch(&params, version))
            .await
            .map_err(silent)?
            .map_err(|error| interrupted(&error))?;
        let mut events = std::pin::pin!(events);
        loop {
            let event = match timeout_at(until, events.try_next()).await.map_err(silent)? {
                Ok(Some(event)) => event,
                // Cut off, for example by a load balancer: the next watch continues from here. One
                // that ends as soon as it is open is a failure, or it would be opened over and
                // over.
                Ok(None) | Err(kube::Error::ReadEvents(_)) => {
                    if opened.elapsed() >= Duration::from_secs(1) {
                        return Ok(());
                    }
                    return Err(Interrupted::Failed("the watch was cut off".to_owned()));
                }
                Err(error) => return Err(interrupted(&error)),
            };
            let now = Timestamp::now();
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    if let Some(newer) = &object.metadata().resource_version {
                        version.clone_from(newer);
                    }
                    self.approvals.took(&object, now);
                }
                WatchEvent::Deleted(object) => {
                    let metadata = object.metadata();
                    if let Some(newer) = &metadata.resource_version {
                        version.clone_from(newer);
                    }
                    let name = metadata.name.as_deref().unwrap_or_default();
                    let uid = metadata.uid.as_deref().unwrap_or_default();
                    let mut state = self.approvals.lock();
                    state.kept.remove(name, uid);
                    if state.asked.get(name).is_some_and(|asked| asked.uid == uid) {
                        state.asked.remove(name);
                    }
                    drop(state);
                    if let Ok(object) = object.object() {
                        self.approvals.record_deleted(object, now);
                    }
                    self.approvals.notify();
                }
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                }
                WatchEvent::Error(status) if status.code == 410 => {
                    return Err(Interrupted::Expired);
                }
                WatchEvent::Error(status) => {
                    return Err(Interrupted::Failed(format!(
                        "HTTP {}: {}",
                        status.code, status.message
                    )));
                }
            }
        }
    }
}

fn interrupted(error: &kube::Error) -> Interrupted {
    match error {
        kube::Error::Api(status) if status.code == 410 => Interrupted::Expired,
        kube::Error::Api(status) if status.code == 403 => Interrupted::Failed(format!(
            "{}; the gateway's Role and RoleBinding must grant get, list and watch on mcpapprovals",
            describe(error)
        )),
        _ => Interrupted::Failed(describe(error)),
    }
}

#[cfg(test)]
mod tests;
