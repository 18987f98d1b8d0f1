//! PolicyLayer's `policy.json` and Intercept's YAML to an McpPolicy.
//!
//! In: the text of such a document (version "1": default, hide, tools with rules or limits, deny_if and require, all_tools).
//! Out: a policy that is never looser than what it came from, and a note on everything that has no equivalent. What cannot
//! be carried over denies its tool until a person looks. Must not do: drop anything silently.

mod condition;
#[cfg(test)]
mod tests;

use super::compile::diagnose_policy;
use super::diagnostic::Level;
use crate::api::policy::{
    Action, DefaultAction, Limit, McpPolicySpec, Rule, Scope, TargetRef, ToolSelector,
};
use crate::api::{DurationString, GROUP};
use condition::Polarity;
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

fn keys<'m>(map: &'m Map<String, Value>, known: &[&str]) -> Vec<&'m str> {
    map.keys()
        .map(String::as_str)
        .filter(|key| !known.contains(key))
        .collect()
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

    fn tool(&mut self, tool: &str, entry: &Value) {
        let at = format!("tools.{tool}");
        if tool != "*" && tool.contains('*') {
            // It was never listed as allowed; denying what the pattern matches is the strict reading where all is allowed.
            self.closed(tool, &at, "its name would be a pattern here");
            return;
        }
        let empty = Map::new();
        let entry = match entry {
            Value::Null => &empty,
            Value::Object(entry) => entry,
            _ => return self.closed(tool, &at, "it is no object"),
        };
        let known = [
            "rules",
            "limits",
            "deny_if",
            "require",
            "rate_limit",
            "action",
            "reason",
            "on_deny",
            "description",
        ];
        for key in keys(entry, &known) {
            self.closed(tool, &format!("{at}.{key}"), "it has no equivalent");
        }
        let reason = text(entry, &["reason", "on_deny"]);
        match entry
            .get("action")
            .map(|action| action.as_str().unwrap_or_default())
        {
            None | Some("allow" | "evaluate") => {}
            Some("deny") => self.deny(tool, "denied", None, reason.clone()),
            Some("hide") => self.rule(
                &format!("{}-hidden", plain_name(tool)),
                vec![tool.to_owned()],
                Action::Hide,
                |_| {},
            ),
            Some("approve" | "require_approval") => {
                let name = format!("{}-approval", plain_name(tool));
                self.rule(
                    &name,
                    vec![tool.to_owned()],
                    Action::RequireApproval,
                    |_| {},
                );
            }
            Some(other) => self.closed(
                tool,
                &format!("{at}.action"),
                &format!("{other:?} has no equivalent"),
            ),
        }
        for (field, polarity) in [
            ("deny_if", Polarity::DenyIf),
            ("require", Polarity::Require),
        ] {
            self.conditions(tool, &format!("{at}.{field}"), entry.get(field), polarity);
        }
        let mut limits = self.limits(tool, &format!("{at}.limits"), entry.get("limits"));
        if let Some(rate) = entry.get("rate_limit") {
            limits.extend(self.rate(tool, &format!("{at}.rate_limit"), rate));
        }
        match entry.get("rules") {
            None | Some(Value::Null) => {}
            Some(Value::Array(rules)) => {
                for (i, rule) in rules.iter().enumerate() {
                    limits.extend(self.intercept(tool, &format!("{at}.rules[{i}]"), rule));
                }
            }
            Some(_) => self.closed(tool, &format!("{at}.rules"), "it is no list"),
        }
        if !limits.is_empty() {
            // A wildcard's limits reach the tools that are allowed anyway, and must not allow others.
            let names = match (tool, self.default) {
                ("*", DefaultAction::Allow) => vec!["*".to_owned()],
                ("*", _) => self.listed.clone(),
                _ => vec![tool.to_owned()],
            };
            if !names.is_empty() {
                self.rule(
                    &format!("{}-limits", plain_name(tool)),
                    names,
                    Action::Allow,
                    |rule| rule.limits = limits,
                );
            }
        }
    }

    fn deny(&mut self, tool: &str, name: &str, when: Option<String>, reason: Option<String>) {
        self.rule(
            &format!("{}-{name}", plain_name(tool)),
            vec![tool.to_owned()],
            Action::Deny,
            |rule| {
                rule.when = when;
                rule.reason = reason;
            },
        );
    }

    /// `deny_if` denies when an entry holds, `require` when one does not.
    fn conditions(&mut self, tool: &str, at: &str, conditions: Option<&Value>, polarity: Polarity) {
        let entries = match conditions {
            None | Some(Value::Null) => return,
            Some(Value::Array(entries)) => entries,
            Some(_) => return self.closed(tool, at, "it is no list"),
        };
        if polarity == Polarity::DenyIf && entries.len() > 1 {
            self.note(format!("{at}: each entry denies by itself; if all had to hold together, join them in one rule"));
        }
        for (i, entry) in entries.iter().enumerate() {
            match condition::deny_when(entry, polarity) {
                Ok((when, reason)) => self.deny(tool, polarity.name(), Some(when), reason),
                Err(why) => self.closed(tool, &format!("{at}[{i}]"), &why),
            }
        }
    }

    /// One rule of Intercept: all its conditions must hold, else the call is denied.
    fn intercept(&mut self, tool: &str, at: &str, rule: &Value) -> Vec<Limit> {
        let Some(rule) = rule.as_object() else {
            self.closed(tool, at, "it is no object");
            return Vec::new();
        };
        for key in keys(
            rule,
            &[
                "name",
                "action",
                "rate_limit",
                "conditions",
                "on_deny",
                "state",
            ],
        ) {
            self.closed(tool, &format!("{at}.{key}"), "it has no equivalent");
        }
        let reason = text(rule, &["on_deny"]);
        let name = text(rule, &["name"]).unwrap_or_else(|| "rule".to_owned());
        match rule
            .get("action")
            .map(|action| action.as_str().unwrap_or_default())
        {
            None | Some("" | "evaluate") => {}
            Some("deny") => {
                self.deny(tool, &name, None, reason);
                return Vec::new();
            }
            Some(other) => {
                self.closed(tool, at, &format!("the action {other:?} has no equivalent"));
                return Vec::new();
            }
        }
        let mut limits = Vec::new();
        if let Some(rate) = rule.get("rate_limit") {
            limits.extend(self.rate(tool, &format!("{at}.rate_limit"), rate));
        }
        let (mut on_args, mut on_state) = (Vec::new(), Vec::new());
        for condition in rule
            .get("conditions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if condition
                .get("path")
                .and_then(Value::as_str)
                .is_some_and(|path| path.starts_with("state."))
            {
                on_state.push(condition);
            } else {
                on_args.push(condition);
            }
        }
        for condition in on_args {
            match condition::deny_when(condition, Polarity::Require) {
                Ok((when, own)) => {
                    self.deny(tool, &name, Some(when), own.or_else(|| reason.clone()))
                }
                Err(why) => self.closed(tool, at, &why),
            }
        }
        match self.counted(tool, at, rule.get("state"), &on_state) {
            Ok(limit) => limits.extend(limit),
            Err(why) => self.closed(tool, at, &why),
        }
        limits
    }

    /// A counter with its bound: the state of a rule together with the condition on it.
    fn counted(
        &mut self,
        tool: &str,
        at: &str,
        state: Option<&Value>,
        conditions: &[&Value],
    ) -> Result<Option<Limit>, String> {
        let state = match (state.and_then(Value::as_object), conditions) {
            (None, []) => return Ok(None),
            (Some(state), [_]) => state,
            (Some(_), []) => {
                return Err("a counter without a condition on it has no equivalent".to_owned());
            }
            _ => {
                return Err(
                    "a condition on a counter that another rule counts has no equivalent"
                        .to_owned(),
                );
            }
        };
        let condition = conditions
            .first()
            .ok_or("a counter without a condition has no equivalent")?;
        let counter = state
            .get("counter")
            .and_then(Value::as_str)
            .ok_or("the counter has no name")?;
        let scope = if tool == "*" { "_global" } else { tool };
        if condition.get("path").and_then(Value::as_str)
            != Some(&format!("state.{scope}.{counter}"))
        {
            return Err(
                "a condition on a counter that another rule counts has no equivalent".to_owned(),
            );
        }
        let bound = condition
            .get("value")
            .and_then(Value::as_i64)
            .ok_or("the bound of the counter is no integer")?;
        let max = match condition.get("op").and_then(Value::as_str) {
            Some("lte") => bound,
            Some("lt") => bound.saturating_sub(1),
            other => {
                return Err(format!(
                    "the operator {other:?} on a counter has no equivalent"
                ));
            }
        };
        let window = window(state.get("window"))?;
        let cost = match (
            state.get("increment_from").and_then(Value::as_str),
            state.get("increment").and_then(Value::as_i64),
        ) {
            (Some(path), _) => {
                self.note(format!("{at}.state: {path} must be a non-negative integer here, else the call is denied"));
                Some(condition::accessor(path)?)
            }
            (None, Some(increment)) if increment > 1 => Some(increment.to_string()),
            _ => None,
        };
        self.scope_note(at);
        self.limit(
            tool,
            at,
            &format!("{scope}.{counter}"),
            max,
            window,
            Scope::Server,
            cost,
        )
    }

    fn scope_note(&mut self, at: &str) {
        self.note(format!(
            "{at}: the counter was one for the whole proxy, so its scope is Server; write Grant to count each caller apart"
        ));
    }

    fn rate(&mut self, tool: &str, at: &str, rate: &Value) -> Option<Limit> {
        let parsed = match rate {
            Value::String(text) => text
                .split_once('/')
                .and_then(|(count, unit)| Some((count.parse().ok()?, Value::from(unit))))
                .ok_or_else(|| format!("{text:?} is not written count/window")),
            Value::Object(rate) => {
                match (rate.get("max").and_then(Value::as_i64), rate.get("window")) {
                    (Some(max), Some(unit)) => Ok((max, unit.clone())),
                    _ => Err("it needs max and window".to_owned()),
                }
            }
            _ => Err("it is neither text nor an object".to_owned()),
        };
        let limit = parsed.and_then(|(max, unit)| {
            let window = window(Some(&unit))?;
            let counter = format!("{}-{window}", plain_name(tool));
            self.scope_note(at);
            self.limit(tool, at, &counter, max, window, Scope::Server, None)
        });
        match limit {
            Ok(limit) => limit,
            Err(why) => {
                self.closed(tool, at, &why);
                None
            }
        }
    }

    /// The name here of a counter there.
    fn counter(&mut self, there: &str) -> String {
        if let Some(here) = self.counters.get(there) {
            return here.clone();
        }
        let here = distinct(&label(there), |name| {
            self.counters.values().any(|taken| taken == name)
        });
        self.counters.insert(there.to_owned(), here.clone());
        here
    }

    fn limits(&mut self, tool: &str, at: &str, limits: Option<&Value>) -> Vec<Limit> {
        let entries = match limits {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(_) => {
                self.closed(tool, at, "it is no list");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let at = format!("{at}[{i}]");
            match self.quota(tool, &at, entry) {
                Ok(limit) => found.extend(limit),
                Err(why) => self.closed(tool, &at, &why),
            }
        }
        found
    }

    /// One limit of PolicyLayer.
    fn quota(&mut self, tool: &str, at: &str, entry: &Value) -> Result<Option<Limit>, String> {
        let entry = entry.as_object().ok_or("it is no object")?;
        let known = [
            "counter",
            "window",
            "max",
            "scope",
            "increment",
            "increment_from",
            "on_deny",
            "name",
            "reason",
        ];
        if let Some(key) = keys(entry, &known).first() {
            return Err(format!("{key} has no equivalent"));
        }
        let counter = entry
            .get("counter")
            .and_then(Value::as_str)
            .ok_or("the limit has no counter")?;
        let max = entry
            .get("max")
            .and_then(Value::as_i64)
            .ok_or("max is no integer")?;
        let window = window(entry.get("window"))?;
        let scope = match entry
            .get("scope")
            .map(|scope| scope.as_str().unwrap_or_default())
        {
            Some("grant") => Scope::Grant,
            Some("session") => Scope::Session,
            Some("server" | "global") => Scope::Server,
            other => {
                self.note(format!(
                    "{at}.scope: {other:?} has no equivalent; the widest, Server, is used"
                ));
                Scope::Server
            }
        };
        let cost = match (
            entry.get("increment_from").and_then(Value::as_str),
            entry.get("increment").and_then(Value::as_i64),
        ) {
            (Some(path), _) => Some(condition::accessor(path)?),
            (None, Some(increment)) if increment > 1 => Some(increment.to_string()),
            _ => None,
        };
        self.limit(tool, at, counter, max, window, scope, cost)
    }

    #[expect(clippy::too_many_arguments, reason = "these are the fields of a limit")]
    fn limit(
        &mut self,
        tool: &str,
        at: &str,
        counter: &str,
        max: i64,
        window: &str,
        scope: Scope,
        cost: Option<String>,
    ) -> Result<Option<Limit>, String> {
        if max < 1 {
            self.note(format!(
                "{at}: a limit of {max} never lets a call through, so it became a Deny rule"
            ));
            self.deny(tool, "limit-of-none", None, None);
            return Ok(None);
        }
        Ok(Some(Limit {
            counter: self.counter(counter),
            max,
            window: DurationString::from(window),
            scope: Some(scope),
            cost,
            unknown: Default::default(),
        }))
    }
}

