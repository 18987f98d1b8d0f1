//! What a gateway keeps of its server's McpApprovals: whole those that a call may still ask about,
//! of the others their names.
//!
//! In: objects as the API server gives them. Out: these, and which names are taken. Must not do:
//! take an older state of an object for a newer one.

use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::super::standing::told_until;
use crate::api::approval::{McpApproval, Phase};
use crate::api::loose::Loose;

/// The gateway whose call asked first waits this long with the lines of decisions, so that a held
/// call that uses the approval writes them with its own.
const OWN_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// And the others this long, in case that one is no longer there.
const OTHERS_GRACE: SignedDuration = SignedDuration::from_secs(30);
/// Between two attempts to write lines.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// The McpApprovals of a server.
pub(super) struct KeptApprovals {
    by_name: BTreeMap<String, KeptApproval>,
    /// Decision ids of this gateway begin with this.
    own: String,
}

struct KeptApproval {
    uid: String,
    version: String,
    requested_at: Timestamp,
    state: KeptState,
    /// A call of this gateway asked first.
    own: bool,
    /// An answer has named it as expired.
    expiry_told: bool,
    /// When the lines of decisions are due, if some are not in an audit log yet.
    decisions_due: Option<Timestamp>,
    /// Lines are being written.
    writing: bool,
    /// They could not be written before.
    not_before: Timestamp,
}

enum KeptState {
    /// A call may still ask about it, or lines are to be written.
    Shown(Box<McpApproval>),
    /// Its name is taken, and no call gets anything from it. True if a call has used it.
    Over(bool),
}

impl KeptApproval {
    /// When lines are due.
    fn due(&self) -> Option<Timestamp> {
        let KeptState::Shown(object) = &self.state else {
            return None;
        };
        let expires = object.spec.expires_at.0;
        let grace = match self.own {
            true => SignedDuration::ZERO,
            false => OTHERS_GRACE,
        };
        let expiry = (is_to_expire(object) && !is_expiry_audited(object))
            .then(|| expires.saturating_add(grace).unwrap_or(expires));
        let due = self.decisions_due.into_iter().chain(expiry).min()?;
        Some(due.max(self.not_before))
    }

    /// When no call may ask about it any more.
    fn over_at(&self) -> Option<Timestamp> {
        let KeptState::Shown(object) = &self.state else {
            return None;
        };
        let expires = object.spec.expires_at.0;
        Some(match object.phase_at(expires) {
            Phase::Consumed => Timestamp::MIN,
            Phase::Expired => told_until(object),
            _ => expires,
        })
    }
}

/// Nothing but the clock ends it.
fn is_to_expire(object: &McpApproval) -> bool {
    object.phase_at(object.spec.expires_at.0) == Phase::Expired
}

fn is_expiry_audited(object: &McpApproval) -> bool {
    let status = object.status.as_ref();
    status.is_some_and(|status| status.expired_at.is_some())
}

impl KeptApprovals {
    /// None yet. `instance` names this run of the gateway.
    pub(super) fn new(instance: &str) -> Self {
        KeptApprovals {
            by_name: BTreeMap::new(),
            own: format!("{instance}-"),
        }
    }

    /// Takes an object; false if a newer state of it is kept already.
    pub(super) fn take(
        &mut self,
        object: &Loose<McpApproval>,
        server: &str,
        now: Timestamp,
    ) -> bool {
        let metadata = object.metadata();
        let name = metadata.name.clone().unwrap_or_default();
        let version = metadata.resource_version.clone().unwrap_or_default();
        let uid = metadata.uid.clone().unwrap_or_default();
        let before = self.by_name.get(&name).filter(|kept| kept.uid == uid);
        if before.is_some_and(|kept| is_older(&version, &kept.version)) {
            return false;
        }
        let mut kept = KeptApproval {
            uid,
            version,
            requested_at: Timestamp::MIN,
            // One that cannot be understood, or of another server under a name of this one.
            state: KeptState::Over(false),
            own: false,
            expiry_told: before.is_some_and(|kept| kept.expiry_told),
            decisions_due: None,
            writing: before.is_some_and(|kept| kept.writing),
            not_before: before.map_or(Timestamp::MIN, |kept| kept.not_before),
        };
        if let Ok(object) = object.object()
            && object.spec.server_ref.name == server
        {
            kept.requested_at = object.spec.requested_at.0;
            kept.own = self.is_own(object);
            if !object.unaudited().is_empty() {
                let grace = if kept.own { OWN_GRACE } else { OTHERS_GRACE };
                let first = now.saturating_add(grace).unwrap_or(now);
                let known = before.and_then(|kept| kept.decisions_due);
                kept.decisions_due = Some(known.unwrap_or(first));
            }
            kept.state = KeptState::Shown(Box::new(McpApproval::clone(object)));
            settle(&mut kept, now);
        }
        self.by_name.insert(name, kept);
        true
    }

    /// Whether a call of this gateway asked for it first.
    pub(super) fn is_own(&self, object: &McpApproval) -> bool {
        let decision = object.spec.decision_id.as_deref();
        decision.is_some_and(|decision| decision.starts_with(&self.own))
    }

