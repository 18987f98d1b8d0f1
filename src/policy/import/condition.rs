//! Converts a condition of the source (path, op, value) to the CEL condition of a Deny rule.
//!
//! In: one entry of `require`, `deny_if` or Intercept's `conditions`. Out: when to deny. The source
//! decides on the arguments as sent; here a server fills in defaults, and a null can be an absent
//! argument. So a call is denied if either reading would deny it: the arguments as sent (`sent`),
//! or as the server will read them (`args`). Values are compared as the source compares them,
//! whatever their type; an absent argument fails every operator but `exists: false`. Must not do:
//! be looser than the source for any arguments.

use super::literal::Literal;
use super::names;
use super::read::{Kind, Node};
use crate::json::quoted;
use crate::policy::check::{Condition, from_go};
use crate::policy::diagnostic::Position;

/// `require` denies what does not hold, `deny_if` what does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polarity {
    Require,
    DenyIf,
}

impl Polarity {
    /// For names of rules.
    pub fn name(self) -> &'static str {
        match self {
            Polarity::Require => "require",
            Polarity::DenyIf => "deny-if",
        }
    }
}

/// When to deny, and the text for the agent.
#[derive(Debug)]
pub(super) struct Denial {
    pub when: String,
    pub reason: Option<String>,
    /// An argument that is a list or an object is refused, as it could print as the text that is
    /// compared with.
    pub no_lists: bool,
}

/// Why a condition cannot be carried over, and where.
pub(super) type Flaw = (Position, String);

/// When to deny.
pub(super) fn deny_when(entry: &Node, polarity: Polarity) -> Result<Denial, Flaw> {
    let Some(entries) = entry.map() else {
        return Err((
            entry.at,
            format!(
                "a condition must be a mapping with path, op and value, and this is {}",
                entry.kind()
            ),
        ));
    };
    let known = [
        "path",
        "op",
        "value",
        "on_deny",
        "reason",
        "name",
        "description",
    ];
    if let Some(unknown) = entries.iter().find(|found| !known.contains(&&*found.key)) {
        return Err((
            unknown.at,
            format!("the key {:?} of a condition is not known", unknown.key),
        ));
    }
    for key in ["on_deny", "reason", "name", "description"] {
        text_of(entry, key)?;
    }
    let missing = |key: &str| (entry.at, format!("the condition has no {key}"));
    let path = text_of(entry, "path")?.ok_or_else(|| missing("path"))?;
    let op = text_of(entry, "op")?.ok_or_else(|| missing("op"))?;
    let value = entry.get("value");
    let at = value.map_or(entry.at, |value| value.at);
    let steps = steps(path).map_err(|why| (entry.at, why))?;
    let test = Test::of(op, value).map_err(|why| (at, format!("{op} on {path}: {why}")))?;
    let when = test.deny(&steps, polarity);
    Condition::compile(&when).map_err(|fault| {
        (
            at,
            format!("{op} on {path} cannot be written in CEL: {}", fault.message),
        )
    })?;
    Ok(Denial {
        when,
        reason: names::reason(entry, &["on_deny", "reason"]),
        no_lists: test.no_lists(),
    })
}

/// Text under a key, or that it is something else.
pub(super) fn text_of<'n>(node: &'n Node, key: &str) -> Result<Option<&'n str>, Flaw> {
    match node.get(key) {
        None => Ok(None),
        Some(value) => match value.text() {
            Some(text) => Ok(Some(text)),
            None => Err((
                value.at,
                format!("{key} must be text, and this is {}", value.kind()),
            )),
        },
    }
}

