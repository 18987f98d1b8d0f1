//! Names and texts of a document, in the form that they have here.

use serde_json::{Map, Value};

pub(super) fn keys<'m>(map: &'m Map<String, Value>, known: &[&str]) -> Vec<&'m str> {
    map.keys()
        .map(String::as_str)
        .filter(|key| !known.contains(key))
        .collect()
}

/// A name as the API takes it: lower-case letters, digits and `-`, with room left for a number.
pub(super) fn label(text: &str) -> String {
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
pub(super) fn distinct(label: &str, mut taken: impl FnMut(&str) -> bool) -> String {
    let mut unique = label.to_owned();
    let mut count = 2;
    while taken(&unique) {
        unique = format!("{label}-{count}");
        count += 1;
    }
    unique
}

pub(super) fn text(map: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    let text = keys
        .iter()
        .find_map(|key| map.get(*key))
        .and_then(Value::as_str)?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(400).collect();
    (!text.is_empty()).then_some(text)
}

pub(super) fn plain_name(tool: &str) -> &str {
    if tool == "*" { "all-tools" } else { tool }
}

pub(super) fn shown(tool: &str) -> String {
    if tool == "*" {
        "every tool is".to_owned()
    } else {
        format!("the tool {tool} is")
    }
}
