//! Null in the place of an optional field.
//!
//! In: a definition's schema; an object's spec. Out: a schema with which the API server keeps a
//! null and refuses it with a message; the first null of a spec. An API server silently drops a
//! null where a schema does not say `nullable`: a template that leaves the value after `names:` or
//! `when:` empty would otherwise become a rule for every tool. Must not do: touch Kubernetes' own
//! types inside a spec, which keep their meaning.

use super::is_core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use serde_json::Value;

/// Has the API server keep, and then refuse, a null in every optional field below this schema.
pub(super) fn refuse(schema: &mut JSONSchemaProps) {
    let required = schema.required.clone().unwrap_or_default();
    let mut rules = Vec::new();
    for (name, property) in schema.properties.iter_mut().flatten() {
        if !required.contains(name) {
            property.nullable = Some(true);
            rules.push(refusal(name));
        }
        if !is_core(name, property) {
            refuse(property);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        refuse(items);
    }
    if !rules.is_empty() {
        schema
            .x_kubernetes_validations
            .get_or_insert_default()
            .extend(rules);
    }
}

/// `dyn`, as the types of CEL compare neither a list nor a string with null.
fn refusal(name: &str) -> ValidationRule {
    ValidationRule {
        rule: format!("!has(self.{name}) || dyn(self.{name}) != null"),
        message: Some(format!("{name} is null: write a value or remove the field")),
        field_path: Some(format!(".{name}")),
        ..ValidationRule::default()
    }
}

/// The path of the first null in a spec that no type of Kubernetes' own contains, such as
/// `spec.rules[0].names`.
///
/// A definition of an earlier release drops nulls, and a modified one may keep them.
pub(super) fn first(spec: &Value) -> Option<String> {
    fn find(value: &Value, path: String) -> Option<String> {
        match value {
            Value::Null => Some(path),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(at, item)| find(item, format!("{path}[{at}]"))),
            Value::Object(members) => members
                .iter()
                .filter(|(name, value)| {
                    value.is_null()
                        || !super::CORE.contains(&name.as_str())
                        || is_rules(name, value)
                })
                .find_map(|(name, value)| find(value, format!("{path}.{name}"))),
            _ => None,
        }
    }
    /// `resources` of a policy are rules, those of a pod are Kubernetes' own.
    fn is_rules(name: &str, value: &Value) -> bool {
        name == "resources" && value.is_array()
    }
    find(spec, "spec".to_owned())
}
