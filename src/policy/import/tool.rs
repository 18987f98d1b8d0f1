//! Converts a document's entry for one tool to rules.
//!
//! In: the tool's entry. Out: rules in the importer: actions, `deny_if` and `require`, and
//! Intercept's lists of rules. Must not do: leave a tool open if part of its entry is not
//! understood.

use super::Importer;
use super::condition::{self, Flaw, Polarity, text_of};
use super::limits::known;
use super::names::{self, plain_name};
use super::note::Place;
use super::read::{Entry, Node};
use crate::api::DurationString;
use crate::api::policy::{Action, ApprovalRule, DefaultAction, Limit};
use crate::policy::check::Condition;
use std::time::Duration;

/// Names that one rule may have.
const MAX_NAMES: usize = 128;

impl Importer {
    pub(super) fn tool(&mut self, place: &Place, entry: &Entry) {
        let (tool, node) = (&*entry.key, &entry.value);
        if tool != "*" && tool.contains('*') {
            // It was never listed as allowed; denying what the pattern matches is the strict
            // reading where all is allowed.
            return self.closed(tool, place, "its name would be a pattern here");
        }
        if node.is_null() {
            return;
        }
        let Some(entries) = node.map() else {
            let why = format!("a tool must be a mapping, and this is {}", node.kind());
            return self.closed(tool, &place.moved(node.at), &why);
        };
        let keys = [
            "rules",
            "limits",
            "deny_if",
            "require",
            "rate_limit",
            "action",
            "reason",
            "on_deny",
            "description",
            "approval_timeout",
        ];
        for unknown in entries.iter().filter(|found| !keys.contains(&&*found.key)) {
            let why = format!("the key {:?} of a tool is not known", unknown.key);
            self.closed(tool, &place.key(&unknown.key, unknown.at), &why);
        }
        for key in ["reason", "on_deny", "description"] {
            if let Err((at, why)) = text_of(node, key) {
                self.closed(tool, &place.key(key, at), &why);
            }
        }
        let reason = names::reason(node, &["reason", "on_deny"]);
        match text_of(node, "action") {
            Err((at, why)) => self.closed(tool, &place.key("action", at), &why),
            Ok(None | Some("" | "allow" | "evaluate")) => {}
            Ok(Some("deny")) => self.deny(tool, "denied", None, reason.clone()),
            Ok(Some("hide")) => self.rule(
                &format!("{}-hidden", plain_name(tool)),
                vec![tool.to_owned()],
                Action::Hide,
                |_| {},
            ),
            Ok(Some("approve" | "require_approval")) => {
                self.approval(tool, place, node, reason.clone());
            }
            Ok(Some(other)) => {
                let at = node.get("action").map_or(place.at, |action| action.at);
                self.closed(
                    tool,
                    &place.key("action", at),
                    &format!("the action {other:?} is not known"),
                );
            }
        }
        for (field, polarity) in [
            ("deny_if", Polarity::DenyIf),
            ("require", Polarity::Require),
        ] {
            let place = place.key(field, node.at);
            self.conditions(tool, &place, node.get(field), polarity);
        }
        self.limits(tool, &place.key("limits", node.at), node.get("limits"));
        if let Some(rate) = node.get("rate_limit") {
            self.rate(tool, &place.key("rate_limit", rate.at), rate, reason);
        }
        match node.get("rules").map(|rules| (rules, rules.list())) {
            None => {}
            Some((_, Some(rules))) => {
                for (i, rule) in rules.iter().enumerate() {
                    let place = place.key("rules", rule.at).index(i, rule.at);
                    if let Err((at, why)) = self.intercept(tool, &place, rule) {
                        self.closed(tool, &place.moved(at), &why);
                    }
                }
            }
            Some((rules, None)) => {
                let why = format!("rules must be a list, and this is {}", rules.kind());
                self.closed(tool, &place.key("rules", rules.at), &why);
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

    /// A rule that counts what is allowed anyway.
    pub(super) fn allow_with(&mut self, tool: &str, limit: Limit, reason: Option<String>) {
        self.reaching(tool, "limits", Action::Allow, |rule| {
            rule.limits = vec![limit.clone()];
            rule.reason.clone_from(&reason);
        });
    }

    /// Rules that let calls through: a wildcard's reach the tools that are allowed anyway, and must
    /// not allow others.
    fn reaching(
        &mut self,
        tool: &str,
        name: &str,
        action: Action,
        fill: impl Fn(&mut crate::api::policy::Rule),
    ) {
        let names = match (tool, self.default) {
            ("*", DefaultAction::Allow) => vec!["*".to_owned()],
            ("*", _) => self.listed.clone(),
            _ => vec![tool.to_owned()],
        };
        for names in names.chunks(MAX_NAMES) {
            let name = format!("{}-{name}", plain_name(tool));
            self.rule(&name, names.to_vec(), action, &fill);
        }
    }

    /// Names in as many rules as they need.
    pub(super) fn named(&mut self, name: &str, names: &[String], action: Action) {
        for names in names.chunks(MAX_NAMES) {
            self.rule(name, names.to_vec(), action, |_| {});
        }
    }

    /// Every call needs approval.
    fn approval(&mut self, tool: &str, place: &Place, node: &Node, reason: Option<String>) {
        let expires_after = match text_of(node, "approval_timeout")
            .and_then(|text| expiry(node, text))
        {
            Ok(expires_after) => expires_after,
            Err((at, why)) => return self.closed(tool, &place.key("approval_timeout", at), &why),
        };
        self.reaching(tool, "approval", Action::RequireApproval, |rule| {
            rule.approval = expires_after.clone().map(|expires_after| ApprovalRule {
                expires_after: Some(expires_after),
                ..ApprovalRule::default()
            });
            rule.reason.clone_from(&reason);
        });
    }

    /// `deny_if` denies when an entry holds, `require` when one does not.
    fn conditions(
        &mut self,
        tool: &str,
        place: &Place,
        conditions: Option<&Node>,
        polarity: Polarity,
    ) {
        let Some(conditions) = conditions else { return };
        let place = place.moved(conditions.at);
        let Some(entries) = conditions.list() else {
            let why = format!(
                "conditions must be a list, and this is {}",
                conditions.kind()
            );
            return self.closed(tool, &place, &why);
        };
        if polarity == Polarity::DenyIf && entries.len() > 1 {
            self.note(&place, "each entry of deny_if denies on its own; if all of them must hold, join them in one \
            rule");
        }
        for (i, entry) in entries.iter().enumerate() {
            let place = place.index(i, entry.at);
            let denied = match entry.get("conditions") {
                Some(_) => self.joined(tool, &place, entry, polarity),
                None => self.deny_by(tool, &place, polarity.name(), entry, polarity, None),
            };
            match denied {
                Ok(()) => {}
                Err((at, why)) => self.closed(tool, &place.moved(at), &why),
            }
        }
    }

    /// An entry with several conditions, which hold together: `deny_if` denies what meets all of
    /// them, `require` what does not meet one. Without a condition, all of them always hold.
    fn joined(
        &mut self,
        tool: &str,
        place: &Place,
        entry: &Node,
        polarity: Polarity,
    ) -> Result<(), Flaw> {
        known(
            entry,
            &["conditions", "on_deny", "reason", "name", "description"],
            "an entry with conditions",
        )?;
        for key in ["on_deny", "reason", "name", "description"] {
            text_of(entry, key)?;
        }
        let reason = names::reason(entry, &["on_deny", "reason"]);
        let found = entry.get("conditions");
        let conditions = found.and_then(Node::list).ok_or_else(|| {
            (
                found.map_or(entry.at, |found| found.at),
                format!(
                    "conditions must be a list, and this is {}",
                    found.map_or("missing", Node::kind)
                ),
            )
        })?;
        if polarity == Polarity::Require {
            if conditions.is_empty() {
                self.note(
                    place,
                    "this requires nothing, so every call meets it; remove it, or write its conditions",
                );
            }
            for condition in conditions {
                let place = place.moved(condition.at);
                self.deny_by(
                    tool,
                    &place,
                    polarity.name(),
                    condition,
                    polarity,
                    reason.as_ref(),
                )?;
            }
            return Ok(());
        }
        let mut terms = Vec::new();
        let mut reasons = reason;
        for condition in conditions {
            let denial = condition::deny_when(condition, polarity)?;
            if denial.no_lists {
                self.note(
                    &place.moved(condition.at),
                    "the text begins like a printed list or object, so an argument that is a \
                list or an object is refused here",
                );
            }
            reasons = reasons.or(denial.reason);
            terms.push(denial.when);
        }
        let when = match terms.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            terms => {
                let joined: Vec<String> = terms.iter().map(|term| format!("({term})")).collect();
                Some(joined.join(" && "))
            }
        };
        if let Some(when) = &when {
            Condition::compile(when).map_err(|fault| {
                (
                    entry.at,
                    format!(
                        "these conditions together cannot be written in CEL: {}",
                        fault.message
                    ),
                )
            })?;
        }
        self.deny(tool, polarity.name(), when, reasons);
        Ok(())
    }

    fn deny_by(
        &mut self,
        tool: &str,
        place: &Place,
        name: &str,
        entry: &Node,
        polarity: Polarity,
        reason: Option<&String>,
    ) -> Result<(), Flaw> {
        let denial = condition::deny_when(entry, polarity)?;
        if denial.no_lists {
            self.note(place, "the text begins like a printed list or object, so an argument that is a list or an \
            object is refused here");
        }
        let reason = denial.reason.or_else(|| reason.cloned());
        self.deny(tool, name, Some(denial.when), reason);
        Ok(())
    }

    /// One rule of Intercept: all its conditions must hold, else the call is denied.
    fn intercept(&mut self, tool: &str, place: &Place, rule: &Node) -> Result<(), Flaw> {
        let keys = [
            "name",
            "action",
            "rate_limit",
            "conditions",
            "on_deny",
            "state",
            "description",
            "approval_timeout",
        ];
        known(rule, &keys, "a rule")?;
        text_of(rule, "description")?;
        text_of(rule, "on_deny")?;
        let reason = names::reason(rule, &["on_deny"]);
        let name = text_of(rule, "name")?.unwrap_or("rule");
        let conditions = match rule.get("conditions") {
            None => &[],
            Some(conditions) => conditions.list().ok_or_else(|| {
                (
                    conditions.at,
                    format!(
                        "conditions must be a list, and this is {}",
                        conditions.kind()
                    ),
                )
            })?,
        };
        match text_of(rule, "action")? {
            None | Some("" | "evaluate") => {
                if conditions.is_empty() && rule.get("rate_limit").is_none() {
                    return Err((rule.at, "the rule has neither conditions nor a rate_limit, so it is unclear what it is for".to_owned()));
                }
            }
            Some("deny") => {
                self.deny(tool, name, None, reason);
                return Ok(());
            }
            Some("require_approval") => {
                if !conditions.is_empty() {
                    self.note(place, "here every call needs approval, even if the conditions of the rule do not hold; \
                    write a rule with action: RequireApproval and a when to require it less often");
                }
                self.approval(tool, place, rule, reason.clone());
                if rule.get("state").is_some() {
                    return Err((rule.at, "a counter in a rule that asks for approval has no equivalent; write a rule of its own".to_owned()));
                }
                if let Some(rate) = rule.get("rate_limit") {
                    self.rate(tool, &place.key("rate_limit", rate.at), rate, reason);
                }
                return Ok(());
            }
            Some(other) => return Err((rule.at, format!("the action {other:?} is not known"))),
        }
        if let Some(timeout) = rule.get("approval_timeout") {
            return Err((
                timeout.at,
                "approval_timeout is for rules with action: require_approval".to_owned(),
            ));
        }
        if let Some(rate) = rule.get("rate_limit") {
            if !conditions.is_empty() || rule.get("state").is_some() {
                return Err((
                    rate.at,
                    "rate_limit cannot be combined with conditions or state; write two rules"
                        .to_owned(),
                ));
            }
            self.rate(tool, &place.key("rate_limit", rate.at), rate, reason);
            return Ok(());
        }
        let (mut on_args, mut on_state) = (Vec::new(), Vec::new());
        for condition in conditions {
            match condition.get("path").and_then(Node::text) {
                Some(path) if path.starts_with("state.") => on_state.push(condition),
                _ => on_args.push(condition),
            }
        }
        for condition in on_args {
            let place = place.moved(condition.at);
            self.deny_by(
                tool,
                &place,
                name,
                condition,
                Polarity::Require,
                reason.as_ref(),
            )?;
        }
        self.counted(tool, place, rule, &on_state)
    }
}

/// How long a request for approval stays open.
fn expiry(node: &Node, text: Option<&str>) -> Result<Option<DurationString>, Flaw> {
    let Some(text) = text else { return Ok(None) };
    let duration = DurationString::from(text);
    let longest = Duration::from_secs(31 * 86_400);
    match duration.parse() {
        Ok(time) if time >= Duration::from_secs(1) && time <= longest => Ok(Some(duration)),
        _ => {
            let at = node
                .get("approval_timeout")
                .map_or(node.at, |timeout| timeout.at);
            Err((
                at,
                format!(
                    "approval_timeout must be a duration from 1s to 31d such as 10m, and this is {text:?}"
                ),
            ))
        }
    }
}
