//! The McpApprovals of one server, kept in the cluster.
//!
//! In: requests of calls; what one shared watch brings. Out: where each stands; what a call needs
//! written is written before it continues. What is believed of an object is only what this gateway
//! would have written itself, and a decision in it. Must not do: decide, delete, or touch the
//! requests of other servers.

mod announcing;
mod following;
mod kept;
mod recording;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::timeout;

use self::kept::KeptApprovals;
use self::writes::MAX_UNANSWERED;
use super::standing::{AskRoom, finished, pending, room, standing};
use super::steps::{AskingSessions, Records, record};
use super::{ApprovalKey, ApprovalRequest, CallContext, NotRequested, Standing};
use crate::api::approval::{McpApproval, Phase};
use crate::api::loose::Loose;
use crate::recent::RecentSet;

/// A call that needs an approval waits no longer for the first list.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks of gateways differ by no more. What expires later than a request that is made now could,
/// and this beyond, was not made by a gateway of this server.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(5);

/// McpApprovals of one server in the cluster.
pub struct ClusterApprovals {
    namespace: String,
    server: String,
    /// Names this run of the gateway.
    instance: String,
    state: Mutex<ClusterState>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    records: Records,
}

struct ClusterState {
    /// None while the API cannot be used or has not been listed.
    client: Option<Client>,
    /// The first attempt to list them is not over yet.
    starting: bool,
    /// By name.
    kept: KeptApprovals,
    /// What calls at this gateway ask for, by name.
    asked: HashMap<String, AskedApproval>,
    /// The grants of requests that are being created at this moment.
    creating: Vec<String>,
    /// Decisions on calls whose request may have been created without an answer that says so.
    unanswered: RecentSet<String>,
}

/// A request that calls at this gateway ask for.
struct AskedApproval {
    uid: String,
    sessions: AskingSessions,
    destination: String,
}

