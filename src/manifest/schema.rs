//! One document against one structural schema, as the API server checks it under strict field
//! validation.
//!
//! In: a tree with places and an `openAPIV3Schema`. Out: every mistake with its place and path.
//! Must not do: evaluate CEL rules. Unknown keys are errors everywhere: `kubectl apply` refuses
//! them too.

use super::advice;
use super::position::Position;
use super::tree::{Content, Entry, Node, join};
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
        // The schemas have no such field but quantities.
        let is_quantity = match &node.content {
            Content::String(text) => is_quantity(text),
            Content::Number(_) => true,
            _ => false,
        };
        if !is_quantity {
            let shown = match &node.content {
                Content::String(text) => format!("`{}`", advice::shown(text)),
                _ => node.kind().to_owned(),
            };
            faults.push(fault(format!(
                "{shown} is not a quantity; write a number with a unit, such as 500m (of a CPU), 256Mi or 1Gi"
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
                    .map_or_else(
                        || Some(format!("{number} is too large; write a smaller number")),
                        |n| integer(n, schema),
                    )
                    .map(fault),
            );
        }
        (Content::Number(_), "number") | (Content::Bool(_), "boolean") => {}
        _ => {
            let key = path.rsplit('.').next().unwrap_or_default();
            faults.push(fault(advice::of_another_type(node, key, schema)));
        }
    }
}

/// A quantity as Kubernetes reads it.
fn is_quantity(text: &str) -> bool {
    compiled(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$")
        .is_ok_and(|pattern| pattern.is_match(text))
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
            // An object without any properties of its own takes everything, as core's FieldsV1
            // does.
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
            let property = properties.and_then(|p| p.get(required));
            faults.push(Fault {
                at: node.at,
                path: path.to_owned(),
                message: advice::missing(required, property.unwrap_or(&Value::Null)),
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
            message: format!(
                "has {} entries and may have {max}; remove some",
                entries.len()
            ),
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
            format!(
                "has {count} entries and may have {max}; remove some, or split what it belongs to"
            ),
        );
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
        let message = match (count, path.rsplit('.').next()) {
            // Without the field the rule would be for everything, which is hardly what an empty
            // list means.
            (0, Some("names" | "uris")) => "the list is empty and selects nothing; write at least one entry, or [\"*\"] for all".to_owned(),
            (0, _) => "the list is empty; write at least one entry".to_owned(),
            _ => format!("has {count} entries and must have {min}; add some"),
        };
        fault(node.at, path.to_owned(), message);
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
                        "the {what} `{shown}` is there twice in this list; rename or remove one"
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
    let shown = advice::shown(text);
    if let Some(allowed) = schema["enum"].as_array() {
        if allowed.iter().any(|value| value == text) {
            return None;
        }
        return Some(advice::none_of(text, allowed));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        match compiled(pattern) {
            // Too long a text is reported as such.
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) if text.is_empty() => {
                return Some("must not be empty; write a value".to_owned());
            }
            Ok(_) => return Some(advice::malformed(text, pattern)),
            Err(_) => {
                return Some(
                    "cannot be checked, because this program is faulty; report it".to_owned(),
                );
            }
        }
    }
    // The API server counts characters, not bytes.
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        return Some(format!(
            "`{shown}` has {length} characters and may have {max}; shorten it"
        ));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        return Some(if length == 0 {
            "must not be empty; write a value".to_owned()
        } else {
            format!("`{shown}` has {length} characters and must have {min}; lengthen it")
        });
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        return Some(format!(
            "`{shown}` is not a time; write for example 2026-01-31T12:00:00Z"
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
        return Some(format!("{number} is too large; write at most {}", i32::MAX));
    }
    match (bound("minimum"), bound("maximum")) {
        (Some(min), _) if shown < min => {
            Some(format!("{number} is too small; write at least {min}"))
        }
        (_, Some(max)) if shown > max => {
            Some(format!("{number} is too large; write at most {max}"))
        }
        _ => None,
    }
}
