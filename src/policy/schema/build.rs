//! A schema as JSON to the nodes that run.
//!
//! In: the upstream's schema, and what the listing may still cost. Out: nodes whose references are
//! edges, or why not. What cannot be decided is refused here: references that leave the schema,
//! form a cycle or are missing; bases that change inside; keywords whose outcome depends on the way
//! by which they are reached. Work is linear in the schema's size.

use super::format::Formats;
use super::keywords::{array, count, kinds, numbers, schemas, strings, text};
use super::{
    ArrayRules, Condition, Id, Kinds, MAX_LEVELS, MAX_NODES, Node, ObjectRules, Schema, TextRules,
    bounded, loose,
};
use crate::policy::check::{Dialect, Patterns, Reads};
use crate::policy::matcher::fold_case;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Nodes that all schemas of one listing may have, references followed.
const LISTING_NODES: usize = 200_000;

/// What the schemas of one listing may cost together.
#[derive(Debug)]
pub(in crate::policy) struct Budget {
    patterns: Patterns,
    nodes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            patterns: Patterns::of_listing(),
            nodes: LISTING_NODES,
        }
    }
}

pub(super) fn build(schema: &Value, reads: &Reads, budget: &mut Budget) -> Result<Schema, String> {
    if !schema.is_object() {
        return Err("its inputSchema is not an object".to_owned());
    }
    let mut builder = Builder {
        root: schema,
        reads,
        nodes: Vec::new(),
        known: HashMap::new(),
        weights: Vec::new(),
        budget,
    };
    let root = builder.node(schema, "", 0)?;
    let weight = builder.weights.get(root).copied().unwrap_or(usize::MAX);
    let left = builder.budget.nodes.checked_sub(weight);
    builder.budget.nodes = left.ok_or_else(|| {
        format!("the schemas of this listing have more than {LISTING_NODES} nodes together")
    })?;
    let mut schema = Schema {
        nodes: builder.nodes,
        root,
    };
    super::defaults::complete_defaults(&mut schema);
    Ok(schema)
}

struct Builder<'s, 'b> {
    root: &'s Value,
    reads: &'b Reads,
    nodes: Vec<Node>,
    /// What a decoded pointer leads to; none while it is being built.
    known: HashMap<String, Option<Id>>,
    /// Nodes below each node, itself included, each counted as often as it is run.
    weights: Vec<usize>,
    budget: &'b mut Budget,
}

