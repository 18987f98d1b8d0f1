//! PolicyLayer's `policy.json` and Intercept's YAML to an McpPolicy.
//!
//! In: the text of such a document (version "1": default, hide, tools with rules or limits, deny_if and require, all_tools).
//! Out: a policy that is never looser than what it came from, and a note on everything that has no equivalent. What cannot
//! be carried over denies its tool until a person looks. Must not do: drop anything silently.

mod condition;
mod limits;
mod names;
#[cfg(test)]
mod tests;
mod tool;

use super::compile::diagnose_policy;
use super::diagnostic::Level;
use crate::api::GROUP;
use crate::api::policy::{
    Action, DefaultAction, Limit, McpPolicySpec, Rule, TargetRef, ToolSelector,
};
use names::{distinct, keys, label, plain_name, shown};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A policy and what a person should know about how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The policy.
    pub spec: McpPolicySpec,
    /// One sentence for each thing that has no equivalent, or means something slightly different here.
    pub notes: Vec<String>,
}

/// Why a document cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Neither JSON nor YAML.
    #[error("the document cannot be read: {0}")]
    Syntax(String),
    /// Another kind of document.
    #[error("{0}")]
    Shape(String),
}

/// Converts a document into a policy for the server of this name.
pub fn import(text: &str, server: &str) -> Result<Imported, ImportError> {
    let document: Map<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| ImportError::Syntax(error.to_string()))?;
    let version = document
        .get("version")
        .map(|version| version.to_string().trim_matches('"').to_owned());
    if version.as_deref() != Some("1") {
        return Err(ImportError::Shape(format!(
            "version is {}, and only \"1\" of PolicyLayer's policy.json and Intercept's YAML is known",
            version.unwrap_or_else(|| "missing".to_owned())
        )));
    }
    let mut importer = Importer::new(&document)?;
    importer.document(&document);
    let spec = McpPolicySpec {
        target_refs: vec![TargetRef {
            group: GROUP.to_owned(),
            kind: "McpServer".to_owned(),
            name: server.to_owned(),
            unknown: Default::default(),
        }],
        target_selector: None,
        mode: None,
        default_action: Some(importer.default),
        rules: importer.rules,
        prompts: Vec::new(),
        resources: Vec::new(),
    };
    // What is written must be acceptable as it stands.
    if let Some(error) = diagnose_policy("default", "imported", "default", &spec)
        .into_iter()
        .find(|found| found.level == Level::Error)
    {
        return Err(ImportError::Shape(format!(
            "the document cannot be carried over: {error}"
        )));
    }
    Ok(Imported {
        spec,
        notes: importer.notes,
    })
}

struct Importer {
    default: DefaultAction,
    rules: Vec<Rule>,
    notes: Vec<String>,
    names: BTreeSet<String>,
    /// Counters as they were called there, with their names here: two never become one.
    counters: BTreeMap<String, String>,
    /// Tools that the document lists, which is what allows them where the default is deny.
    listed: Vec<String>,
}

impl Importer {
    fn new(document: &Map<String, Value>) -> Result<Self, ImportError> {
        let mut notes = Vec::new();
        let default = match document
            .get("default")
            .map(|value| value.as_str().unwrap_or_default())
        {
            Some("deny") => DefaultAction::Deny,
            Some("allow") => DefaultAction::Allow,
            Some(other) => {
                return Err(ImportError::Shape(format!(
                    "default is {other:?} and must be \"allow\" or \"deny\""
                )));
            }
            None if document
                .get("tools")
                .is_some_and(|tools| tools.to_string().contains("\"rules\"")) =>
            {
                notes.push("default is not written, which Intercept reads as allow: defaultAction is Allow".to_owned());
                DefaultAction::Allow
            }
            None => {
                notes.push("default is not written: defaultAction is Deny".to_owned());
                DefaultAction::Deny
            }
        };
        Ok(Self {
            default,
            rules: Vec::new(),
            notes,
            names: BTreeSet::new(),
            counters: BTreeMap::new(),
            listed: Vec::new(),
        })
    }

