//! What the server will read of arguments that its schema admits.
//!
//! In: a schema, and arguments that are as it says. Out: the defaults of what is absent, at every level, and what is null and
//! counts as absent; or the argument that the server could read otherwise than a rule: a name that is not listed where names
//! are, text that is decoded once more, a default that depends on how the schema is read. Where several branches take a value,
//! every reading must admit it and all must agree; what cannot be decided is refused.

use super::format::Formats;
use super::number::canonical_number;
use super::validate::{Run, misspelt, no_such, unknown};
use super::{
    Exact, Fail, Fuel, Id, Kinds, Misfit, Node, ObjectRules, Off, Path, Schema, bounded, loose,
    text,
};
use crate::json;
use crate::policy::check::Fill;
use serde_json::Value;
use std::cell::RefCell;

/// What a property is where it is absent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Default {
    /// Absent: this is what a default of null says.
    Null,
    Value(Value),
    /// That depends on which branch of the schema counts.
    Undecided,
}

impl Default {
    fn and(self, other: Default) -> Default {
        if self == other {
            self
        } else {
            Default::Undecided
        }
    }
}

/// Works out what each property is where it is absent. Nodes come after those that they refer to.
pub(super) fn complete_defaults(schema: &mut Schema) {
    let mut known: Vec<Option<Default>> = Vec::with_capacity(schema.nodes.len());
    let mut stated: Vec<bool> = Vec::with_capacity(schema.nodes.len());
    for id in 0..schema.nodes.len() {
        let of = |id: &Id| known.get(*id).cloned().flatten();
        // Those of its properties first: its own default may leave them out.
        let defaults: Vec<(String, Default)> = schema
            .node(id)
            .and_then(|node| node.object.as_ref())
            .map(|rules| {
                let defaults = rules.order.iter();
                defaults
                    .filter_map(|(name, id)| Some((name.clone(), of(id)?)))
                    .collect()
            })
            .unwrap_or_default();
        if let Some(rules) = schema
            .nodes
            .get_mut(id)
            .and_then(|node| node.object.as_mut())
        {
            rules.defaults = defaults;
        }
        let Some(node) = schema.nodes.get(id) else {
            continue;
        };
        let found = match &node.default {
            Some(Value::Null) => Some(Default::Null),
            Some(value) => Some(
                complete(schema, &[id], value, &stated).map_or(Default::Undecided, Default::Value),
            ),
            None => {
                let stated = node.all.iter().filter_map(of).reduce(Default::and);
                stated.or_else(|| {
                    let condition = node.condition.as_ref();
                    let mut branches = [&node.any, &node.one]
                        .into_iter()
                        .flatten()
                        .flatten()
                        .chain(condition.and_then(|c| c.then.as_ref()))
                        .chain(condition.and_then(|c| c.otherwise.as_ref()))
                        .filter_map(of)
                        .peekable();
                    branches.peek()?;
                    Some(if branches.all(|default| default == Default::Null) {
                        Default::Null
                    } else {
                        Default::Undecided
                    })
                })
            }
        };
        known.push(found);
        let below = parts(node).any(|id| may_state(&stated, id));
        stated.push(node.default.is_some() || below);
    }
}

/// The schemas that a schema says something with about a value, or about a part of it.
fn parts(node: &Node) -> impl Iterator<Item = Id> {
    let object = node.object.iter().flat_map(|rules| {
        let named = rules.order.iter().map(|(_, id)| *id);
        let matched = rules.patterns.iter().map(|(_, id)| *id);
        let implied = rules.implies.iter().map(|(_, id)| *id);
        let others = rules.additional.into_iter().chain(rules.unevaluated);
        named.chain(matched).chain(implied).chain(others)
    });
    let array = node.array.iter().flat_map(|rules| {
        let items = rules.items.into_iter().chain(rules.unevaluated);
        rules.prefix.iter().copied().chain(items)
    });
    node.all
        .iter()
        .copied()
        .chain(branches(node))
        .chain(object)
        .chain(array)
}

/// Those that say something only for some values.
fn branches(node: &Node) -> impl Iterator<Item = Id> {
    let either = [&node.any, &node.one].into_iter().flatten().flatten();
    let condition = node.condition.iter();
    let conditional = condition.flat_map(|c| c.then.into_iter().chain(c.otherwise));
    let implied = node.object.iter().flat_map(|rules| &rules.implies);
    either
        .copied()
        .chain(conditional)
        .chain(implied.map(|(_, id)| *id))
}

