//! Values of keywords, read from a schema as JSON.
//!
//! In: members of one schema. Out: typed values, or what the keyword must be. Must not do: follow
//! references.

use super::number::Num;
use super::{Kinds, NumberRules, bounded};
use serde_json::{Map, Value};

pub(super) fn unusable(key: &str, must: &str) -> String {
    format!(
        "its inputSchema cannot be compiled: {} must be {must}",
        bounded(key)
    )
}

pub(super) fn array<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>, String> {
    value.as_array().ok_or_else(|| unusable(key, "a list"))
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| unusable(key, "text"))
}

pub(super) fn strings(value: &Value, key: &str) -> Result<Vec<String>, String> {
    array(value, key)?
        .iter()
        .map(|item| text(item, key).map(str::to_owned))
        .collect()
}

pub(super) fn schemas<'v>(
    members: &'v Map<String, Value>,
    key: &str,
) -> Result<impl Iterator<Item = (&'v String, &'v Value)>, String> {
    let map = match members.get(key) {
        None => None,
        Some(value) => Some(
            value
                .as_object()
                .ok_or_else(|| unusable(key, "an object"))?,
        ),
    };
    Ok(map.into_iter().flatten())
}

pub(super) fn count(members: &Map<String, Value>, key: &str) -> Result<Option<usize>, String> {
    let Some(value) = members.get(key) else {
        return Ok(None);
    };
    let count = value
        .as_u64()
        .or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                .map(|n| n as u64)
        })
        .ok_or_else(|| unusable(key, "a count"))?;
    Ok(Some(usize::try_from(count).unwrap_or(usize::MAX)))
}

pub(super) fn kinds(value: &Value) -> Result<(Kinds, bool), String> {
    let wrong = || unusable("type", "a JSON type or a list of them");
    let one = |name: &Value| {
        Ok(match name.as_str().ok_or_else(wrong)? {
            "null" => (Kinds::NULL, false),
            "boolean" => (Kinds::BOOL, false),
            "number" => (Kinds::NUMBER, false),
            "integer" => (Kinds::NUMBER, true),
            "string" => (Kinds::STRING, false),
            "array" => (Kinds::ARRAY, false),
            "object" => (Kinds::OBJECT, false),
            _ => return Err(wrong()),
        })
    };
    let Some(names) = value.as_array() else {
        return one(value);
    };
    let mut all = Kinds::NONE;
    let (mut integer, mut number) = (false, false);
    for name in names {
        let (kind, whole) = one(name)?;
        all = all.or(kind);
        integer |= whole;
        number |= kind == Kinds::NUMBER && !whole;
    }
    Ok((all, integer && !number))
}

pub(super) fn numbers(members: &Map<String, Value>) -> Result<Option<Box<NumberRules>>, String> {
    let number = |key: &str| -> Result<Option<Num>, String> {
        match members.get(key) {
            None | Some(Value::Bool(_)) => Ok(None),
            Some(Value::Number(number)) => Num::of_plain(number)
                .map(Some)
                .ok_or_else(|| unusable(key, "a number")),
            Some(_) => Err(unusable(key, "a number")),
        }
    };
    let strict = |key: &str| members.get(key) == Some(&Value::Bool(true));
    let mut rules = NumberRules {
        minimum: number("minimum")?,
        above: number("exclusiveMinimum")?,
        maximum: number("maximum")?,
        below: number("exclusiveMaximum")?,
        multiple_of: number("multipleOf")?,
    };
    // Draft 4 says with a boolean whether the bound itself is out.
    if strict("exclusiveMinimum") {
        rules.above = rules.minimum;
    }
    if strict("exclusiveMaximum") {
        rules.below = rules.maximum;
    }
    let any = rules.minimum.is_some()
        || rules.above.is_some()
        || rules.maximum.is_some()
        || rules.below.is_some()
        || rules.multiple_of.is_some();
    Ok(any.then(|| Box::new(rules)))
}
