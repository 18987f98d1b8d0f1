//! Names and texts of a document, in the form that they have here.

use super::read::Node;

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

/// Characters that a reason may have.
const REASON_CHARS: usize = 512;
/// Bytes that a reason may have.
const REASON_BYTES: usize = 1_024;

/// The first text under one of these keys, for the agent: its line breaks stay, other control
/// characters go.
pub(super) fn reason(node: &Node, keys: &[&str]) -> Option<String> {
    let text = keys.iter().find_map(|key| node.get(key)?.text())?;
    let text = text.replace("\r\n", "\n").replace('\t', " ");
    let text: String = text
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .take(REASON_CHARS)
        .collect();
    let text = text[..text.floor_char_boundary(REASON_BYTES)].trim();
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn plain_name(tool: &str) -> &str {
    if tool == "*" { "all-tools" } else { tool }
}

pub(super) fn shown(tool: &str) -> String {
    if tool == "*" {
        "every tool".to_owned()
    } else {
        format!("the tool {tool}")
    }
}
