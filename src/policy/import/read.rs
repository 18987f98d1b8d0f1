//! The text of a policy, read as the source product reads it, with the place of every part.
//!
//! In: YAML or JSON. Out: one tree. Intercept reads YAML with Go's yaml.v3, which is neither YAML
//! 1.1 nor 1.2: `0600` is 384, `08` is 8.0, `no` is text, `1_000` is a number. Scalars are resolved
//! as it resolves them; values of a type that a condition cannot use (a date, a tagged value) are
//! marked, so that they are refused where the value matters. Must not do: guess, or read less than
//! the whole text.

use crate::policy::diagnostic::Position;
use granit_parser::{Event, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Bytes of a file.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// Levels of a document.
const MAX_DEPTH: usize = 64;
/// Nodes of a document, with what aliases repeat.
const MAX_NODES: usize = 200_000;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub at: Position,
    pub key: String,
    pub value: Node,
}

/// The text of a scalar, and its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    pub raw: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text,
    /// A point in time.
    Date,
    /// Something ambiguous, where a reading would be a guess.
    Unclear,
}

/// Why a text cannot be read, and where.
#[derive(Debug, PartialEq)]
pub(super) struct Broken {
    pub at: Position,
    pub message: String,
}

impl Node {
    /// What this is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => "empty",
                Kind::Bool(_) => "true or false",
                Kind::Int(_) | Kind::Uint(_) | Kind::Float(_) => "a number",
                Kind::Text => "text",
                Kind::Date => "a date",
                Kind::Unclear => "a tagged value",
            },
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind == Kind::Null)
    }

    /// The text where the source expects text: the source text of any scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if !matches!(scalar.kind, Kind::Null | Kind::Unclear) => {
                Some(&scalar.raw)
            }
            _ => None,
        }
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn map(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value under a key, unless it is empty, which the source takes for absent.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.map()?
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
            .filter(|value| !value.is_null())
    }

    /// A whole number, also where it is written with a point.
    pub fn whole(&self) -> Option<i64> {
        match self.scalar()?.kind {
            Kind::Int(value) => Some(value),
            Kind::Float(value) if value.trunc() == value && value.abs() < 9e15 => {
                Some(value as i64)
            }
            _ => None,
        }
    }
}

/// Reads a text that must be one document.
pub(super) fn read(text: &str) -> Result<Node, Broken> {
    if text.len() > MAX_BYTES {
        return Err(Broken {
            at: START,
            message: format!(
                "it is longer than {MAX_BYTES} bytes, longer than any policy; import its parts one by one"
            ),
        });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(found) = text.find(['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}']) {
        let before = &text[..found];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        return Err(Broken {
            at: Position {
                line: number(before.matches('\n').count() + 1),
                column: number(before[line_start..].chars().count() + 1),
            },
            message: "here is an invisible character that some YAML readers treat as a line break; remove it, or write \
                      it as an escape in double quotes"
                .to_owned(),
        });
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        cut_at: (!text.ends_with('\n')).then(|| text.chars().count()),
        reached: 0,
    };
    let mut document = None;
    loop {
        let (event, at) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            Event::DocumentStart(..) if document.is_some() => {
                return Err(Broken {
                    at,
                    message: "a second document begins here, and the source product reads only the first; import them as \
                              files of their own"
                        .to_owned(),
                });
            }
            Event::DocumentStart(..) => {}
            event => document = Some(reader.node(event, at, 0)?),
        }
    }
    document.ok_or(Broken {
        at: START,
        message: "it is empty".to_owned(),
    })
}

const START: Position = Position { line: 1, column: 1 };

struct Reader<'t, I: granit_parser::BorrowedInput<'t>> {
    parser: Parser<'t, I>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    /// The end of a text whose last line has no line break.
    cut_at: Option<usize>,
    /// The end of the last event.
    reached: usize,
}

