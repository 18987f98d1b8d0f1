//! The McpApprovals of one process, kept in memory.
//!
//! In: requests of calls, decisions of people. Out: where each stands; each approval is used at most once. Must not do: keep
//! more than a bounded number of them.

use super::{
    DecideError, Key, PENDING_PER_GRANT, PENDING_PER_SERVER, Refused, Standing, Wanted, time,
};
use crate::api::approval::{
    Decision, McpApproval, McpApprovalSpec, McpApprovalStatus, Phase, ServerRef, Verdict,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Finished requests are kept this long, as `--approval-retention` says in a cluster.
const RETENTION: SignedDuration = SignedDuration::from_hours(168);
/// And no more than this many of them, the oldest leaving first.
const FINISHED: usize = 1_000;

/// McpApprovals in this process's memory.
pub struct Memory {
    entries: Mutex<BTreeMap<Key, Entry>>,
    pub(super) changed: watch::Sender<u64>,
}

struct Entry {
    object: McpApproval,
    version: u64,
}

impl Entry {
    fn consumed(&self) -> bool {
        self.object
            .status
            .as_ref()
            .is_some_and(|status| status.consumed_at.is_some())
    }

    fn finished(&self, now: Timestamp) -> bool {
        self.consumed() || self.object.spec.expires_at.0 <= now
    }

    fn pending(&self, now: Timestamp) -> bool {
        !self.finished(now) && self.object.spec.decision.is_none()
    }

    fn standing(&self, key: &Key) -> Standing {
        match &self.object.spec.decision {
            None => Standing::Pending(key.clone()),
            Some(decision) => match decision.verdict {
                Verdict::Approved => Standing::Approved(key.clone(), self.version),
                Verdict::Denied => Standing::Denied(key.clone(), decision.clone()),
            },
        }
    }

    fn phase(&self, now: Timestamp) -> Phase {
        if self.consumed() {
            return Phase::Consumed;
        }
        match self
            .object
            .spec
            .decision
            .as_ref()
            .map(|decision| decision.verdict)
        {
            Some(Verdict::Denied) => Phase::Denied,
            _ if self.object.spec.expires_at.0 <= now => Phase::Expired,
            Some(Verdict::Approved) => Phase::Approved,
            None => Phase::Pending,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            entries: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn request(&self, wanted: &Wanted, now: Timestamp) -> Result<Standing, Refused> {
        let mut entries = self.lock();
        let mut number = 0_u64;
        let key = loop {
            let key = (
                wanted.namespace.clone(),
                format!("{}-{number}", wanted.name),
            );
            match entries.get(&key) {
                None => break key,
                Some(entry)
                    if !entry.finished(now) && same_call(&entry.object.spec, &wanted.spec) =>
                {
                    return Ok(entry.standing(&key));
                }
                Some(_) => number += 1,
            }
        };
        let open = |entry: &&Entry| {
            entry.pending(now)
                && entry.object.metadata.namespace.as_deref() == Some(&*wanted.namespace)
                && entry.object.spec.server_ref == wanted.spec.server_ref
        };
        if entries
            .values()
            .filter(open)
            .filter(|entry| entry.object.spec.grant == wanted.spec.grant)
            .count()
            >= PENDING_PER_GRANT
        {
            return Err(Refused::GrantFull);
        }
        if entries.values().filter(open).count() >= PENDING_PER_SERVER {
            return Err(Refused::ServerFull);
        }
        prune(&mut entries, now);
        let mut object = McpApproval::new(
            &key.1,
            McpApprovalSpec {
                decision: None,
                ..wanted.spec.clone()
            },
        );
        object.metadata.namespace = Some(key.0.clone());
        object.metadata.creation_timestamp = Some(wanted.spec.requested_at.clone());
        entries.insert(key.clone(), Entry { object, version: 1 });
        drop(entries);
        self.tell();
        Ok(Standing::Pending(key))
    }

    pub(super) fn look(&self, wanted: &Wanted, key: &Key, now: Timestamp) -> Option<Standing> {
        let entries = self.lock();
        let entry = entries.get(key)?;
        (!entry.finished(now) && same_call(&entry.object.spec, &wanted.spec))
            .then(|| entry.standing(key))
    }

    pub(super) fn consume(&self, key: &Key, version: u64, now: Timestamp) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let approved =
            matches!(entry.standing(key), Standing::Approved(_, found) if found == version);
        if !approved || entry.finished(now) {
            return false;
        }
        entry.object.status = Some(McpApprovalStatus {
            phase: None,
            consumed_at: Some(time(now)),
        });
        entry.version += 1;
        drop(entries);
        self.tell();
        true
    }

    /// Every request, with the phase that it has now.
    pub fn list(&self, now: Timestamp) -> Vec<McpApproval> {
        self.lock()
            .values()
            .map(|entry| {
                let mut object = entry.object.clone();
                object.status.get_or_insert_default().phase = Some(entry.phase(now));
                object
            })
            .collect()
    }

    /// A person's decision. `name` is the request's name, or NAMESPACE/NAME.
    ///
    /// # Errors
    /// [`DecideError`] when there is nothing left to decide.
    pub fn decide(
        &self,
        name: &str,
        verdict: Verdict,
        by: &str,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<McpApproval, DecideError> {
        let mut entries = self.lock();
        let mut matching = entries
            .keys()
            .filter(|(namespace, own)| match name.split_once('/') {
                Some((wanted, name)) => wanted == namespace && name == own,
                None => name == own,
            });
        let key = matching
            .next()
            .cloned()
            .ok_or_else(|| DecideError::NotFound(name.to_owned()))?;
        if matching.next().is_some() {
            return Err(DecideError::Ambiguous(name.to_owned()));
        }
        let Some(entry) = entries.get_mut(&key) else {
            return Err(DecideError::NotFound(name.to_owned()));
        };
        if let Some(decision) = &entry.object.spec.decision {
            let verdict = match decision.verdict {
                Verdict::Approved => "Approved",
                Verdict::Denied => "Denied",
            };
            return Err(DecideError::Decided {
                name: key.1,
                verdict,
                by: decision.by.clone(),
            });
        }
        if entry.finished(now) {
            return Err(DecideError::Expired(key.1));
        }
        entry.object.spec.decision = Some(Decision {
            verdict,
            by: by.to_owned(),
            reason,
            at: Some(time(now)),
        });
        entry.version += 1;
        let mut object = entry.object.clone();
        object.status.get_or_insert_default().phase = Some(entry.phase(now));
        drop(entries);
        self.tell();
        Ok(object)
    }

    fn tell(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Whether an object asks for the very call; only the times may differ.
fn same_call(found: &McpApprovalSpec, wanted: &McpApprovalSpec) -> bool {
    let McpApprovalSpec {
        server_ref: ServerRef { name },
        grant,
        tool,
        arguments_digest,
        arguments_preview,
        policy,
        rule,
        requested_at: _,
        expires_at: _,
        decision: _,
    } = found;
    *name == wanted.server_ref.name
        && *grant == wanted.grant
        && *tool == wanted.tool
        && *arguments_digest == wanted.arguments_digest
        && *arguments_preview == wanted.arguments_preview
        && *policy == wanted.policy
        && *rule == wanted.rule
}

/// Drops finished requests that are old or too many. What an agent could still be told about stays.
fn prune(entries: &mut BTreeMap<Key, Entry>, now: Timestamp) {
    let mut finished: Vec<(Timestamp, Key)> = entries
        .iter()
        .filter(|(_, entry)| entry.finished(now))
        .map(|(key, entry)| (entry.object.spec.expires_at.0, key.clone()))
        .collect();
    finished.sort();
    let over = finished.len().saturating_sub(FINISHED);
    for (at, (expired, key)) in finished.into_iter().enumerate() {
        if at < over || now.duration_since(expired) > RETENTION {
            entries.remove(&key);
        }
    }
}
