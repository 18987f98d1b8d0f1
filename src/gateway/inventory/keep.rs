//! The task that keeps the inventory of a gateway.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::MIN_LIST_INTERVAL;
use super::listing::{OwnSession, list, raw, tools_changed};
use crate::gateway::Gateway;
use crate::gateway::force::Snapshot;
use crate::gateway::upstream::{Upstream, cause};

/// Between two listings, where nothing asks for one.
const LIST_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(8);

impl Gateway {
    /// Starts to list the server's tools regularly. Call it once, when clients can reach the
    /// gateway: a server whose URL leads back to it is recognized only then. Must be called within
    /// a Tokio runtime.
    pub fn keep_inventory(self: &Arc<Self>) {
        self.lifetime.spawn(keep(Arc::downgrade(self)));
    }
}

impl Gateway {
    /// The tools of the upstream as it sends them now, each as JSON.
    ///
    /// # Errors
    /// Why they could not be listed, in words.
    pub async fn raw_tools(&self) -> Result<Vec<String>, String> {
        let upstream = self
            .snapshot()
            .map(|snapshot| Arc::clone(snapshot.upstreams.own()));
        let upstream = upstream.ok_or("a Secret that it needs is missing")?;
        raw(&upstream)
            .await
            .map_err(|error| cause::of_error(&error, upstream.is_own_pod()))
    }

    /// Why the process of a stdio server that all sessions share does not answer, if that is so.
    pub async fn why_down(&self) -> Option<String> {
        let upstream = Arc::clone(self.snapshot()?.upstreams.own());
        let Upstream::Bridge(bridge, _) = &*upstream else {
            return None;
        };
        // A child that is starting again is waited for no longer than this.
        tokio::time::timeout(LAST_RETRY, bridge.ready())
            .await
            .ok()?
            .err()
    }

    /// The last line that the process of a stdio server wrote to its standard error, for the person
    /// who started it. It is not for clients: a server may write anything there.
    pub fn last_words(&self) -> Option<String> {
        match &**self.snapshot()?.upstreams.own() {
            Upstream::Bridge(bridge, _) => bridge.last_words(),
            Upstream::Http(_) => None,
        }
    }
}

/// Keeps a gateway's inventory until the gateway is gone or closing.
async fn keep(gateway: Weak<Gateway>) {
    let mut own: Option<OwnSession> = None;
    let mut retry = FIRST_RETRY;
    let Some((mut changes, closing)) = gateway
        .upgrade()
        .map(|gateway| (gateway.subscribe(), gateway.lifetime.closing()))
    else {
        return;
    };
    loop {
        let Some(strong) = gateway.upgrade() else {
            return;
        };
        let upstream = strong
            .snapshot()
            .map(|snapshot| Arc::clone(snapshot.upstreams.own()));
        let asked = upstream.clone();
        let mut wait = LIST_INTERVAL;
        if let Some(upstream) = upstream {
            if own
                .as_ref()
                .is_some_and(|own| !Arc::ptr_eq(&own.upstream, &upstream))
            {
                own = None;
            }
            let listed = tokio::select! {
                () = closing.cancelled() => return,
                listed = list(&upstream, &mut own) => listed,
            };
            match listed {
                Ok(definitions) => {
                    retry = FIRST_RETRY;
                    if let Some(own) = &own {
                        strong.inventory.set_tells_changes(own.tells_changes);
                    }
                    if !strong.set_listing(&upstream, definitions) {
                        // The server was replaced while this one was listing.
                        own = None;
                        continue;
                    }
                    strong.inventory.ended(None);
                }
                Err(error) => {
                    own = None;
                    wait = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    let error = cause::of_error(&error, upstream.is_own_pod());
                    if strong.inventory.latest().error.as_deref() != Some(&error) {
                        tracing::warn!(server = strong.observe.server(), %error, "the upstream's tools could not be listed");
                    }
                    strong.inventory.ended(Some(error));
                }
            }
        }
        let listed_at = Instant::now();
        let inventory_of = &strong.inventory;
        let quiet = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = inventory_of.wanted.notified() => {}
                () = tools_changed(&mut own) => {}
                () = upstream_changed(&mut changes, asked.as_ref()) => {}
            }
            // Nothing has been listed yet, so there is no rate limit to respect.
            if asked.is_some() {
                tokio::time::sleep_until(listed_at + MIN_LIST_INTERVAL.min(wait)).await;
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = quiet => {}
        }
    }
}

/// Resolves when a snapshot with another upstream than this is in force.
async fn upstream_changed(
    changes: &mut watch::Receiver<Option<Arc<Snapshot>>>,
    before: Option<&Arc<Upstream>>,
) {
    loop {
        // Checked first: it may have been replaced since the last listing.
        let same = {
            let now = changes.borrow_and_update();
            match (
                before,
                now.as_ref().map(|snapshot| snapshot.upstreams.own()),
            ) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                _ => false,
            }
        };
        if !same {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
