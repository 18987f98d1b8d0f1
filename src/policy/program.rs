//! Compiled policies of one server.
//!
//! Made only by [`compile`](super::compile), so that its content is known to be valid: patterns,
//! conditions, durations and counters are compiled values. Rules are kept in order of attribution
//! (namespace, policy, rule), so that the first of several equally strict ones is the one to name.

use super::check::{Argument, Condition, Cost, Reads};
use super::decision::{Counter, RuleId};
use super::diagnostic::Diagnostic;
use super::form::Form;
use super::matcher::{Globs, QueryGlobs};
use super::observed::Reading;
use crate::api::policy::{Action, DefaultAction};
use crate::api::{Risk, Severity, server::ToolOverride};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The policies of one server, compiled.
#[derive(Debug)]
pub struct Program {
    /// UID of the server.
    pub(super) server_uid: Arc<str>,
    /// Namespace of the server.
    pub(super) namespace: String,
    /// Name of the server.
    pub(super) name: String,
    /// Everything is forwarded and recorded.
    pub(super) audit: bool,
    /// Whether the built-in risk classes count.
    pub(super) use_catalog: bool,
    pub(super) overrides: BTreeMap<String, ToolOverride>,
    /// Forms of arguments that the server's spec states, by tool.
    pub(super) forms: BTreeMap<String, Vec<Form>>,
    /// Set while every call is denied, whatever the rules.
    pub(super) closed: Option<Closed>,
    pub(super) rules: Vec<Rule>,
    pub(super) prompts: Vec<NameRule>,
    pub(super) resources: Vec<NameRule>,
    /// Of Enforce policies.
    pub(super) default: Default,
    /// Of Enforce and Audit policies together.
    pub(super) shadow_default: Default,
    /// How many policies are in force, and how many of them only watch.
    pub(super) policy_count: (usize, usize),
    pub(super) warnings: Vec<Diagnostic>,
    /// Attribution of what no policy says: pins, duplicates, schemas.
    pub(super) inventory: Arc<RuleId>,
    pub(super) revision: String,
}

/// Why every call is denied.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub blocked: bool,
    pub by: Arc<RuleId>,
    pub reason: Arc<str>,
}

/// What happens where no rule matches.
#[derive(Clone, Debug)]
pub(super) struct Default {
    pub action: DefaultAction,
    pub by: Arc<RuleId>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub id: Arc<RuleId>,
    /// Of an Audit policy.
    pub audit: bool,
    pub selector: Selector,
    pub callers: Globs,
    pub when: Option<Condition>,
    pub action: Action,
    pub limits: Vec<Limit>,
    pub expires_after: Duration,
    pub wait_up_to: Duration,
    /// How many people must approve.
    pub approvers: i64,
    /// The arguments that the approver does not see.
    pub redact: Vec<String>,
    /// What is read before a person is asked, and again before the call is forwarded.
    pub observe: Option<Arc<Observing>>,
    pub reason: Option<Arc<str>>,
    /// The arguments that the condition or a cost reads.
    pub reads: Reads,
    /// Why its policy is not accepted here, if so: the rule restricts and lets nothing through.
    pub restricts_only: Option<Arc<str>>,
}

impl Rule {
    pub fn when_reads_args(&self) -> bool {
        self.when.as_ref().is_some_and(Condition::reads_args)
    }
}

/// A read of the state that a call changes.
#[derive(Debug)]
pub(super) struct Observing {
    pub tool: String,
    /// By name, in order.
    pub args: Vec<(String, Argument)>,
    pub reading: Reading,
}

#[derive(Debug)]
pub(super) struct Limit {
    pub counter: Arc<Counter>,
    pub cost: Option<Cost>,
}

/// A rule for prompts or resources.
#[derive(Debug)]
pub(super) struct NameRule {
    pub id: Arc<RuleId>,
    pub audit: bool,
    pub names: Globs,
    /// Of patterns over URIs those with a query, and of those that are excepted.
    pub queries: QueryGlobs,
    pub except_queries: QueryGlobs,
    pub callers: Globs,
    pub action: Action,
    pub reason: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Selector {
    pub names: Globs,
    pub risks: Vec<Risk>,
    pub min_severity: Option<Severity>,
}

/// Why a selector does not select a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSelected {
    Name,
    Risk,
    Severity,
    Unclassified,
}

impl Selector {
    /// Whether a rule with this action selects a tool of this class; `None` is Unclassified.
    ///
    /// An unclassified tool may be anything, so it falls under every restricting selector by class,
    /// and only a name can allow it.
    pub fn selects(
        &self,
        action: Action,
        name: &str,
        class: Option<(Risk, Severity)>,
    ) -> Result<(), NotSelected> {
        if !self.names.matches(name) {
            return Err(NotSelected::Name);
        }
        match class {
            Some((risk, severity)) => {
                if !self.risks.is_empty() && !self.risks.contains(&risk) {
                    return Err(NotSelected::Risk);
                }
                if self.min_severity.is_some_and(|min| severity < min) {
                    return Err(NotSelected::Severity);
                }
                Ok(())
            }
            None if action == Action::Allow
                && (self.names.any_of.is_empty()
                    || !self.risks.is_empty()
                    || self.min_severity.is_some()) =>
            {
                Err(NotSelected::Unclassified)
            }
            None => Ok(()),
        }
    }
}

impl Program {
    /// Findings that do not keep the policies from being enforced.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The revision of the bundle that this was compiled from.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// UID of the server.
    pub fn server_uid(&self) -> &str {
        &self.server_uid
    }

    /// Namespace of the server.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why every call is denied, whatever the rules, if that is so.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_ref().map(|closed| &*closed.reason)
    }

    /// Whether a rule that is enforced allows a prompt or a resource.
    pub fn allows_others(&self) -> bool {
        let mut rules = self.prompts.iter().chain(&self.resources);
        rules.any(|rule| !rule.audit && rule.action == Action::Allow)
    }

    /// Whether everything is forwarded and only recorded.
    pub fn is_audit(&self) -> bool {
        self.audit
    }

    /// How many policies are compiled in, and how many of them only watch.
    pub fn policy_count(&self) -> (usize, usize) {
        self.policy_count
    }

    /// Attribution of what no policy says.
    pub fn inventory_rule(&self) -> &Arc<RuleId> {
        &self.inventory
    }

    /// Every (policy, rule) that a decision can be attributed to: the bounded set of metric labels.
    pub fn rule_ids(&self) -> Vec<Arc<RuleId>> {
        let mut ids: Vec<_> = self
            .rules
            .iter()
            .map(|rule| &rule.id)
            .chain(
                self.prompts
                    .iter()
                    .chain(&self.resources)
                    .map(|rule| &rule.id),
            )
            .chain([&self.default.by, &self.shadow_default.by, &self.inventory])
            .chain(self.closed.as_ref().map(|closed| &closed.by))
            .cloned()
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }
}
