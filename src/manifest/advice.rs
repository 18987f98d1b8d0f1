//! What to write in place of a wrong value.
//!
//! In: a value, and the schema that refuses it. Out: a sentence for the person who wrote the file.
//! Must not do: decide whether a value is wrong, or show a pattern or the words of a library.

use super::tree::{Content, Node};
use serde_json::Value;

/// Characters of a value that a message repeats.
const SHOWN: usize = 60;

/// The patterns of the schemas, each by what it describes. A test compares this list with the
/// schemas.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
const DURATION: &str = "^([0-9]{1,5}(d|h|ms|m|s)){1,5}$";
const SIZE: &str = "^[1-9][0-9]{0,9}(Ki|Mi|Gi|k|M|G)?$";
const POINTER: &str = "^(/([^~/]|~0|~1)*)+$";
const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";
const DIGEST: &str = "^sha256:[0-9a-f]{64}$";
const HEADER_NAME: &str = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";
const HEADER_VALUE: &str = r"^[\t\x20-\x7e]*$";

/// The beginning of a text, without characters that would break the line.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(SHOWN)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// A text that a pattern of a schema refuses.
pub(super) fn malformed(text: &str, pattern: &str) -> String {
    let shown = shown(text);
    match pattern {
        DURATION => format!("`{shown}` is not a duration; write {}", duration(text)),
        SIZE => format!("`{shown}` is not a size; write {}", size(text)),
        LABEL => format!(
            "`{shown}` is not a valid name: it may have lower-case letters, digits and `-`, and begins and ends with a \
             letter or digit; write for example {}",
            name(text, false)
        ),
        SUBDOMAIN => format!(
            "`{shown}` is not a valid name: it may have lower-case letters, digits, `-` and `.`, and begins and ends with \
             a letter or digit; write for example {}",
            name(text, true)
        ),
        POINTER => format!(
            "`{shown}` is not a path to a value (a JSON pointer); write {}",
            pointer(text)
        ),
        SECRET_KEY => format!(
            "`{shown}` is not the name of a key of a Secret: it may have letters, digits, `-`, `_` and `.`; write it as it \
             stands in the Secret"
        ),
        DIGEST => format!(
            "`{shown}` is not a digest: write sha256: and 64 lower-case hexadecimal digits, as `portcullis status -o yaml` \
             and `portcullis tools` print them"
        ),
        HEADER_NAME => format!(
            "`{shown}` is not the name of a header: write it without spaces and without a colon, for example X-Team"
        ),
        HEADER_VALUE => format!(
            "`{shown}` is not the value of a header: write it on one line, with ASCII characters"
        ),
        _ => format!(
            "`{shown}` does not have the form that this field needs; see its description in docs/api"
        ),
    }
}

/// A duration like the one that was probably meant.
fn duration(text: &str) -> String {
    let number = text.trim().trim_start_matches(['-', '+']);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    match number.split_at(digits) {
        (amount, "") if !amount.is_empty() && digits < 6 => {
            format!("{amount}s for seconds, {amount}m for minutes or {amount}h for hours")
        }
        _ => "a number with a unit, such as 30s, 1m or 1h30m; the units are d, h, m, s and ms"
            .to_owned(),
    }
}

fn size(text: &str) -> String {
    let digits: String = text
        .trim()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let unit = text.trim().get(digits.len()..).unwrap_or_default().trim();
    let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
    let amount = digits.trim_start_matches('0');
    match (amount, first) {
        ("", _) | (_, None) => {}
        (amount, Some(unit @ ('K' | 'M' | 'G')))
            if text.trim().get(digits.len()..digits.len() + 1) != Some(".") =>
        {
            return format!("{amount}{unit}i; the units are Ki, Mi, Gi, k, M and G");
        }
        _ => {}
    }
    "a whole number with a unit, such as 512Ki or 4Mi; the units are Ki, Mi, Gi, k, M and G"
        .to_owned()
}

