//! A tool's `inputSchema`, held against arguments that a rule reads.
//!
//! In: the schema as the upstream lists it; arguments. Out: yes, with the defaults of what is absent; or the argument that is
//! not as the schema says. Many servers coerce what they are sent (`"7"` to 7, `"true"` to true), so a rule must only ever
//! see arguments that mean the same to the server. The schema is the upstream's, so it is not trusted: no remote references,
//! no cycles, bounded size, patterns of a linear engine.

use super::matcher::fold_case;
use crate::json;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use std::{borrow::Cow, collections::HashMap};

/// Nodes of a schema after its references are followed.
const MAX_NODES: usize = 10_000;
/// Levels of a schema after its references are followed.
const MAX_LEVELS: usize = 128;
/// Memory that one compiled pattern may take.
const PATTERN_SIZE: usize = 1024 * 1024;

/// A compiled `inputSchema`.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    /// Folded name to name, of the properties at the top.
    properties: HashMap<String, String>,
    /// Defaults of the properties at the top.
    defaults: Vec<(String, Value)>,
}

/// Which argument is wrong, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit(pub String);

impl Schema {
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let Some(object) = schema.as_object() else {
            return Err("its inputSchema is not an object".to_owned());
        };
        weigh(schema, schema, &mut Vec::new(), &mut { MAX_NODES }, 0)?;
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(false)
            .with_pattern_options(
                PatternOptions::regex()
                    .size_limit(PATTERN_SIZE)
                    .dfa_size_limit(PATTERN_SIZE),
            )
            .build(schema)
            .map_err(|error| {
                format!(
                    "its inputSchema cannot be compiled: {}",
                    bounded(&error.to_string())
                )
            })?;
        let mut properties = HashMap::new();
        let mut defaults = Vec::new();
        if let Some(listed) = object.get("properties").and_then(Value::as_object) {
            for (name, property) in listed {
                if let Some(other) = properties.insert(fold_case(name).into_owned(), name.clone()) {
                    return Err(format!(
                        "its properties {other:?} and {name:?} differ only in case"
                    ));
                }
                if let Some(default) = property.get("default") {
                    defaults.push((name.clone(), default.clone()));
                }
            }
        }
        Ok(Self {
            validator,
            properties,
            defaults,
        })
    }

    /// Values of absent properties.
    pub fn defaults(&self) -> &[(String, Value)] {
        &self.defaults
    }

    /// Whether the arguments are as the schema says, as they stand.
    pub fn check(&self, members: &[(Cow<'_, str>, json::Value<'_>)]) -> Result<(), Misfit> {
        for (key, _) in members {
            match self.properties.get(&*fold_case(key)) {
                Some(name) if name != key => {
                    return Err(Misfit(format!(
                        "write the argument `{}` as `{}`",
                        bounded(key),
                        bounded(name)
                    )));
                }
                _ => {}
            }
        }
        let instance = Value::Object(
            members
                .iter()
                .map(|(key, value)| Ok((key.to_string(), plain(value)?)))
                .collect::<Result<_, Misfit>>()?,
        );
        self.validator
            .validate(&instance)
            .map_err(|error| misfit(&error))
    }
}

/// The value as the validator takes it. A number that it would round is refused, as the bounds of a schema would be held
/// against another number than the server gets.
fn plain(value: &json::Value<'_>) -> Result<Value, Misfit> {
    Ok(match value {
        json::Value::Null => Value::Null,
        json::Value::Bool(value) => Value::Bool(*value),
        json::Value::Number(token) => {
            if let Ok(value) = token.parse::<i64>() {
                Value::from(value)
            } else if let Ok(value) = token.parse::<u64>() {
                Value::from(value)
            } else {
                match token
                    .parse::<f64>()
                    .ok()
                    .and_then(serde_json::Number::from_f64)
                {
                    Some(number) if token.contains(['.', 'e', 'E']) => Value::Number(number),
                    _ => {
                        return Err(Misfit(
                            "an integer in the arguments does not fit 64 bits".to_owned(),
                        ));
                    }
                }
            }
        }
        json::Value::String(text) => Value::String(text.to_string()),
        json::Value::Array(items) => {
            Value::Array(items.iter().map(plain).collect::<Result<_, _>>()?)
        }
        json::Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(key, value)| Ok((key.to_string(), plain(value)?)))
                .collect::<Result<_, Misfit>>()?,
        ),
    })
}

