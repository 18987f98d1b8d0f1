//! What `portcullis explain --decision` found out: for programs as it is, for people in words.

use serde::Serialize;

use super::Explanation;
use super::audit_lines::FoundLine;
use crate::policy::cases::Verdict;

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub decision_id: String,
    /// The lines of the decision, as they were written, with their places.
    pub lines: Vec<FoundLine>,
    /// Further lines about its approval.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approval: Vec<FoundLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_again: Option<Again>,
    /// What the log or the files lack, and what to do about it.
    pub notes: Vec<String>,
}

/// The rules that decided, as the files at hand have them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rules {
    /// Of the line.
    pub revision: String,
    /// Of the files.
    pub revision_of_files: String,
    pub same: bool,
    pub texts: Vec<RuleText>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuleText {
    pub policy: String,
    pub rule: String,
    pub file: String,
    pub line: u64,
    pub text: String,
}

/// The decision of the files at hand.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Again {
    pub decision: Verdict,
    /// Whether that is what the line says, as far as rules decide it.
    pub as_logged: bool,
    pub policy: String,
    pub rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of calls of tools: each rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}
