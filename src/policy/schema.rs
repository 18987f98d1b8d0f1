//! Checks arguments that a rule reads against a tool's `inputSchema`.
//!
//! In: the schema as the upstream lists it; arguments; the remaining budget. Out: absent values
//! with a default, and nulls that count as absent; or the argument that does not conform to the
//! schema. Many servers coerce arguments (`"7"` to 7, `"null"` to null), accept names that the
//! schema does not list, and fill in missing values, so a rule must only ever see arguments that
//! mean the same to the server. The schema is the upstream's, so it is not trusted: it is resolved
//! once, exactly the resolved form is evaluated, its size is counted in that form, and evaluating
//! it takes from the call's budget. Must not do: coerce.

mod build;
mod defaults;
mod format;
mod keywords;
mod number;
mod survey;
#[cfg(test)]
mod tests;
mod text;
mod validate;

use super::check::{Fill, Fuel, Pattern, Reads};
use super::form::Form;
use super::matcher::fold_case;
use super::misfit::{Misfit, Off};
use crate::json;
use serde_json::Value;
use std::collections::HashMap;

pub(super) use build::Budget;

/// Nodes of a schema after its references are followed.
const MAX_NODES: usize = 10_000;
/// Levels of a schema after its references are followed.
const MAX_LEVELS: usize = 128;

/// A compiled `inputSchema`.
#[derive(Debug)]
pub(super) struct Schema {
    nodes: Vec<Node>,
    root: Id,
}

/// Which arguments must be in one spelling.
#[derive(Clone, Copy)]
pub(super) struct Exact<'e> {
    /// What rules read.
    pub reads: &'e Reads,
    /// Forms that are stated for arguments; they are held against them elsewhere.
    pub forms: &'e [Form],
    /// Arguments of the catalogue: MLflow takes the keys of their maps as text.
    pub known: &'e [&'static str],
}

impl<'e> Exact<'e> {
    /// Whether a rule reads the argument, and it is not known that keys in it are text to the
    /// server.
    fn asks_keys(&self, name: &str) -> bool {
        self.reads.reads(name) && !self.known.contains(&name)
    }

    fn form(&self, name: &str) -> Option<&'e Form> {
        self.forms.iter().find(|form| form.name == name)
    }
}

/// Index of a node. References are edges, so that no name is looked up when a call is decided.
type Id = usize;

/// One schema, with every keyword that says something about a value.
#[derive(Debug, Default)]
struct Node {
    /// Kinds that `type` lists; all where there is none.
    kinds: Kinds,
    /// Numbers must be whole.
    whole: bool,
    one_of_values: Option<Vec<Value>>,
    number: Option<Box<NumberRules>>,
    text: Option<Box<TextRules>>,
    array: Option<Box<ArrayRules>>,
    object: Option<Box<ObjectRules>>,
    /// `$ref` and `allOf`.
    all: Vec<Id>,
    /// `anyOf`.
    any: Option<Vec<Id>>,
    /// `oneOf`.
    one: Option<Vec<Id>>,
    not: Option<Id>,
    condition: Option<Box<Condition>>,
    default: Option<Value>,
    /// What a string can be by this schema and all that it refers to.
    formats: format::Formats,
    /// The schema of an argument that no rule reads, which could not be compiled.
    opaque: bool,
    /// Kinds that a value can have by this schema and all that it refers to, and null where that is
    /// a default. May be more.
    admits: Kinds,
}

#[derive(Debug, Default)]
struct NumberRules {
    minimum: Option<number::Num>,
    above: Option<number::Num>,
    maximum: Option<number::Num>,
    below: Option<number::Num>,
    multiple_of: Option<number::Num>,
}

#[derive(Debug, Default)]
struct TextRules {
    min: usize,
    max: Option<usize>,
    pattern: Option<Pattern>,
}

#[derive(Debug, Default)]
struct ArrayRules {
    prefix: Vec<Id>,
    items: Option<Id>,
    unevaluated: Option<Id>,
    contains: Option<(Id, usize, Option<usize>)>,
    min: usize,
    max: Option<usize>,
    unique: bool,
}

#[derive(Debug, Default)]
struct ObjectRules {
    /// Whether `properties` is written: then a key that is not listed is refused, unless `open`.
    lists: bool,
    /// Whether `additionalProperties` or `patternProperties` is written.
    open: bool,
    /// Sorted by name: [`ObjectRules::property`] finds one in fewer instructions than a hash costs.
    properties: Vec<(String, Id)>,
    /// What those are where they are absent that have a default.
    defaults: Vec<(String, defaults::Default)>,
    /// Loosely folded name to name.
    folded: HashMap<String, String>,
    patterns: Vec<(Pattern, Id)>,
    additional: Option<Id>,
    unevaluated: Option<Id>,
    names: Option<Id>,
    required: Vec<String>,
    min: usize,
    max: Option<usize>,
    /// What must be there where a key is.
    needs: Vec<(String, Vec<String>)>,
    /// What must hold where a key is there.
    implies: Vec<(String, Id)>,
}

impl ObjectRules {
    fn property(&self, name: &str) -> Option<Id> {
        let found = self
            .properties
            .binary_search_by(|(other, _)| other.as_str().cmp(name));
        let (_, id) = self.properties.get(found.ok()?)?;
        Some(*id)
    }
}