/// What is asked of an argument.
enum Test {
    Exists(bool),
    /// One of these, or none of them.
    Among(Vec<Literal>, bool),
    /// Numbers only.
    Order(&'static str, f64),
    Matches(String),
    Contains(Literal),
}

impl Test {
    fn of(op: &str, value: Option<&Node>) -> Result<Self, String> {
        let scalar = value.and_then(Node::scalar);
        Ok(match op {
            "eq" => Test::Among(vec![Literal::of(value)?], true),
            "neq" => Test::Among(vec![Literal::of(value)?], false),
            "in" | "not_in" => {
                let items = value.and_then(Node::list).ok_or("it needs a list")?;
                let literals: Result<Vec<_>, String> = items
                    .iter()
                    .map(|item| Literal::of(Some(item).filter(|item| !item.is_null())))
                    .collect();
                Test::Among(literals?, op == "in")
            }
            "lt" | "lte" | "gt" | "gte" => {
                let sign = match op {
                    "lt" => "<",
                    "lte" => "<=",
                    "gt" => ">",
                    _ => ">=",
                };
                match scalar.map(|scalar| scalar.kind) {
                    Some(Kind::Int(value)) => Test::Order(sign, value as f64),
                    Some(Kind::Float(value)) => Test::Order(sign, value),
                    _ => return Err("it needs a number, written without quotes".to_owned()),
                }
            }
            "regex" => match scalar {
                Some(scalar) if scalar.kind == Kind::Text => Test::Matches(from_go(&scalar.raw)?),
                _ => return Err("it needs a pattern in quotes".to_owned()),
            },
            "contains" => Test::Contains(Literal::of(value)?),
            "exists" => match scalar.map(|scalar| scalar.kind) {
                Some(Kind::Bool(value)) => Test::Exists(value),
                _ => return Err("it needs true or false".to_owned()),
            },
            other => return Err(format!("the operator {other:?} is not known")),
        })
    }

    fn no_lists(&self) -> bool {
        match self {
            Test::Among(literals, _) => literals.iter().any(Literal::like_a_list),
            Test::Contains(literal) => literal.like_a_list(),
            _ => false,
        }
    }

    /// Denies where what was sent, or what the server reads, makes the source deny. Where what was
    /// sent is there and is not null, the server reads the same, which is why one of the two is
    /// often enough.
    fn deny(&self, steps: &[&str], polarity: Polarity) -> String {
        let (sent, _) = present("sent", steps);
        let (read, argument) = present("args", steps);
        let there = |base: &str| {
            let (present, argument) = present(base, steps);
            format!("{present} && {argument} != null")
        };
        match (self, polarity) {
            (Test::Exists(true), Polarity::Require) | (Test::Exists(false), Polarity::DenyIf) => {
                format!("!({})", there("sent"))
            }
            (Test::Exists(false), Polarity::Require) | (Test::Exists(true), Polarity::DenyIf) => {
                there("args")
            }
            (_, Polarity::Require) => {
                format!("!({sent} && {read} && {})", self.holds(&argument))
            }
            (_, Polarity::DenyIf) => {
                let as_read = format!("{read} && {}", self.holds(&argument));
                if self.holds_for_null() {
                    let (_, argument) = present("sent", steps);
                    format!("{as_read} || {sent} && {}", self.holds(&argument))
                } else {
                    as_read
                }
            }
        }
    }

    /// A null that was sent can be an absent argument to the server.
    fn holds_for_null(&self) -> bool {
        match self {
            Test::Among(literals, among) => {
                literals.iter().any(|literal| literal.text == "<nil>") == *among
            }
            _ => false,
        }
    }

