//! Mistakes in a policy, described so that its author can correct them.
//!
//! In: findings of the compiler. Out: one sentence each, with policy, rule, field path and, for
//! CEL, line and column.
//! Must not do: decide whether a finding matters; errors refuse a policy, warnings are shown by
//! `validate`.

use serde::Serialize;
use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// The policy is not accepted.
    Error,
    /// The policy is accepted; its author should look again.
    Warning,
}

/// A position in a CEL expression, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line of the expression.
    pub line: u32,
    /// Column of that line.
    pub column: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Error or warning.
    pub level: Level,
    /// `namespace/name` of the policy; none if the finding is about the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Name of the rule, if the finding is inside one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Path of the field, for example `spec.rules[2].when`.
    pub path: String,
    /// Where in the CEL expression of that field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "policy {policy}")?,
            None => write!(f, "server")?,
        }
        if let Some(rule) = &self.rule {
            write!(f, ", rule {rule}")?;
        }
        write!(f, ", {}", self.path)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ", line {line} column {column}")?;
        }
        write!(f, ": {}", self.message)
    }
}
