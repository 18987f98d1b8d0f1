//! Findings about one rule, each with the rule's name and the path of the field.

use super::Owner;
use crate::api::policy::RuleCallers;
use crate::policy::check::Fault;
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::lint::foreign;
use crate::policy::matcher::{Glob, Globs, grant_glob};

/// Collects the findings about one rule.
pub(super) struct FindingSink<'a> {
    pub owner: &'a Owner<'a>,
    rule: Option<String>,
    base: String,
    findings: &'a mut Vec<Diagnostic>,
}

impl<'a> FindingSink<'a> {
    /// For what is wrong with the policy as a whole.
    pub fn of_policy(owner: &'a Owner<'a>, findings: &'a mut Vec<Diagnostic>) -> Self {
        Self {
            owner,
            rule: None,
            base: "spec".to_owned(),
            findings,
        }
    }

    /// For what is wrong with one rule, whose fields are below `base`.
    pub fn of_rule(
        owner: &'a Owner<'a>,
        rule: &str,
        base: String,
        findings: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            owner,
            rule: Some(rule.to_owned()),
            base,
            findings,
        }
    }

    pub fn add(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    pub fn error(&mut self, field: &str, message: impl Into<String>) {
        self.push(Level::Error, field, message);
    }

    pub fn warn(&mut self, field: &str, message: impl Into<String>) {
        self.push(Level::Warning, field, message);
    }

    fn push(&mut self, level: Level, field: &str, message: impl Into<String>) {
        let path = if field.is_empty() {
            self.base.clone()
        } else {
            format!("{}.{field}", self.base)
        };
        self.findings.push(
            self.owner
                .finding(level, self.rule.as_deref(), path, None, message),
        );
    }

    pub fn fault(&mut self, field: &str, source: &str, fault: Fault) {
        let path = format!("{}.{field}", self.base);
        let position = Some(fault.position(source));
        self.findings.push(self.owner.finding(
            Level::Error,
            self.rule.as_deref(),
            path,
            position,
            fault.message,
        ));
    }

    pub fn globs(
        &mut self,
        field: &str,
        patterns: &[String],
        make: fn(&str) -> Result<Glob, String>,
    ) -> Vec<Glob> {
        let mut globs = Vec::with_capacity(patterns.len());
        for (i, pattern) in patterns.iter().enumerate() {
            match make(pattern) {
                Ok(glob) => globs.push(glob),
                Err(message) => self.error(&format!("{field}[{i}]"), message),
            }
        }
        globs
    }

    /// Warns of patterns that look as if they were written for another matcher.
    pub fn foreign(&mut self, field: &str, patterns: &[String], is: fn(&str) -> Option<String>) {
        for (i, pattern) in patterns.iter().enumerate() {
            if let Some(message) = is(pattern) {
                self.warn(&format!("{field}[{i}]"), message);
            }
        }
    }

    pub fn callers(&mut self, by: &RuleCallers) -> Globs {
        let RuleCallers {
            callers,
            except_callers: except,
        } = by;
        let globs = Globs {
            any_of: self.globs("callers", callers, grant_glob),
            except: self.globs("exceptCallers", except, grant_glob),
        };
        self.foreign("callers", callers, foreign);
        self.foreign("exceptCallers", except, foreign);
        if globs.is_never() && (!callers.is_empty() || !except.is_empty()) {
            self.warn(
                "exceptCallers",
                "every caller is excepted, so this rule can never match",
            );
        }
        globs
    }
}