impl ClusterApprovals {
    /// Nothing is known yet, and no call gets an approval before [`Self::follow`] has listed them.
    /// `instance` names this run of the gateway.
    pub fn new(namespace: &str, server: &str, instance: &str, records: Records) -> Self {
        ClusterApprovals {
            namespace: namespace.to_owned(),
            server: server.to_owned(),
            instance: instance.to_owned(),
            state: Mutex::new(ClusterState {
                client: None,
                starting: true,
                kept: KeptApprovals::new(instance),
                asked: HashMap::new(),
                creating: Vec::new(),
                unanswered: RecentSet::new(MAX_UNANSWERED),
            }),
            changed: watch::Sender::new(0),
            records,
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClusterState> {
        self.state.lock()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits, in a gateway that has just started, until McpApprovals are listed or cannot be.
    pub(super) async fn started(&self) {
        let mut changes = self.changes();
        let over = async { while self.lock().starting && changes.changed().await.is_ok() {} };
        // Over or not: what is asked next says whether the API can be used.
        let _ = timeout(START_TIMEOUT, over).await;
    }

    fn notify(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// For reading: an object that cannot be understood stops no other.
    fn loose(&self, client: Client) -> Api<Loose<McpApproval>> {
        Api::namespaced(client, &self.namespace)
    }

    fn key(&self, name: &str) -> ApprovalKey {
        (self.namespace.clone(), name.to_owned())
    }

    /// Whether an object is what a gateway of this server writes for that very call.
    fn is_believed(object: &McpApproval, wanted: &ApprovalRequest, now: Timestamp) -> bool {
        let lifetime = wanted
            .spec
            .expires_at
            .0
            .duration_since(wanted.spec.requested_at.0);
        let latest = now.saturating_add(lifetime + CLOCK_SLACK);
        object.metadata.deletion_timestamp.is_none()
            && wanted.is_asked_by(&object.spec)
            && latest.is_ok_and(|latest| object.spec.expires_at.0 <= latest)
    }

    /// See [`super::Approvals::find`].
    pub(super) fn find(
        &self,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Option<Standing>, NotRequested> {
        let mut state = self.lock();
        if state.client.is_none() {
            return Err(NotRequested::Unavailable);
        }
        if let Some(standing) = self.kept_open(&mut state, wanted, context, now) {
            return Ok(Some(standing));
        }
        self.make_room(&state, wanted, now).map(|_| None)
    }

    /// The open request for a call among those that are kept, for which this session asks from now
    /// on too; or the newest one, if that has expired and no answer has named it yet.
    fn kept_open(
        &self,
        state: &mut ClusterState,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Option<Standing> {
        for name in &wanted.names {
            let open = state.kept.named(name).find_map(|(name, object)| {
                let standing = Self::open(object, wanted, &self.key(name), now)?;
                Some((standing, name.to_owned(), uid(object)))
            });
            if let Some((standing, name, uid)) = open {
                self.ask(state, &name, uid, wanted, context);
                return Some(standing);
            }
        }
        let (name, object) = state.kept.untold_expiry(&wanted.names, now)?;
        let expired = Self::is_believed(object, wanted, now).then(|| name.to_owned())?;
        state.kept.tell_expiry(&expired);
        Some(Standing::Expired(self.key(&expired)))
    }

    /// Finds the request for this call as [`Self::find`] does, or creates it.
    pub(super) async fn request(
        self: &Arc<Self>,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Standing, NotRequested> {
        let (client, first, victim) = {
            let mut state = self.lock();
            let state = &mut *state;
            // What is kept may be out of date while the API is away, and no decision could arrive.
            let client = state.client.clone().ok_or(NotRequested::Unavailable)?;
            if let Some(standing) = self.kept_open(state, wanted, context, now) {
                return Ok(standing);
            }
            let victim = self.make_room(state, wanted, now)?;
            state.creating.push(wanted.spec.grant.clone());
            let name = wanted.names.first().map(String::as_str).unwrap_or_default();
            (client, state.kept.lowest_free(name), victim)
        };
        let _creating = Creating {
            approvals: self,
            grant: &wanted.spec.grant,
        };
        if let Some((name, uid)) = victim {
            self.end_later(name, uid, Phase::Withdrawn, now);
        }
        self.create(client, wanted, first, context, now).await
    }

    /// Where an object stands for a call, if it is an open request for that call.
    fn open(
        object: &McpApproval,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        now: Timestamp,
    ) -> Option<Standing> {
        if finished(object, now) || !Self::is_believed(object, wanted, now) {
            return None;
        }
        Some(standing(object, key, || version(object), now))
    }

    /// A call at this gateway asks for it.
    fn ask(
        &self,
        state: &mut ClusterState,
        name: &str,
        uid: String,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
    ) {
        match state.asked.get_mut(name) {
            Some(asked) if asked.uid == uid => asked.sessions.asked_by(context.session),
            _ => {
                let asked = AskedApproval {
                    uid,
                    sessions: AskingSessions::first(context.session),
                    destination: wanted.destination.clone(),
                };
                state.asked.insert(name.to_owned(), asked);
            }
        }
    }

    /// Whether this caller may ask for another approval; the request that must make room, if one
    /// must. A request that was withdrawn counts until it would have expired: nothing here deletes
    /// objects, so a caller must not be able to make any number of them.
    fn make_room(
        &self,
        state: &ClusterState,
        wanted: &ApprovalRequest,
        now: Timestamp,
    ) -> Result<Option<(String, String)>, NotRequested> {
        // A withdrawn request of a stranger counts for its own caller only.
        let counts = |object: &McpApproval| {
            pending(object, now)
                || (object.spec.grant == wanted.spec.grant
                    && object.spec.expires_at.0 > now
                    && object.phase_at(now) == Phase::Withdrawn)
        };
        let shown = state.kept.shown().map(|(_, object)| object);
        let grants = shown
            .filter(|object| counts(object))
            .map(|object| object.spec.grant.as_str())
            .chain(state.creating.iter().map(String::as_str));
        let AskRoom::From(grant) = room(grants, &wanted.spec.grant)? else {
            return Ok(None);
        };
        let oldest = state
            .kept
            .shown()
            .filter(|(_, object)| pending(object, now) && object.spec.grant == grant)
            .min_by_key(|(_, object)| object.spec.requested_at.0);
        Ok(oldest.map(|(name, object)| (name.to_owned(), uid(object))))
    }

    pub(super) fn look(
        &self,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        now: Timestamp,
    ) -> Option<Standing> {
        let mut state = self.lock();
        let Some(object) = state.kept.get(&key.1) else {
            let used = state.kept.is_used(&key.1);
            return used.then(|| Standing::Used(key.clone()));
        };
        if !Self::is_believed(object, wanted, now) {
            return None;
        }
        let standing = standing(object, key, || version(object), now);
        if matches!(standing, Standing::Expired(_)) {
            state.kept.tell_expiry(&key.1);
        }
        Some(standing)
    }

    /// `session` does not ask any more for the request of that key, or for any request. Requests
    /// that calls at other gateways ask for in other sessions are not seen here.
    pub(super) fn withdraw(
        self: &Arc<Self>,
        key: Option<&ApprovalKey>,
        session: &str,
        now: Timestamp,
    ) {
        let mut given_up = Vec::new();
        {
            let mut state = self.lock();
            let ClusterState { kept, asked, .. } = &mut *state;
            for (name, asked) in asked.iter_mut() {
                let open = kept.get(name).is_some_and(|object| pending(object, now));
                if open
                    && key.is_none_or(|key| key.1 == *name)
                    && asked.sessions.given_up_by(session)
                {
                    given_up.push((name.clone(), asked.uid.clone()));
                }
            }
        }
        for (name, uid) in given_up {
            self.end_later(name, uid, Phase::Withdrawn, now);
        }
    }

    /// Open requests of this gateway for another destination are stale. Those of other gateways
    /// have other digests already, and are found by no call.
    pub(super) fn destination_changed(self: &Arc<Self>, destination: &str, now: Timestamp) {
        let stale: Vec<(String, String)> = {
            let state = self.lock();
            let elsewhere = state
                .asked
                .iter()
                .filter(|(_, asked)| asked.destination != destination);
            elsewhere
                .filter(|(name, _)| {
                    let object = state.kept.get(name);
                    object.is_some_and(|object| !finished(object, now))
                })
                .map(|(name, asked)| (name.clone(), asked.uid.clone()))
                .collect()
        };
        for (name, uid) in stale {
            self.end_later(name, uid, Phase::Stale, now);
        }
    }

    /// What was observed has changed since it was asked for.
    pub(super) fn state_changed(
        self: &Arc<Self>,
        key: &ApprovalKey,
        version: &str,
        now: Timestamp,
    ) {
        let uid = version.split('/').next().unwrap_or_default();
        self.end_later(key.1.clone(), uid.to_owned(), Phase::Stale, now);
    }

    /// Takes what the watch or a write of this gateway brought.
    fn took(&self, object: &Loose<McpApproval>, now: Timestamp) {
        let mut state = self.lock();
        let ClusterState {
            kept,
            asked,
            unanswered,
            ..
        } = &mut *state;
        let name = object.metadata().name.clone().unwrap_or_default();
        if !kept.take(object, &self.server, now) {
            return;
        }
        if let Some(asking) = asked.get(&name) {
            let current = object.object().ok();
            let current = current.filter(|object| uid(object) == asking.uid);
            if current.is_none_or(|object| object.ended_at().is_some()) {
                asked.remove(&name);
            }
        }
        if let Ok(object) = object.object()
            && let Some(decision) = &object.spec.decision_id
            && unanswered.remove(decision)
        {
            record(object, &self.records, "requested", None, now);
        }
        drop(state);
        self.notify();
    }
}

/// A request that is being created counts against its caller until this is dropped.
struct Creating<'a> {
    approvals: &'a ClusterApprovals,
    grant: &'a str,
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        let creating = &mut self.approvals.lock().creating;
        if let Some(at) = creating.iter().position(|grant| grant == self.grant) {
            creating.swap_remove(at);
        }
    }
}

fn uid(object: &McpApproval) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// The object, and its state: one that was deleted and made again is another one.
fn version(object: &McpApproval) -> String {
    let version = object.metadata.resource_version.as_deref();
    format!("{}/{}", uid(object), version.unwrap_or_default())
}
