//! What the compiler finds in each policy, kept so that a policy is compiled once and not for each server.
//!
//! In: policies as they were read. Out: the policy as far as it can be read, and its errors.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::policy::compile::diagnose_policy;
use crate::policy::diagnostic::{Diagnostic, Level};

/// Findings that are kept of one policy. Whoever writes a hundred mistakes into it reads of the first, and how many more there are.
const KEPT: usize = 100;

#[derive(Default)]
pub struct PolicyDiagnostics {
    /// By UID.
    known: Mutex<HashMap<String, Known>>,
    none: Arc<Vec<Diagnostic>>,
}

#[derive(Clone)]
struct Known {
    generation: Option<i64>,
    errors: Arc<Vec<Diagnostic>>,
    warnings: Arc<Vec<Diagnostic>>,
    /// Of a policy that was not understood: nothing but its targets.
    targets: Option<Arc<McpPolicy>>,
    /// Bytes of the spec as JSON; nothing of one that was not understood.
    size: usize,
}

impl PolicyDiagnostics {
    /// The policy, with nothing but its targets if it was not understood, and why it is not accepted; empty if it is.
    pub fn of(&self, policy: &Loose<McpPolicy>) -> (Arc<McpPolicy>, Arc<Vec<Diagnostic>>) {
        let known = self.known(policy);
        let readable = match (policy.object(), known.targets) {
            (Ok(object), _) => Arc::clone(object),
            (Err(_), Some(targets)) => targets,
            (Err(undecoded), None) => Arc::new(undecoded.targets_only()),
        };
        (readable, known.errors)
    }

    /// What is valid in the policy and probably not what its author means, whatever its servers are.
    pub fn warnings(&self, policy: &Loose<McpPolicy>) -> Arc<Vec<Diagnostic>> {
        self.known(policy).warnings
    }

    /// Bytes of the spec as JSON.
    pub fn size(&self, policy: &Loose<McpPolicy>) -> usize {
        self.known(policy).size
    }

    pub fn forget(&self, policy: &Loose<McpPolicy>) {
        self.lock().remove(uid(policy));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock()
    }

    fn known(&self, policy: &Loose<McpPolicy>) -> Known {
        let metadata = policy.metadata();
        let generation = metadata.generation;
        if let Some(known) = self
            .lock()
            .get(uid(policy))
            .filter(|known| known.generation == generation)
        {
            return known.clone();
        }
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let size = policy.object().map_or(0, |object| {
            serde_json::to_string(&object.spec).map_or(0, |text| text.len())
        });
        let (errors, warnings, targets) = match policy.object() {
            Ok(object) => {
                let findings = diagnose_policy(namespace, name, namespace, &object.spec);
                let (errors, warnings) = findings
                    .into_iter()
                    .partition(|finding| finding.level == Level::Error);
                (self.kept(errors), self.kept(warnings), None)
            }
            Err(undecoded) => {
                let finding = Diagnostic {
                    level: Level::Error,
                    policy: Some(format!("{namespace}/{name}")),
                    rule: None,
                    path: "spec".to_owned(),
                    position: None,
                    message: format!("not a valid McpPolicy: {}", undecoded.error),
                };
                let targets = Some(Arc::new(undecoded.targets_only()));
                (self.kept(vec![finding]), self.kept(Vec::new()), targets)
            }
        };
        let known = Known {
            generation,
            errors,
            warnings,
            targets,
            size,
        };
        self.lock().insert(uid(policy).to_owned(), known.clone());
        known
    }
}

impl PolicyDiagnostics {
    fn kept(&self, mut findings: Vec<Diagnostic>) -> Arc<Vec<Diagnostic>> {
        if findings.is_empty() {
            return Arc::clone(&self.none);
        }
        findings.truncate(KEPT);
        findings.shrink_to_fit();
        Arc::new(findings)
    }
}

fn uid(policy: &Loose<McpPolicy>) -> &str {
    policy.metadata().uid.as_deref().unwrap_or_default()
}