    /// Takes out those that no call may ask about any more, and returns those whose lines are due:
    /// name and UID. [`Self::wrote`] must follow for each.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<(String, String)> {
        let mut due = Vec::new();
        for (name, kept) in &mut self.by_name {
            settle(kept, now);
            if !kept.writing && kept.due().is_some_and(|at| at <= now) {
                kept.writing = true;
                due.push((name.clone(), kept.uid.clone()));
            }
        }
        due
    }

    /// Lines were written, or could not be.
    pub(super) fn wrote(&mut self, name: &str, uid: &str, now: Timestamp) {
        if let Some(kept) = self.by_name.get_mut(name).filter(|kept| kept.uid == uid) {
            kept.writing = false;
            kept.not_before = now.saturating_add(RETRY).unwrap_or(now);
        }
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let all = self.by_name.values();
        let next = |kept: &KeptApproval| match kept.due() {
            Some(at) if !kept.writing => Some(at),
            Some(_) => None,
            None => kept.over_at(),
        };
        all.filter_map(next).min()
    }

    /// The newest request of these base names that the answer to a call may still name, if it has
    /// expired and no answer has named it yet.
    pub(super) fn untold_expiry(
        &self,
        bases: &[String],
        now: Timestamp,
    ) -> Option<(&str, &McpApproval)> {
        let newest = bases
            .iter()
            .flat_map(|base| self.of_base(base))
            .max_by_key(|(_, kept)| kept.requested_at)?;
        let (name, kept) = newest;
        let KeptState::Shown(object) = &kept.state else {
            return None;
        };
        let expired = object.phase_at(now) == Phase::Expired && now < told_until(object);
        (expired && !kept.expiry_told).then_some((name, &**object))
    }

    /// An answer has named it as expired.
    pub(super) fn tell_expiry(&mut self, name: &str) {
        if let Some(kept) = self.by_name.get_mut(name) {
            kept.expiry_told = true;
        }
    }

    /// Whether a call has used it, where that is all that is still known of it.
    pub(super) fn is_used(&self, name: &str) -> bool {
        let kept = self.by_name.get(name);
        kept.is_some_and(|kept| matches!(kept.state, KeptState::Over(true)))
    }

    /// The object of that name is gone.
    pub(super) fn remove(&mut self, name: &str, uid: &str) {
        if self.by_name.get(name).is_some_and(|kept| kept.uid == uid) {
            self.by_name.remove(name);
        }
    }

    /// Forgets all that are not of these names: a list has shown all there are.
    pub(super) fn retain(&mut self, names: &HashSet<String>) {
        self.by_name.retain(|name, _| names.contains(name));
    }

    pub(super) fn get(&self, name: &str) -> Option<&McpApproval> {
        match &self.by_name.get(name)?.state {
            KeptState::Shown(object) => Some(object),
            KeptState::Over(_) => None,
        }
    }

    /// Changes what is kept before the API server has taken the change.
    pub(super) fn foresee(
        &mut self,
        name: &str,
        uid: &str,
        change: impl FnOnce(&mut McpApproval),
    ) -> Option<McpApproval> {
        let kept = self.by_name.get_mut(name).filter(|kept| kept.uid == uid)?;
        let KeptState::Shown(object) = &mut kept.state else {
            return None;
        };
        change(object);
        Some(McpApproval::clone(object))
    }

    /// Every one that a call may still ask about.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&str, &McpApproval)> {
        let all = self.by_name.iter();
        all.filter_map(|(name, kept)| shown((name, kept)))
    }

    fn of_base<'a>(&'a self, base: &str) -> impl Iterator<Item = (&'a str, &'a KeptApproval)> {
        let start = format!("{base}-");
        let common = start.clone();
        self.by_name
            .range(start..)
            .take_while(move |(name, _)| name.starts_with(&common))
            .map(|(name, kept)| (name.as_str(), kept))
    }

    /// Those of a base name, whatever their number.
    pub(super) fn named<'a>(
        &'a self,
        base: &str,
    ) -> impl Iterator<Item = (&'a str, &'a McpApproval)> {
        self.of_base(base).filter_map(shown)
    }

    /// The lowest number whose name is free.
    pub(super) fn lowest_free(&self, base: &str) -> u64 {
        let mut number = 0;
        while self.by_name.contains_key(&format!("{base}-{number}")) {
            number += 1;
        }
        number
    }
}

fn shown<'a>((name, kept): (&'a str, &'a KeptApproval)) -> Option<(&'a str, &'a McpApproval)> {
    match &kept.state {
        KeptState::Shown(object) => Some((name, object)),
        KeptState::Over(_) => None,
    }
}

/// A call that is held is answered what became of its request, so objects stay until they expire,
/// and undecided ones for a while longer.
fn settle(kept: &mut KeptApproval, now: Timestamp) {
    let KeptState::Shown(object) = &kept.state else {
        return;
    };
    if kept.due().is_none() && kept.over_at().is_none_or(|at| at <= now) {
        let used = object.phase_at(now) == Phase::Consumed;
        kept.state = KeptState::Over(used);
    }
}

/// Versions of one object are numbers in the API server that Kubernetes has; where they are not,
/// what comes later counts as newer, and a write that was based on it will fail.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
