//! The CEL rules of a definition, over one object.
//!
//! In: a document with its JSON, which satisfies the schema. Out: the rules that it breaks, each
//! with its place. Must not do: compile a rule twice for one document, or one that the document
//! cannot reach: compiling is most of the work.

use super::{schema::Fault, tree::Node};
use kube::core::cel::{Validator, compile_schema};
use serde_json::{Map, Value};

/// The CEL rules of the definition, over the object with its defaults, as the API server evaluates
/// them.
pub(super) fn check(document: &Node, json: &Value, schema: &Value) -> Result<(), Vec<Fault>> {
    let compiled = compile_schema(&needed(schema, &[json]));
    let Err(errors) = Validator::new().validate_compiled(&compiled, json, None) else {
        return Ok(());
    };
    let positions = document.positions();
    let faults = errors.into_vec().into_iter().map(|error| {
        let mut at = positions.get(&error.field_path).copied();
        let mut around = error.field_path.as_str();
        while let (None, Some(end)) = (at, around.rfind(['.', '['])) {
            around = around.get(..end).unwrap_or_default();
            at = positions.get(around).copied();
        }
        // Only a rule of the whole object can compare the name, so it names the field itself.
        let named = error.message.split(' ').next().unwrap_or_default();
        let path = match positions.get(named) {
            Some(place) if error.field_path.is_empty() => {
                at = Some(*place);
                named.to_owned()
            }
            _ => error.field_path,
        };
        Fault {
            at: at.unwrap_or(document.at),
            message: error
                .message
                .strip_prefix(&format!("{path} "))
                .map(str::to_owned)
                .unwrap_or(error.message),
            path,
        }
    });
    Err(faults.collect())
}

/// The schema without the properties, elements and map values that none of the values has. A
/// property with a default stays whole, because defaults are filled in before the rules are
/// evaluated.
fn needed(schema: &Value, values: &[&Value]) -> Value {
    let Some(schema) = schema.as_object() else {
        return schema.clone();
    };
    let mut kept = Map::new();
    for (key, value) in schema {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties
                .iter()
                .filter_map(|(name, property)| {
                    let below: Vec<_> = values.iter().filter_map(|value| value.get(name)).collect();
                    let kept = if property.get("default").is_some() {
                        property.clone()
                    } else if below.is_empty() {
                        return None;
                    } else {
                        needed(property, &below)
                    };
                    Some((name.clone(), kept))
                })
                .collect(),
            ("items", items) => {
                let arrays = values.iter().filter_map(|value| value.as_array());
                let below: Vec<_> = arrays.flatten().collect();
                if below.is_empty() {
                    continue;
                }
                needed(items, &below)
            }
            ("additionalProperties", Value::Object(_)) => {
                let objects = values.iter().filter_map(|value| value.as_object());
                let below: Vec<_> = objects.flat_map(Map::values).collect();
                needed(value, &below)
            }
            _ => value.clone(),
        };
        kept.insert(key.clone(), value);
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_needed_part_of_a_schema_finds_what_the_whole_finds() {
        let rule = |rule: &str| json!([{ "rule": rule, "message": rule }]);
        let text = json!({ "type": "string", "x-kubernetes-validations": rule("self != 'bad'") });
        let schema = json!({
            "type": "object",
            "x-kubernetes-validations": rule("!has(self.absent)"),
            "properties": {
                "absent": text, "text": text,
                "filled": {
                    "type": "object",
                    "default": { "mode": "bad" },
                    "x-kubernetes-validations": rule("self.mode != 'worse'"),
                    "properties": { "mode": text, "other": text.as_object().map(|text| {
                        let mut text = text.clone();
                        text.insert("default".to_owned(), json!("bad"));
                        text
                    }) }
                },
                "list": {
                    "type": "array",
                    "x-kubernetes-validations": rule("self.size() < 3"),
                    "items": { "type": "object", "properties": { "a": text, "b": text } }
                },
                "map": { "type": "object", "additionalProperties": { "type": "object", "properties": { "a": text, "b": text } } }
            }
        });
        let mut found = 0;
        for document in [
            json!({}),
            json!({ "text": "bad", "filled": { "mode": "good" } }),
            json!({ "absent": "bad", "filled": { "mode": "worse", "other": "good" } }),
            json!({ "list": [], "map": {}, "filled": {} }),
            json!({ "list": [{ "a": "bad" }, { "b": "good" }, { "b": "bad", "a": "bad" }] }),
            json!({ "map": { "x": { "a": "bad" }, "y": { "b": "bad" } }, "unknown": { "a": "bad" } }),
        ] {
            let errors = |result: Result<(), kube::core::cel::ValidationErrors>| {
                let errors = result
                    .err()
                    .map(|errors| errors.into_vec())
                    .unwrap_or_default();
                let mut errors: Vec<_> = errors
                    .into_iter()
                    .map(|error| (error.field_path, error.message))
                    .collect();
                errors.sort();
                errors
            };
            let whole = errors(Validator::new().validate_with_defaults(&schema, &document, None));
            let compiled = compile_schema(&needed(&schema, &[&document]));
            let part = errors(Validator::new().validate_compiled(&compiled, &document, None));
            assert_eq!(part, whole, "{document}");
            found += whole.len();
        }
        assert!(found > 10, "{found}");
    }
}