#[derive(Debug)]
struct Condition {
    test: Id,
    then: Option<Id>,
    otherwise: Option<Id>,
    /// Keys that the test looks at.
    reads: Vec<String>,
}

/// A set of kinds of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kinds(u8);

impl Kinds {
    const NONE: Kinds = Kinds(0);
    const NULL: Kinds = Kinds(1);
    const BOOL: Kinds = Kinds(2);
    const NUMBER: Kinds = Kinds(4);
    const STRING: Kinds = Kinds(8);
    const ARRAY: Kinds = Kinds(16);
    const OBJECT: Kinds = Kinds(32);
    const ALL: Kinds = Kinds(63);

    fn has(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    fn of(value: &json::Value<'_>) -> Kinds {
        match value {
            json::Value::Null => Kinds::NULL,
            json::Value::Bool(_) => Kinds::BOOL,
            json::Value::Number(_) => Kinds::NUMBER,
            json::Value::String(_) => Kinds::STRING,
            json::Value::Array(_) => Kinds::ARRAY,
            json::Value::Object(_) => Kinds::OBJECT,
        }
    }

    fn of_plain(value: &Value) -> Kinds {
        match value {
            Value::Null => Kinds::NULL,
            Value::Bool(_) => Kinds::BOOL,
            Value::Number(_) => Kinds::NUMBER,
            Value::String(_) => Kinds::STRING,
            Value::Array(_) => Kinds::ARRAY,
            Value::Object(_) => Kinds::OBJECT,
        }
    }

    fn names(self, whole: bool) -> Vec<&'static str> {
        let number = if whole { "integer" } else { "number" };
        [
            (Kinds::STRING, "string"),
            (Kinds::NUMBER, number),
            (Kinds::BOOL, "boolean"),
            (Kinds::ARRAY, "array"),
            (Kinds::OBJECT, "object"),
            (Kinds::NULL, "null"),
        ]
        .into_iter()
        .filter(|(kind, _)| self.has(*kind))
        .map(|(_, name)| name)
        .collect()
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Kinds::ALL
    }
}

/// Why a value was not taken.
enum Fail {
    /// It does not conform to the schema; not reported, because another branch may accept it.
    No,
    Misfit(Misfit),
    Exhausted,
}

impl From<super::check::EvalError> for Fail {
    fn from(_: super::check::EvalError) -> Self {
        Fail::Exhausted
    }
}

impl From<Fail> for Misfit {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Misfit(misfit) => misfit,
            Fail::No => Misfit("the arguments are not as the tool's inputSchema says".to_owned()),
            Fail::Exhausted => Misfit(
                "the arguments take too much work to be held against the tool's inputSchema; send fewer or shorter ones"
                    .to_owned(),
            ),
        }
    }
}

/// Where in the arguments a value is.
#[derive(Clone, Copy)]
struct Path<'p> {
    above: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    const ROOT: Path<'static> = Path {
        above: None,
        step: Step::Root,
    };

    fn key(&'p self, key: &'p str) -> Path<'p> {
        Path {
            above: Some(self),
            step: Step::Key(key),
        }
    }

    fn index(&'p self, index: usize) -> Path<'p> {
        Path {
            above: Some(self),
            step: Step::Index(index),
        }
    }

    /// The argument that the value is, or is part of.
    fn argument(&self) -> Option<&'p str> {
        let above = self.above?;
        match self.step {
            Step::Key(key) if above.is_root() => Some(key),
            _ => above.argument(),
        }
    }

    fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }

    /// The steps, joined by slashes.
    fn steps(&self) -> String {
        let step = match self.step {
            Step::Root => return String::new(),
            Step::Key(key) => bounded(key),
            Step::Index(index) => index.to_string(),
        };
        match self.above.map(Path::steps) {
            Some(above) if !above.is_empty() => format!("{above}/{step}"),
            _ => step,
        }
    }

    /// The place in words.
    fn describe(&self) -> String {
        match self.above {
            None => "the arguments".to_owned(),
            Some(above) if above.is_root() => format!("the argument `{}`", self.steps()),
            Some(_) => format!("`{}` in the arguments", self.steps()),
        }
    }
}

impl Schema {
    /// Resolves and weighs a schema, with what the patterns and nodes of the listing may still
    /// cost.
    ///
    /// An argument that no rule reads may have a schema that cannot be compiled: then its value is
    /// not checked.
    pub fn compile(schema: &Value, reads: &Reads, budget: &mut Budget) -> Result<Self, String> {
        build::build(schema, reads, budget)
    }

    /// Whether the arguments are as the schema says, as they stand; what the server will read
    /// beside them; and which of those that rules read have another spelling, too.
    pub fn check<'a>(
        &'a self,
        value: &'a json::Value<'a>,
        fuel: &Fuel,
        exact: Exact<'_>,
    ) -> Result<(Vec<Fill<'a>>, Vec<Off<'static>>), Misfit> {
        validate::Run {
            schema: self,
            fuel,
            quiet: false,
        }
        .validate(self.root, value, &Path::ROOT)?;
        survey::survey(self, value, fuel, exact)
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id)
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// One form of a name for finding those that a server may take for the same: case folded, and
/// without what separates words, as `stage_name` and `stage-name` are the usual aliases of
/// `stageName`.
fn loose(name: &str) -> String {
    fold_case(name)
        .chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .collect()
}
