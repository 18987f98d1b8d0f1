//! Random schemas of tools, and arguments that mostly fit them.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Values of arguments, of every kind.
fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        2 => Just(json!(null)),
        2 => any::<bool>().prop_map(Value::from),
        4 => prop::sample::select(vec![json!(7), json!(0), json!(-0.0), json!(7.0), json!(384), json!(600), json!(1.5), json!(31),
            json!(1_000_000), json!(1000), json!(3), json!(8), json!(-1), json!(0.5), json!(u64::MAX),
            json!(9_007_199_254_740_993_i64), json!(1e300)]),
        6 => prop::sample::select(vec!["usd", "7", "0600", "384", "true", "no", "Yes", "on", "y", "", "<nil>", "0", "-0", "1e+06",
            "1000000", "7.0", "1.5", "a", "&", "[", "[7 usd]", "map[k:7]", "٧", "USD", "é", "false", "1000", "1e400"])
            .prop_map(Value::from),
    ];
    let items = prop::collection::vec(plain.clone(), 0..3).prop_map(Value::from);
    prop_oneof![
        6 => plain.clone(),
        2 => items,
        1 => plain.prop_map(|value| json!({"k": value})),
    ]
}

/// A property of the schema: its kinds (any where there are none) and its default.
#[derive(Clone, Debug)]
struct Property {
    kinds: Option<Vec<&'static str>>,
    default: Option<Value>,
}

fn property() -> impl Strategy<Value = Property> {
    let kinds = prop::option::weighted(
        0.5,
        prop::sample::subsequence(
            vec!["null", "boolean", "number", "string", "array", "object"],
            1..4,
        ),
    );
    (kinds, prop::option::weighted(0.7, value())).prop_map(|(kinds, default)| {
        let kinds = match (kinds, &default) {
            (Some(mut kinds), Some(default)) => {
                kinds.push(kind(default));
                Some(kinds)
            }
            (kinds, _) => kinds,
        };
        Property { kinds, default }
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Property {
    fn json(&self) -> Value {
        let mut schema = Map::new();
        if let Some(kinds) = &self.kinds {
            schema.insert("type".into(), json!(kinds));
        }
        if let Some(default) = &self.default {
            schema.insert("default".into(), default.clone());
        }
        schema.into()
    }

    fn admits(&self, value: &Value) -> bool {
        self.kinds
            .as_ref()
            .is_none_or(|kinds| kinds.contains(&kind(value)))
    }
}

/// The schema of a tool: properties `a` to `c`, and an object `m` with properties of its own.
#[derive(Clone, Debug)]
pub struct Schema {
    flat: Vec<(&'static str, Property)>,
    nested: Vec<(&'static str, Property)>,
    /// Whether `m` is there by default.
    default: bool,
}

pub fn schemas() -> impl Strategy<Value = Schema> {
    let flat = ["a", "b", "c", "odd-key", "null"].map(|name| (Just(name), property()));
    let nested = ["k", "n"].map(|name| (Just(name), property()));
    (flat, nested, any::<bool>()).prop_map(|(flat, nested, default)| Schema {
        flat: flat.into(),
        nested: nested.into(),
        default,
    })
}

impl Schema {
    pub fn json(&self) -> Value {
        let properties = |list: &[(&str, Property)]| -> Map<String, Value> {
            list.iter()
                .map(|(name, property)| ((*name).to_owned(), property.json()))
                .collect()
        };
        let mut m = json!({"type": "object", "properties": properties(&self.nested)});
        if self.default {
            m["default"] = json!({});
        }
        let mut all = properties(&self.flat);
        all.insert("m".into(), m);
        json!({"type": "object", "properties": all, "additionalProperties": false})
    }

    /// Whether the arguments are as the schema says, and mean one thing to servers that decode text
    /// once more.
    pub fn admits(&self, args: &Map<String, Value>) -> bool {
        let fits = |list: &[(&str, Property)], members: &Map<String, Value>| {
            members.iter().all(|(name, value)| {
                let property = list.iter().find(|(other, _)| other == name);
                property.is_some_and(|(_, property)| {
                    property.admits(value) && !decoded(property, value)
                })
            })
        };
        let mut flat = args.clone();
        let nested = flat.remove("m");
        fits(&self.flat, &flat)
            && nested.is_none_or(|m| m.as_object().is_some_and(|m| fits(&self.nested, m)))
    }

    /// What the server reads: defaults in place of what is absent; a null is absent where that is
    /// the default.
    pub fn filled(&self, args: &Map<String, Value>) -> Map<String, Value> {
        let fill = |list: &[(&'static str, Property)], members: &mut Map<String, Value>| {
            for (name, property) in list {
                match (members.get(*name), &property.default) {
                    (Some(Value::Null), Some(Value::Null)) => {
                        members.remove(*name);
                    }
                    (None, Some(default)) if !default.is_null() => {
                        members.insert((*name).to_owned(), default.clone());
                    }
                    _ => {}
                }
            }
        };
        let mut filled = args.clone();
        fill(&self.flat, &mut filled);
        if self.default && !filled.contains_key("m") {
            filled.insert("m".into(), json!({}));
        }
        if let Some(Value::Object(m)) = filled.get_mut("m") {
            fill(&self.nested, m);
        }
        filled
    }
}

/// Whether a server may decode the text once more: where other kinds are admitted too, and it is
/// not plainly text.
fn decoded(property: &Property, value: &Value) -> bool {
    const PLAIN: [&str; 7] = ["usd", "USD", "a", "&", "é", "<nil>", "map[k:7]"];
    let only_text = property
        .kinds
        .as_ref()
        .is_some_and(|kinds| kinds.iter().all(|kind| *kind == "string"));
    let texts: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        Value::Object(members) => members.values().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    !only_text && texts.iter().any(|text| !PLAIN.contains(text))
}

pub fn arguments(schema: &Schema) -> impl Strategy<Value = Map<String, Value>> + use<> {
    let member = |property: Property| {
        // Mostly what the schema admits, as everything else is refused.
        let fitting = prop::collection::vec(value(), 8)
            .prop_map(move |values| values.into_iter().find(|value| property.admits(value)));
        prop_oneof![
            8 => fitting.boxed(),
            6 => Just(None).boxed(),
            1 => value().prop_map(Some).boxed(),
        ]
    };
    let members = |list: &[(&'static str, Property)]| {
        list.iter()
            .map(|(name, property)| (Just(*name), member(property.clone())))
            .collect::<Vec<_>>()
    };
    let object = |found: Vec<(&'static str, Option<Value>)>| -> Map<String, Value> {
        found
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    };
    let nested = members(&schema.nested).prop_map(object);
    let m = prop_oneof![
        3 => Just(None), 6 => nested.prop_map(|m| Some(Value::from(m))), 1 => value().prop_map(Some),
    ];
    (members(&schema.flat).prop_map(object), m).prop_map(|(mut args, m)| {
        if let Some(m) = m {
            args.insert("m".into(), m);
        }
        args
    })
}
