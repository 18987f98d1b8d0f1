//! What a document says of one tool, as rules.
//!
//! In: the tool's entry. Out: rules in the importer: actions, `deny_if` and `require`, and Intercept's lists of rules. Must
//! not do: leave a tool open about which something was written that is not understood.

use super::Importer;
use super::condition::{self, Polarity};
use super::names::{keys, plain_name, text};
use crate::api::policy::{Action, DefaultAction, Limit};
use serde_json::{Map, Value};

impl Importer {
    pub(super) fn tool(&mut self, tool: &str, entry: &Value) {
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

    pub(super) fn deny(
        &mut self,
        tool: &str,
        name: &str,
        when: Option<String>,
        reason: Option<String>,
    ) {
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
}
