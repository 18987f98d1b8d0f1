//! PolicyLayer's `policy.json` and Intercept's YAML to McpPolicies.
//!
//! In: the text of such a document (version "1": default, hide, tools with rules or limits, deny_if
//! and require, all_tools).
//! Out: policies that are never looser than the source, and a note on everything that has no
//! equivalent, with its place in the document. A part that cannot be imported denies its tool until
//! a person corrects it. Must not do: drop anything silently.

mod condition;
mod limits;
mod literal;
mod names;
mod note;
mod read;
mod split;
#[cfg(test)]
mod tests;
mod tool;

pub use note::{Note, Place};

use super::diagnostic::Position;
use crate::api::policy::{
    Action, DefaultAction, McpPolicySpec, Rule, RuleCallers, Scope, ToolSelector,
};
use names::{distinct, label, shown};
use note::Notes;
use read::{Entry, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a document may have.
pub const MAX_BYTES: usize = read::MAX_BYTES;

/// Policies and what a person should know about how they came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The policies: one, or several where one would be too large. They belong together.
    pub policies: Vec<McpPolicySpec>,
    /// What has no equivalent, or means something slightly different here; closures first.
    pub notes: Vec<Note>,
}

/// Why a document cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImportError {
    /// Where that is, unless it is about the whole.
    pub at: Option<Position>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl ImportError {
    fn at(at: Position, message: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            message: message.into(),
        }
    }
}

/// Converts a document into policies for the server of this name.
///
/// # Errors
/// When it is another kind of document, or what it says is beyond the bounds of policies.
pub fn import(text: &str, server: &str) -> Result<Imported, ImportError> {
    let document = read::read(text).map_err(|broken| ImportError::at(broken.at, broken.message))?;
    let Some(entries) = document.map() else {
        let message = format!("a policy is a mapping, and this is {}", document.kind());
        return Err(ImportError::at(document.at, message));
    };
    let is_fragment = document.get("version").is_none()
        && document.get("apiVersion").is_none()
        && ["tools", "hide", "default", "all_tools"]
            .into_iter()
            .any(|key| document.get(key).is_some());
    match document.get("version") {
        _ if is_fragment => {}
        Some(version) if version.text() == Some("1") => {}
        version => {
            let found = version.map_or("missing", |version| {
                version.text().unwrap_or(version.kind())
            });
            return Err(ImportError::at(
                version.map_or(document.at, |version| version.at),
                format!(
                    "version is {found}, and must be \"1\", as in PolicyLayer's policy.json and Intercept's YAML; name such a file"
                ),
            ));
        }
    }
    let mut importer = Importer {
        default: DefaultAction::Deny,
        rules: Vec::new(),
        notes: Notes::default(),
        names: BTreeSet::new(),
        closed: BTreeSet::new(),
        counters: BTreeMap::new(),
        listed: Vec::new(),
    };
    if is_fragment {
        let root = Place {
            at: document.at,
            path: String::new(),
        };
        importer.note(
            &root,
            "version is missing, and this is read as version \"1\"; write version: \"1\" to say so",
        );
    }
    importer.document(&document, entries)?;
    let Importer {
        default,
        rules,
        notes,
        ..
    } = importer;
    let policies = split::policies(rules, default, server)
        .map_err(|message| ImportError { at: None, message })?;
    Ok(Imported {
        policies,
        notes: notes.finish(),
    })
}

struct Importer {
    default: DefaultAction,
    rules: Vec<Rule>,
    notes: Notes,
    names: BTreeSet<String>,
    /// Tools that are denied already because something about them could not be carried over.
    closed: BTreeSet<String>,
    /// Counters by their names here: two never become one.
    counters: BTreeMap<String, Bound>,
    /// Tools that the document lists, which is what allows them where the default is deny.
    listed: Vec<String>,
}