    /// Whether the value of this expression passes the test, for values of any kind.
    fn holds(&self, argument: &str) -> String {
        match self {
            Test::Exists(_) => "true".to_owned(),
            Test::Among(literals, true) => equals(argument, literals),
            Test::Among(literals, false) => format!("!{}", equals(argument, literals)),
            Test::Order(sign, value) => {
                format!(
                    "type({argument}) in [int, uint, double] && double({argument}) {sign} {}",
                    double(*value)
                )
            }
            Test::Matches(pattern) => format!(
                "type({argument}) == string && {argument}.matches({})",
                quoted(pattern)
            ),
            Test::Contains(literal) => {
                let element = format!(
                    "type({argument}) == list && {argument}.exists(e, {})",
                    equals("e", std::slice::from_ref(literal))
                );
                if literal.is_text {
                    format!(
                        "(type({argument}) == string && {argument}.contains({}) || {element})",
                        quoted(&literal.text)
                    )
                } else {
                    element
                }
            }
        }
    }
}

/// Whether a value of any kind equals one of these as the source compares, in brackets.
fn equals(argument: &str, literals: &[Literal]) -> String {
    let mut terms = Vec::new();
    let texts: Vec<String> = distinct(literals.iter().map(|literal| quoted(&literal.text)));
    let one_of = |subject: &str, values: &[String]| match values {
        [value] => format!("{subject} == {value}"),
        values => format!("{subject} in [{}]", values.join(", ")),
    };
    if !texts.is_empty() {
        terms.push(format!(
            "type({argument}) == string && {}",
            one_of(argument, &texts)
        ));
    }
    // Zero prints with its sign, which no comparison of numbers sees.
    let zeros: Vec<String> = distinct(
        literals
            .iter()
            .filter(|literal| literal.prints_as() == Some(0.0))
            .map(|literal| quoted(&literal.text)),
    );
    let numbers: Vec<String> = distinct(literals.iter().filter_map(|literal| {
        let printed = literal.prints_as().filter(|value| *value != 0.0);
        literal.number.or(printed).map(double)
    }));
    for (subject, values) in [
        (format!("double({argument})"), numbers),
        (format!("string({argument})"), zeros),
    ] {
        if !values.is_empty() {
            terms.push(format!(
                "type({argument}) in [int, uint, double] && {}",
                one_of(&subject, &values)
            ));
        }
    }
    let has = |text: &str| literals.iter().any(|literal| literal.text == text);
    match (has("true"), has("false")) {
        (true, true) => terms.push(format!("type({argument}) == bool")),
        (true, false) => terms.push(format!("type({argument}) == bool && {argument}")),
        (false, true) => terms.push(format!("type({argument}) == bool && !{argument}")),
        (false, false) => {}
    }
    if has("<nil>") {
        terms.push(format!("{argument} == null"));
    }
    if let Some(like) = literals.iter().find(|literal| literal.like_a_list()) {
        // Comparing the two is an error, and then the rule matches: the result is unknown without
        // printing as Go does.
        terms.push(format!(
            "type({argument}) in [list, map] && {argument} == {}",
            quoted(&like.text)
        ));
    }
    match terms.is_empty() {
        true => "(false)".to_owned(),
        false => format!("({})", terms.join(" || ")),
    }
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// A number as a double in CEL.
fn double(value: f64) -> String {
    format!("{value:?}")
}

/// When the argument at this path cannot be counted by, and its value as units.
pub(super) fn units(path: &str) -> Result<(String, String), String> {
    let steps = steps(path)?;
    let (sent, _) = present("sent", &steps);
    let (read, argument) = present("args", &steps);
    Ok((
        format!("!({sent} && {read} && type({argument}) in [int, uint, double])"),
        format!("int({argument})"),
    ))
}

fn steps(path: &str) -> Result<Vec<&str>, String> {
    let rest = path
        .strip_prefix("args.")
        .ok_or_else(|| format!("the path {path:?} does not start with args."))?;
    Ok(rest.split('.').collect())
}

/// Whether all steps of the path are there, and the value at its end.
fn present(base: &str, steps: &[&str]) -> (String, String) {
    let mut present = Vec::new();
    let mut argument = base.to_owned();
    for (at, step) in steps.iter().enumerate() {
        if at > 0 {
            present.push(format!("type({argument}) == map"));
        }
        let mut characters = step.chars();
        let plain = characters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !WORDS.contains(step);
        if plain {
            present.push(format!("has({argument}.{step})"));
            argument = format!("{argument}.{step}");
        } else {
            let key = quoted(step);
            present.push(format!("{key} in {argument}"));
            argument = format!("{argument}[{key}]");
        }
    }
    (present.join(" && "), argument)
}

/// Words that CEL keeps for itself.
const WORDS: [&str; 4] = ["true", "false", "null", "in"];
