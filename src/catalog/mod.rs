//! Risk classes of the tools of the known MLflow MCP servers.
//!
//! In: a tool's name and the names of its input properties. Out: its class, the reason for it, and
//! the recommended rule. Must not do: trust a server's claims about its own tools, or decide a
//! call.
//!
//! Three names are in both servers with different inputs, so a name can have several forms.
//! Overrides and pins of an McpServer come on top; the policy engine applies them.

mod arguments;
mod data;
mod form;
mod observe;

pub use arguments::argument_type;
pub use form::Form;

use crate::api::{
    DurationString, Risk, Severity,
    policy::{Action, Limit, Rule, RuleCallers, Scope, ToolSelector},
};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};

/// A server with known tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Server {
    /// PyPI `mlflow-mcp`.
    #[serde(rename = "mlflow-mcp")]
    MlflowMcp,
    /// PyPI `mlflow[mcp]`, command `mlflow mcp run`.
    #[serde(rename = "mlflow mcp run")]
    MlflowCli,
}

impl Server {
    /// Every known server.
    pub const ALL: [Server; 2] = [Server::MlflowMcp, Server::MlflowCli];

    /// The command that starts it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Server::MlflowMcp => "mlflow-mcp",
            Server::MlflowCli => "mlflow mcp run",
        }
    }

    /// The release that the data describes.
    pub const fn release(self) -> &'static str {
        match self {
            Server::MlflowMcp => "mlflow-mcp 0.4.1",
            Server::MlflowCli => "mlflow[mcp] 3.17",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the recommended policy does with a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recommended {
    /// Calls are free.
    Allow,
    /// Calls are allowed, counted by `tags`.
    LimitedTags,
    /// Calls are allowed, counted by `writes`.
    LimitedWrites,
    /// Calls wait for a person, and are counted by `writes`.
    Approve,
    /// The tool is hidden.
    Hide,
}

/// Units of each counter of the recommended policy in one window.
const RECOMMENDED_MAX: i64 = 30;
/// The window of the counters of the recommended policy.
const RECOMMENDED_WINDOW: &str = "1m";

impl Recommended {
    /// What a call gets.
    pub const fn action(self) -> Action {
        match self {
            Recommended::Allow | Recommended::LimitedTags | Recommended::LimitedWrites => {
                Action::Allow
            }
            Recommended::Approve => Action::RequireApproval,
            Recommended::Hide => Action::Hide,
        }
    }

    /// The counter that a call is charged to.
    pub const fn counter(self) -> Option<&'static str> {
        match self {
            Recommended::LimitedTags => Some("tags"),
            Recommended::LimitedWrites | Recommended::Approve => Some("writes"),
            Recommended::Allow | Recommended::Hide => None,
        }
    }

    /// The rule as it would stand in a policy, for this one tool.
    pub fn rule(self, tool: &str) -> Rule {
        let limit = |counter: &str| Limit {
            counter: counter.to_owned(),
            max: RECOMMENDED_MAX,
            window: DurationString::from(RECOMMENDED_WINDOW),
            scope: Some(Scope::Grant),
            cost: None,
            unknown: Default::default(),
        };
        Rule {
            name: tool.replace('_', "-"),
            tools: ToolSelector {
                names: vec![tool.to_owned()],
                ..ToolSelector::default()
            },
            action: self.action(),
            by: RuleCallers::default(),
            when: None,
            limits: self.counter().map(limit).into_iter().collect(),
            approval: (self == Recommended::Approve)
                .then(|| observe::approval(tool))
                .flatten(),
            reason: None,
            unknown: Default::default(),
        }
    }
}

impl fmt::Display for Recommended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.counter() {
            None => f.pad(self.action().as_str()),
            Some(counter) => f.pad(&format!(
                "{}, {RECOMMENDED_MAX} per {RECOMMENDED_WINDOW} ({counter})",
                self.action()
            )),
        }
    }
}

impl Serialize for Recommended {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One form of a tool: a name as one server has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Name of the tool.
    pub name: &'static str,
    /// The server that has it.
    pub server: Server,
    /// Its class.
    pub risk: Risk,
    /// How bad one wrong call is.
    pub severity: Severity,
    /// Why it has this class, in one sentence.
    pub why: &'static str,
    /// What the recommended policy does with it.
    pub recommended: Recommended,
    /// Names of its input properties, sorted.
    pub properties: &'static [&'static str],
}

/// All forms of all tools, server by server.
pub fn all() -> &'static [Entry] {
    &data::ENTRIES
}

/// All forms of the tool of this name; none if no known server has it.
pub fn lookup(name: &str) -> impl Iterator<Item = &'static Entry> {
    let name = name.to_owned();
    all().iter().filter(move |entry| entry.name == name)
}

/// What the catalogue says about a tool that a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No known server has a tool of this name.
    No,
    /// A known server has this tool with these inputs.
    Yes(&'static Entry),
    /// A known server has a tool of this name with other inputs; the strictest form's class still
    /// holds.
    Drifted(&'static Entry),
}

impl Known {
    /// The entry whose class holds.
    pub fn entry(self) -> Option<&'static Entry> {
        match self {
            Known::No => None,
            Known::Yes(entry) | Known::Drifted(entry) => Some(entry),
        }
    }
}

/// Finds the form of the tool `name` that has exactly these input properties.
pub fn find<'a>(name: &str, properties: impl IntoIterator<Item = &'a str>) -> Known {
    let listed: BTreeSet<&str> = properties.into_iter().collect();
    let mut strictest: Option<&'static Entry> = None;
    for entry in lookup(name) {
        if entry.properties.len() == listed.len()
            && entry.properties.iter().all(|p| listed.contains(p))
        {
            return Known::Yes(entry);
        }
        if strictest.is_none_or(|s| (s.risk, s.severity) < (entry.risk, entry.severity)) {
            strictest = Some(entry);
        }
    }
    strictest.map_or(Known::No, Known::Drifted)
}

#[cfg(test)]
mod tests;
