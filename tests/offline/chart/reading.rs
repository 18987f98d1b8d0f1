//! Readers of the chart's files: values with their comments, schemas, rules with their reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// The values of values.yaml that have a comment beginning with `# --`, in order, with its text on
/// one line.
pub fn documented(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(first) = line.strip_prefix("# -- ") {
            comment = Some(first.to_owned());
        } else if let Some(more) = line.strip_prefix('#') {
            if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(more.trim());
            }
        } else if let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('-')) {
            parents.retain(|(depth, _)| *depth < indent);
            parents.push((indent, key.to_owned()));
            if let Some(comment) = comment.take() {
                let path: Vec<_> = parents.iter().map(|(_, key)| key.as_str()).collect();
                found.push((path.join("."), comment));
            }
        } else {
            comment = None;
        }
    }
    found
}

pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// The paths of values, down to those in `told` or to the last.
pub fn leaves(value: &Value, told: &BTreeSet<String>, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) if !members.is_empty() && !told.contains(path) => {
            for (key, value) in members {
                leaves(value, told, &join(path, key), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

pub fn schema_leaves(
    root: &Value,
    node: &Value,
    told: &BTreeSet<String>,
    path: &str,
    found: &mut BTreeSet<String>,
) {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    };
    match node.get("properties").and_then(Value::as_object) {
        Some(members) if !told.contains(path) => {
            for (key, value) in members {
                if path.is_empty() && key == "global" {
                    continue;
                }
                schema_leaves(root, value, told, &join(path, key), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub fn walk(value: &Value, path: &str, see: &mut impl FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            see(path, members);
            for (key, value) in members {
                walk(value, &format!("{path}/{key}"), see);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(value, &format!("{path}/{index}"), see);
            }
        }
        _ => {}
    }
}

/// The fields below a schema that have to do with Secrets by their name; what is inside of them is
/// theirs.
pub fn secret_fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        secret_fields(items, &format!("{path}[]"), found);
    }
    for (name, schema) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let path = join(path, name);
        if name.to_lowercase().contains("secret") {
            found.insert(path);
        } else {
            secret_fields(schema, &path, found);
        }
    }
}

/// One rule of the operator's role, as the table shows it.
pub struct Rule {
    pub groups: String,
    pub resources: String,
    pub verbs: String,
    pub why: String,
}

/// The rules of one `define` of the template, with the comments above them.
pub fn rules_of(text: &str, block: &str) -> Vec<Rule> {
    let start = format!("{{{{- define \"{block}\" -}}}}\n");
    let (_, rest) = text.split_once(&start).unwrap();
    let (body, _) = rest.split_once("{{- end -}}").unwrap();
    let plain: String = body
        .lines()
        .filter(|line| !line.starts_with("{{"))
        .map(|line| format!("{line}\n"))
        .collect();
    let parsed: Vec<BTreeMap<String, Vec<String>>> = serde_saphyr::from_str(&plain).unwrap();
    let mut reasons = Vec::new();
    let mut why = String::new();
    let mut last = String::new();
    for line in plain.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            if !why.is_empty() {
                why.push(' ');
            }
            why.push_str(comment);
        } else if line.starts_with("- ") {
            if !why.is_empty() {
                last = std::mem::take(&mut why);
            }
            reasons.push(last.clone());
        }
    }
    assert_eq!(
        parsed.len(),
        reasons.len(),
        "{block}: a rule that begins in an unexpected way"
    );
    parsed
        .into_iter()
        .zip(reasons)
        .map(|(rule, why)| {
            let names: BTreeSet<_> = rule.keys().map(String::as_str).collect();
            assert_eq!(
                names,
                BTreeSet::from(["apiGroups", "resources", "verbs"]),
                "{block}"
            );
            Rule {
                groups: rule["apiGroups"].join(", "),
                resources: rule["resources"].join(", "),
                verbs: rule["verbs"].join(", "),
                why,
            }
        })
        .collect()
}