/// A counter, and what it bounds.
struct Bound {
    there: String,
    here: String,
    bound: (f64, &'static str, Scope),
    tools: Vec<String>,
    place: Place,
}

impl Importer {
    fn document(&mut self, document: &Node, entries: &[Entry]) -> Result<(), ImportError> {
        let root = Place {
            at: document.at,
            path: String::new(),
        };
        let known = [
            "version",
            "description",
            "default",
            "hide",
            "tools",
            "all_tools",
            "approvals",
        ];
        for unknown in entries.iter().filter(|found| !known.contains(&&*found.key)) {
            let why = format!("the key {:?} of a policy is not known", unknown.key);
            self.closed("*", &root.key(&unknown.key, unknown.at), &why);
        }
        if let Err((at, why)) = condition::text_of(document, "description") {
            self.closed("*", &root.key("description", at), &why);
        }
        if let Some(approvals) = document.get("approvals") {
            self.note(
                &root.key("approvals", approvals.at),
                "how people are asked for approval is not part of a policy here; \
                      requests without an approval_timeout stay open for 30m",
            );
        }
        self.default_action(document, &root)?;
        self.hide(&root, document.get("hide"));
        let tools: &[Entry] = match document.get("tools").map(|tools| (tools, tools.map())) {
            None => &[],
            Some((_, Some(tools))) => tools,
            Some((tools, None)) => {
                let why = format!(
                    "tools must be a mapping of names, and this is {}",
                    tools.kind()
                );
                self.closed("*", &root.key("tools", tools.at), &why);
                &[]
            }
        };
        let named = tools.iter().filter(|entry| !entry.key.contains('*'));
        self.listed = named.map(|entry| entry.key.clone()).collect();
        // Where the default is deny, being listed is what allows a tool.
        if self.default == DefaultAction::Deny {
            self.named("listed", &self.listed.clone(), Action::Allow);
        }
        self.all_tools(&root, document.get("all_tools"));
        let place = root.key("tools", document.at);
        for entry in tools {
            self.tool(&place.key(&entry.key, entry.at), entry);
        }
        if self.default == DefaultAction::Deny && self.listed.is_empty() {
            self.note(&root, "default: deny without any tool listed denies every tool, not only the hidden ones; list the tools \
                       that should stay usable in a rule with action: Allow");
        }
        self.note(&root, "the source does not govern prompts and resources; here they are hidden until a rule allows \
        them");
        if self.rules.iter().any(|rule| !rule.limits.is_empty()) {
            self.note(&root, "limits there reset with the calendar minute, hour or day; here they hold over any window of that \
                       length, so that bursts across a reset are refused");
        }
        if self.rules.iter().any(|rule| rule.when.is_some()) {
            self.note(&root, "a condition denies a call if the source would deny the arguments as sent or as the \
            server reads them; the arguments of such a tool must also match its schema");
        }
        Ok(())
    }

    fn default_action(&mut self, document: &Node, root: &Place) -> Result<(), ImportError> {
        let Some(default) = document.get("default") else {
            self.notes.add(
                true,
                root,
                "default is missing and is not guessed: tools that are not listed are denied; \
                       write default: allow (as Intercept reads it) or default: deny"
                    .to_owned(),
            );
            return Ok(());
        };
        self.default = match default.text() {
            Some("deny") => DefaultAction::Deny,
            Some("allow") => DefaultAction::Allow,
            other => {
                let found = other.unwrap_or(default.kind());
                let message = format!("default is {found:?} and must be \"allow\" or \"deny\"");
                return Err(ImportError::at(default.at, message));
            }
        };
        Ok(())
    }

    fn note(&mut self, place: &Place, note: impl Into<String>) {
        self.notes.add(false, place, note.into());
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
            by: RuleCallers::default(),
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
    fn closed(&mut self, tool: &str, place: &Place, why: &str) {
        let text = format!("{why}; {} is denied until you correct that", shown(tool));
        self.notes.add(true, place, text);
        if self.closed.insert(tool.to_owned()) {
            let reason = Some("A rule of the source could not be imported.".to_owned());
            self.deny(tool, "unclear", None, reason);
        }
    }

    fn hide(&mut self, root: &Place, hide: Option<&Node>) {
        let Some(hide) = hide else { return };
        let place = root.key("hide", hide.at);
        let Some(items) = hide.list() else {
            let why = format!("hide must be a list of names, and this is {}", hide.kind());
            return self.closed("*", &place, &why);
        };
        let mut names = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let place = place.index(i, item.at);
            match item.text().filter(|name| !name.trim().is_empty()) {
                Some(name) => {
                    if name != "*" && name.contains('*') {
                        self.note(
                            &place,
                            format!(
                                "{name:?} is a pattern here and hides every tool that it matches"
                            ),
                        );
                    }
                    names.push(name.to_owned());
                }
                None => {
                    let why = format!("hide must list names, and this is {}", item.kind());
                    self.closed("*", &place, &why);
                }
            }
        }
        self.named("hidden", &names, Action::Hide);
    }

    fn all_tools(&mut self, root: &Place, all: Option<&Node>) {
        let Some(all) = all else { return };
        let place = root.key("all_tools", all.at);
        let Some(entries) = all.map() else {
            let why = format!("all_tools must be a mapping, and this is {}", all.kind());
            return self.closed("*", &place, &why);
        };
        for unknown in entries
            .iter()
            .filter(|entry| !["limits", "description"].contains(&&*entry.key))
        {
            let why = format!("the key {:?} of all_tools is not known", unknown.key);
            self.closed("*", &place.key(&unknown.key, unknown.at), &why);
        }
        if let Err((at, why)) = condition::text_of(all, "description") {
            self.closed("*", &place.key("description", at), &why);
        }
        self.limits("*", &place.key("limits", all.at), all.get("limits"));
    }
}