/// A valid name that is like the text.
fn name(text: &str, dots: bool) -> String {
    let mut name = String::new();
    for c in text.trim().to_lowercase().chars().take(50) {
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            '.' if dots => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() {
        "my-name".to_owned()
    } else {
        name.to_owned()
    }
}

/// The JSON pointer that a path in another notation means.
fn pointer(text: &str) -> String {
    let path = text
        .trim()
        .trim_start_matches('$')
        .trim_start_matches('.')
        .trim_start_matches("args.");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '~');
    if path.is_empty() || !path.chars().all(plain) {
        return "each key after a slash, for example /description".to_owned();
    }
    if path.contains('/') {
        let tilde = path.replace("~0", "~").replace("~1", "~").contains('~');
        let path = if tilde {
            path.replace('~', "~0")
        } else {
            path.to_owned()
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        return format!("{slash}{path} (`~` in a key is written ~0, and `/` in a key ~1)");
    }
    format!("/{}", path.replace('~', "~0").replace('.', "/"))
}

/// Words that people write for a value that has another name here.
const OTHER_WORDS: [(&str, &str); 24] = [
    ("block", "Deny"),
    ("forbid", "Deny"),
    ("reject", "Deny"),
    ("refuse", "Deny"),
    ("disallow", "Deny"),
    ("no", "Deny"),
    ("false", "Deny"),
    ("permit", "Allow"),
    ("accept", "Allow"),
    ("yes", "Allow"),
    ("true", "Allow"),
    ("approve", "RequireApproval"),
    ("approval", "RequireApproval"),
    ("ask", "RequireApproval"),
    ("hold", "RequireApproval"),
    ("dryrun", "Audit"),
    ("warn", "Audit"),
    ("monitor", "Audit"),
    ("shadow", "Audit"),
    ("log", "Audit"),
    ("user", "Grant"),
    ("caller", "Grant"),
    ("delete", "Destructive"),
    ("reads", "Read"),
];

/// The value that was probably meant.
fn meant<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let plain = |text: &str| -> String {
        text.to_ascii_lowercase()
            .chars()
            .filter(|c| !matches!(c, '-' | '_' | ' '))
            .take(SHOWN)
            .collect()
    };
    let written = plain(text);
    let word = OTHER_WORDS
        .iter()
        .find(|(word, _)| *word == written)
        .map(|(_, name)| *name);
    let exact = |name: &&&str| plain(name) == written || Some(**name) == word;
    let near = |name: &&&str| strsim::osa_distance(&plain(name), &written) <= name.len() / 4;
    names
        .iter()
        .find(exact)
        .or_else(|| names.iter().find(near))
        .copied()
}

/// A text, or `true` and the like, that is none of the allowed values.
pub(super) fn none_of(text: &str, allowed: &[Value]) -> String {
    let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let shown = shown(text);
    match meant(text, &names) {
        Some(meant) => format!(
            "`{shown}` is not one of its values; write {meant} (the values are {})",
            names.join(", ")
        ),
        None => format!("`{shown}` is not one of its values; write {}", or(&names)),
    }
}

/// `a, b or c`.
fn or(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A value whose type is not that of the schema.
pub(super) fn of_another_type(node: &Node, key: &str, schema: &Value) -> String {
    let expected = schema["type"].as_str().unwrap_or_default();
    let scalar = scalar(node);
    let what = match &scalar {
        Some(scalar) => format!("`{scalar}`"),
        None => node.kind().to_owned(),
    };
    if matches!(node.content, Content::Null) {
        let write = write(key, schema).unwrap_or_else(|| "write a value".to_owned());
        return format!("there is no value here; {write}");
    }
    match (expected, &node.content, scalar) {
        ("string", Content::Bool(_), Some(scalar)) if schema["enum"].is_array() => none_of(
            &scalar,
            schema["enum"].as_array().map_or(&[], Vec::as_slice),
        ),
        ("string", Content::Number(_), Some(scalar)) if schema["pattern"] == DURATION => {
            format!(
                "`{scalar}` is a number without a unit; write {}",
                duration(&scalar)
            )
        }
        ("string", Content::Number(_), Some(scalar)) if schema["pattern"] == SIZE => format!(
            "`{scalar}` is a number and must be text; write \"{scalar}\" in quotes for bytes, or a number with a unit such as 4Mi"
        ),
        ("string", Content::Bool(_), Some(scalar)) => format!(
            "this is {scalar} to YAML, as y, yes, no, on and off may be, and must be text; put what you wrote into quotes"
        ),
        ("string", Content::Number(_), Some(scalar)) => {
            format!(
                "{what} is {} and must be text; write \"{scalar}\" in quotes",
                node.kind()
            )
        }
        ("integer", Content::Number(number), Some(scalar)) => match number.as_f64() {
            Some(value) if value.fract() == 0.0 && may_be(value, schema) => format!(
                "`{scalar}` is not written as a whole number; write {value:.0}, without a decimal point or an exponent"
            ),
            Some(value) if value.fract() == 0.0 || value.abs() > 1e15 => {
                match schema["maximum"].as_f64() {
                    Some(most) => format!("`{scalar}` is too large; write at most {most}"),
                    None => format!("`{scalar}` is too large; write a smaller whole number"),
                }
            }
            _ => format!(
                "`{scalar}` must be a whole number; write one, such as {}",
                least(schema)
            ),
        },
        ("integer" | "number", Content::String(text), _) if text.trim().parse::<f64>().is_ok() => {
            format!("{what} in quotes is text and must be a number; write it without quotes")
        }
        ("boolean", Content::String(text), _) if matches!(text.as_str(), "true" | "false") => {
            format!("{what} in quotes is text; write it without quotes")
        }
        ("array", Content::String(text), _) if shell_words(text).len() > 1 => format!(
            "{what} is text and must be a list; write one entry for each word: [{}]",
            shell_words(text).join(", ")
        ),
        ("array", Content::String(text), _) => {
            format!(
                "{what} is text and must be a list; write [{}]",
                quoted(text)
            )
        }
        ("array", _, _) => {
            let entry = entry_of(&schema["items"]);
            format!(
                "must be a list, and is {}; write each entry after a dash: {entry}",
                node.kind()
            )
        }
        _ => {
            let with = write(key, schema)
                .or_else(|| fields(schema))
                .map_or_else(String::new, |write| format!("; {write}"));
            format!("must be {}, and is {what}{with}", type_name(expected))
        }
    }
}

/// The words of a command line.
fn shell_words(text: &str) -> Vec<String> {
    text.split_whitespace().take(8).map(quoted).collect()
}

/// A text as an entry of a list in brackets.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let shown = shown(text);
    if !shown.is_empty() && shown.chars().all(plain) {
        shown
    } else {
        format!("{shown:?}")
    }
}

