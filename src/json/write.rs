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

/// The same, with equal text for numbers of equal value: `10`, `1e1` and `10.0`.
pub fn canonical_by_value(value: &Value<'_>) -> String {
    let mut out = String::new();
    write(&mut out, value, &write_by_value);
    out
}

/// Appends what [`canonical`] gives.
pub fn write_canonical(out: &mut String, value: &Value<'_>) {
    write(out, value, &|out: &mut String, token| out.push_str(token));
}

/// A number by its digits and the power of ten that they stand for, without zeros at either end.
/// One whose exponent is out of all measure stays as it is.
fn write_by_value(out: &mut String, token: &str) {
    let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let zeros = digits.len() - kept.len();
    let kept = kept.trim_start_matches('0');
    let shift = i64::try_from(zeros)
        .ok()
        .zip(i64::try_from(fraction.len()).ok())
        .and_then(|(zeros, places)| zeros.checked_sub(places));
    let power = exponent
        .parse::<i64>()
        .ok()
        .zip(shift)
        .and_then(|(exponent, shift)| exponent.checked_add(shift));
    match power {
        _ if kept.is_empty() => out.push('0'),
        Some(power) => {
            let sign = if negative { "-" } else { "" };
            out.push_str(&format!("{sign}{kept}e{power}"));
        }
        None => out.push_str(token),
    }
}

fn write(out: &mut String, value: &Value<'_>, number: &impl Fn(&mut String, &str)) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(token) => number(out, token),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, item, number);
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
                write(out, value, number);
            }
            out.push('}');
        }
    }
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(digit & 15)])
}
