//! Writing JSON: strings, and values in the canonical form that approval digests and definition
//! digests are taken over.

use super::Value;
use super::reader::special;

/// Appends the text as a JSON string: only the quote, the backslash and control characters are
/// escaped, the latter in their short form where there is one (as RFC 8785 section 3.2.2.2 has it).
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let bytes = text.as_bytes();
    let mut start = 0;
    loop {
        let at = special(bytes, start);
        out.push_str(&text[start..at]);
        let Some(&byte) = bytes.get(at) else {
            break;
        };
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            b'\t' => "\\t",
            b'\n' => "\\n",
            0x0c => "\\f",
            b'\r' => "\\r",
            _ => {
                out.push_str("\\u00");
                out.push(hex(byte >> 4));
                out.push(hex(byte & 15));
                ""
            }
        };
        out.push_str(short);
        start = at + 1;
    }
    out.push('"');
}

/// Appends a number, without the machinery of formatting.
pub fn write_number(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// The text as a JSON string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

/// The value with keys sorted at every depth (by their UTF-8 bytes), strings escaped as
/// [`write_string`] does, number tokens as they came, and no white space: equal arguments written
/// differently give equal text, `1` and `1.0` do not.
pub fn canonical(value: &Value<'_>) -> String {
    let mut out = String::new();
    write_canonical(&mut out, value);
    out
}

/// Appends what [`canonical`] gives.
pub fn write_canonical(out: &mut String, value: &Value<'_>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(token) => out.push_str(token),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                write_canonical(out, value);
            }
            out.push('}');
        }
    }
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(digit & 15)])
}
