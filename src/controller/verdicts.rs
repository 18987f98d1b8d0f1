//! What the compiler finds in each policy, kept so that a policy is compiled once and not for each server.
//!
//! In: policies as they were read. Out: the policy as far as it can be read, and its errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::loose::Loose;
use super::names::Name;
use crate::api::policy::McpPolicy;
use crate::policy::compile::diagnose_policy;
use crate::policy::diagnostic::{Diagnostic, Level};

#[derive(Default)]
pub struct Verdicts {
    known: Mutex<HashMap<Name, Known>>,
}

#[derive(Clone)]
struct Known {
    /// UID and generation.
    of: (Option<String>, Option<i64>),
    readable: Arc<McpPolicy>,
    errors: Arc<Vec<Diagnostic>>,
}

impl Verdicts {
    /// The policy, with nothing but its targets if it was not understood, and why it is not accepted; empty if it is.
    pub fn of(&self, policy: &Loose<McpPolicy>) -> (Arc<McpPolicy>, Arc<Vec<Diagnostic>>) {
        let known = self.known(policy);
        (known.readable, known.errors)
    }

    pub fn forget(&self, name: &Name) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    fn known(&self, policy: &Loose<McpPolicy>) -> Known {
        let metadata = policy.metadata();
        let name = (
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        );
        let of = (metadata.uid.clone(), metadata.generation);
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&name).filter(|known| known.of == of) {
            return known.clone();
        }
        let (readable, errors) = match policy.object() {
            Ok(object) => {
                let mut object = object.clone();
                object.status = None;
                let mut findings = diagnose_policy(&name.0, &name.1, &name.0, &object.spec);
                findings.retain(|finding| finding.level == Level::Error);
                (object, findings)
            }
            Err(undecoded) => {
                let finding = Diagnostic {
                    level: Level::Error,
                    policy: Some(format!("{}/{}", name.0, name.1)),
                    rule: None,
                    path: "spec".to_owned(),
                    position: None,
                    message: format!("it is no McpPolicy: {}", undecoded.error),
                };
                (undecoded.targets_only(metadata), vec![finding])
            }
        };
        let known = Known {
            of,
            readable: Arc::new(readable),
            errors: Arc::new(errors),
        };
        lock().insert(name, known.clone());
        known
    }
}
