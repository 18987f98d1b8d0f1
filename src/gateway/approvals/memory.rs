//! The McpApprovals of one process, kept in memory.
//!
//! In: requests of calls, decisions of people. Out: where each stands; each approval is used at
//! most once, and each step is in the audit log. Must not do: keep more than a bounded number of
//! them.

use super::expiries;
use super::standing::{AskRoom, room, told_until};
use super::steps::Entry;
use super::{ApprovalKey, ApprovalRequest, CallContext, DecideError, NotRequested, Standing};
use crate::api::Time;
use crate::api::approval::{Decision, McpApproval, Verdict};
use crate::gateway::observe::audit::AuditLog;
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Finished requests are kept this long, as `--approval-retention` says in a cluster.
const RETENTION: SignedDuration = SignedDuration::from_hours(168);
/// And no more than this many of them: those that were withdrawn leave first, as callers can make
/// many, then the oldest.
const MAX_FINISHED: usize = 1_000;
/// Between two checks for requests that have expired.
const SWEEP_WAITS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3_600);

/// McpApprovals in this process's memory.
pub struct Memory {
    entries: Mutex<BTreeMap<ApprovalKey, Entry>>,
    log: Option<AuditLog>,
    pub(super) changed: watch::Sender<u64>,
}

/// What a person decides.
#[derive(Clone, Debug)]
pub struct NewDecision<'a> {
    /// What was decided.
    pub verdict: Verdict,
    /// By whom.
    pub by: &'a str,
    /// Why.
    pub reason: Option<String>,
    /// The digest that the person has seen; a request with another one is not decided.
    pub digest: Option<&'a str>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            entries: Mutex::default(),
            log: None,
            changed: watch::Sender::new(0),
        }
    }
}