impl<'s> Builder<'s, '_> {
    fn node(&mut self, schema: &'s Value, keyword: &str, level: usize) -> Result<Id, String> {
        if level > MAX_LEVELS {
            return Err(format!("its inputSchema nests deeper than {MAX_LEVELS}"));
        }
        let mut node = Node::default();
        let mut children = Children::default();
        match schema {
            Value::Bool(true) => {}
            Value::Bool(false) => node.kinds = Kinds::NONE,
            Value::Object(members) => self.fill(&mut node, &mut children, members, level)?,
            _ => {
                return Err(format!(
                    "its inputSchema cannot be used: {} is not followed by a schema",
                    bounded(keyword)
                ));
            }
        }
        node.admits = self.admits(&node);
        node.formats = self.formats(&node, schema.as_object());
        let weight = children
            .0
            .iter()
            .map(|id| self.weights.get(*id).copied().unwrap_or(0))
            .fold(1_usize, usize::saturating_add);
        if weight > MAX_NODES || self.nodes.len() >= MAX_NODES {
            return Err(format!("its inputSchema has more than {MAX_NODES} nodes"));
        }
        self.nodes.push(node);
        self.weights.push(weight);
        Ok(self.nodes.len() - 1)
    }

    /// A schema of the node whose children these are.
    fn child(
        &mut self,
        children: &mut Children,
        schema: &'s Value,
        keyword: &str,
        level: usize,
    ) -> Result<Id, String> {
        Ok(children.add(self.node(schema, keyword, level + 1)?))
    }

    /// The schema of an argument. The reason why it cannot be compiled counts only where a rule
    /// reads the argument.
    fn argument(
        &mut self,
        children: &mut Children,
        schema: &'s Value,
        name: &str,
    ) -> Result<Id, String> {
        let before = self.nodes.len();
        match self.child(children, schema, name, 0) {
            Err(_) if !self.reads.reads(name) => {
                self.nodes.truncate(before);
                self.weights.truncate(before);
                // References may lead to what was given up.
                self.known.retain(|_, id| id.is_some_and(|id| id < before));
                self.nodes.push(Node {
                    opaque: true,
                    ..Node::default()
                });
                self.weights.push(1);
                Ok(children.add(before))
            }
            Err(why) => Err(format!("the argument `{}`: {why}", bounded(name))),
            compiled => compiled,
        }
    }

    fn fill(
        &mut self,
        node: &mut Node,
        children: &mut Children,
        members: &'s Map<String, Value>,
        level: usize,
    ) -> Result<(), String> {
        for key in ["$dynamicRef", "$recursiveRef"] {
            if members.contains_key(key) {
                return Err(format!(
                    "its inputSchema uses {key}, which is not supported"
                ));
            }
        }
        if level > 0 && changes_base(members) {
            return Err(
                "its inputSchema changes its base inside, which is not supported".to_owned(),
            );
        }
        node.default = members.get("default").cloned();
        if let Some(kind) = members.get("type") {
            (node.kinds, node.whole) = kinds(kind)?;
            if members.get("nullable") == Some(&Value::Bool(true)) {
                node.kinds = node.kinds.or(Kinds::NULL);
            }
        }
        node.one_of_values = match (members.get("const"), members.get("enum")) {
            (Some(value), None) => Some(vec![value.clone()]),
            (Some(value), Some(values)) => {
                let both = array(values, "enum")?
                    .iter()
                    .filter(|other| *other == value);
                Some(both.cloned().collect())
            }
            (None, Some(values)) => Some(array(values, "enum")?.clone()),
            (None, None) => None,
        };
        node.number = numbers(members)?;
        node.text = self.text(members)?;
        if let Some(reference) = members.get("$ref") {
            let id = self.reference(text(reference, "$ref")?, level)?;
            node.all.push(children.add(id));
        }
        if let Some(list) = members.get("allOf") {
            let all = self.list(list, "allOf", children, level)?;
            node.all.extend(all);
        }
        for (key, place) in [("anyOf", &mut node.any), ("oneOf", &mut node.one)] {
            if let Some(list) = members.get(key) {
                *place = Some(self.list(list, key, children, level)?);
            }
        }
        let child = |builder: &mut Self, children: &mut Children, key: &str| {
            members
                .get(key)
                .map(|schema| {
                    builder
                        .node(schema, key, level + 1)
                        .map(|id| children.add(id))
                })
                .transpose()
        };
        // What a branch leaves over is checked once its object is read; nothing is read under
        // these.
        if let Some(key) = ["not", "if"].iter().find(|key| {
            members.get(**key).is_some_and(|schema| {
                mentions(schema, &["unevaluatedProperties", "unevaluatedItems"])
            })
        }) {
            return Err(format!(
                "its inputSchema uses unevaluatedProperties or unevaluatedItems inside `{key}`, which is not supported"
            ));
        }
        node.not = child(self, children, "not")?;
        if let Some(test) = child(self, children, "if")? {
            let mut reads = Vec::new();
            if let Some(schema) = members.get("if") {
                keys_of(schema, &mut reads);
            }
            node.condition = Some(Box::new(Condition {
                test,
                then: child(self, children, "then")?,
                otherwise: child(self, children, "else")?,
                reads,
            }));
        }
        self.array_rules(node, children, members, level)?;
        self.object_rules(node, children, members, level)
    }

    fn text(&mut self, members: &Map<String, Value>) -> Result<Option<Box<TextRules>>, String> {
        let rules = TextRules {
            min: count(members, "minLength")?.unwrap_or(0),
            max: count(members, "maxLength")?,
            pattern: members
                .get("pattern")
                .map(|pattern| self.pattern(text(pattern, "pattern")?))
                .transpose()?,
        };
        let any = rules.min > 0 || rules.max.is_some() || rules.pattern.is_some();
        Ok(any.then(|| Box::new(rules)))
    }

    fn pattern(&mut self, text: &str) -> Result<crate::policy::check::Pattern, String> {
        self.budget
            .patterns
            .compile_in(text, Dialect::Schema)
            .map_err(|why| format!("its inputSchema cannot be compiled: {why}"))
    }

    fn array_rules(
        &mut self,
        node: &mut Node,
        children: &mut Children,
        members: &'s Map<String, Value>,
        level: usize,
    ) -> Result<(), String> {
        let mut rules = ArrayRules {
            min: count(members, "minItems")?.unwrap_or(0),
            max: count(members, "maxItems")?,
            unique: members.get("uniqueItems") == Some(&Value::Bool(true)),
            ..ArrayRules::default()
        };
        let mut rest = "items";
        if let Some(list) = members.get("prefixItems") {
            rules.prefix = self.list(list, "prefixItems", children, level)?;
        } else if let Some(list @ Value::Array(_)) = members.get("items") {
            // Before 2020-12 this is how prefixItems was written, with additionalItems for the
            // rest.
            rules.prefix = self.list(list, "items", children, level)?;
            rest = "additionalItems";
        }
        if let Some(schema) = members.get(rest) {
            rules.items = Some(self.child(children, schema, rest, level)?);
        }
        if let Some(schema) = members.get("unevaluatedItems") {
            rules.unevaluated = Some(self.child(children, schema, "unevaluatedItems", level)?);
        }
        if let Some(schema) = members.get("contains") {
            let id = self.child(children, schema, "contains", level)?;
            let min = count(members, "minContains")?.unwrap_or(1);
            rules.contains = Some((id, min, count(members, "maxContains")?));
        }
        let any = rules.min > 0
            || rules.max.is_some()
            || rules.unique
            || !rules.prefix.is_empty()
            || rules.items.is_some()
            || rules.unevaluated.is_some()
            || rules.contains.is_some();
        node.array = any.then(|| Box::new(rules));
        Ok(())
    }

    fn object_rules(
        &mut self,
        node: &mut Node,
        children: &mut Children,
        members: &'s Map<String, Value>,
        level: usize,
    ) -> Result<(), String> {
        let mut rules = ObjectRules {
            lists: members.contains_key("properties"),
            open: members.contains_key("additionalProperties")
                || members.contains_key("patternProperties"),
            min: count(members, "minProperties")?.unwrap_or(0),
            max: count(members, "maxProperties")?,
            ..ObjectRules::default()
        };
        for (name, schema) in schemas(members, "properties")? {
            let id = match level {
                0 => self.argument(children, schema, name)?,
                _ => self.child(children, schema, name, level)?,
            };
            rules.properties.push((name.clone(), id));
        }
        rules.properties.sort_unstable();
        let mut cases: HashMap<String, &String> = HashMap::new();
        for (name, _) in &rules.properties {
            if let Some(other) = cases.insert(fold_case(name).into_owned(), name) {
                return Err(format!(
                    "its properties {:?} and {:?} differ only in case",
                    bounded(other),
                    bounded(name)
                ));
            }
            rules
                .folded
                .entry(loose(name))
                .or_insert_with(|| name.clone());
        }
        for (pattern, schema) in schemas(members, "patternProperties")? {
            let compiled = self.pattern(pattern)?;
            let id = self.child(children, schema, "patternProperties", level)?;
            rules.patterns.push((compiled, id));
        }
        for (key, place) in [
            ("additionalProperties", &mut rules.additional),
            ("unevaluatedProperties", &mut rules.unevaluated),
            ("propertyNames", &mut rules.names),
        ] {
            if let Some(schema) = members.get(key) {
                *place = Some(self.child(children, schema, key, level)?);
            }
        }
        if let Some(names) = members.get("required").filter(|names| !names.is_boolean()) {
            rules.required = strings(names, "required")?;
        }
        for (name, schema) in schemas(members, "dependentSchemas")? {
            let id = self.child(children, schema, name, level)?;
            rules.implies.push((name.clone(), id));
        }
        for (name, names) in schemas(members, "dependentRequired")? {
            rules
                .needs
                .push((name.clone(), strings(names, "dependentRequired")?));
        }
        // Both, as they were written before 2019-09.
        for (name, either) in schemas(members, "dependencies")? {
            if either.is_array() {
                rules
                    .needs
                    .push((name.clone(), strings(either, "dependencies")?));
            } else {
                let id = self.child(children, either, name, level)?;
                rules.implies.push((name.clone(), id));
            }
        }
        let any = rules.lists
            || rules.open
            || rules.min > 0
            || rules.max.is_some()
            || rules.unevaluated.is_some()
            || rules.names.is_some()
            || !rules.required.is_empty()
            || !rules.needs.is_empty()
            || !rules.implies.is_empty();
        node.object = any.then(|| Box::new(rules));
        Ok(())
    }

    fn list(
        &mut self,
        list: &'s Value,
        key: &str,
        children: &mut Children,
        level: usize,
    ) -> Result<Vec<Id>, String> {
        array(list, key)?
            .iter()
            .map(|schema| self.child(children, schema, key, level))
            .collect()
    }

    /// The node that a reference leads to: a JSON pointer in a fragment, percent-encoded as URIs
    /// are (RFC 6901 section 6).
    fn reference(&mut self, target: &str, level: usize) -> Result<Id, String> {
        let missing = || {
            format!(
                "its inputSchema refers to {}, which is missing",
                bounded(target)
            )
        };
        let fragment = target.strip_prefix('#').ok_or_else(|| {
            format!(
                "its inputSchema refers to {}, outside itself",
                bounded(target)
            )
        })?;
        let pointer = percent_decoded(fragment).ok_or_else(missing)?;
        match self.known.get(&pointer) {
            Some(Some(id)) => return Ok(*id),
            Some(None) => {
                return Err("its inputSchema refers to itself, which is not supported".to_owned());
            }
            None => {}
        }
        if pointer.is_empty() {
            return Err("its inputSchema refers to itself, which is not supported".to_owned());
        }
        let found = self.root.pointer(&pointer).ok_or_else(missing)?;
        self.known.insert(pointer.clone(), None);
        let id = self.node(found, "$ref", level + 1)?;
        self.known.insert(pointer, Some(id));
        Ok(id)
    }

    /// What a string can be at most.
    fn formats(&self, node: &Node, members: Option<&Map<String, Value>>) -> Formats {
        if !node.kinds.has(Kinds::STRING) {
            return Formats::PLAIN;
        }
        let of = |id: Id| self.nodes.get(id);
        let formats = |id: Id| of(id).map_or(Formats::PLAIN, |node| node.formats);
        let mut found = members.map_or(Formats::PLAIN, Formats::stated);
        for id in &node.all {
            found = found.and(formats(*id));
        }
        for list in [&node.any, &node.one].into_iter().flatten() {
            let taken = list
                .iter()
                .filter(|id| of(**id).is_none_or(|node| node.admits.has(Kinds::STRING)));
            let either = taken
                .map(|id| formats(*id))
                .fold(Formats::NONE, Formats::or);
            if either != Formats::NONE {
                found = found.and(either);
            }
        }
        if let Some(condition) = &node.condition {
            let of = |id: Option<Id>| id.map_or(Formats::PLAIN, formats);
            let either = of(condition.then).or(of(condition.otherwise));
            found = found.and(either).and(formats(condition.test));
        }
        found
    }

    /// Kinds that a value can have at most.
    fn admits(&self, node: &Node) -> Kinds {
        let of = |id: &Id| self.nodes.get(*id).map_or(Kinds::ALL, |node| node.admits);
        let mut kinds = node.kinds;
        if let Some(values) = &node.one_of_values {
            kinds = kinds.and(
                values
                    .iter()
                    .map(Kinds::of_plain)
                    .fold(Kinds::NONE, Kinds::or),
            );
        }
        kinds = node.all.iter().map(of).fold(kinds, Kinds::and);
        for list in [&node.any, &node.one].into_iter().flatten() {
            kinds = kinds.and(list.iter().map(of).fold(Kinds::NONE, Kinds::or));
        }
        // A server whose default is null takes null, whatever its schema says of what is sent.
        if node.default == Some(Value::Null) {
            kinds = kinds.or(Kinds::NULL);
        }
        kinds
    }
}

