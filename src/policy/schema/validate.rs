//! Whether a value is as a schema says, as JSON Schema defines it.
//!
//! In: a node and a value. Out: yes, or the first place that is not so, or that the work ran out.
//! Every step takes from the call's budget, so that no schema of a hostile server holds up a
//! gateway. Must not do: coerce.

use super::number::Num;
use super::{
    ArrayRules, Fail, Fuel, Id, Kinds, Misfit, Node, ObjectRules, Path, Schema, bounded, loose,
};
use crate::json;
use serde_json::Value;

pub(super) struct Run<'r> {
    pub schema: &'r Schema,
    pub fuel: &'r Fuel,
    /// Whether anybody reads the message.
    pub quiet: bool,
}

type Done = Result<(), Fail>;

impl Run<'_> {
    fn fail(&self, message: impl FnOnce() -> String) -> Done {
        Err(if self.quiet {
            Fail::No
        } else {
            Fail::Misfit(Misfit(message()))
        })
    }

    /// Whether a branch takes the value.
    pub fn takes(&self, id: Id, value: &json::Value<'_>) -> Result<bool, Fail> {
        let quiet = Run {
            schema: self.schema,
            fuel: self.fuel,
            quiet: true,
        };
        match quiet.validate(id, value, &Path::ROOT) {
            Ok(()) => Ok(true),
            Err(Fail::Exhausted) => Err(Fail::Exhausted),
            Err(_) => Ok(false),
        }
    }

    pub fn validate(&self, id: Id, value: &json::Value<'_>, path: &Path<'_>) -> Done {
        self.fuel.burn(1)?;
        let Some(node) = self.schema.node(id) else {
            return Err(Fail::No);
        };
        self.kind(node, value, path)?;
        if let Some(values) = &node.one_of_values {
            let mut found = false;
            for wanted in values {
                if self.same(value, wanted)? {
                    found = true;
                    break;
                }
            }
            if !found {
                return self.fail(|| match values.as_slice() {
                    [one] => format!("{} must be {}", path.describe(), bounded(&one.to_string())),
                    all => format!(
                        "{} must be one of {}",
                        path.describe(),
                        bounded(&Value::Array(all.to_vec()).to_string())
                    ),
                });
            }
        }
        match value {
            json::Value::Number(token) => self.number(node, token, path)?,
            json::Value::String(text) => self.text(node, text, path)?,
            json::Value::Array(items) => {
                if let Some(rules) = &node.array {
                    self.array(rules, items, path)?;
                }
            }
            json::Value::Object(members) => {
                if let Some(rules) = &node.object {
                    self.object(rules, value, members, path)?;
                }
            }
            _ => {}
        }
        for id in &node.all {
            self.validate(*id, value, path)?;
        }
        if let Some(ids) = &node.any {
            self.branches(ids, value, path, false)?;
        }
        if let Some(ids) = &node.one {
            self.branches(ids, value, path, true)?;
        }
        if let Some(id) = node.not
            && self.takes(id, value)?
        {
            return self.unlike(path);
        }
        if let Some(condition) = &node.condition {
            let next = if self.takes(condition.test, value)? {
                condition.then
            } else {
                condition.otherwise
            };
            if let Some(id) = next {
                self.validate(id, value, path)?;
            }
        }
        Ok(())
    }

    fn unlike(&self, path: &Path<'_>) -> Done {
        self.fail(|| format!("{} is not as the tool's inputSchema says", path.describe()))
    }

    fn kind(&self, node: &Node, value: &json::Value<'_>, path: &Path<'_>) -> Done {
        let kind = Kinds::of(value);
        let whole = match value {
            json::Value::Number(token) => match Num::of_token(token) {
                Some(number) => number.is_whole(),
                // Rounded, it would be held against another number than the server gets.
                None => {
                    return self
                        .fail(|| "an integer in the arguments does not fit 64 bits".to_owned());
                }
            },
            _ => true,
        };
        if node.kinds.has(kind) && (whole || !node.whole) {
            return Ok(());
        }
        self.fail(|| match node.kinds.names(node.whole).as_slice() {
            [] => format!("{} is not wanted by the tool", path.describe()),
            [kind] => format!("{} must be of type {kind}", path.describe()),
            kinds => format!(
                "{} must be of one of the types {}",
                path.describe(),
                kinds.join(", ")
            ),
        })
    }

    fn number(&self, node: &Node, token: &str, path: &Path<'_>) -> Done {
        use std::cmp::Ordering::{Greater, Less};
        let (Some(rules), Some(number)) = (&node.number, Num::of_token(token)) else {
            return Ok(());
        };
        let order = |bound: Option<Num>| bound.and_then(|bound| number.order(bound));
        let wrong = if order(rules.minimum) == Some(Less) {
            "is smaller than"
        } else if order(rules.maximum) == Some(Greater) {
            "is larger than"
        } else if rules.above.is_some() && order(rules.above) != Some(Greater) {
            "is not larger than what"
        } else if rules.below.is_some() && order(rules.below) != Some(Less) {
            "is not smaller than what"
        } else if rules
            .multiple_of
            .is_some_and(|step| !number.is_multiple_of(step))
        {
            "is not a multiple of what"
        } else {
            return Ok(());
        };
        self.fail(|| format!("{} {wrong} the tool's inputSchema says", path.describe()))
    }

    fn text(&self, node: &Node, text: &str, path: &Path<'_>) -> Done {
        let Some(rules) = &node.text else {
            return Ok(());
        };
        if rules.min > 0 || rules.max.is_some() {
            self.fuel.burn_bytes(text.len())?;
            let length = text.chars().count();
            if length < rules.min || rules.max.is_some_and(|max| length > max) {
                return self.fail(|| {
                    format!(
                        "{} has {length} characters, and the tool's inputSchema allows {} to {}",
                        path.describe(),
                        rules.min,
                        rules
                            .max
                            .map_or("any number".to_owned(), |max| max.to_string())
                    )
                });
            }
        }
        if let Some(pattern) = &rules.pattern
            && !pattern.search(text, self.fuel)?
        {
            return self.fail(|| {
                format!(
                    "{} does not match the pattern of the tool's inputSchema",
                    path.describe()
                )
            });
        }
        Ok(())
    }

    fn array(&self, rules: &ArrayRules, items: &[json::Value<'_>], path: &Path<'_>) -> Done {
        if items.len() < rules.min || rules.max.is_some_and(|max| items.len() > max) {
            return self.fail(|| {
                format!(
                    "{} has {} elements, and the tool's inputSchema allows {} to {}",
                    path.describe(),
                    items.len(),
                    rules.min,
                    rules
                        .max
                        .map_or("any number".to_owned(), |max| max.to_string())
                )
            });
        }
        for (at, item) in items.iter().enumerate() {
            if let Some(id) = rules.prefix.get(at).copied().or(rules.items) {
                self.validate(id, item, &path.index(at))?;
            }
        }
        if rules.unique {
            for (at, item) in items.iter().enumerate() {
                for other in items.get(..at).unwrap_or_default() {
                    if self.alike(item, other)? {
                        return self.fail(|| format!("{} has an element twice", path.describe()));
                    }
                }
            }
        }
        if let Some((id, min, max)) = rules.contains {
            let mut found = 0_usize;
            for item in items {
                found += usize::from(self.takes(id, item)?);
            }
            if found < min || max.is_some_and(|max| found > max) {
                return self.unlike(path);
            }
        }
        Ok(())
    }

    fn object(
        &self,
        rules: &ObjectRules,
        value: &json::Value<'_>,
        members: &[(std::borrow::Cow<'_, str>, json::Value<'_>)],
        path: &Path<'_>,
    ) -> Done {
        self.fuel.burn(members.len() + rules.required.len())?;
        let has = |name: &str| members.iter().any(|(key, _)| key == name);
        for name in &rules.required {
            self.fuel.burn(members.len())?;
            if !has(name) {
                return self.fail(|| missing(rules, members, name, path));
            }
        }
        if members.len() < rules.min || rules.max.is_some_and(|max| members.len() > max) {
            return self.unlike(path);
        }
        for (key, item) in members {
            let mut known = false;
            if let Some(id) = rules.property(key) {
                known = true;
                self.validate(id, item, &path.key(key))?;
            }
            for (pattern, id) in &rules.patterns {
                if pattern.search(key, self.fuel)? {
                    known = true;
                    self.validate(*id, item, &path.key(key))?;
                }
            }
            if !known && let Some(id) = rules.additional {
                let never = self
                    .schema
                    .node(id)
                    .is_none_or(|node| node.kinds == Kinds::NONE);
                if never {
                    return self.fail(|| unknown(rules, key, path));
                }
                self.validate(id, item, &path.key(key))?;
            }
            if let Some(id) = rules.names {
                let name = json::Value::String(std::borrow::Cow::Borrowed(key));
                if !self.takes(id, &name)? {
                    return self.fail(|| unknown(rules, key, path));
                }
            }
        }
        for (name, others) in &rules.needs {
            self.fuel.burn(members.len() * (1 + others.len()))?;
            if let Some(other) = others.iter().find(|other| has(name) && !has(other)) {
                return self.fail(|| missing(rules, members, other, path));
            }
        }
        for (name, id) in &rules.implies {
            self.fuel.burn(members.len())?;
            if has(name) {
                self.validate(*id, value, path)?;
            }
        }
        Ok(())
    }

    fn branches(&self, ids: &[Id], value: &json::Value<'_>, path: &Path<'_>, one: bool) -> Done {
        let mut taken = 0;
        for id in ids {
            if self.takes(*id, value)? {
                taken += 1;
                if !one {
                    return Ok(());
                }
            }
        }
        if taken == 1 {
            return Ok(());
        }
        if taken > 1 {
            return self.fail(|| {
                format!(
                    "{} fits more than one of the ways in which the tool's inputSchema says it can be written",
                    path.describe()
                )
            });
        }
        // Where only one branch is for this kind of value, what is wrong is what is wrong with that
        // one.
        let kind = Kinds::of(value);
        let mut fitting = ids.iter().filter(|id| {
            self.schema
                .node(**id)
                .is_some_and(|node| node.admits.has(kind))
        });
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => self.validate(*id, value, path),
            (None, _) => self.fail(|| {
                let kinds = ids
                    .iter()
                    .filter_map(|id| self.schema.node(*id))
                    .fold(Kinds::NONE, |all, node| all.or(node.admits));
                format!(
                    "{} must be of one of the types {}",
                    path.describe(),
                    kinds.names(false).join(", ")
                )
            }),
            _ => self.unlike(path),
        }
    }

    /// Whether a value of the call is a value of the schema: numbers by what they are worth.
    fn same(&self, value: &json::Value<'_>, wanted: &Value) -> Result<bool, Fail> {
        self.fuel.burn(1)?;
        Ok(match (value, wanted) {
            (json::Value::Null, Value::Null) => true,
            (json::Value::Bool(a), Value::Bool(b)) => a == b,
            (json::Value::Number(a), Value::Number(b)) => {
                match (Num::of_token(a), Num::of_plain(b)) {
                    (Some(a), Some(b)) => a.order(b) == Some(std::cmp::Ordering::Equal),
                    _ => false,
                }
            }
            (json::Value::String(a), Value::String(b)) => {
                self.fuel.burn_bytes(a.len().min(b.len()))?;
                a == b
            }
            (json::Value::Array(a), Value::Array(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b) {
                    if !self.same(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (json::Value::Object(a), Value::Object(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a {
                    match b.get(&**key) {
                        Some(wanted) if self.same(value, wanted)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            _ => false,
        })
    }

    /// Whether two values of the call are equal.
    fn alike(&self, a: &json::Value<'_>, b: &json::Value<'_>) -> Result<bool, Fail> {
        self.fuel.burn(1)?;
        Ok(match (a, b) {
            (json::Value::Number(a), json::Value::Number(b)) => {
                match (Num::of_token(a), Num::of_token(b)) {
                    (Some(a), Some(b)) => a.order(b) == Some(std::cmp::Ordering::Equal),
                    _ => false,
                }
            }
            (json::Value::String(a), json::Value::String(b)) => {
                self.fuel.burn_bytes(a.len().min(b.len()))?;
                a == b
            }
            (json::Value::Array(a), json::Value::Array(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b) {
                    if !self.alike(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (json::Value::Object(members), json::Value::Object(others)) => {
                if members.len() != others.len() {
                    return Ok(false);
                }
                for (key, value) in members {
                    self.fuel.burn(others.len())?;
                    match b.get(key) {
                        Some(other) if self.alike(value, other)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (a, b) => a == b,
        })
    }
}

fn missing(
    rules: &ObjectRules,
    members: &[(std::borrow::Cow<'_, str>, json::Value<'_>)],
    name: &str,
    path: &Path<'_>,
) -> String {
    let variant = members
        .iter()
        .find(|(key, _)| rules.property(key).is_none() && loose(key) == loose(name));
    match variant {
        Some((key, _)) => misspelt(key, name, path),
        None if path.is_root() => format!("the argument `{}` is missing", bounded(name)),
        None => format!("`{}` is missing in {}", bounded(name), path.describe()),
    }
}

/// The finding about a key that the schema does not list.
pub(super) fn unknown(rules: &ObjectRules, key: &str, path: &Path<'_>) -> String {
    match rules.folded.get(&loose(key)) {
        Some(name) => misspelt(key, name, path),
        None => no_such(key, path),
    }
}

pub(super) fn no_such(key: &str, path: &Path<'_>) -> String {
    if path.is_root() {
        format!("there is no such argument: `{}`", bounded(key))
    } else {
        format!("there is no `{}` in {}", bounded(key), path.describe())
    }
}

pub(super) fn misspelt(key: &str, name: &str, path: &Path<'_>) -> String {
    if path.is_root() {
        format!(
            "write the argument `{}` as `{}`",
            bounded(key),
            bounded(name)
        )
    } else {
        format!(
            "write `{}` as `{}` in {}",
            bounded(key),
            bounded(name),
            path.describe()
        )
    }
}