impl Memory {
    /// Writes each step into the audit log.
    pub fn recorded(log: AuditLog) -> Self {
        Memory {
            log: Some(log),
            ..Memory::default()
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<ApprovalKey, Entry>> {
        self.entries.lock()
    }

    pub(super) fn find(
        &self,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Option<Standing>, NotRequested> {
        let mut entries = self.lock();
        if let Some(standing) = open(&mut entries, wanted, context, now) {
            return Ok(Some(standing));
        }
        room_for(&entries, wanted, now).map(|_| None)
    }

    pub(super) fn request(
        &self,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Standing, NotRequested> {
        let mut entries = self.lock();
        if let Some(standing) = open(&mut entries, wanted, context, now) {
            return Ok(standing);
        }
        self.make_room(&mut entries, wanted, now)?;
        prune(&mut entries, now);
        let name = wanted.names.first().map(String::as_str).unwrap_or_default();
        let mut number = 0_u64;
        let key = loop {
            let key = (wanted.namespace.clone(), format!("{name}-{number}"));
            if !entries.contains_key(&key) {
                break key;
            }
            number += 1;
        };
        let entry = Entry::new(&key, wanted, context);
        entry.record(self.log.as_ref(), "requested", None, now);
        let standing = Standing::Pending(key.clone(), wanted.spec.expires_at.0);
        entries.insert(key, entry);
        drop(entries);
        self.notify();
        Ok(standing)
    }

    /// Makes room for another request of this caller; see [`room`].
    fn make_room(
        &self,
        entries: &mut BTreeMap<ApprovalKey, Entry>,
        wanted: &ApprovalRequest,
        now: Timestamp,
    ) -> Result<(), NotRequested> {
        let AskRoom::From(grant) = room_for(entries, wanted, now)? else {
            return Ok(());
        };
        let oldest = entries
            .values_mut()
            .filter(|entry| counts_against(entry, wanted, now) && entry.object.spec.grant == grant)
            .min_by_key(|entry| entry.object.spec.requested_at.0);
        if let Some(entry) = oldest {
            entry.withdraw(now);
            entry.record(self.log.as_ref(), "withdrawn", None, now);
        }
        Ok(())
    }

    pub(super) fn look(
        &self,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        now: Timestamp,
    ) -> Option<Standing> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        if !asks_for(entry, wanted) {
            return None;
        }
        let standing = entry.standing(key, now);
        entry.expiry_told |= matches!(standing, Standing::Expired(_));
        Some(standing)
    }

    pub(super) fn consume(
        &self,
        key: &ApprovalKey,
        version: &str,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let approved = matches!(
            entry.standing(key, now),
            Standing::Approved(_, found, _) if found == version
        );
        if !approved {
            return false;
        }
        entry.consume(now);
        entry.record(self.log.as_ref(), "consumed", Some(context.decision), now);
        drop(entries);
        self.notify();
        true
    }

    /// `session` does not ask any more for the request of that key, or for any request.
    pub(super) fn withdraw(&self, key: Option<&ApprovalKey>, session: &str, now: Timestamp) {
        self.end(
            |own, entry| {
                entry.pending(now)
                    && key.is_none_or(|key| key == own)
                    && entry.askers.given_up_by(session)
            },
            |entry| {
                entry.withdraw(now);
                entry.record(self.log.as_ref(), "withdrawn", None, now);
            },
        );
    }

    pub(super) fn destination_changed(
        &self,
        namespace: &str,
        server: &str,
        destination: &str,
        now: Timestamp,
    ) {
        self.end(
            |_, entry| {
                !entry.finished(now)
                    && entry.is_of(namespace, server)
                    && entry.destination != destination
            },
            |entry| {
                entry.mark_stale(now);
                entry.record(self.log.as_ref(), "stale", None, now);
            },
        );
    }

    pub(super) fn state_changed(&self, key: &ApprovalKey, version: &str, now: Timestamp) {
        self.end(
            |own, entry| own == key && !entry.finished(now) && entry.version.to_string() == version,
            |entry| {
                entry.mark_stale(now);
                entry.record(self.log.as_ref(), "stale", None, now);
            },
        );
    }

    fn end(&self, which: impl Fn(&ApprovalKey, &mut Entry) -> bool, how: impl Fn(&mut Entry)) {
        let mut entries = self.lock();
        let mut changed = false;
        for (key, entry) in entries.iter_mut() {
            if which(key, entry) {
                how(entry);
                changed = true;
            }
        }
        drop(entries);
        if changed {
            self.notify();
        }
    }

    /// Records which requests have expired; returns when the next one expires.
    pub fn expire(&self, now: Timestamp) -> Option<Timestamp> {
        let mut entries = self.lock();
        let mut next = None;
        for entry in entries.values_mut() {
            let denied = entry
                .object
                .ruling()
                .is_some_and(|decision| decision.verdict == Verdict::Denied);
            let over = entry.consumed() || entry.stale() || entry.withdrawn();
            if denied || over || entry.expiry_recorded {
                continue;
            }
            if entry.expired(now) {
                entry.expiry_recorded = true;
                entry.record(self.log.as_ref(), "expired", None, now);
            } else {
                let at = entry.object.spec.expires_at.0;
                next = Some(next.map_or(at, |next: Timestamp| next.min(at)));
            }
        }
        next
    }

    /// Records expirations when they happen, for ever.
    pub async fn record_expiries(self: Arc<Self>) {
        let changed = self.changed.subscribe();
        expiries::sweep(changed, SWEEP_WAITS, |now| self.expire(now)).await;
    }

    /// Every request, with the phase that it has now.
    pub fn list(&self, now: Timestamp) -> Vec<McpApproval> {
        let entries = self.lock();
        entries.values().map(|entry| shown(entry, now)).collect()
    }

    /// A person's decision. `name` is the request's name, or NAMESPACE/NAME.
    ///
    /// # Errors
    /// [`DecideError`] when there is nothing left to decide.
    pub fn decide(
        &self,
        name: &str,
        decided: NewDecision<'_>,
        now: Timestamp,
    ) -> Result<McpApproval, DecideError> {
        let mut entries = self.lock();
        let mut matching =
            entries
                .iter_mut()
                .filter(|((namespace, own), _)| match name.split_once('/') {
                    Some((wanted, name)) => wanted == namespace && name == own,
                    None => name == own,
                });
        let (key, entry) = matching
            .next()
            .ok_or_else(|| DecideError::NotFound(name.to_owned()))?;
        if matching.next().is_some() {
            return Err(DecideError::Ambiguous(name.to_owned()));
        }
        let name = key.1.clone();
        if decided
            .digest
            .is_some_and(|seen| seen != entry.object.spec.arguments_digest)
        {
            return Err(DecideError::OtherDigest { name });
        }
        if entry.stale() {
            return Err(DecideError::Stale(name));
        }
        if entry.withdrawn() {
            return Err(DecideError::Withdrawn(name));
        }
        if let Some(decision) = entry.object.ruling() {
            let verdict = match decision.verdict {
                Verdict::Approved => "Approved",
                Verdict::Denied => "Denied",
            };
            return Err(DecideError::Decided {
                name,
                verdict,
                by: decision.by.clone(),
            });
        }
        let mut before = entry.object.spec.decisions.iter();
        if before.any(|decision| decision.by == decided.by) {
            return Err(DecideError::Twice(name));
        }
        if entry.finished(now) {
            return Err(DecideError::Expired(name));
        }
        entry.decide(Decision {
            verdict: decided.verdict,
            by: decided.by.to_owned(),
            reason: decided.reason,
            at: Some(Time(now)),
        });
        entry.record_decided(self.log.as_ref(), now);
        let object = shown(entry, now);
        drop(entries);
        self.notify();
        Ok(object)
    }

    fn notify(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn shown(entry: &Entry, now: Timestamp) -> McpApproval {
    let mut object = entry.object.clone();
    let phase = object.phase_at(now);
    object.status.get_or_insert_default().phase = Some(phase);
    object
}

/// The requests of a name, whatever their number.
fn named<'a>(
    entries: &'a mut BTreeMap<ApprovalKey, Entry>,
    namespace: &str,
    name: &str,
) -> impl Iterator<Item = (&'a ApprovalKey, &'a mut Entry)> {
    let first = (namespace.to_owned(), format!("{name}-"));
    let (namespace, start) = first.clone();
    entries
        .range_mut(first..)
        .take_while(move |((of, own), _)| *of == namespace && own.starts_with(&start))
}

/// The open request for a call, for which this session asks from now on too; or the newest one, if
/// that has expired and no answer has named it yet.
fn open(
    entries: &mut BTreeMap<ApprovalKey, Entry>,
    wanted: &ApprovalRequest,
    context: CallContext<'_>,
    now: Timestamp,
) -> Option<Standing> {
    for name in &wanted.names {
        let open = named(entries, &wanted.namespace, name)
            .find(|(_, entry)| !entry.finished(now) && asks_for(entry, wanted));
        if let Some((key, entry)) = open {
            entry.askers.asked_by(context.session);
            return Some(entry.standing(key, now));
        }
    }
    for name in &wanted.names {
        let newest = named(entries, &wanted.namespace, name)
            .filter(|(_, entry)| asks_for(entry, wanted))
            .max_by_key(|(_, entry)| entry.object.spec.requested_at.0);
        if let Some((key, entry)) = newest
            && !entry.expiry_told
            && now < told_until(&entry.object)
            && let standing @ Standing::Expired(_) = entry.standing(key, now)
        {
            entry.expiry_told = true;
            return Some(standing);
        }
    }
    None
}

/// Whether an entry takes room of the server that a request is for.
fn counts_against(entry: &Entry, wanted: &ApprovalRequest, now: Timestamp) -> bool {
    entry.pending(now) && entry.is_of(&wanted.namespace, &wanted.spec.server_ref.name)
}

fn room_for(
    entries: &BTreeMap<ApprovalKey, Entry>,
    wanted: &ApprovalRequest,
    now: Timestamp,
) -> Result<AskRoom, NotRequested> {
    let all = entries.values();
    let open = all.filter(|entry| counts_against(entry, wanted, now));
    let grants = open.map(|entry| entry.object.spec.grant.as_str());
    room(grants, &wanted.spec.grant)
}

fn asks_for(entry: &Entry, wanted: &ApprovalRequest) -> bool {
    wanted.is_asked_by(&entry.object.spec) && entry.destination == wanted.destination
}

/// Drops finished requests that are old or too many. Requests that an agent may still ask about
/// stay.
fn prune(entries: &mut BTreeMap<ApprovalKey, Entry>, now: Timestamp) {
    let mut finished: Vec<(bool, Timestamp, ApprovalKey)> = entries
        .iter()
        .filter(|(_, entry)| entry.finished(now))
        .map(|(key, entry)| {
            let stays = !entry.withdrawn();
            (stays, entry.object.spec.expires_at.0, key.clone())
        })
        .collect();
    finished.sort();
    let over = finished.len().saturating_sub(MAX_FINISHED);
    for (at, (_, expired, key)) in finished.into_iter().enumerate() {
        if at < over || now.duration_since(expired) > RETENTION {
            entries.remove(&key);
        }
    }
}