/// A default with the defaults of what is absent in it, as validators fill them in; none where it depends on which branch of
/// a schema counts. `stated` says in which schemas there is a default.
/// Whether a node or one below it states a default. One that is still being looked at may.
fn may_state(stated: &[bool], id: Id) -> bool {
    stated.get(id).copied().unwrap_or(true)
}

fn complete(schema: &Schema, ids: &[Id], value: &Value, stated: &[bool]) -> Option<Value> {
    if !value.is_object() && !value.is_array() {
        return Some(value.clone());
    }
    let mut value = value.clone();
    let mut open: Vec<Id> = ids.to_vec();
    while let Some(node) = open.pop().and_then(|id| schema.node(id)) {
        open.extend(&node.all);
        if branches(node).any(|id| may_state(stated, id)) {
            return None;
        }
        if let (Value::Array(items), Some(rules)) = (&mut value, &node.array) {
            for (index, item) in items.iter_mut().enumerate() {
                let ids = rules.prefix.get(index).copied().or(rules.items);
                *item = complete(schema, ids.as_slice(), item, stated)?;
            }
        }
        let (Value::Object(members), Some(rules)) = (&mut value, &node.object) else {
            continue;
        };
        for (name, id) in &rules.order {
            let default = rules.defaults.iter().find(|(other, _)| other == name);
            match (members.get(name), default) {
                (None, Some((_, Default::Undecided))) => return None,
                (None, Some((_, Default::Value(default)))) => {
                    members.insert(name.clone(), default.clone());
                }
                (Some(Value::Null), Some((_, Default::Null))) => {
                    members.remove(name);
                }
                (Some(value @ (Value::Object(_) | Value::Array(_))), _) => {
                    let whole = complete(schema, &[*id], value, stated)?;
                    members.insert(name.clone(), whole);
                }
                _ => {}
            }
        }
        let others = rules.additional.iter().chain(&rules.unevaluated);
        let patterns = rules.patterns.iter().map(|(_, id)| id);
        let unnamed = members
            .keys()
            .any(|key| !rules.properties.contains_key(key));
        if unnamed && others.chain(patterns).any(|id| may_state(stated, *id)) {
            return None;
        }
    }
    Some(value)
}

pub(super) fn survey<'a>(
    schema: &'a Schema,
    value: &'a json::Value<'a>,
    fuel: &Fuel,
    exact: Exact<'_>,
) -> Result<(Vec<Fill<'a>>, Vec<Off<'static>>), Misfit> {
    let mut fills = Vec::new();
    let survey = Survey {
        schema,
        fuel,
        exact,
        off: RefCell::default(),
    };
    survey.at(&[schema.root], value, &Path::ROOT, true, &mut fills)?;
    Ok((fills, survey.off.into_inner()))
}

struct Survey<'a, 'f> {
    schema: &'a Schema,
    fuel: &'f Fuel,
    exact: Exact<'f>,
    /// The first place in each argument that has another spelling.
    off: RefCell<Vec<Off<'static>>>,
}

/// Schemas that all hold for one value, with every reference and branch taken.
type World = Vec<Id>;

