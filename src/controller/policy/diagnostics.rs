//! What the compiler finds in each policy, kept so that a policy is compiled once and not for each
//! server.
//!
//! In: policies as they were read. Out: the policy as far as it can be read, and its errors. Must
//! not do: compile for a watch, which only asks what a policy targets ([`readable`]).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::controller::runtime::blocking::in_place;
use crate::policy::compile::diagnose_policy;
use crate::policy::diagnostic::{Diagnostic, Level};

/// Findings that are kept of one policy. The author of a hundred mistakes reads of the
/// first, and how many more there are.
const MAX_FINDINGS: usize = 100;

#[derive(Default)]
pub struct PolicyDiagnostics {
    /// By UID.
    known: Mutex<HashMap<String, Entry>>,
    none: Arc<Vec<Diagnostic>>,
}

struct Entry {
    generation: Option<i64>,
    /// Filled by the first worker that asks; the others wait for it.
    found: Arc<OnceLock<Findings>>,
}

#[derive(Clone)]
struct Findings {
    errors: Arc<Vec<Diagnostic>>,
    warnings: Arc<Vec<Diagnostic>>,
    /// Bytes of the spec as JSON; nothing of one that was not understood.
    size: usize,
}

/// The policy, with nothing but its targets if it was not understood.
pub fn readable(policy: &Loose<McpPolicy>) -> Arc<McpPolicy> {
    match policy.object() {
        Ok(object) => Arc::clone(object),
        Err(undecoded) => Arc::new(undecoded.targets_only()),
    }
}

impl PolicyDiagnostics {
    /// Why the policy is not accepted; empty if it is.
    pub fn errors(&self, policy: &Loose<McpPolicy>) -> Arc<Vec<Diagnostic>> {
        self.findings(policy).errors
    }

    /// What is valid in the policy and probably not what its author means, whatever its servers
    /// are.
    pub fn warnings(&self, policy: &Loose<McpPolicy>) -> Arc<Vec<Diagnostic>> {
        self.findings(policy).warnings
    }

    /// Bytes of the spec as JSON.
    pub fn size(&self, policy: &Loose<McpPolicy>) -> usize {
        self.findings(policy).size
    }

    pub fn forget(&self, policy: &Loose<McpPolicy>) {
        self.lock().remove(uid(policy));
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock()
    }

    fn findings(&self, policy: &Loose<McpPolicy>) -> Findings {
        let generation = policy.metadata().generation;
        let found = {
            let mut known = self.lock();
            let entry = known
                .entry(uid(policy).to_owned())
                .or_insert_with(|| Entry {
                    generation,
                    found: Arc::default(),
                });
            if entry.generation != generation {
                *entry = Entry {
                    generation,
                    found: Arc::default(),
                };
            }
            Arc::clone(&entry.found)
        };
        match found.get() {
            Some(found) => found.clone(),
            None => in_place(|| found.get_or_init(|| self.compile(policy)).clone()),
        }
    }

    fn compile(&self, policy: &Loose<McpPolicy>) -> Findings {
        let metadata = policy.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        match policy.object() {
            Ok(object) => {
                let findings = diagnose_policy(namespace, name, namespace, &object.spec);
                let (errors, warnings) = findings
                    .into_iter()
                    .partition(|finding| finding.level == Level::Error);
                Findings {
                    errors: self.kept(errors),
                    warnings: self.kept(warnings),
                    size: serde_json::to_string(&object.spec).map_or(0, |text| text.len()),
                }
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
                Findings {
                    errors: self.kept(vec![finding]),
                    warnings: self.kept(Vec::new()),
                    size: 0,
                }
            }
        }
    }

    fn kept(&self, mut findings: Vec<Diagnostic>) -> Arc<Vec<Diagnostic>> {
        if findings.is_empty() {
            return Arc::clone(&self.none);
        }
        findings.truncate(MAX_FINDINGS);
        findings.shrink_to_fit();
        Arc::new(findings)
    }
}

fn uid(policy: &Loose<McpPolicy>) -> &str {
    policy.metadata().uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(generation: i64, when: &str) -> Loose<McpPolicy> {
        let rule = json!({"name": "r", "tools": {"names": ["*"]}, "when": when, "action": "Allow"});
        let text = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
            "metadata": {"namespace": "ml", "name": "p", "uid": "u", "generation": generation},
            "spec": {"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "m"}], "rules": [rule]},
        });
        serde_json::from_str(&text.to_string()).unwrap()
    }

    #[test]
    fn a_policy_is_compiled_once_for_all_workers_and_again_when_it_changes() {
        let diagnostics = PolicyDiagnostics::default();
        let broken = policy(1, "args.");
        let asked: Vec<Arc<Vec<Diagnostic>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| diagnostics.errors(&broken)))
                .collect();
            workers.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(asked[0].len(), 1);
        // One and the same list.
        assert!(asked.iter().all(|errors| Arc::ptr_eq(errors, &asked[0])));
        assert_eq!(diagnostics.errors(&policy(2, "true")).len(), 0);
        assert_eq!(
            diagnostics.size(&broken),
            serde_json::to_string(&broken.object().unwrap().spec)
                .unwrap()
                .len()
        );
        diagnostics.forget(&broken);
        assert!(diagnostics.lock().is_empty());
    }

    #[test]
    fn of_a_policy_that_is_not_understood_the_targets_are_known_and_the_mistake_is_told() {
        let text = json!({
            "metadata": {"namespace": "ml", "name": "p", "uid": "u"},
            "spec": {"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "m"}], "rules": "none"},
        });
        let policy: Loose<McpPolicy> = serde_json::from_str(&text.to_string()).unwrap();
        assert_eq!(readable(&policy).spec.target_refs[0].name, "m");
        let diagnostics = PolicyDiagnostics::default();
        let errors = diagnostics.errors(&policy);
        assert!(
            errors[0].message.starts_with("not a valid McpPolicy: "),
            "{errors:?}"
        );
        assert_eq!(
            (
                diagnostics.size(&policy),
                diagnostics.warnings(&policy).len()
            ),
            (0, 0)
        );
    }
}
