//! Every bound of every field of a spec, each with an object that breaks just it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::objects::{all, is_core};
use super::{schema, verdict};
use crate::support::Cluster;

/// A document that breaks one bound: `Kind.spec.path: keyword`, and where the API server must see
/// it.
struct Broken {
    bound: String,
    field: String,
    document: Value,
}

/// Every bound that the schema has on what is in the document.
fn broken(document: &Value) -> Vec<Broken> {
    let kind = document["kind"].as_str().unwrap();
    let schema = schema(kind);
    let mut found = Vec::new();
    let place = Place {
        path: format!("{kind}.spec"),
        field: "spec".to_owned(),
        pointer: "/spec".to_owned(),
    };
    walk(
        document,
        &schema["properties"]["spec"],
        &document["spec"],
        &place,
        &mut found,
    );
    found
}

#[derive(Clone)]
struct Place {
    /// As bounds are named: indices left out.
    path: String,
    /// As the API server names it.
    field: String,
    pointer: String,
}

fn walk(document: &Value, schema: &Value, value: &Value, place: &Place, found: &mut Vec<Broken>) {
    for (keyword, bad, below) in breaches(schema, value) {
        let mut broken = document.clone();
        *broken.pointer_mut(&place.pointer).unwrap() = bad;
        found.push(Broken {
            bound: format!("{}: {keyword}", place.path),
            field: format!("{}{below}", place.field),
            document: broken,
        });
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = schema["properties"].get(name) {
                    let inner = Place {
                        path: format!("{}.{name}", place.path),
                        field: format!("{}.{name}", place.field),
                        pointer: format!("{}/{name}", place.pointer),
                    };
                    walk(document, schema, value, &inner, found);
                }
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                let inner = Place {
                    path: format!("{}[]", place.path),
                    field: format!("{}[{at}]", place.field),
                    pointer: format!("{}/{at}", place.pointer),
                };
                walk(document, &schema["items"], value, &inner, found);
            }
        }
        _ => {}
    }
}

/// Values that break one keyword each, and where below the value the API server sees it.
fn breaches(schema: &Value, value: &Value) -> Vec<(String, Value, String)> {
    let mut bad: Vec<(String, Value, String)> = Vec::new();
    let number = |key: &str| {
        schema[key]
            .as_u64()
            .or(schema[key].as_f64().map(|bound| bound as u64))
    };
    let mut add =
        |keyword: &str, value: Value, below: String| bad.push((keyword.to_owned(), value, below));
    if schema["enum"].is_array() {
        add("enum", json!("Nonsense"), String::new());
    }
    if schema["pattern"].is_string() {
        add("pattern", json!("é"), String::new());
    }
    if number("minLength").is_some_and(|least| least > 0) {
        add("minLength", json!(""), String::new());
    }
    if let Some(most) = number("maxLength") {
        add(
            "maxLength",
            json!("a".repeat(most as usize + 1)),
            String::new(),
        );
    }
    if let Some(least) = schema["minimum"].as_f64() {
        add("minimum", json!(least as i64 - 1), String::new());
    }
    if let Some(most) = schema["maximum"].as_f64() {
        add("maximum", json!(most as i64 + 1), String::new());
    }
    if let Some(items) = value.as_array() {
        if number("minItems").is_some_and(|least| least > 0) {
            add("minItems", json!([]), String::new());
        }
        if let Some(most) = number("maxItems") {
            add(
                "maxItems",
                json!(vec![&items[0]; most as usize + 1]),
                String::new(),
            );
        }
        if schema["x-kubernetes-list-type"] == "map" || schema["x-kubernetes-list-type"] == "set" {
            let mut twice = items.clone();
            twice.push(items[0].clone());
            add("unique", json!(twice), format!("[{}]", items.len()));
        }
    }
    if let Some(most) = number("maxProperties") {
        let many = (0..=most).map(|at| (format!("k{at}"), json!("v")));
        add(
            "maxProperties",
            Value::Object(many.collect()),
            String::new(),
        );
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let mut without = value.clone();
        without.as_object_mut().unwrap().remove(name);
        add(&format!("required {name}"), without, format!(".{name}"));
    }
    bad
}

/// The bounds that the schemas have, by the same names.
fn bounds() -> BTreeSet<String> {
    fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        if !is_core(path) {
            let empty = match schema["type"].as_str() {
                Some("array") => json!([null]),
                _ => json!({}),
            };
            found.extend(
                breaches(schema, &empty)
                    .into_iter()
                    .map(|(keyword, ..)| format!("{path}: {keyword}")),
            );
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            collect(inner, &format!("{path}.{name}"), found);
        }
        if schema["items"].is_object() {
            collect(&schema["items"], &format!("{path}[]"), found);
        }
    }
    let mut found = BTreeSet::new();
    for kind in ["McpServer", "McpPolicy", "McpApproval"] {
        collect(
            &schema(kind)["properties"]["spec"],
            &format!("{kind}.spec"),
            &mut found,
        );
    }
    // A decision cannot be there at creation, and has its own test.
    found.retain(|bound| !bound.starts_with("McpApproval.spec.decisions"));
    found
}

#[tokio::test]
async fn every_bound_of_every_field_is_enforced_and_the_answer_names_the_field() {
    let Some(cluster) = Cluster::get("bounds of fields") else {
        return;
    };
    let namespace = cluster.namespace("bounds").await;
    let client = cluster.admin_client();
    let mut tested = BTreeSet::new();
    let mut wrong = Vec::new();
    for document in all() {
        if let Err(status) = verdict(&client, &namespace.name, &document).await {
            panic!("the good object was refused: {status}");
        }
        for broken in broken(&document) {
            if is_core(broken.bound.split(':').next().unwrap())
                || !tested.insert(broken.bound.clone())
            {
                continue;
            }
            match verdict(&client, &namespace.name, &broken.document).await {
                Ok(()) => wrong.push(format!("{}: accepted", broken.bound)),
                Err(status) => {
                    let causes = status.details.iter().flat_map(|details| &details.causes);
                    if !causes.clone().any(|cause| cause.field == broken.field) {
                        wrong.push(format!(
                            "{}: {} is not named: {}",
                            broken.bound, broken.field, status.message
                        ));
                    }
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(
        bounds().difference(&tested).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}