impl<'t, I: granit_parser::BorrowedInput<'t>> Reader<'t, I> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Result<(Event<'t>, Position), Broken> {
        loop {
            match self.parser.next_event() {
                None => return Ok((Event::StreamEnd, START)),
                Some(Ok((Event::Comment(..) | Event::Anchor(..), _))) => {}
                Some(Ok((event, span))) => {
                    self.reached = span.end.index();
                    return Ok((event, position(&span.start)));
                }
                Some(Err(error)) => {
                    return Err(Broken {
                        at: position(error.marker()),
                        // The parser's words are for programmers.
                        message: "this is neither valid JSON nor valid YAML; look for a bracket, a quote or a comma that is missing here or above"
                            .to_owned(),
                    });
                }
            }
        }
    }

    fn node(&mut self, event: Event<'t>, at: Position, depth: usize) -> Result<Node, Broken> {
        let fail = |message: &str| {
            Err(Broken {
                at,
                message: message.to_owned(),
            })
        };
        if depth > MAX_DEPTH {
            return fail("it is nested too deeply to be a policy");
        }
        let before = self.nodes;
        self.count(1, at)?;
        let (value, anchor) = match event {
            Event::Scalar(raw, style, anchor, tag) => {
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // Whether its last line has a line break is a question that readers answer
                // differently.
                if block && self.cut_at.is_some_and(|end| self.reached >= end) {
                    return fail(
                        "this text ends with the file: end the last line with a line break",
                    );
                }
                let scalar = scalar(raw, style, tag.as_deref());
                (Value::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, at) => items.push(self.node(event, at, depth + 1)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (Value::Map(self.entries(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return fail("this alias refers to a value that contains it");
                };
                self.count(size, at)?;
                return Ok(node);
            }
            _ => return fail("this cannot be read as YAML"),
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.anchors
                .insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Broken> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, at, depth + 1)?;
            let fail = |message: String| Err(Broken { at, message });
            let Some(key) = key.text().map(str::to_owned) else {
                return fail(format!("this key is {}; write text", key.kind()));
            };
            if key == "<<" {
                return fail(
                    "merge keys (<<) are not imported; write out the merged keys".to_owned(),
                );
            }
            if !seen.insert(key.clone()) {
                return fail(format!(
                    "the key {key:?} is there twice; the source product refuses that too"
                ));
            }
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at, depth + 1)?;
            entries.push(Entry { at, key, value });
        }
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Broken> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Broken {
                at,
                message: format!("it has more than {MAX_NODES} values, which no policy has"),
            });
        }
        Ok(())
    }
}

fn position(marker: &granit_parser::Marker) -> Position {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Position {
        line: number(marker.line().max(1)),
        column: number(marker.col() + 1),
    }
}

fn scalar(raw: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Scalar {
    let kind = match tag {
        None if style == ScalarStyle::Plain => resolve(&raw),
        None => Kind::Text,
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Kind::Text,
        Some(_) => Kind::Unclear,
    };
    Scalar {
        raw: raw.into_owned(),
        kind,
    }
}

/// What a plain scalar is to yaml.v3.
fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        // These are numbers there, but no condition can be written with them.
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return Kind::Unclear,
        _ => {}
    }
    match text.as_bytes() {
        [b'.', ..] if text.contains('_') => Kind::Unclear,
        [b'.', ..] => float(text).map_or(Kind::Text, Kind::Float),
        [b'0'..=b'9' | b'+' | b'-', ..] if is_date(text) => Kind::Date,
        [b'0'..=b'9' | b'+' | b'-', ..] => number(&text.replace('_', "")),
        _ => Kind::Text,
    }
}

/// A number, with its underscores removed.
fn number(text: &str) -> Kind {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        // Also without the `o`: 0600 is 384.
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let has_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    if has_digits && let Ok(size) = u128::from_str_radix(digits, radix) {
        let size = i128::try_from(size).unwrap_or(i128::MAX);
        let value = if negative { -size } else { size };
        if let Ok(value) = i64::try_from(value) {
            return Kind::Int(value);
        }
        // A sign is not part of an unsigned number there.
        if text.starts_with(|c: char| c.is_ascii_digit())
            && let Ok(value) = u64::try_from(value)
        {
            return Kind::Uint(value);
        }
    }
    match float(text) {
        Some(value) => Kind::Float(value),
        // Prefixes with something odd behind them, such as `0b-1`, are numbers there in some cases.
        None if matches!(radix, 2 | 16) || lower.starts_with("0o") => Kind::Unclear,
        None => Kind::Text,
    }
}

/// Digits with a point, an exponent or both.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let well_formed = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| {
            let digits_only = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !digits_only.is_empty() && digits(digits_only)
        });
    // What is too large is text there.
    text.parse()
        .ok()
        .filter(|value: &f64| well_formed && value.is_finite())
}

/// Four digits, and then a month and a day.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, from: usize, to: usize| {
        part.is_some_and(|part| {
            (from..=to).contains(&part.len()) && part.bytes().all(|c| c.is_ascii_digit())
        })
    };
    digits(parts.next(), 4, 4)
        && digits(parts.next(), 1, 2)
        && parts
            .next()
            .is_some_and(|day| day.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