impl<'a> Survey<'a, '_> {
    /// Looks at a value for which all these schemas hold. `declared` says whether its place has a name in a schema.
    fn at(
        &self,
        ids: &[Id],
        value: &'a json::Value<'a>,
        path: &Path<'_>,
        declared: bool,
        fills: &mut Vec<Fill<'a>>,
    ) -> Result<(), Fail> {
        self.fuel.burn(1 + ids.len())?;
        match value {
            json::Value::String(text) => return self.text(ids, text, path, declared),
            json::Value::Array(_) | json::Value::Object(_) => {}
            _ => return Ok(()),
        }
        if ids.is_empty() {
            return Ok(());
        }
        let worlds = self.worlds(ids, value)?;
        let mut first: Option<Vec<Fill<'a>>> = None;
        for world in &worlds {
            let mut found = Vec::new();
            match value {
                json::Value::Object(_) => self.object(world, value, path, &mut found)?,
                json::Value::Array(items) => self.array(world, items, path, &mut found)?,
                _ => {}
            }
            self.conditions(world, &found, path)?;
            match &first {
                None => first = Some(found),
                Some(first) => {
                    let differs = |a: &[Fill<'a>], b: &[Fill<'a>]| {
                        a.iter()
                            .find(|fill| !b.contains(fill))
                            .map(|fill| fill.name)
                    };
                    if let Some(name) = differs(first, &found).or_else(|| differs(&found, first)) {
                        return Err(undecided(name, path));
                    }
                }
            }
        }
        fills.append(&mut first.unwrap_or_default());
        Ok(())
    }

    /// Every way in which the schemas can be read for this value.
    fn worlds(&self, ids: &[Id], value: &json::Value<'_>) -> Result<Vec<World>, Fail> {
        let run = Run {
            schema: self.schema,
            fuel: self.fuel,
            quiet: true,
        };
        let mut done = Vec::new();
        let mut open = vec![(ids.to_vec(), World::new())];
        while let Some((mut pending, mut world)) = open.pop() {
            let mut choices: Vec<Vec<Id>> = Vec::new();
            while let Some(id) = pending.pop() {
                self.fuel.burn(1 + world.len() / 16)?;
                let Some(node) = self.schema.node(id).filter(|_| !world.contains(&id)) else {
                    continue;
                };
                world.push(id);
                pending.extend(&node.all);
                for list in [&node.any, &node.one].into_iter().flatten() {
                    let mut taken = Vec::new();
                    for id in list {
                        if run.takes(*id, value)? {
                            taken.push(*id);
                        }
                    }
                    choices.push(taken);
                }
                if let Some(condition) = &node.condition {
                    if run.takes(condition.test, value)? {
                        pending.push(condition.test);
                        pending.extend(condition.then);
                    } else {
                        pending.extend(condition.otherwise);
                    }
                }
                if let Some(rules) = &node.object {
                    let there = |name: &str| value.get(name).is_some();
                    pending.extend(
                        rules
                            .implies
                            .iter()
                            .filter(|(name, _)| there(name))
                            .map(|(_, id)| *id),
                    );
                }
            }
            let mut readings = vec![Vec::new()];
            for choice in choices {
                let mut next = Vec::new();
                for reading in &readings {
                    for id in &choice {
                        self.fuel.burn(1 + world.len() + reading.len())?;
                        let mut reading: Vec<Id> = reading.clone();
                        reading.push(*id);
                        next.push(reading);
                    }
                }
                readings = next;
            }
            for reading in readings {
                if reading.is_empty() {
                    done.push(world.clone());
                } else {
                    open.push((reading, world.clone()));
                }
            }
        }
        Ok(done)
    }

    fn rules(&self, world: &World) -> Vec<&'a ObjectRules> {
        world
            .iter()
            .filter_map(|id| self.schema.node(*id)?.object.as_deref())
            .collect()
    }

    fn object(
        &self,
        world: &World,
        value: &'a json::Value<'a>,
        path: &Path<'_>,
        fills: &mut Vec<Fill<'a>>,
    ) -> Result<(), Fail> {
        let members = value.as_object().unwrap_or_default();
        let rules = self.rules(world);
        let closed = rules.iter().any(|rules| rules.lists) && !rules.iter().any(|rules| rules.open);
        for (key, item) in members {
            self.fuel.burn(1 + rules.len())?;
            let listed = rules
                .iter()
                .any(|rules| rules.properties.contains_key(&**key));
            if !listed && rules.iter().any(|rules| rules.lists) {
                let folded = loose(key);
                if let Some(name) = rules.iter().find_map(|rules| rules.folded.get(&folded)) {
                    return Err(Fail::Misfit(Misfit(misspelt(key, name, path))));
                }
            }
            let mut ids: Vec<Id> = Vec::new();
            for rules in &rules {
                let mut known = false;
                if let Some(id) = rules.properties.get(&**key) {
                    known = true;
                    ids.push(*id);
                }
                for (pattern, id) in &rules.patterns {
                    if pattern.search(key, self.fuel)? {
                        known = true;
                        ids.push(*id);
                    }
                }
                if !known {
                    ids.extend(rules.additional);
                }
            }
            if !listed && ids.is_empty() {
                for id in rules.iter().filter_map(|rules| rules.unevaluated) {
                    self.left_over(id, item, || match rules.first() {
                        Some(rules) => unknown(rules, key, path),
                        None => no_such(key, path),
                    })?;
                    ids.push(id);
                }
                if closed && ids.is_empty() {
                    return Err(Fail::Misfit(Misfit(no_such(key, path))));
                }
            }
            if !listed {
                self.key(world, &rules, key, path)?;
            }
            self.at(&ids, item, &path.key(key), listed, fills)?;
        }
        self.defaults(&rules, value, path, fills)
    }

    /// A key of a map, which the server may convert: maps by numbers and maps by text have one schema.
    fn key(
        &self,
        world: &World,
        rules: &[&'a ObjectRules],
        key: &str,
        path: &Path<'_>,
    ) -> Result<(), Fail> {
        let nodes = || world.iter().filter_map(|id| self.schema.node(*id));
        // What may be anything is left as it is.
        let is_map = || {
            let declared = |node: &Node| node.kinds != Kinds::ALL && node.kinds.has(Kinds::OBJECT);
            rules
                .iter()
                .any(|rules| rules.open || rules.names.is_some())
                || nodes().any(declared)
        };
        let Some(argument) = path
            .argument()
            .filter(|name| self.exact.asks_keys(name) && is_map())
        else {
            return Ok(());
        };
        self.fuel.burn(rules.len())?;
        self.fuel.burn_bytes(key.len() * 4)?;
        if let Some(form) = self.exact.form(argument)
            && form.takes(key, self.fuel)?
        {
            return Ok(());
        }
        let names = rules.iter().filter_map(|rules| rules.names);
        let formats = names
            .filter_map(|id| self.schema.node(id))
            .fold(Formats::PLAIN, |all, node| all.and(node.formats));
        let fault = formats.fault(key).or_else(|| {
            if canonical_number(key) {
                None
            } else if text::is_number(key) {
                Some("text, or a number in its shortest form of up to 15 digits".to_owned())
            } else if text::is_boolean(key) {
                Some("1 or 0 for true or false, or a longer word".to_owned())
            } else {
                None
            }
        });
        if let Some(fault) = fault {
            self.off(argument, || {
                format!(
                    "the key `{}` of {} has more than one spelling to some servers, and a rule reads it: write {fault}",
                    bounded(key),
                    path.describe()
                )
            });
        }
        Ok(())
    }

    fn off(&self, argument: &str, message: impl FnOnce() -> String) {
        let mut off = self.off.borrow_mut();
        if !off.iter().any(|other| other.name == argument) {
            off.push(Off {
                name: argument.to_owned().into(),
                misfit: Misfit(message()),
            });
        }
    }

    /// Text with a format, which the server may parse.
    fn format(&self, formats: Formats, text: &str, path: &Path<'_>) -> Result<(), Fail> {
        let asked = |name: &&str| self.exact.reads.reads(name) && self.exact.form(name).is_none();
        let Some(argument) = path.argument().filter(asked) else {
            return Ok(());
        };
        self.fuel.burn_bytes(text.len() * 4)?;
        if let Some(fault) = formats.fault(text) {
            self.off(argument, || {
                format!(
                    "{} has a format that servers read in more than one spelling, and a rule reads it: write {fault}",
                    path.describe()
                )
            });
        }
        Ok(())
    }

    fn defaults(
        &self,
        rules: &[&'a ObjectRules],
        value: &'a json::Value<'a>,
        path: &Path<'_>,
        fills: &mut Vec<Fill<'a>>,
    ) -> Result<(), Fail> {
        for (at, of) in rules.iter().enumerate() {
            for (name, default) in &of.defaults {
                self.fuel.burn(rules.len())?;
                let stated = |rules: &&'a ObjectRules| {
                    let found = rules.defaults.iter().find(|(other, _)| other == name);
                    found.map(|(_, default)| default)
                };
                let (before, after) = rules.split_at(at);
                if before.iter().any(|rules| stated(rules).is_some()) {
                    continue;
                }
                let same = after
                    .iter()
                    .filter_map(stated)
                    .all(|other| other == default);
                match (value.get(name), default) {
                    (None, _) if !same => return Err(undecided(name, path)),
                    (None, Default::Undecided) => return Err(undecided(name, path)),
                    (None, Default::Value(default)) => {
                        // Whether this key is there decides what holds for the others.
                        if rules
                            .iter()
                            .any(|rules| rules.implies.iter().any(|(key, _)| key == name))
                        {
                            return Err(undecided(name, path));
                        }
                        fills.push(Fill::absent(value, name, default));
                    }
                    (Some(json::Value::Null), Default::Null) if same => {
                        fills.push(Fill::dropped(value, name));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn array(
        &self,
        world: &World,
        items: &'a [json::Value<'a>],
        path: &Path<'_>,
        fills: &mut Vec<Fill<'a>>,
    ) -> Result<(), Fail> {
        let rules: Vec<_> = world
            .iter()
            .filter_map(|id| self.schema.node(*id)?.array.as_deref())
            .collect();
        for (at, item) in items.iter().enumerate() {
            self.fuel.burn(1 + rules.len())?;
            let mut ids: Vec<Id> = rules
                .iter()
                .filter_map(|rules| rules.prefix.get(at).copied().or(rules.items))
                .collect();
            if ids.is_empty() {
                for id in rules.iter().filter_map(|rules| rules.unevaluated) {
                    self.left_over(id, item, || {
                        format!("{} has too many elements", path.describe())
                    })?;
                    ids.push(id);
                }
            }
            self.at(&ids, item, &path.index(at), false, fills)?;
        }
        // Some validators fill in elements too.
        for rules in &rules {
            for id in rules.prefix.iter().skip(items.len()) {
                let default = self.schema.node(*id).and_then(|node| node.default.as_ref());
                if default.is_some_and(|default| !default.is_null()) {
                    return Err(Fail::Misfit(Misfit(format!(
                        "{} has {} elements, and the tool's inputSchema has defaults for more; send them too",
                        path.describe(),
                        items.len()
                    ))));
                }
            }
        }
        Ok(())
    }

    /// What no other keyword looked at must be as `unevaluatedProperties` or `unevaluatedItems` says.
    fn left_over(
        &self,
        id: Id,
        item: &json::Value<'_>,
        message: impl FnOnce() -> String,
    ) -> Result<(), Fail> {
        let run = Run {
            schema: self.schema,
            fuel: self.fuel,
            quiet: true,
        };
        if run.takes(id, item)? {
            Ok(())
        } else {
            Err(Fail::Misfit(Misfit(message())))
        }
    }

    /// An `if` was asked about what was sent; what is filled in may change its answer.
    fn conditions(&self, world: &World, fills: &[Fill<'a>], path: &Path<'_>) -> Result<(), Fail> {
        let conditions = world
            .iter()
            .filter_map(|id| self.schema.node(*id)?.condition.as_ref());
        for condition in conditions {
            self.fuel.burn(1 + fills.len() * condition.reads.len())?;
            let read = |fill: &&Fill<'a>| condition.reads.iter().any(|key| key == fill.name);
            if let Some(fill) = fills.iter().find(read) {
                return Err(undecided(fill.name, path));
            }
        }
        Ok(())
    }

    fn text(&self, ids: &[Id], text: &str, path: &Path<'_>, declared: bool) -> Result<(), Fail> {
        let nodes = || ids.iter().filter_map(|id| self.schema.node(*id));
        let formats = nodes().fold(Formats::PLAIN, |all, node| all.and(node.formats));
        if !formats.is_plain() {
            self.format(formats, text, path)?;
        }
        let is_null = |node: &Node| node.default == Some(Value::Null);
        let mut kinds = nodes().fold(Kinds::ALL, |kinds, node| kinds.and(node.admits));
        if nodes().any(is_null) {
            kinds = kinds.or(Kinds::NULL);
        }
        if kinds == Kinds::STRING {
            return Ok(());
        }
        // Below the arguments themselves, nobody decodes what has neither a name nor a type in the schema.
        let is_argument = path.above.is_some_and(Path::is_root);
        if kinds == Kinds::ALL && !declared && !is_argument {
            return Ok(());
        }
        self.fuel.burn_bytes(text.len() * 4)?;
        let misfit = |as_what: &str, send: &str| {
            Err(Fail::Misfit(Misfit(format!(
                "{} is text that some servers decode as {as_what}, so that a rule would read something else; send {send} itself, \
                 or other text",
                path.describe()
            ))))
        };
        if text::is_structure(text) {
            return misfit("JSON", "the null, list or object");
        }
        if kinds == Kinds::ALL {
            return Ok(());
        }
        if kinds.has(Kinds::NUMBER) && text::is_number(text) {
            return misfit("a number", "the number");
        }
        if kinds.has(Kinds::BOOL) && text::is_boolean(text) {
            return misfit("a boolean", "true or false");
        }
        Ok(())
    }
}

fn undecided(name: &str, path: &Path<'_>) -> Fail {
    let place = if path.is_root() {
        format!("the argument `{}`", bounded(name))
    } else {
        format!("`{}` in {}", bounded(name), path.describe())
    };
    Fail::Misfit(Misfit(format!(
        "send {place}: what the server takes where it is absent depends on how the tool's inputSchema is read"
    )))
}