#[derive(Default)]
struct Children(Vec<Id>);

impl Children {
    fn add(&mut self, id: Id) -> Id {
        self.0.push(id);
        id
    }
}

/// Whether references below would be resolved from elsewhere. `id` does so in draft 4 only, where
/// which reader the schema is for is unknown; it matters only where there is a reference.
fn changes_base(members: &Map<String, Value>) -> bool {
    members.get("$id").is_some_and(Value::is_string)
        || (members.get("id").is_some_and(Value::is_string)
            && members.values().any(|value| mentions(value, &["$ref"])))
        || (members.get("id").is_some_and(Value::is_string) && members.contains_key("$ref"))
}

/// Whether one of the keys is anywhere below. By recursion: the reader admitted 64 levels.
fn mentions(value: &Value, keys: &[&str]) -> bool {
    match value {
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| keys.contains(&key.as_str()) || mentions(value, keys)),
        Value::Array(items) => items.iter().any(|item| mentions(item, keys)),
        _ => false,
    }
}

/// Every key that an `if` can look at, wherever it stands in it.
fn keys_of(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                keys.push(key.clone());
                keys_of(value, keys);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of(item, keys)),
        Value::String(text) => keys.push(text.clone()),
        _ => {}
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        let digit = |b: &u8| char::from(*b).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}
