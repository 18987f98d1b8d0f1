//! What a gateway keeps of its server's McpApprovals: whole those that a call may still ask about,
//! of the others their names.
//!
//! In: objects as the API server gives them. Out: these, and which names are taken. Must not do:
//! take an older state of an object for a newer one.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use crate::api::approval::{McpApproval, Phase};
use crate::api::loose::Loose;

/// The McpApprovals of a server.
#[derive(Default)]
pub(super) struct KeptApprovals {
    by_name: BTreeMap<String, KeptApproval>,
}

struct KeptApproval {
    uid: String,
    version: String,
    state: KeptState,
}

enum KeptState {
    /// A call may still ask about it.
    Shown(Box<McpApproval>),
    /// Its name is taken, and no call gets anything from it.
    Over,
}

impl KeptApprovals {
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
        if let Some(kept) = self.by_name.get(&name)
            && kept.uid == uid
            && is_older(&version, &kept.version)
        {
            return false;
        }
        let state = match object.object() {
            Ok(object) if object.spec.server_ref.name == server => state(object, now),
            // One that cannot be understood, or of another server under a name of this one.
            _ => KeptState::Over,
        };
        let kept = KeptApproval {
            uid,
            version,
            state,
        };
        self.by_name.insert(name, kept);
        true
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
            KeptState::Over => None,
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
        self.by_name.iter().filter_map(shown)
    }

    /// Those of a base name, whatever their number.
    pub(super) fn named<'a>(
        &'a self,
        base: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a McpApproval)> {
        let start = format!("{base}-");
        let common = start.clone();
        self.by_name
            .range(start..)
            .take_while(move |(name, _)| name.starts_with(&common))
            .filter_map(shown)
    }

    /// The lowest number whose name is free.
    pub(super) fn lowest_free(&self, base: &str) -> u64 {
        let mut number = 0;
        while self.by_name.contains_key(&format!("{base}-{number}")) {
            number += 1;
        }
        number
    }

    /// Takes out those that have expired.
    pub(super) fn expired(&mut self, now: Timestamp) -> Vec<McpApproval> {
        let mut expired = Vec::new();
        for kept in self.by_name.values_mut() {
            let over = match &kept.state {
                KeptState::Shown(object) => object.spec.expires_at.0 <= now,
                KeptState::Over => false,
            };
            if over
                && let KeptState::Shown(object) =
                    std::mem::replace(&mut kept.state, KeptState::Over)
            {
                expired.push(*object);
            }
        }
        expired
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        let all = self.shown();
        all.map(|(_, object)| object.spec.expires_at.0).min()
    }
}

fn shown<'a>((name, kept): (&'a String, &'a KeptApproval)) -> Option<(&'a str, &'a McpApproval)> {
    match &kept.state {
        KeptState::Shown(object) => Some((name, object)),
        KeptState::Over => None,
    }
}

/// A call that is held is answered what became of its request, so these stay until they expire.
fn state(object: &McpApproval, now: Timestamp) -> KeptState {
    if object.spec.expires_at.0 <= now || object.phase_at(now) == Phase::Consumed {
        KeptState::Over
    } else {
        KeptState::Shown(Box::new(object.clone()))
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
