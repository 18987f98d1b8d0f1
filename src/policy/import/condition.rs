//! A condition of theirs (path, op, value) as the CEL condition of a Deny rule.
//!
//! In: one entry of `require`, `deny_if` or Intercept's `conditions`. Out: when to deny. An absent argument fails every
//! operator but `exists`, as it does there; anything that cannot be evaluated here makes the Deny rule match.

use crate::json::quoted;
use crate::policy::check::Condition;
use crate::policy::check::from_go;
use serde_json::Value;

/// `require` denies what does not hold, `deny_if` what does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polarity {
    Require,
    DenyIf,
}

impl Polarity {
    /// For names of rules.
    pub fn name(self) -> &'static str {
        match self {
            Polarity::Require => "require",
            Polarity::DenyIf => "deny-if",
        }
    }
}

/// When to deny, and the text for the agent.
pub(super) fn deny_when(
    entry: &Value,
    polarity: Polarity,
) -> Result<(String, Option<String>), String> {
    let Some(entry) = entry.as_object() else {
        return Err("the condition is no object".to_owned());
    };
    let known = ["path", "op", "value", "on_deny", "reason", "name"];
    if let Some(key) = super::keys(entry, &known).first() {
        return Err(format!("the condition's {key} has no equivalent"));
    }
    let path = entry
        .get("path")
        .and_then(Value::as_str)
        .ok_or("the condition has no path")?;
    let op = entry
        .get("op")
        .and_then(Value::as_str)
        .ok_or("the condition has no op")?;
    let holds = holds(path, op, entry.get("value").unwrap_or(&Value::Null))?;
    let when = match polarity {
        Polarity::Require => format!("!({holds})"),
        Polarity::DenyIf => holds,
    };
    Condition::compile(&when)
        .map_err(|fault| format!("{op} on {path} cannot be written in CEL: {}", fault.message))?;
    Ok((when, super::names::text(entry, &["on_deny", "reason"])))
}

fn holds(path: &str, op: &str, value: &Value) -> Result<String, String> {
    let (present, argument) = parts(path)?;
    let literal = literal(value)?;
    let test = match op {
        "eq" => format!("{argument} == {literal}"),
        "neq" => format!("{argument} != {literal}"),
        "in" | "not_in" if value.is_array() => {
            let test = format!("{argument} in {literal}");
            if op == "in" {
                test
            } else {
                format!("!({test})")
            }
        }
        "lt" | "lte" | "gt" | "gte" if value.is_number() => {
            let sign = match op {
                "lt" => "<",
                "lte" => "<=",
                "gt" => ">",
                _ => ">=",
            };
            format!("{argument} {sign} {literal}")
        }
        "regex" if value.is_string() => {
            let pattern = from_go(value.as_str().unwrap_or_default())
                .map_err(|why| format!("{op} on {path}: {why}"))?;
            format!("{argument}.matches({})", quoted(&pattern))
        }
        // Text contains text; anything else can only be an element.
        "contains" if value.is_string() => format!("{argument}.contains({literal})"),
        "contains" => format!("{literal} in {argument}"),
        "exists" => {
            let there = format!("{present} && {argument} != null");
            return match value {
                Value::Bool(true) => Ok(there),
                Value::Bool(false) => Ok(format!("!({there})")),
                _ => Err("exists needs true or false".to_owned()),
            };
        }
        "in" | "not_in" => return Err(format!("{op} needs a list")),
        "lt" | "lte" | "gt" | "gte" => return Err(format!("{op} needs a number")),
        "regex" => return Err("regex needs a pattern".to_owned()),
        other => return Err(format!("the operator {other:?} is not known")),
    };
    Ok(format!("{present} && {test}"))
}

/// The argument that a path names.
pub(super) fn accessor(path: &str) -> Result<String, String> {
    parts(path).map(|(_, argument)| argument)
}

/// Whether all steps of the path are there, and the value at its end.
fn parts(path: &str) -> Result<(String, String), String> {
    let rest = path
        .strip_prefix("args.")
        .ok_or_else(|| format!("the path {path:?} does not start with args."))?;
    let mut present = Vec::new();
    let mut argument = "args".to_owned();
    for step in rest.split('.') {
        if step.is_empty() {
            return Err(format!("the path {path:?} has an empty step"));
        }
        let key = quoted(step);
        present.push(format!("{key} in {argument}"));
        let mut characters = step.chars();
        let plain = characters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain {
            present.pop();
            present.push(format!("has({argument}.{step})"));
            argument = format!("{argument}.{step}");
        } else {
            argument = format!("{argument}[{key}]");
        }
    }
    Ok((present.join(" && "), argument))
}

fn literal(value: &Value) -> Result<String, String> {
    Ok(match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!(
            "[{}]",
            items
                .iter()
                .map(literal)
                .collect::<Result<Vec<_>, _>>()?
                .join(", ")
        ),
        Value::Object(_) => return Err("a condition on an object has no equivalent".to_owned()),
    })
}
