//! What the server will read of arguments that its schema admits.
//!
//! In: a schema, and arguments that are as it says. Out: the defaults of what is absent, at every
//! level, and what is null and counts as absent; or the argument that the server could read
//! otherwise than a rule: a name that is not listed where names are, text that is decoded once
//! more, a default that depends on how the schema is read. Where several branches take a value,
//! every reading must admit it and all must agree; what cannot be decided is refused.

use super::defaults::Default;
use super::validate::{Run, misspelt, no_such, unknown};
use super::{Exact, Fail, Fuel, Id, Misfit, ObjectRules, Off, Path, Schema, bounded, loose};
use crate::json;
use crate::policy::check::Fill;
use std::cell::RefCell;

mod spelling;

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
    /// Looks at a value for which all these schemas hold. `declared` says whether its place has a
    /// name in a schema.
    fn at(
        &self,
        ids: &[Id],
        value: &'a json::Value<'a>,
        path: &Path<'_>,
        declared: bool,
        fills: &mut Vec<Fill<'a>>,
    ) -> Result<(), Fail> {
        self.fuel.burn(1 + ids.len())?;
        let opaque = |id: &Id| self.schema.node(*id).is_some_and(|node| node.opaque);
        if ids.iter().any(opaque) {
            return Ok(());
        }
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
        let mut ids: Vec<Id> = Vec::new();
        for (key, item) in members {
            self.fuel.burn(1 + rules.len())?;
            ids.clear();
            let mut listed = false;
            for rules in &rules {
                let mut known = false;
                if let Some(id) = rules.property(key) {
                    (known, listed) = (true, true);
                    ids.push(id);
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
            if !listed && rules.iter().any(|rules| rules.lists) {
                let folded = loose(key);
                if let Some(name) = rules.iter().find_map(|rules| rules.folded.get(&folded)) {
                    return Err(Fail::Misfit(Misfit(misspelt(key, name, path))));
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

    /// What no other keyword covered must be as `unevaluatedProperties` or `unevaluatedItems`
    /// says.
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
