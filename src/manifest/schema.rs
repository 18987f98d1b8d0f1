//! One document against one structural schema, as the API server checks it under strict field validation.
//!
//! In: a tree with places and an `openAPIV3Schema`. Out: every mistake with its place and path.
//! Must not do: evaluate CEL rules. Unknown keys are errors everywhere: `kubectl apply` refuses
//! them too.

use super::tree::{Content, Entry, Node, Position, join};
use parking_lot::Mutex;
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Something wrong, before the file's name is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: Position,
    pub(super) path: String,
    pub(super) message: String,
}

/// Checks `node`, which stands at `path`, against `schema`.
pub(super) fn check(node: &Node, path: &str, schema: &Value, faults: &mut Vec<Fault>) {
    let fault = |message: String| Fault {
        at: node.at,
        path: path.to_owned(),
        message,
    };
    if matches!(node.content, Content::Null) && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !matches!(&node.content, Content::String(_)) && !is_integer(&node.content) {
            faults.push(fault(format!(
                "must be a whole number or a string, and is {}",
                node.kind()
            )));
        }
        return;
    }
    let expected = schema["type"].as_str().unwrap_or_default();
    match (&node.content, expected) {
        (Content::Map(entries), "object") => object(node, entries, path, schema, faults),
        (Content::List(items), "array") => list(node, items, path, schema, faults),
        (Content::String(text), "string") => faults.extend(string(text, schema).map(fault)),
        (Content::Number(number), "integer") if is_integer(&node.content) => {
            faults.extend(
                number
                    .as_i64()
                    .map_or_else(|| Some("is too large".to_owned()), |n| integer(n, schema))
                    .map(fault),
            );
        }
        (Content::Number(_), "number") | (Content::Bool(_), "boolean") => {}
        _ => faults.push(fault(format!(
            "must be {}, and is {}{}",
            name(expected),
            node.kind(),
            quoting_helps(node, expected)
        ))),
    }
}

fn name(expected: &str) -> &str {
    match expected {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        other => other,
    }
}

fn quoting_helps(node: &Node, expected: &str) -> &'static str {
    match (&node.content, expected) {
        (Content::Bool(_) | Content::Number(_) | Content::Null, "string") => "; put it into quotes",
        (Content::String(_), "integer" | "number" | "boolean") => "; write it without quotes",
        (Content::String(_), "array") => "; write it as a list, for example [a, b]",
        _ => "",
    }
}

fn is_integer(content: &Content) -> bool {
    matches!(content, Content::Number(number) if number.is_i64() || number.is_u64())
}

fn object(node: &Node, entries: &[Entry], path: &str, schema: &Value, faults: &mut Vec<Fault>) {
    let properties = schema["properties"].as_object();
    let values = schema.get("additionalProperties");
    for entry in entries {
        let path = join(path, &entry.key);
        match (properties.and_then(|p| p.get(&entry.key)), values) {
            (Some(known), _) => check(&entry.value, &path, known, faults),
            (None, Some(values)) if values.is_object() => {
                check(&entry.value, &path, values, faults)
            }
            // An object without any properties of its own takes everything, as core's FieldsV1 does.
            (None, _) if properties.is_none() => {}
            (None, _) => faults.push(Fault {
                at: entry.at,
                message: unknown(
                    &entry.key,
                    properties
                        .into_iter()
                        .flatten()
                        .map(|(key, _)| key.as_str()),
                ),
                path,
            }),
        }
    }
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if node.get(required).is_none() {
            let about = properties
                .and_then(|p| p.get(required))
                .and_then(|p| p["description"].as_str());
            let about = about.map_or_else(String::new, |about| {
                format!(": {}", about.trim_end_matches('.'))
            });
            faults.push(Fault {
                at: node.at,
                path: path.to_owned(),
                message: format!("`{required}` is missing{about}"),
            });
        }
    }
    if let Some(max) = schema["maxProperties"]
        .as_u64()
        .filter(|max| entries.len() as u64 > *max)
    {
        faults.push(Fault {
            at: node.at,
            path: path.to_owned(),
            message: format!("has {} entries, at most {max} are allowed", entries.len()),
        });
    }
}

