//! What is remembered of servers and policies between reconciliations.
//!
//! In: names and UIDs. Out: one memory for each object. Nothing depends on it but speed and thrift.
//! Must not do: give an object what was remembered of an earlier one of its name.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::controller::names::Name;
use crate::controller::policy::memory::PolicyMemory;
use crate::controller::runtime::written::Written;
use crate::controller::server::memory::ServerMemory;

/// What is remembered of servers and policies.
#[derive(Default)]
pub struct Memory {
    pub servers: ByName<ServerMemory>,
    pub policies: ByName<PolicyMemory>,
}

/// What is remembered of one object.
pub trait ObjectMemory {
    type Status: Clone;

    /// Nothing yet.
    fn new(uid: &str) -> Self;
    fn uid(&self) -> &str;
    fn written(&mut self) -> &mut Written<Self::Status>;
}

/// What is remembered of the objects of one kind.
pub struct ByName<M>(Mutex<HashMap<Name, Arc<Mutex<M>>>>);

impl<M> Default for ByName<M> {
    fn default() -> Self {
        ByName(Mutex::default())
    }
}

impl<M: ObjectMemory> ByName<M> {
    /// What is remembered of an object; of an earlier one of the same name nothing is.
    pub fn of(&self, name: &Name, uid: &str) -> Arc<Mutex<M>> {
        let new = || Arc::new(Mutex::new(M::new(uid)));
        let mut all = self.0.lock();
        let entry = all.entry(name.clone()).or_insert_with(new);
        let same = entry.lock().uid() == uid;
        if !same {
            *entry = new();
        }
        Arc::clone(entry)
    }

    pub fn known(&self, name: &Name) -> Option<Arc<Mutex<M>>> {
        self.0.lock().get(name).cloned()
    }

    pub fn forget(&self, name: &Name) {
        self.0.lock().remove(name);
    }

    /// A watch brought an object. Whether it is as this operator wrote it last.
    pub fn seen(&self, name: &Name, version: &str) -> bool {
        self.known(name)
            .is_some_and(|memory| memory.lock().written().seen(version))
    }
}

impl ObjectMemory for ServerMemory {
    type Status = crate::api::server::McpServerStatus;

    fn new(uid: &str) -> Self {
        ServerMemory {
            uid: uid.to_owned(),
            ..ServerMemory::default()
        }
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn written(&mut self) -> &mut Written<Self::Status> {
        &mut self.written
    }
}

impl ObjectMemory for PolicyMemory {
    type Status = crate::api::policy::McpPolicyStatus;

    fn new(uid: &str) -> Self {
        PolicyMemory {
            uid: uid.to_owned(),
            ..PolicyMemory::default()
        }
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn written(&mut self) -> &mut Written<Self::Status> {
        &mut self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_earlier_object_of_the_same_name_nothing_is_remembered() {
        let memory = Memory::default();
        let name = ("ml".to_owned(), "m".to_owned());
        memory.servers.of(&name, "1").lock().reconciled_once = true;
        assert!(memory.servers.of(&name, "1").lock().reconciled_once);
        assert!(!memory.servers.of(&name, "2").lock().reconciled_once);
        let policy = memory.policies.of(&name, "1");
        policy.lock().written.set(
            "7".to_owned(),
            crate::api::policy::McpPolicyStatus::default(),
        );
        assert!(memory.policies.seen(&name, "7"));
        assert!(!memory.policies.seen(&name, "8"));
        memory.policies.forget(&name);
        assert!(memory.policies.known(&name).is_none());
    }
}