/// Whether a whole number is within the bounds of its field.
fn may_be(value: f64, schema: &Value) -> bool {
    let least = schema["minimum"].as_f64().unwrap_or(-1e15);
    let most = schema["maximum"].as_f64().unwrap_or(1e15);
    (least..=most).contains(&value)
}

fn least(schema: &Value) -> f64 {
    schema["minimum"].as_f64().unwrap_or(1.0).max(1.0)
}

fn entry_of(items: &Value) -> String {
    let required = items["required"].as_array();
    let keys: Vec<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let key = |key: &&str| format!("{key}: …");
    match (items["type"].as_str(), keys.as_slice()) {
        (Some("object"), []) => "- { … }".to_owned(),
        (Some("object"), keys) => {
            let keys: Vec<String> = keys.iter().map(key).collect();
            format!("- {{ {} }}", keys.join(", "))
        }
        _ => "- …".to_owned(),
    }
}

/// The fields that a mapping may have.
fn fields(schema: &Value) -> Option<String> {
    let properties = schema["properties"].as_object()?;
    let names: Vec<&str> = properties.keys().take(16).map(String::as_str).collect();
    Some(format!(
        "write its fields as {{ key: value }}; they are {}",
        names.join(", ")
    ))
}

/// A value as it was written; None for lists and mappings.
fn scalar(node: &Node) -> Option<String> {
    match &node.content {
        Content::Bool(value) => Some(value.to_string()),
        Content::Number(value) => Some(value.to_string()),
        Content::String(text) => Some(shown(text)),
        Content::Null | Content::List(_) | Content::Map(_) => None,
    }
}

fn type_name(expected: &str) -> &str {
    match expected {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        other => other,
    }
}

/// Examples of fields whose schema does not show what people write there.
const EXAMPLES: [(&str, &str); 19] = [
    (
        "tools",
        "tools: { risks: [Read] } or tools: { names: [\"get_*\"] }",
    ),
    ("window", "window: 1m"),
    ("max", "max: 30"),
    ("counter", "counter: writes"),
    ("url", "url: http://mlflow-mcp:8080/mcp"),
    (
        "upstream",
        "upstream: { http: { url: \"http://mlflow-mcp:8080/mcp\" } }",
    ),
    (
        "image",
        "image: registry/name:tag (`serve` does not use it)",
    ),
    ("command", "command: [mlflow-mcp]"),
    ("issuer", "issuer: https://idp.my-company.com"),
    ("audiences", "audiences: [mlflow]"),
    ("jwks", "jwks: { url: \"https://idp.my-company.com/keys\" }"),
    ("secretRef", "secretRef: { name: my-secret }"),
    (
        "secretKeyRef",
        "secretKeyRef: { name: my-secret, key: token }",
    ),
    ("group", "group: portcullis.dev"),
    ("kind", "kind: McpServer"),
    ("callers", "callers: [\"serviceaccount:ml/*\"]"),
    ("when", "when: 'args.stage == \"Production\"'"),
    ("expect", "expect: { decision: Allow }"),
    (
        "cases",
        "cases: [{ call: get_run, expect: { decision: Allow } }]",
    ),
];

