//! What a person is shown of JSON that others wrote: nothing secret, and nothing that misleads.
//!
//! In: a value, and JSON pointers to what is hidden. Out: text in which every character is seen.
//! Must not do: shorten; who shows it decides what does not fit.

use super::matcher::fold_case;
use crate::json;
use std::{borrow::Cow, fmt::Write as _};

/// Bytes that a preview may have: a person must be able to read all of what is approved.
pub const MAX_PREVIEW: usize = 4 * 1024;

/// What stands for a redacted value.
pub const REDACTED: &str = "[redacted]";

/// Hides what JSON pointers lead to.
pub(super) fn hide_all(value: &mut json::Value<'_>, redact: &[String]) {
    for pointer in redact {
        let path: Vec<String> = pointer
            .split('/')
            .skip(1)
            .map(|step| step.replace("~1", "/").replace("~0", "~"))
            .collect();
        hide(value, &path);
    }
}

/// Compact JSON in the order in which it came, which people recognize.
pub(super) fn written_in_order(value: &json::Value<'_>) -> String {
    let mut out = String::new();
    write_in_order(value, &mut out);
    out
}

/// A text in which no character hides or reorders others.
pub(super) fn misleading_escaped(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for c in plain.chars() {
        if misleads(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Case variants are hidden too: a server that ignores case takes them for the same argument.
fn hide(value: &mut json::Value<'_>, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        *value = json::Value::String(Cow::Borrowed(REDACTED));
        return;
    };
    match value {
        json::Value::Object(members) => {
            for (key, member) in members {
                if fold_case(key) == fold_case(step) {
                    hide(member, rest);
                }
            }
        }
        json::Value::Array(items) => {
            if let Some(item) = step.parse::<usize>().ok().and_then(|at| items.get_mut(at)) {
                hide(item, rest);
            }
        }
        _ => {}
    }
}

fn write_in_order(value: &json::Value<'_>, out: &mut String) {
    match value {
        json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_in_order(item, out);
            }
            out.push(']');
        }
        json::Value::Object(members) => {
            out.push('{');
            for (i, (key, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json::write_string(out, key);
                out.push(':');
                write_in_order(member, out);
            }
            out.push('}');
        }
        scalar => json::write_canonical(out, scalar),
    }
}

/// Control characters, and those that are invisible or change the direction of text (Unicode
/// bidirectional controls, separators, joiners, tags).
pub(super) fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}