    fn document(&mut self, document: &Map<String, Value>) {
        for key in keys(
            document,
            &[
                "version",
                "description",
                "default",
                "hide",
                "tools",
                "all_tools",
            ],
        ) {
            self.note(format!(
                "{key}: has no equivalent and was left out; look whether it restricted anything"
            ));
        }
        self.hide(document.get("hide"));
        let empty = Map::new();
        let tools = document
            .get("tools")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        for name in tools.keys().filter(|name| *name != "*") {
            if name.contains('*') {
                self.note(format!(
                    "tools.{name}: a name with `*` would be a pattern here; it is not allowed"
                ));
            } else {
                self.listed.push(name.clone());
            }
        }
        let all_limits = self.all_tools(document.get("all_tools"));
        // Where the default is deny, being listed is what allows a tool; elsewhere this rule only carries the limits.
        let everything = self.default == DefaultAction::Allow;
        let names = if everything {
            vec!["*".to_owned()]
        } else {
            self.listed.clone()
        };
        if !names.is_empty() && (!everything || !all_limits.is_empty()) {
            self.rule(
                if everything { "all-tools" } else { "listed" },
                names,
                Action::Allow,
                |rule| {
                    rule.limits = all_limits;
                },
            );
        }
        for (name, entry) in tools {
            self.tool(name, entry);
        }
        if self.default == DefaultAction::Deny && self.listed.is_empty() {
            self.note("default: deny without any tool listed denies every tool, not only the hidden ones; list the tools \
                       that should stay usable in a rule with action: Allow");
        }
        self.note("prompts and resources were not governed there; here they are hidden until a rule allows them");
        if self.rules.iter().any(|rule| !rule.limits.is_empty()) {
            self.note("limits there reset with the calendar minute, hour or day; here they hold over any window of that \
                       length, so that bursts across a reset are refused");
        }
        if self.rules.iter().any(|rule| rule.when.is_some()) {
            self.note("conditions there convert between text and numbers; here an argument of another kind than the tool's \
                       schema says is refused");
        }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a rule under a name that no other has.
    fn rule(
        &mut self,
        name: &str,
        tools: Vec<String>,
        action: Action,
        fill: impl FnOnce(&mut Rule),
    ) {
        let unique = distinct(&label(name), |taken| !self.names.insert(taken.to_owned()));
        let mut rule = Rule {
            name: unique,
            tools: ToolSelector {
                names: tools,
                ..ToolSelector::default()
            },
            action,
            callers: Vec::new(),
            except_callers: Vec::new(),
            when: None,
            limits: Vec::new(),
            approval: None,
            reason: None,
            unknown: Default::default(),
        };
        fill(&mut rule);
        self.rules.push(rule);
    }

    /// Denies a tool about which something was written that cannot be carried over.
    fn closed(&mut self, tool: &str, at: &str, why: &str) {
        self.note(format!(
            "{at}: {why}; {} denied until you put that right",
            shown(tool)
        ));
        self.rule(
            &format!("{}-unclear", plain_name(tool)),
            vec![tool.to_owned()],
            Action::Deny,
            |rule| {
                rule.reason = Some("An imported rule could not be carried over.".to_owned());
            },
        );
    }

    fn hide(&mut self, hide: Option<&Value>) {
        let Some(hide) = hide else { return };
        let names: Option<Vec<String>> = hide
            .as_array()
            .map(|names| {
                names
                    .iter()
                    .map(|name| name.as_str().map(str::to_owned))
                    .collect()
            })
            .unwrap_or_default();
        match names {
            Some(names) if names.is_empty() => {}
            Some(names) => {
                for name in names
                    .iter()
                    .filter(|name| *name != "*" && name.contains('*'))
                {
                    self.notes.push(format!(
                        "hide: {name} is a pattern here and hides every tool that it matches"
                    ));
                }
                self.rule("hidden", names, Action::Hide, |_| {});
            }
            None => self.closed("*", "hide", "it is no list of names"),
        }
    }

    fn all_tools(&mut self, all: Option<&Value>) -> Vec<Limit> {
        let Some(all) = all else { return Vec::new() };
        let Some(all) = all.as_object() else {
            self.closed("*", "all_tools", "it is no object");
            return Vec::new();
        };
        for key in keys(all, &["limits"]) {
            self.closed("*", &format!("all_tools.{key}"), "it has no equivalent");
        }
        self.limits("*", "all_tools.limits", all.get("limits"))
    }
}
