//! Which requests are to be announced to people, and by which gateway.
//!
//! In: the requests that wait. Out: those that no gateway has announced; a mark where one has. In a
//! cluster the gateway whose call asked announces; another one takes over if it has not done so
//! after a while, and says so in the object first. Must not do: send anything.

use std::sync::Arc;

use jiff::Timestamp;

use super::standing::pending;
use super::{ApprovalKey, Memory};
use crate::api::Time;
use crate::api::approval::McpApproval;

/// A request that has not been announced.
#[derive(Clone, Debug)]
pub struct Unannounced {
    /// Its place.
    pub key: ApprovalKey,
    /// The whole of it.
    pub object: Arc<McpApproval>,
}

impl Unannounced {
    /// Names it among all that ever were.
    pub fn id(&self) -> (&ApprovalKey, Option<&str>) {
        (&self.key, self.object.spec.decision_id.as_deref())
    }
}

/// Whether a request still has to be announced.
pub(super) fn is_unannounced(object: &McpApproval, now: Timestamp) -> bool {
    let status = object.status.as_ref();
    pending(object, now) && status.is_none_or(|status| status.notified_at.is_none())
}

impl Memory {
    pub(super) fn unannounced(
        &self,
        namespace: &str,
        server: &str,
        now: Timestamp,
    ) -> Vec<Unannounced> {
        let entries = self.lock();
        let mut waiting: Vec<Unannounced> = entries
            .iter()
            .filter(|(_, entry)| entry.is_of(namespace, server))
            .filter(|(_, entry)| is_unannounced(&entry.object, now))
            .map(|(key, entry)| Unannounced {
                key: key.clone(),
                object: Arc::new(entry.object.clone()),
            })
            .collect();
        waiting.sort_by_key(|one| one.object.spec.requested_at.0);
        waiting
    }

    pub(super) fn announced(&self, key: &ApprovalKey, object: &McpApproval, now: Timestamp) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key)
            && entry.object.spec.decision_id == object.spec.decision_id
        {
            let status = entry.object.status.get_or_insert_default();
            status.notified_at = Some(Time(now));
        }
    }
}
