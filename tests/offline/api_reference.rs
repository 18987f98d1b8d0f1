//! The pages about the three kinds, from their definitions: every field with its type, default,
//! bounds and rules, and an object in which all fields are set.

use super::generated::file_holds;
use super::objects;
use portcullis::api;
use serde_json::Value;
use std::fmt::Write as _;

/// Types of Kubernetes' own, described by `kubectl explain` under this name.
const CORE: &[(&str, &str)] = &[
    ("affinity", "pod.spec.affinity"),
    ("env", "pod.spec.containers.env"),
    ("envFrom", "pod.spec.containers.envFrom"),
    ("from", "networkpolicy.spec.ingress.from"),
    ("imagePullSecrets", "pod.spec.imagePullSecrets"),
    ("ports", "networkpolicy.spec.ingress.ports"),
    ("resources", "pod.spec.containers.resources"),
    ("tolerations", "pod.spec.tolerations"),
    (
        "topologySpreadConstraints",
        "pod.spec.topologySpreadConstraints",
    ),
    ("volumeMounts", "pod.spec.containers.volumeMounts"),
    ("volumes", "pod.spec.volumes"),
];

/// The resources of a policy are not those of a container.
fn core(path: &str) -> Option<&'static str> {
    let (parent, name) = path.rsplit_once('.')?;
    let of_policy = name == "resources" && parent == "spec";
    let (_, explained) = CORE.iter().find(|(core, _)| *core == name && !of_policy)?;
    Some(explained)
}

#[test]
fn the_pages_about_the_kinds_are_those_of_the_definitions() {
    for crd in api::crds() {
        let kind = crd.spec.names.kind.clone();
        let plural = crd.spec.names.plural.clone();
        let version = &crd.spec.versions[0];
        let schema = version.schema.clone().unwrap().open_api_v3_schema.unwrap();
        let schema = serde_json::to_value(schema).unwrap();
        let mut page = format!(
            "# {kind}\n\nGenerated from the definition. {}\n\n`kubectl explain {plural}.spec` shows the same in a terminal. Fields \
             marked **required** must be written; all others may be left out, but not be null.\n",
            one_line(&schema["description"])
        );
        for part in ["spec", "status"] {
            section(part, &schema["properties"][part], &mut page);
        }
        let columns = crd.spec.versions[0]
            .additional_printer_columns
            .clone()
            .unwrap_or_default();
        page.push_str("\n## Columns of `kubectl get`\n\n| column | shows |\n|---|---|\n");
        for column in columns {
            let shows = match column.description {
                Some(text) => text,
                None => format!("`{}`", column.json_path),
            };
            let wide = column.priority.is_some_and(|priority| priority > 0);
            let wide = if wide { " (with `-o wide`)" } else { "" };
            writeln!(page, "| {} | {shows}{wide} |", column.name).unwrap();
        }
        page.push_str("\n## With every field\n\nFields that exclude one another stand in objects of their own.\n");
        for object in objects::all() {
            if object["kind"] == kind {
                let text = serde_saphyr::to_string(&object).unwrap();
                writeln!(page, "\n```yaml\n{}\n```", text.trim_end()).unwrap();
            }
        }
        file_holds(&format!("docs/reference/{}.md", kind.to_lowercase()), &page);
    }
}

/// The fields of an object, and then those of the objects in it.
fn section(path: &str, node: &Value, page: &mut String) {
    let Some(properties) = node["properties"].as_object() else {
        return;
    };
    writeln!(page, "\n## `{path}`\n").unwrap();
    let description = one_line(&node["description"]);
    if !description.is_empty() {
        writeln!(page, "{description}\n").unwrap();
    }
    for message in messages(node) {
        writeln!(page, "- {message}").unwrap();
    }
    if !messages(node).is_empty() {
        page.push('\n');
    }
    page.push_str("| field | type | default | |\n|---|---|---|---|\n");
    let required: Vec<&str> = node["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in properties {
        let at = format!("{path}.{name}");
        let needed = match required.contains(&name.as_str()) {
            true => "**required**",
            false => "",
        };
        let default = match &property["default"] {
            Value::Null => needed.to_owned(),
            default => format!("`{}`", compact(default)),
        };
        let mut text = vec![one_line(&property["description"])];
        match core(&at) {
            Some(explained) => text.push(format!("See `kubectl explain {explained}`.")),
            None => {
                text.extend(bounds(property));
                text.extend(messages(property));
            }
        }
        text.retain(|part| !part.is_empty());
        writeln!(
            page,
            "| `{name}` | {} | {default} | {} |",
            type_of(property),
            cell(&text.join(" "))
        )
        .unwrap();
    }
    for (name, property) in properties {
        let at = format!("{path}.{name}");
        if core(&at).is_some() {
            continue;
        }
        section(&at, property, page);
        section(&format!("{at}[]"), &property["items"], page);
        section(
            &format!("{at}.<name>"),
            &property["additionalProperties"],
            page,
        );
    }
}

fn one_line(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Outside of code, what stands in angle brackets would be read as HTML.
fn cell(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts: Vec<String> = parts
        .map(|(number, part)| match number % 2 {
            0 => part.replace('<', "&lt;"),
            _ => part.to_owned(),
        })
        .collect();
    parts.join("`").replace('|', "\\|")
}

fn compact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn type_of(node: &Value) -> String {
    if node["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    match node["type"].as_str().unwrap_or("any") {
        "array" => format!("list of {}", type_of(&node["items"])),
        "object" if node["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&node["additionalProperties"]))
        }
        other => other.to_owned(),
    }
}

/// What a value may be, in words.
fn bounds(node: &Value) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(values) = node["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| format!("`{}`", compact(value)))
            .collect();
        all.push(format!("One of {}.", values.join(", ")));
    }
    if let Some(pattern) = node["pattern"].as_str() {
        all.push(format!("Pattern: `{pattern}`."));
    }
    for (low, high, unit) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ] {
        let number = |key: &str| node[key].as_f64().map(|number| number.to_string());
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low == high => all.push(format!("Exactly {low}{unit}.")),
            (Some(low), Some(high)) => all.push(format!("{low} to {high}{unit}.")),
            (Some(low), None) => all.push(format!("At least {low}{unit}.")),
            (None, Some(high)) => all.push(format!("At most {high}{unit}.")),
            (None, None) => {}
        }
    }
    for bound in bounds_of_items(node) {
        all.push(format!("Each: {bound}"));
    }
    all
}

fn bounds_of_items(node: &Value) -> Vec<String> {
    match node["items"]["type"].as_str() {
        Some("object") | None => Vec::new(),
        Some(_) => bounds(&node["items"]),
    }
}

/// The sentences of the rules, but for those that only say that a null is none.
fn messages(node: &Value) -> Vec<String> {
    let rules = node["x-kubernetes-validations"].as_array();
    let mut all = Vec::new();
    for rule in rules.into_iter().flatten() {
        let Some(message) = rule["message"].as_str() else {
            continue;
        };
        if message.ends_with("is null: write a value or remove the field") {
            continue;
        }
        let mut letters = message.chars();
        let first = letters
            .next()
            .map(|letter| letter.to_uppercase().to_string());
        all.push(format!(
            "Rule: {}{}.",
            first.unwrap_or_default(),
            letters.as_str()
        ));
    }
    all
}