/// The message for a key that no field has, with the nearest that one has.
pub(super) fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let shown: String = key.chars().take(60).collect();
    let near = |name: &&str| {
        name.eq_ignore_ascii_case(key)
            || (key.len() < 80 && strsim::levenshtein(key, name) <= (name.len() / 3).max(2))
    };
    match known
        .clone()
        .filter(near)
        .min_by_key(|name| strsim::levenshtein(key, name))
    {
        Some(near) => format!("unknown field `{shown}`; did you mean `{near}`?"),
        None => {
            let all: Vec<&str> = known.take(24).collect();
            format!(
                "unknown field `{shown}`; remove it, or use one of {}",
                all.join(", ")
            )
        }
    }
}

fn list(node: &Node, items: &[Node], path: &str, schema: &Value, faults: &mut Vec<Fault>) {
    let mut fault =
        |at: Position, path: String, message: String| faults.push(Fault { at, path, message });
    let count = items.len() as u64;
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| count > *max) {
        fault(
            node.at,
            path.to_owned(),
            format!("has {count} entries, at most {max} are allowed"),
        );
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
        let leave = if count == 0 {
            "; leave the field out if you mean none"
        } else {
            ""
        };
        fault(
            node.at,
            path.to_owned(),
            format!("has {count} entries, at least {min} must be there{leave}"),
        );
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let identity: Option<Vec<&str>> = match schema["x-kubernetes-list-type"].as_str() {
            Some("map") => keys
                .iter()
                .map(|key| item.get(key).and_then(Node::text))
                .collect(),
            Some("set") => item.text().map(|text| vec![text]),
            _ => None,
        };
        if let Some(identity) = identity {
            let shown = identity.join("/");
            if !seen.insert(identity) {
                let what = if keys.is_empty() {
                    "value".to_owned()
                } else {
                    keys.join("/")
                };
                fault(
                    item.at,
                    format!("{path}[{i}]"),
                    format!(
                        "the {what} `{shown}` is there twice; each must be unique in this list"
                    ),
                );
            }
        }
    }
    for (i, item) in items.iter().enumerate() {
        check(item, &format!("{path}[{i}]"), &schema["items"], faults);
    }
}

fn string(text: &str, schema: &Value) -> Option<String> {
    let shown: String = text.chars().take(60).collect();
    if let Some(allowed) = schema["enum"].as_array() {
        if allowed.iter().any(|value| value == text) {
            return None;
        }
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        return Some(format!("`{shown}` is none of {}", names.join(", ")));
    }
    // The API server counts characters, not bytes.
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        return Some(format!(
            "has {length} characters, at most {max} are allowed"
        ));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        return Some(if length == 0 {
            "must not be empty".to_owned()
        } else {
            format!("`{shown}` has {length} characters, at least {min} must be there")
        });
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        match compiled(pattern) {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => return Some(format!("`{shown}` does not have the form {pattern}")),
            Err(error) => {
                return Some(format!(
                    "cannot be checked: the pattern {pattern} is broken: {error}"
                ));
            }
        }
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        return Some(format!(
            "`{shown}` is not a time such as 2026-01-31T12:00:00Z"
        ));
    }
    None
}

/// A pattern of a schema, compiled once: the schemas of this build have a dozen of them.
fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut known = COMPILED.lock();
    if let Some(regex) = known.get(pattern) {
        return Ok(regex.clone());
    }
    let regex = Regex::new(pattern)?;
    known.insert(pattern.to_owned(), regex.clone());
    Ok(regex)
}

fn integer(number: i64, schema: &Value) -> Option<String> {
    // Schemas carry bounds as floating-point numbers.
    let bound = |key: &str| schema[key].as_f64();
    let shown = number as f64;
    if schema["format"] == "int32" && i32::try_from(number).is_err() {
        return Some(format!("{number} is too large"));
    }
    match (bound("minimum"), bound("maximum")) {
        (Some(min), _) if shown < min => Some(format!("{number} is too small; the least is {min}")),
        (_, Some(max)) if shown > max => Some(format!("{number} is too large; the most is {max}")),
        _ => None,
    }
}
