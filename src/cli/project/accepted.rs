//! The policies that are in force while files change: a policy with errors keeps its last valid
//! version.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Name, Project, finding, name_of};
use crate::api::policy::McpPolicy;
use crate::policy::diagnostic::Level;

/// Accepted policies, as they were last accepted.
#[derive(Default)]
pub struct Accepted {
    policies: BTreeMap<Name, McpPolicy>,
    generations: BTreeMap<Name, i64>,
}

impl Accepted {
    /// Accepts the valid policies; a policy with errors keeps its last valid version. Returns the
    /// mistakes, and the policies that have never been valid.
    pub fn update(&mut self, project: &Project) -> (Vec<Finding>, Vec<(McpPolicy, String)>) {
        let (mut findings, mut blocked) = (Vec::new(), Vec::new());
        let mut present = BTreeSet::new();
        for policy in &project.policies {
            let name = name_of(&policy.object.metadata);
            present.insert(name.clone());
            let mut errors: Vec<Finding> = project
                .policy_findings(policy)
                .into_iter()
                .filter(|finding| finding.level == Level::Error)
                .collect();
            let before = self.policies.get(&name);
            if policy.object.spec.is_empty() && before.is_some_and(|before| !before.spec.is_empty())
            {
                // A partially written file may be valid, but lack its rules.
                errors.push(finding(
                    policy,
                    "McpPolicy",
                    &policy.object.metadata,
                    "spec",
                    "it no longer has rules, so its previous version stays in force; write rules, or remove the \
                    document".to_owned(),
                ));
            }
            match errors.first() {
                None => self.accept(name, &policy.object),
                Some(first) => {
                    if !self.policies.contains_key(&name) {
                        blocked.push((policy.object.clone(), first.message.clone()));
                    }
                    findings.extend(errors);
                }
            }
        }
        self.policies.retain(|name, _| present.contains(name));
        let never_right = project.broken.iter().filter(|broken| {
            let name = name_of(&broken.policy.metadata);
            !self.policies.contains_key(&name)
        });
        blocked.extend(never_right.map(|one| (one.policy.clone(), one.message.clone())));
        (findings, blocked)
    }

    fn accept(&mut self, name: Name, policy: &McpPolicy) {
        let generation = self.generations.entry(name.clone()).or_insert(0);
        let mut policy = policy.clone();
        if self
            .policies
            .get(&name)
            .is_none_or(|before| before.spec != policy.spec)
        {
            *generation += 1;
        }
        policy.metadata.generation = Some(*generation);
        self.policies.insert(name, policy);
    }

    /// The generation of an accepted policy.
    pub fn generation(&self, name: &Name) -> Option<i64> {
        self.policies.get(name)?.metadata.generation
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &McpPolicy> {
        self.policies.values()
    }
}