/// What to write for a key.
fn write(key: &str, schema: &Value) -> Option<String> {
    if let Some(values) = schema["enum"].as_array() {
        let names: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return Some(format!("write {key}: and one of {}", or(&names)));
    }
    if let Some((_, example)) = EXAMPLES.iter().find(|(known, _)| *known == key) {
        return Some(format!("write for example {example}"));
    }
    let example = match (schema["type"].as_str(), schema["pattern"].as_str()) {
        (_, Some(DURATION)) => "30s, 1m or 1h30m".to_owned(),
        (_, Some(SIZE)) => "4Mi".to_owned(),
        (_, Some(POINTER)) => "/description".to_owned(),
        (Some("integer" | "number"), _) => least(schema).to_string(),
        (Some("boolean"), _) => "true".to_owned(),
        (Some("string"), _) if key.ends_with(']') => return Some("write text".to_owned()),
        (Some("string"), _) => format!("my-{}", name(key, false)),
        (Some("array"), _) => {
            return Some(format!(
                "write {key}: with each entry after a dash: {}",
                entry_of(&schema["items"])
            ));
        }
        _ => return None,
    };
    // Entries of lists and maps have no key of their own.
    Some(match key.ends_with(']') {
        true => format!("write for example {example}"),
        false => format!("write for example {key}: {example}"),
    })
}

/// A required key that is not there.
pub(super) fn missing(key: &str, schema: &Value) -> String {
    let about = schema["description"]
        .as_str()
        .map_or_else(String::new, |about| {
            let about = about.trim_end_matches('.');
            let mut letters = about.chars();
            let first = letters.next().map(|c| c.to_ascii_lowercase());
            format!(
                " ({}{})",
                first.map_or_else(String::new, String::from),
                letters.as_str()
            )
        });
    match write(key, schema) {
        Some(write) => format!("`{key}` is missing{about}; {write}"),
        None => format!("`{key}` is missing{about}; write {key}: and its fields below"),
    }
}

/// A document that satisfies its schema and still has no object; schema and type say the same, so
/// this is a fault here.
pub(super) fn undecoded() -> String {
    "this document passes every check and still cannot be read, which is a fault of this program; report it with the document".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::definitions;

    /// Every pattern of the schemas is described in words: a new one needs words of its own.
    #[test]
    fn no_pattern_of_a_schema_reaches_the_user() {
        fn patterns<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
            match schema {
                Value::Object(members) => {
                    for (key, value) in members {
                        match value.as_str() {
                            Some(pattern) if key == "pattern" => found.push(pattern),
                            _ => patterns(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| patterns(item, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        for schema in [
            &*definitions::SERVER,
            &*definitions::POLICY,
            &*definitions::METADATA,
            &*definitions::SECRET,
        ] {
            patterns(schema, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        assert!(found.len() > 5, "{found:?}");
        for pattern in found {
            let said = malformed("§", pattern);
            assert!(!said.contains("see its description"), "{pattern}: {said}");
            assert!(!said.contains(pattern), "{said}");
        }
    }

    #[test]
    fn what_was_meant_is_what_is_proposed() {
        let cases = [
            (POINTER, "$.description", "write /description"),
            (POINTER, "a.b", "write /a/b"),
            (POINTER, "args.alias", "write /alias"),
            (POINTER, "/a~b", "write /a~0b "),
            (DURATION, "60", "write 60s for seconds, 60m"),
            (DURATION, "1 hour", "such as 30s, 1m or 1h30m"),
            (SIZE, "4MB", "write 4Mi;"),
            (SIZE, "4 Gi", "write 4Gi;"),
            (LABEL, "Read Only", "write for example read-only"),
            (LABEL, "_", "write for example my-name"),
            (SUBDOMAIN, "MLflow.Prod", "write for example mlflow.prod"),
        ];
        for (pattern, text, expected) in cases {
            let said = malformed(text, pattern);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn another_word_or_another_case_leads_to_the_value() {
        let actions = serde_json::json!(["Allow", "RequireApproval", "Deny", "Hide"]);
        let actions = actions.as_array().unwrap();
        for (text, expected) in [
            ("allow", "write Allow ("),
            ("require-approval", "write RequireApproval ("),
            ("Block", "write Deny ("),
            ("Hidde", "write Hide ("),
            ("Perhaps", "write Allow, RequireApproval, Deny or Hide"),
        ] {
            let said = none_of(text, actions);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
