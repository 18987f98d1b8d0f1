//! Policy test cases: calls and their expected decisions.
//!
//! In: a document of kind McpPolicyTest and the policies bound to tools. Out: for each case, the
//! expected and the actual result. Counters are simulated, so that a case can test the 31st call.
//! Must not do: read files.

mod run;
mod schema;
#[cfg(test)]
mod tests;

pub use run::caller;
pub use schema::schema;

use super::decision::Outcome;
use super::inventory::{Bound, Definition};
use crate::catalog;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The kind that test documents carry.
pub const KIND: &str = "McpPolicyTest";

/// A document of test cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTest {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `McpPolicyTest`.
    pub kind: String,
    /// Ignored but for its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// The McpServer, by name; the only one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// A file with the server's `tools/list` result, beside this one. Without it, tools are known
    /// by name only: the catalogue's and those of `tools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<String>,
    /// Names of further tools that the server has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One call, prompt or resource, and what must become of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What the case is about, in words.
    #[serde(default)]
    pub name: String,
    /// The tool that is called. Exactly one of call, prompt and resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The prompt that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The URI of the resource that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Arguments of the call.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub args: serde_json::Map<String, serde_json::Value>,
    /// The grant, such as `key:ci`; `anonymous` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Groups of the caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Claims of the caller's token.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// The session.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// The time of the call, RFC 3339; now if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// How often it is made, at once; the last time counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// What must become of it.
    pub expect: Expect,
}

/// The expected result of a call; absent fields are not compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// The rule that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its policy, as name or namespace/name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Whether the tool, prompt or resource is in the caller's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
    /// The shadow decision of Audit policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Verdict>,
}

/// A decision in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Forwarded.
    Allow,
    /// Held until approved.
    RequireApproval,
    /// Refused with a reason.
    Deny,
    /// Answered as if the tool did not exist.
    Hide,
    /// The tool does not exist.
    Unknown,
    /// Refused, as the arguments are not as the schema says.
    BadArguments,
    /// Refused, as a limit is reached.
    Limited,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allow => Verdict::Allow,
            Outcome::RequireApproval => Verdict::RequireApproval,
            Outcome::BadArguments => Verdict::BadArguments,
            Outcome::Deny(_) => Verdict::Deny,
            Outcome::Hide => Verdict::Hide,
            Outcome::Unknown => Verdict::Unknown,
        }
    }
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// What the case is about.
    pub name: String,
    /// Whether all that was expected came.
    pub passed: bool,
    /// What did not.
    pub failures: Vec<Miss>,
    /// What became of the call.
    pub decision: Option<Verdict>,
    /// The rule that decided.
    pub rule: String,
}

/// An expectation that was not met, or a field that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Miss {
    /// The field of the case, such as `expect.rule`.
    pub path: String,
    /// What came instead, or what to write.
    pub message: String,
}

impl PolicyTest {
    /// The fields that are wrong, each with its path in the document.
    pub fn faults(&self) -> Vec<Miss> {
        let mut faults = Vec::new();
        if self.cases.is_empty() {
            faults.push(Miss {
                path: "cases".to_owned(),
                message: "there is no case; write for example - { call: get_run, expect: { decision: Allow } }".to_owned(),
            });
        }
        for (i, case) in self.cases.iter().enumerate() {
            faults.extend(case.fault().map(|fault| {
                Miss {
                    path: format!("cases[{i}].{}", fault.path)
                        .trim_end_matches('.')
                        .to_owned(),
                    message: fault.message,
                }
            }));
        }
        faults
    }

    /// Tools to bind to where the document names no listing: the catalogue's and its own.
    pub fn assumed_listing(&self) -> Vec<Definition> {
        let names: BTreeSet<&str> = catalog::all()
            .iter()
            .map(|entry| entry.name)
            .chain(self.tools.iter().map(String::as_str))
            .collect();
        names.into_iter().map(Definition::assumed).collect()
    }

    /// Runs every case by itself.
    pub fn run(&self, bound: &Bound, now: Timestamp) -> Vec<CaseResult> {
        self.cases.iter().map(|case| case.run(bound, now)).collect()
    }
}
