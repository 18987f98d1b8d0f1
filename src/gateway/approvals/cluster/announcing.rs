//! Announcements of requests in a cluster.
//!
//! In: what is kept. Out: what this gateway is to announce; who does it, and that it is done, in
//! the object. Must not do: send anything.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use tokio::time::{Instant, sleep, timeout};

use super::super::announcing::is_unannounced;
use super::super::standing::pending;
use super::super::{ApprovalKey, Unannounced};
use super::recording::{PAUSE, REQUEST_TIMEOUT};
use super::writes::END_TIMEOUT;
use super::{ClusterApprovals, uid};
use crate::api::Time;
use crate::api::approval::{McpApproval, Notifying};
use crate::api::loose::Loose;

/// The gateway whose call asked, and one that took over, have this long before another one may.
const TURN: SignedDuration = SignedDuration::from_secs(60);
/// An announcement takes a while; one is begun only if this much of the turn is left.
const LEFT: SignedDuration = SignedDuration::from_secs(15);

/// Whose turn it is to announce.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Mine,
    Others,
    Free,
}

impl ClusterApprovals {
    fn turn(&self, object: &McpApproval, now: Timestamp) -> Turn {
        let status = object.status.as_ref();
        let (mine, until) = match status.and_then(|status| status.notifying.as_ref()) {
            Some(claim) => (claim.by == self.instance, claim.until.0),
            None => {
                let asked = object.spec.requested_at.0;
                let until = asked.saturating_add(TURN).unwrap_or(asked);
                (self.lock().kept.is_own(object), until)
            }
        };
        let left = until.duration_since(now);
        match mine {
            true if left > LEFT => Turn::Mine,
            // Nearly over: it is claimed again first.
            true => Turn::Free,
            false if left > SignedDuration::ZERO => Turn::Others,
            false => Turn::Free,
        }
    }

    pub(in crate::gateway::approvals) fn waiting(&self, now: Timestamp) -> Vec<Timestamp> {
        let state = self.lock();
        let shown = state.kept.shown();
        shown
            .filter(|(_, object)| pending(object, now))
            .map(|(_, object)| object.spec.requested_at.0)
            .collect()
    }

    pub(in crate::gateway::approvals) fn unannounced(&self, now: Timestamp) -> Vec<Unannounced> {
        let objects: Vec<(String, McpApproval)> = {
            let state = self.lock();
            let shown = state.kept.shown();
            shown
                .filter(|(_, object)| is_unannounced(object, now))
                .map(|(name, object)| (name.to_owned(), object.clone()))
                .collect()
        };
        let mut waiting: Vec<Unannounced> = objects
            .into_iter()
            .filter(|(_, object)| self.turn(object, now) != Turn::Others)
            .map(|(name, object)| Unannounced {
                key: self.key(&name),
                object: Arc::new(object),
            })
            .collect();
        waiting.sort_by_key(|one| one.object.spec.requested_at.0);
        waiting
    }

    pub(in crate::gateway::approvals) async fn may_announce(
        &self,
        key: &ApprovalKey,
        object: &McpApproval,
        now: Timestamp,
    ) -> bool {
        let known = self.lock().kept.get(&key.1).cloned();
        let Some(mut current) = known.filter(|known| uid(known) == uid(object)) else {
            return false;
        };
        if !is_unannounced(&current, now) {
            return false;
        }
        match self.turn(&current, now) {
            Turn::Mine => return true,
            Turn::Others => return false,
            Turn::Free => {}
        }
        let Some(client) = self.lock().client.clone() else {
            return false;
        };
        let until = now.saturating_add(TURN).unwrap_or(now);
        current.status.get_or_insert_default().notifying = Some(Notifying {
            by: self.instance.clone(),
            until: Time(until),
        });
        let (typed, post) = (self.typed(client), PostParams::default());
        let write = typed.replace_status(&key.1, &post, &current);
        // Whatever fails, the next look shows whose turn it is.
        match timeout(REQUEST_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                self.took(&Loose::from(written), now);
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    pub(in crate::gateway::approvals) async fn announced(
        &self,
        key: &ApprovalKey,
        object: &McpApproval,
        now: Timestamp,
    ) {
        let until = Instant::now() + END_TIMEOUT;
        while Instant::now() < until {
            let client = self.lock().client.clone();
            if let Some(client) = client {
                match self.read(&client, &key.1).await {
                    Ok(None) => return,
                    Ok(Some(read)) => {
                        let Ok(current) = read.object() else {
                            return;
                        };
                        if uid(current) != uid(object) || !is_unannounced(current, now) {
                            self.took(&read, now);
                            return;
                        }
                        let mut current = McpApproval::clone(current);
                        let status = current.status.get_or_insert_default();
                        status.notified_at = Some(Time(now));
                        let (typed, post) = (self.typed(client), PostParams::default());
                        let write = typed.replace_status(&key.1, &post, &current);
                        if let Ok(Ok(written)) = timeout(REQUEST_TIMEOUT, write).await {
                            self.took(&Loose::from(written), now);
                            return;
                        }
                    }
                    Err(_) => {}
                }
            }
            sleep(5 * PAUSE).await;
        }
        tracing::warn!(
            "McpApproval {} could not be marked as announced; another gateway may announce it again",
            key.1
        );
    }
}