/// A name as the API takes it: lower-case letters, digits and `-`, with room left for a number.
fn label(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let short: String = plain.trim_matches('-').chars().take(56).collect();
    match short.trim_end_matches('-') {
        "" => "imported".to_owned(),
        label => label.to_owned(),
    }
}

/// The label, with a number if it is taken.
fn distinct(label: &str, mut taken: impl FnMut(&str) -> bool) -> String {
    let mut unique = label.to_owned();
    let mut count = 2;
    while taken(&unique) {
        unique = format!("{label}-{count}");
        count += 1;
    }
    unique
}

fn window(window: Option<&Value>) -> Result<&'static str, String> {
    match window {
        Some(Value::String(text)) => match text.as_str() {
            "minute" => Ok("1m"),
            "hour" => Ok("1h"),
            "day" => Ok("1d"),
            other => Err(format!("the window {other:?} is not known")),
        },
        Some(Value::Number(seconds)) => match seconds.as_u64() {
            Some(60) => Ok("1m"),
            Some(3_600) => Ok("1h"),
            Some(86_400) => Ok("1d"),
            _ => Err(format!("the window of {seconds} seconds is not known")),
        },
        _ => Err("there is no window".to_owned()),
    }
}

fn text(map: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    let text = keys
        .iter()
        .find_map(|key| map.get(*key))
        .and_then(Value::as_str)?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(400).collect();
    (!text.is_empty()).then_some(text)
}

fn plain_name(tool: &str) -> &str {
    if tool == "*" { "all-tools" } else { tool }
}

fn shown(tool: &str) -> String {
    if tool == "*" {
        "every tool is".to_owned()
    } else {
        format!("the tool {tool} is")
    }
}
