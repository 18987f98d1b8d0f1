//! What is remembered of servers and policies between reconciliations.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::controller::names::Name;
use crate::controller::policy::memory::PolicyMemory;
use crate::controller::server::memory::ServerMemory;

/// What is remembered of servers and policies between reconciliations. Nothing depends on it but speed and thrift.
#[derive(Default)]
pub struct Memory {
    servers: Mutex<HashMap<Name, Arc<Mutex<ServerMemory>>>>,
    policies: Mutex<HashMap<Name, Arc<Mutex<PolicyMemory>>>>,
}

impl Memory {
    /// What is remembered of a server; of an earlier one of the same name nothing is.
    pub fn server(&self, name: &Name, uid: &str) -> Arc<Mutex<ServerMemory>> {
        let mut servers = self.servers.lock();
        let entry = servers.entry(name.clone()).or_default();
        let same = entry.lock().uid == uid;
        if !same {
            *entry = Arc::new(Mutex::new(ServerMemory {
                uid: uid.to_owned(),
                ..ServerMemory::default()
            }));
        }
        Arc::clone(entry)
    }

    pub fn known_server(&self, name: &Name) -> Option<Arc<Mutex<ServerMemory>>> {
        self.servers.lock().get(name).cloned()
    }

    pub fn forget_server(&self, name: &Name) {
        self.servers.lock().remove(name);
    }

    /// A watch brought a server. Whether it is as this operator wrote it last.
    pub fn server_seen(&self, name: &Name, version: &str) -> bool {
        self.known_server(name)
            .is_some_and(|memory| memory.lock().written.seen(version))
    }

    /// A watch brought a policy. Whether it is as this operator wrote it last.
    pub fn policy_seen(&self, name: &Name, version: &str) -> bool {
        let memory = self.policies.lock().get(name).cloned();
        memory.is_some_and(|memory| memory.lock().written.seen(version))
    }

    pub fn policy(&self, name: &Name, uid: &str) -> Arc<Mutex<PolicyMemory>> {
        let mut policies = self.policies.lock();
        let entry = policies.entry(name.clone()).or_default();
        let same = entry.lock().uid == uid;
        if !same {
            *entry = Arc::new(Mutex::new(PolicyMemory {
                uid: uid.to_owned(),
                ..PolicyMemory::default()
            }));
        }
        Arc::clone(entry)
    }

    pub fn forget_policy(&self, name: &Name) {
        self.policies.lock().remove(name);
    }
}
