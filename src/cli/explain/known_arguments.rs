//! The arguments of a call, as far as a line of the audit log and the user of the command say them.
//!
//! In: the `arguments` of a line, and values given by hand. Out: one JSON object of what is known,
//! and which of the others a rule reads. Must not do: make a value up.

use std::borrow::Cow;

use super::audit_lines::AuditLine;
use crate::cli::output::{Failure, visible};
use crate::json::{self, Kind, Value};
use crate::policy::check::Reads;
use crate::policy::preview::REDACTED;

/// What is known of the arguments.
pub(super) struct Known {
    /// The known ones, as one JSON object.
    pub text: String,
    /// Names of arguments whose values are not known.
    names: Vec<String>,
    /// There may be others, of which not even the names are known.
    open: bool,
    /// The values are not in the log because of `spec.audit.arguments`, not because of `redact`.
    only_names: bool,
}

/// Reads what a line says, and what is given in place of missing values.
///
/// # Errors
/// When the given text is not an object.
pub(super) fn known(line: &AuditLine, given: Option<&str>) -> Result<Known, Failure> {
    let given = given.map(super::object).transpose()?;
    let given_members = match &given {
        Some(text) => json::members(text.as_bytes()).unwrap_or_default(),
        None => Vec::new(),
    };
    let logged = line.arguments.as_ref().map(|raw| raw.get());
    let mut members: Vec<(Cow<'_, str>, &str)> = Vec::new();
    let mut names = Vec::new();
    let mut only_names = false;
    let mut open = line.arguments_omitted.is_some() && given.is_none();
    match logged.map(|text| (text, json::parse(text.as_bytes()))) {
        Some((text, Ok(Value::Object(_)))) => {
            for member in json::members(text.as_bytes()).unwrap_or_default() {
                let whole = json::parse(member.raw.as_bytes()).is_ok_and(|value| !redacted(&value));
                if whole {
                    members.push((member.key, member.raw));
                } else {
                    names.push(member.key.into_owned());
                }
            }
        }
        Some((_, Ok(Value::Array(listed)))) => {
            only_names = true;
            names.extend(listed.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        // With `audit.arguments: None` the line has none; a call without arguments looks the same.
        _ => {
            only_names = true;
            open = given.is_none();
        }
    }
    for member in &given_members {
        names.retain(|name| *name != member.key);
        members.retain(|(name, _)| *name != member.key);
        members.push((member.key.clone(), member.raw));
    }
    let mut text = String::from("{");
    for (index, (name, raw)) in members.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        json::write_string(&mut text, name);
        text.push(':');
        text.push_str(raw);
    }
    text.push('}');
    Ok(Known {
        text,
        names,
        open,
        only_names,
    })
}

/// Whether something was taken out of a value before it was logged.
fn redacted(value: &Value<'_>) -> bool {
    match value.kind() {
        Kind::String => value.as_str() == Some(REDACTED),
        Kind::Array => value.as_array().unwrap_or_default().iter().any(redacted),
        Kind::Object => value
            .as_object()
            .unwrap_or_default()
            .iter()
            .any(|(_, value)| redacted(value)),
        _ => false,
    }
}

impl Known {
    /// Whether nothing is missing.
    pub fn complete(&self) -> bool {
        self.names.is_empty() && !self.open
    }

    /// What is missing that these rules read, in words.
    pub fn unknown_to<'r>(&self, rules: impl Iterator<Item = &'r Reads> + Clone) -> Option<String> {
        let read = |name: &str| rules.clone().any(|reads| reads.reads(name));
        let names: Vec<String> = self
            .names
            .iter()
            .filter(|name| read(name))
            .map(|name| format!("`{}`", visible(name)))
            .collect();
        if !names.is_empty() {
            return Some(format!(
                "the rules read {}, and {}",
                names.join(", "),
                self.why()
            ));
        }
        let open = self.open && rules.clone().any(Reads::some);
        open.then(|| format!("the rules read arguments, and {}", self.why()))
    }

    /// What is missing, in words.
    pub fn describe(&self) -> String {
        format!(
            "the arguments are checked against the listing, and {}",
            self.why()
        )
    }

    fn why(&self) -> &'static str {
        match (self.only_names, self.names.is_empty()) {
            (true, true) => {
                "the log has no arguments of this call (`spec.audit.arguments: None`, or the call had none)"
            }
            (true, false) => {
                "the log has only the names of the arguments (`spec.audit.arguments: Keys`)"
            }
            (false, _) => "the log has this value redacted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check::Condition;

    fn line(arguments: &str) -> AuditLine {
        let rest = r#""v":1,"time":"2026-11-21T11:59:02.4Z","decisionId":"a-1","event":"decision","server":"ml/mlflow""#;
        serde_json::from_str(&format!("{{{rest}{arguments}}}")).unwrap()
    }

    fn reads(condition: &str) -> Reads {
        Condition::compile(condition).unwrap().reads().clone()
    }

    #[test]
    fn what_a_rule_reads_is_known_or_missing() {
        let full = r#","arguments":{"name":"churn","version":"7","token":"[redacted]","list":[{"k":"[redacted]"}]}"#;
        let names = r#","arguments":["name","version"]"#;
        for (logged, given, condition, missing) in [
            (full, None, "args.name == 'churn'", None),
            (
                full,
                None,
                "args.token == 'x'",
                Some("`token`, and the log has this value redacted"),
            ),
            (full, None, "size(args.list) > 0", Some("`list`")),
            (full, None, "size(args) > 0", Some("`token`, `list`")),
            (full, None, "args.other == 'x'", None),
            (
                full,
                Some(r#"{"token":"x","list":[]}"#),
                "size(args) > 0",
                None,
            ),
            (names, None, "caller.grant == 'key:a'", None),
            (
                names,
                None,
                "args.name == 'x'",
                Some("`name`, and the log has only the names"),
            ),
            (names, None, "args.other == 'x'", None),
            (names, Some(r#"{"name":"x"}"#), "args.name == 'x'", None),
            (
                names,
                Some(r#"{"name":"x"}"#),
                "size(args) > 1",
                Some("`version`"),
            ),
            ("", None, "args.name == 'x'", Some("arguments: None")),
            ("", None, "caller.grant == 'key:a'", None),
            ("", Some("{}"), "args.name == 'x'", None),
            (
                r#","arguments":["name"],"argumentsOmitted":3"#,
                None,
                "args.other == 'x'",
                Some("only the names"),
            ),
        ] {
            let known = known(&line(logged), given).unwrap();
            let reads = reads(condition);
            let said = known.unknown_to([&reads].into_iter());
            match (&said, missing) {
                (None, None) => {}
                (Some(said), Some(words)) => {
                    assert!(said.contains(words), "{logged} {condition}: {said}")
                }
                _ => panic!("{logged} {given:?} {condition}: {said:?}"),
            }
        }
        let known = known(&line(full), Some(r#"{"version":8}"#)).unwrap();
        assert_eq!(known.text, r#"{"name":"churn","version":8}"#);
    }
}