/// Names the argument and what it must be, without repeating its value.
fn misfit(error: &ValidationError<'_>) -> Misfit {
    let path = error.instance_path().to_string();
    let at = match path.strip_prefix('/') {
        Some(path) if !path.contains('/') => format!("the argument `{}`", bounded(path)),
        Some(path) => format!("`{}` in the arguments", bounded(path)),
        None => "the arguments".to_owned(),
    };
    let list = |names: &[String]| {
        names
            .iter()
            .map(|name| format!("`{}`", bounded(name)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    Misfit(match error.kind() {
        ValidationErrorKind::Type {
            kind: TypeKind::Single(kind),
        } => format!("{at} must be of type {kind}"),
        ValidationErrorKind::Type {
            kind: TypeKind::Multiple(kinds),
        } => {
            let kinds: Vec<_> = kinds.iter().map(|kind| kind.to_string()).collect();
            format!("{at} must be of one of the types {}", kinds.join(", "))
        }
        ValidationErrorKind::Required { property } => {
            format!(
                "the argument `{}` is missing",
                bounded(property.as_str().unwrap_or_default())
            )
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!("there is no such argument: {}", list(unexpected))
        }
        ValidationErrorKind::Enum { options } => {
            format!("{at} must be one of {}", bounded(&options.to_string()))
        }
        ValidationErrorKind::Constant { expected_value } => {
            format!("{at} must be {}", bounded(&expected_value.to_string()))
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let mut ways: Vec<String> = context
                .iter()
                .filter_map(|errors| match errors.first().map(ValidationError::kind) {
                    Some(ValidationErrorKind::Type {
                        kind: TypeKind::Single(kind),
                    }) => Some(kind.to_string()),
                    _ => None,
                })
                .collect();
            ways.dedup();
            if ways.is_empty() {
                format!("{at} is not as the tool's inputSchema says")
            } else {
                format!("{at} must be of one of the types {}", ways.join(", "))
            }
        }
        _ => format!(
            "{at}: {}",
            bounded(&error.masked_with("the value").to_string())
        ),
    })
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Follows every reference inside the schema: they must stay inside, form no cycle, and lead to a bounded whole. So neither
/// compiling nor validating can recurse or grow without bound.
fn weigh<'s>(
    root: &'s Value,
    node: &'s Value,
    open: &mut Vec<&'s str>,
    left: &mut usize,
    level: usize,
) -> Result<(), String> {
    *left = left
        .checked_sub(1)
        .ok_or_else(|| format!("its inputSchema has more than {MAX_NODES} nodes"))?;
    if level > MAX_LEVELS {
        return Err(format!("its inputSchema nests deeper than {MAX_LEVELS}"));
    }
    match node {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| weigh(root, item, open, left, level + 1)),
        Value::Object(members) => {
            for (key, value) in members {
                match (key.as_str(), value) {
                    ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                        return Err(format!(
                            "its inputSchema uses {key}, which is not supported"
                        ));
                    }
                    ("$id" | "id", Value::String(_)) if level > 0 && key == "$id" => {
                        return Err(
                            "its inputSchema changes its base inside, which is not supported"
                                .to_owned(),
                        );
                    }
                    ("$ref", Value::String(target)) => {
                        let Some(pointer) = target.strip_prefix('#') else {
                            return Err(format!(
                                "its inputSchema refers to {}, outside itself",
                                bounded(target)
                            ));
                        };
                        let found = root.pointer(pointer).ok_or_else(|| {
                            format!(
                                "its inputSchema refers to {}, which is missing",
                                bounded(target)
                            )
                        })?;
                        if open.contains(&pointer) || pointer.is_empty() {
                            return Err("its inputSchema refers to itself, which is not supported"
                                .to_owned());
                        }
                        open.push(pointer);
                        weigh(root, found, open, left, level + 1)?;
                        open.pop();
                    }
                    _ => weigh(root, value, open, left, level + 1)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: &Value, arguments: &str) -> Result<(), String> {
        let schema = Schema::compile(schema)?;
        let value = json::parse(arguments.as_bytes()).unwrap();
        schema
            .check(value.as_object().unwrap())
            .map_err(|Misfit(text)| text)
    }

    #[test]
    fn an_argument_that_the_server_would_coerce_is_named_with_what_it_must_be() {
        let schema = json!({
            "type": "object",
            "properties": {
                "version": {"type": "integer"},
                "force": {"type": "boolean", "default": false},
                "alias": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "stage": {"enum": ["Staging", "Production"]}
            },
            "required": ["version"],
            "additionalProperties": false
        });
        let says = |arguments| check(&schema, arguments);
        assert_eq!(says(r#"{"version":7}"#), Ok(()));
        assert_eq!(says(r#"{"version":7.0}"#), Ok(()));
        assert_eq!(
            says(r#"{"version":"7"}"#),
            Err("the argument `version` must be of type integer".into())
        );
        assert_eq!(
            says(r#"{"version":7,"force":"true"}"#),
            Err("the argument `force` must be of type boolean".into())
        );
        assert_eq!(says("{}"), Err("the argument `version` is missing".into()));
        assert_eq!(
            says(r#"{"version":7,"Force":true}"#),
            Err("write the argument `Force` as `force`".into())
        );
        assert_eq!(
            says(r#"{"version":7,"x":1}"#),
            Err("there is no such argument: `x`".into())
        );
        assert_eq!(
            says(r#"{"version":7,"alias":1}"#),
            Err("the argument `alias` must be of one of the types string, null".into())
        );
        assert_eq!(
            says(r#"{"version":7,"stage":"production"}"#),
            Err(r#"the argument `stage` must be one of ["Staging","Production"]"#.into())
        );
        assert_eq!(
            says(r#"{"version":123456789012345678901234567890}"#),
            Err("an integer in the arguments does not fit 64 bits".into())
        );
        assert_eq!(
            Schema::compile(&schema).unwrap().defaults(),
            [("force".to_owned(), json!(false))]
        );
    }

    #[test]
    fn a_hostile_schema_is_refused_rather_than_followed() {
        let mut doubling = serde_json::Map::new();
        doubling.insert("d0".into(), json!({"type": "string"}));
        for i in 1..40 {
            let reference = json!({"$ref": format!("#/$defs/d{}", i - 1)});
            doubling.insert(format!("d{i}"), json!({"allOf": [reference, reference]}));
        }
        for (schema, part) in [
            (json!(true), "not an object"),
            (json!({"$ref": "#"}), "itself"),
            (
                json!({"properties": {"a": {"$ref": "#/properties/a"}}}),
                "itself",
            ),
            (
                json!({"$ref": "https://evil.example/schema"}),
                "outside itself",
            ),
            (json!({"$ref": "#/$defs/none"}), "missing"),
            (json!({"$defs": doubling, "$ref": "#/$defs/d39"}), "nodes"),
            (
                json!({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}),
                "cannot be compiled",
            ),
            (
                json!({"properties": {"a": {"pattern": "(?=x)"}}}),
                "cannot be compiled",
            ),
            (json!({"type": "objekt"}), "cannot be compiled"),
            (
                json!({"properties": {"a": {}, "A": {}}}),
                "differ only in case",
            ),
        ] {
            let error = Schema::compile(&schema).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{schema}: {error}");
        }
    }
}
