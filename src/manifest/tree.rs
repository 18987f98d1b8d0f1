//! YAML (and JSON, which is YAML) as a tree with the position of each part.
//!
//! In: one text. Out: its documents, or the place where it is not valid YAML. Must not do: know any
//! kind of object. Sizes, nesting and aliases are bounded, so that no file can exhaust memory or
//! the stack.

use super::position::Position;
use super::yaml;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};
use std::{collections::BTreeMap, fmt};

/// A value with its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Position,
    pub(super) key: String,
    pub(super) value: Node,
}

/// No more than this is read of one file.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Why a text is not valid YAML.
pub(super) struct Broken {
    pub(super) at: Position,
    pub(super) message: String,
}

/// The documents of a text; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, Broken> {
    if text.len() > MAX_BYTES {
        return Err(Broken {
            at: Position { line: 1, column: 1 },
            message: format!(
                "the file has {} bytes and may have {MAX_BYTES}; split it",
                text.len()
            ),
        });
    }
    let documents: Vec<Spanned<Content>> =
        serde_saphyr::from_multiple_with_options(text, options())
            .map_err(|error| broken(text, &error))?;
    // The parser drops a type that it does not know, and with it the beginning of a condition such
    // as `!has(args.a)`.
    if let Some((at, message)) = yaml::tagged(text) {
        return Err(Broken { at, message });
    }
    Ok(documents.into_iter().map(Node::from).collect())
}

fn place(location: serde_saphyr::Location) -> Position {
    Position {
        line: location.line(),
        column: location.column(),
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_events: 400_000,
            max_nodes: 100_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_documents: 1_000,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    }
}

fn broken(yaml: &str, error: &serde_saphyr::Error) -> Broken {
    let at = error
        .location()
        .map_or(Position { line: 1, column: 1 }, place);
    let text = error.without_snippet().to_string();
    // The place is reported separately from the message.
    let message = text
        .split(" at line ")
        .next()
        .unwrap_or(&text)
        .trim_end_matches([':', ' ']);
    Broken {
        at,
        message: yaml::words(yaml, at, message),
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        Node {
            at: place(spanned.referenced),
            content: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        Number::from_f64(value)
            .map(Content::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::String(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Content, E> {
        Err(E::custom("binary values are not used here; write a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Content>>()? {
            list.push(Node::from(item));
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value::<Spanned<Content>>()?;
            if !seen.insert(key.value.clone()) {
                return Err(A::Error::custom(format!(
                    "the key `{}` is there twice",
                    key.value
                )));
            }
            map.push(Entry {
                at: place(key.referenced),
                key: key.value,
                value: value.into(),
            });
        }
        Ok(Content::Map(map))
    }
}

impl Node {
    /// The value under a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The entries, if this is a mapping.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, if this is a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Number(_) => "a number",
            Content::String(_) => "a string",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// The same as JSON.
    pub(super) fn json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::String(value) => Value::String(value.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::json).collect()),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), e.value.json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// Where every part stands, by its path (`spec.rules[2].when`); keys stand for their values.
    pub(super) fn positions(&self) -> BTreeMap<String, Position> {
        let mut found = BTreeMap::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut BTreeMap<String, Position>) {
        match &self.content {
            Content::Map(entries) => {
                for entry in entries {
                    let path = join(path, &entry.key);
                    found.insert(path.clone(), entry.at);
                    entry.value.collect(&path, found);
                }
            }
            Content::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    found.insert(path.clone(), item.at);
                    item.collect(&path, found);
                }
            }
            _ => {}
        }
    }
}

/// A path with a key added.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
