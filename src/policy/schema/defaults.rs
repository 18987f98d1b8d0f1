//! What a schema says a property is where it is absent.
//!
//! In: a schema. Out: the same, with the default of every property that has one, whole: with the
//! defaults of what is absent within it. A default that depends on which branch of the schema
//! counts is marked as undecided. Must not do: look at arguments.

use super::{Id, Node, Schema};
use serde_json::Value;

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
                let defaults = rules.properties.iter();
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
        let named = rules.properties.iter().map(|(_, id)| *id);
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

/// Whether a node or one below it states a default. One that is still being read may.
fn may_state(stated: &[bool], id: Id) -> bool {
    stated.get(id).copied().unwrap_or(true)
}

/// A default with the defaults of what is absent in it, as validators fill them in; none where it
/// depends on which branch of a schema counts. `stated` says in which schemas there is a default.
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
        for (name, id) in &rules.properties {
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
        let unnamed = members.keys().any(|key| rules.property(key).is_none());
        if unnamed && others.chain(patterns).any(|id| may_state(stated, *id)) {
            return None;
        }
    }
    Some(value)
}
