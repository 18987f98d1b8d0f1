//! Syntax tree to compiled expression; whatever cannot be right is refused here, with its place.
//!
//! In: a tree. Out: [`Expr`] and the kind of its value where that can be told. Only known variables and functions pass,
//! patterns are literals and compile within bounds, macros do not nest.

use super::Fault;
use super::ir::{Const, Expr, Function, Kind, Macro, Operator, Part, Variable};
use super::parse::{self, Node};
use super::time;

/// Memory that one compiled pattern may take.
const PATTERN_SIZE: usize = 256 * 1024;

type Typed = (Expr, Option<Kind>);

pub(super) struct Lowering {
    local: Option<String>,
    in_macro: bool,
    pub reads_args: bool,
}

const VARIABLES: &str = "args, tool.name, tool.risk, tool.severity, caller.grant, caller.kind, caller.groups, \
                         caller.claims, session.id and now";

impl Lowering {
    pub fn new() -> Self {
        Self {
            local: None,
            in_macro: false,
            reads_args: false,
        }
    }

    pub fn lower(&mut self, node: &Node) -> Result<Typed, Fault> {
        let at = node.at;
        Ok(match &node.kind {
            parse::Kind::Null => (Expr::Const(Const::Null), Some(Kind::Null)),
            parse::Kind::Bool(value) => (Expr::Const(Const::Bool(*value)), Some(Kind::Bool)),
            parse::Kind::Int(value) => (Expr::Const(Const::Int(*value)), Some(Kind::Int)),
            parse::Kind::Uint(value) => (Expr::Const(Const::Uint(*value)), Some(Kind::Uint)),
            parse::Kind::Double(value) => (Expr::Const(Const::Double(*value)), Some(Kind::Double)),
            parse::Kind::Str(text) => (
                Expr::Const(Const::Str(text.as_str().into())),
                Some(Kind::String),
            ),
            parse::Kind::Ident(name) => self.variable(at, name)?,
            parse::Kind::Select(operand, field) => self.select(at, operand, field)?,
            parse::Kind::Index(operand, index) => {
                let (operand, kind) = self.lower(operand)?;
                if let Some(kind) = kind.filter(|k| !matches!(k, Kind::List | Kind::Map)) {
                    return Err(Fault::new(
                        at,
                        format!("{} has no elements to index", kind.name()),
                    ));
                }
                let (index, key) = self.lower(index)?;
                match (kind, key) {
                    (Some(Kind::List), Some(found)) if !matches!(found, Kind::Int | Kind::Uint) => {
                        return Err(Fault::new(
                            at,
                            format!("a list is indexed by an integer, not {}", found.name()),
                        ));
                    }
                    (Some(Kind::Map), Some(found)) if found != Kind::String => {
                        return Err(Fault::new(
                            at,
                            format!("this map is indexed by a string, not {}", found.name()),
                        ));
                    }
                    _ => (Expr::Index(Box::new(operand), Box::new(index)), None),
                }
            }
            parse::Kind::List(items) => self.list(items)?,
            parse::Kind::Map(entries) => self.map(entries)?,
            parse::Kind::Not(operand) => (
                Expr::Not(Box::new(self.boolean(operand, "!")?)),
                Some(Kind::Bool),
            ),
            parse::Kind::Negate(operand) => {
                let (operand, kind) = self.lower(operand)?;
                if let Some(kind) = kind.filter(|k| !matches!(k, Kind::Int | Kind::Double)) {
                    return Err(Fault::new(
                        at,
                        format!("`-` needs a signed number, not {}", kind.name()),
                    ));
                }
                (Expr::Negate(Box::new(operand)), kind)
            }
            parse::Kind::And(terms) => (Expr::And(self.booleans(terms, "&&")?), Some(Kind::Bool)),
            parse::Kind::Or(terms) => (Expr::Or(self.booleans(terms, "||")?), Some(Kind::Bool)),
            parse::Kind::Binary(operator, left, right) => {
                self.binary(at, *operator, left, right)?
            }
            parse::Kind::Ternary(condition, yes, no) => {
                let condition = self.boolean(condition, "? :")?;
                let (yes, first) = self.lower(yes)?;
                let (no, second) = self.lower(no)?;
                let kind = first.filter(|_| first == second);
                (Expr::Ternary(Box::new((condition, yes, no))), kind)
            }
            parse::Kind::Call(name, target, args) => {
                self.call(at, name, target.as_deref(), args)?
            }
        })
    }

    fn variable(&mut self, at: usize, name: &str) -> Result<Typed, Fault> {
        if self.local.as_deref() == Some(name) {
            return Ok((Expr::Local, None));
        }
        let (variable, kind) = match name {
            "args" => {
                self.reads_args = true;
                (Variable::Args, Kind::Map)
            }
            "now" => (Variable::Now, Kind::Timestamp),
            "tool" | "caller" | "session" => {
                return Err(Fault::new(
                    at,
                    format!("`{name}` is no value by itself; there are {VARIABLES}"),
                ));
            }
            _ => {
                return Err(Fault::new(
                    at,
                    format!("unknown variable `{name}`; there are {VARIABLES}"),
                ));
            }
        };
        Ok((Expr::Variable(variable), Some(kind)))
    }

    /// `tool.name` and the like; these are resolved now, so that a misspelt one is found before it decides anything.
    fn field_of_context(operand: &Node, field: &str) -> Option<Result<(Variable, Kind), Fault>> {
        let parse::Kind::Ident(base) = &operand.kind else {
            return None;
        };
        Some(Ok(match (base.as_str(), field) {
            ("tool", "name") => (Variable::ToolName, Kind::String),
            ("tool", "risk") => (Variable::ToolRisk, Kind::String),
            ("tool", "severity") => (Variable::ToolSeverity, Kind::String),
            ("caller", "grant") => (Variable::CallerGrant, Kind::String),
            ("caller", "kind") => (Variable::CallerKind, Kind::String),
            ("caller", "groups") => (Variable::CallerGroups, Kind::List),
            ("caller", "claims") => (Variable::CallerClaims, Kind::Map),
            ("session", "id") => (Variable::SessionId, Kind::String),
            ("tool" | "caller" | "session", _) => {
                return Some(Err(Fault::new(
                    operand.at,
                    format!("unknown variable `{base}.{field}`; there are {VARIABLES}"),
                )));
            }
            _ => return None,
        }))
    }

    fn select(&mut self, at: usize, operand: &Node, field: &str) -> Result<Typed, Fault> {
        if let Some(found) = Self::field_of_context(operand, field) {
            let (variable, kind) = found?;
            return Ok((Expr::Variable(variable), Some(kind)));
        }
        let (operand, kind) = self.lower(operand)?;
        if let Some(kind) = kind.filter(|k| *k != Kind::Map) {
            return Err(Fault::new(
                at,
                format!("{} has no field `{field}`", kind.name()),
            ));
        }
        Ok((Expr::Select(Box::new(operand), field.into()), None))
    }

    fn list(&mut self, items: &[Node]) -> Result<Typed, Fault> {
        let items = items
            .iter()
            .map(|item| Ok(self.lower(item)?.0))
            .collect::<Result<Vec<_>, Fault>>()?;
        let constants: Option<Vec<_>> = items.iter().map(constant).collect();
        let expr = match constants {
            Some(constants) => Expr::Const(Const::Json(serde_json::Value::Array(constants))),
            None => Expr::List(items),
        };
        Ok((expr, Some(Kind::List)))
    }

    fn map(&mut self, entries: &[(Node, Node)]) -> Result<Typed, Fault> {
        let mut lowered = Vec::with_capacity(entries.len());
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in entries {
            let parse::Kind::Str(name) = &key.kind else {
                return Err(Fault::new(
                    key.at,
                    "the keys of a map must be literal strings",
                ));
            };
            if !seen.insert(name) {
                return Err(Fault::new(key.at, format!("the key {name:?} is repeated")));
            }
            lowered.push((self.lower(key)?.0, self.lower(value)?.0));
        }
        Ok((Expr::Map(lowered), Some(Kind::Map)))
    }

    fn boolean(&mut self, node: &Node, operator: &str) -> Result<Expr, Fault> {
        match self.lower(node)? {
            (expr, None | Some(Kind::Bool)) => Ok(expr),
            (_, Some(kind)) => Err(Fault::new(
                node.at,
                format!("`{operator}` needs a boolean here, not {}", kind.name()),
            )),
        }
    }

    fn booleans(&mut self, nodes: &[Node], operator: &str) -> Result<Vec<Expr>, Fault> {
        nodes
            .iter()
            .map(|node| self.boolean(node, operator))
            .collect()
    }

    fn binary(
        &mut self,
        at: usize,
        operator: Operator,
        left: &Node,
        right: &Node,
    ) -> Result<Typed, Fault> {
        let (left, a) = self.lower(left)?;
        let (right, b) = self.lower(right)?;
        let refuse = |a: Kind, b: Kind| {
            Err(Fault::new(
                at,
                format!(
                    "`{}` is not defined between {} and {}",
                    operator.text(),
                    a.name(),
                    b.name()
                ),
            ))
        };
        let kind = match operator {
            Operator::Equal | Operator::NotEqual => {
                if let (Some(a), Some(b)) = (a, b)
                    && !a.comparable(b)
                {
                    return refuse(a, b);
                }
                Some(Kind::Bool)
            }
            Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => {
                let ordered =
                    |k: Kind| !matches!(k, Kind::Null | Kind::List | Kind::Map | Kind::Bool);
                for kind in [a, b].into_iter().flatten() {
                    if !ordered(kind) {
                        return Err(Fault::new(at, format!("{} has no order", kind.name())));
                    }
                }
                if let (Some(a), Some(b)) = (a, b)
                    && !a.comparable(b)
                {
                    return refuse(a, b);
                }
                Some(Kind::Bool)
            }
            Operator::In => {
                if let Some(b) = b.filter(|k| !matches!(k, Kind::List | Kind::Map)) {
                    return Err(Fault::new(
                        at,
                        format!(
                            "`in` looks into a list or a map, not {}; for text use contains()",
                            b.name()
                        ),
                    ));
                }
                // A constant list whose elements can never equal the operand is a mistake, not a condition.
                if let (Some(a), Expr::Const(Const::Json(serde_json::Value::Array(items)))) =
                    (a, &right)
                    && let Some(item) = items
                        .iter()
                        .map(json_kind)
                        .find(|item| !a.comparable(*item))
                {
                    return refuse(a, item);
                }
                Some(Kind::Bool)
            }
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => match (a, b) {
                (Some(a), Some(b)) => match arithmetic(operator, a, b) {
                    Some(kind) => Some(kind),
                    None => return refuse(a, b),
                },
                (Some(Kind::Null | Kind::Bool | Kind::Map), None)
                | (None, Some(Kind::Null | Kind::Bool | Kind::Map)) => {
                    return Err(Fault::new(
                        at,
                        format!("`{}` needs numbers or text", operator.text()),
                    ));
                }
                (Some(k @ (Kind::Int | Kind::Uint | Kind::Double)), None)
                | (None, Some(k @ (Kind::Int | Kind::Uint | Kind::Double))) => Some(k),
                _ => None,
            },
        };
        Ok((Expr::Binary(operator, Box::new((left, right))), kind))
    }

    fn call(
        &mut self,
        at: usize,
        name: &str,
        target: Option<&Node>,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        if name == "has" {
            return self.has(at, target, args);
        }
        let kind = match name {
            "all" => Some(Macro::All),
            "exists" => Some(Macro::Exists),
            "exists_one" => Some(Macro::ExistsOne),
            "filter" => Some(Macro::Filter),
            _ => None,
        };
        if let (Some(kind), Some(target)) = (kind, target) {
            return self.comprehension(at, name, kind, target, args);
        }
        if name == "matches" {
            return self.matches(at, target, args);
        }
        if let (Some(part), Some(target)) = (part(name), target) {
            return self.part(at, name, part, target, args);
        }
        let (function, method, count, result) = match name {
            "size" => (Function::Size, None, 1, Kind::Int),
            "startsWith" => (Function::StartsWith, Some(true), 2, Kind::Bool),
            "endsWith" => (Function::EndsWith, Some(true), 2, Kind::Bool),
            "contains" => (Function::Contains, Some(true), 2, Kind::Bool),
            "lowerAscii" => (Function::LowerAscii, Some(true), 1, Kind::String),
            "upperAscii" => (Function::UpperAscii, Some(true), 1, Kind::String),
            "int" => (Function::Int, Some(false), 1, Kind::Int),
            "uint" => (Function::Uint, Some(false), 1, Kind::Uint),
            "double" => (Function::Double, Some(false), 1, Kind::Double),
            "string" => (Function::String, Some(false), 1, Kind::String),
            "timestamp" => (Function::Timestamp, Some(false), 1, Kind::Timestamp),
            "duration" => (Function::Duration, Some(false), 1, Kind::Duration),
            _ => return Err(Fault::new(at, unknown_function(name))),
        };
        let form = if method == Some(true) {
            format!("x.{name}(…)")
        } else {
            format!("{name}(x)")
        };
        if method.is_some_and(|method| method != target.is_some())
            || args.len() + usize::from(target.is_some()) != count
        {
            return Err(Fault::new(
                at,
                format!(
                    "`{name}` is written {form} with {} argument(s)",
                    count - usize::from(method == Some(true))
                ),
            ));
        }
        let mut lowered = Vec::with_capacity(count);
        for node in target.into_iter().chain(args) {
            let (expr, kind) = self.lower(node)?;
            if let Some(kind) = kind.filter(|kind| !accepts(function, *kind)) {
                return Err(Fault::new(
                    node.at,
                    format!("`{name}` does not take {}", kind.name()),
                ));
            }
            lowered.push(expr);
        }
        // Times that are written out are read now: a wrong one is refused, a right one costs nothing later.
        if let [Expr::Const(Const::Str(text))] = lowered.as_slice() {
            let node_at = args.first().map_or(at, |node| node.at);
            if function == Function::Timestamp {
                let time = time::timestamp(text).map_err(|message| Fault::new(node_at, message))?;
                return Ok((Expr::Const(Const::Time(time)), Some(Kind::Timestamp)));
            }
            if function == Function::Duration {
                let span = time::duration(text).map_err(|message| Fault::new(node_at, message))?;
                return Ok((Expr::Const(Const::Span(span)), Some(Kind::Duration)));
            }
        }
        Ok((Expr::Call(function, lowered), Some(result)))
    }

    fn has(&mut self, at: usize, target: Option<&Node>, args: &[Node]) -> Result<Typed, Fault> {
        let written = Fault::new(at, "write has(args.name): it asks whether a map has a key");
        let (
            None,
            [
                Node {
                    kind: parse::Kind::Select(operand, field),
                    ..
                },
            ],
        ) = (target, args)
        else {
            return Err(written);
        };
        if Self::field_of_context(operand, field).is_some() {
            return Err(Fault::new(
                at,
                "this variable is always there; has() is for optional keys",
            ));
        }
        let (operand, kind) = self.lower(operand)?;
        if kind.is_some_and(|kind| kind != Kind::Map) {
            return Err(written);
        }
        Ok((
            Expr::Has(Box::new(operand), field.as_str().into()),
            Some(Kind::Bool),
        ))
    }

    fn comprehension(
        &mut self,
        at: usize,
        name: &str,
        kind: Macro,
        target: &Node,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        if self.in_macro {
            return Err(Fault::new(
                at,
                format!(
                    "`{name}` cannot stand inside another all, exists, exists_one or filter; write two conditions"
                ),
            ));
        }
        let [
            Node {
                kind: parse::Kind::Ident(local),
                ..
            },
            body,
        ] = args
        else {
            return Err(Fault::new(
                at,
                format!("`{name}` is written list.{name}(x, condition on x)"),
            ));
        };
        if matches!(
            local.as_str(),
            "args" | "tool" | "caller" | "session" | "now"
        ) {
            return Err(Fault::new(
                at,
                format!("`{local}` is taken; name the element otherwise, for example `x`"),
            ));
        }
        let (range, found) = self.lower(target)?;
        if let Some(found) = found.filter(|k| !matches!(k, Kind::List | Kind::Map)) {
            return Err(Fault::new(
                target.at,
                format!("`{name}` goes over a list or a map, not {}", found.name()),
            ));
        }
        self.local = Some(local.clone());
        self.in_macro = true;
        let body = self.boolean(body, name);
        self.local = None;
        self.in_macro = false;
        let result = if kind == Macro::Filter {
            Kind::List
        } else {
            Kind::Bool
        };
        Ok((Expr::Macro(kind, Box::new((range, body?))), Some(result)))
    }

    fn matches(&mut self, at: usize, target: Option<&Node>, args: &[Node]) -> Result<Typed, Fault> {
        let (subject, pattern) = match (target, args) {
            (Some(subject), [pattern]) | (None, [subject, pattern]) => (subject, pattern),
            _ => {
                return Err(Fault::new(
                    at,
                    "`matches` is written text.matches(\"pattern\")",
                ));
            }
        };
        let parse::Kind::Str(text) = &pattern.kind else {
            return Err(Fault::new(
                pattern.at,
                "the pattern of `matches` must be a literal string",
            ));
        };
        let (subject, kind) = self.lower(subject)?;
        if let Some(kind) = kind.filter(|k| *k != Kind::String) {
            return Err(Fault::new(
                at,
                format!("`matches` does not take {}", kind.name()),
            ));
        }
        let regex = regex::RegexBuilder::new(text)
            .size_limit(PATTERN_SIZE)
            .dfa_size_limit(PATTERN_SIZE)
            .nest_limit(50)
            .build()
            .map_err(|error| {
                // The last line of the crate's message says what is wrong; those before draw it.
                let text = error.to_string();
                let last = text
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_owned();
                Fault::new(pattern.at, format!("the pattern cannot be used: {last}"))
            })?;
        Ok((Expr::Matches(Box::new(subject), regex), Some(Kind::Bool)))
    }

    fn part(
        &mut self,
        at: usize,
        name: &str,
        part: Part,
        target: &Node,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        let zone = match args {
            [] => 0,
            [
                Node {
                    kind: parse::Kind::Str(zone),
                    at,
                    ..
                },
            ] => time::offset(zone).map_err(|message| Fault::new(*at, message))?,
            _ => {
                return Err(Fault::new(
                    at,
                    format!("`{name}` is written now.{name}() or now.{name}(\"+02:00\")"),
                ));
            }
        };
        let (target, kind) = self.lower(target)?;
        if let Some(kind) = kind.filter(|k| *k != Kind::Timestamp) {
            return Err(Fault::new(
                at,
                format!("`{name}` needs a timestamp, not {}", kind.name()),
            ));
        }
        Ok((Expr::Part(part, Box::new(target), zone), Some(Kind::Int)))
    }
}

fn part(name: &str) -> Option<Part> {
    Some(match name {
        "getFullYear" => Part::FullYear,
        "getMonth" => Part::Month,
        "getDate" => Part::Date,
        "getDayOfMonth" => Part::DayOfMonth,
        "getDayOfWeek" => Part::DayOfWeek,
        "getDayOfYear" => Part::DayOfYear,
        "getHours" => Part::Hours,
        "getMinutes" => Part::Minutes,
        "getSeconds" => Part::Seconds,
        "getMilliseconds" => Part::Milliseconds,
        _ => return None,
    })
}

fn unknown_function(name: &str) -> String {
    match name {
        "map" => "`map` is not supported, as it can grow its result without bound; use all, exists or filter".to_owned(),
        "lower" | "toLowerCase" | "toLower" => format!("unknown function `{name}`; write lowerAscii()"),
        "upper" | "toUpperCase" | "toUpper" => format!("unknown function `{name}`; write upperAscii()"),
        _ => format!(
            "unknown function `{name}`; there are has, size, startsWith, endsWith, contains, matches, lowerAscii, \
             upperAscii, all, exists, exists_one, filter, int, uint, double, string, timestamp, duration and getHours and \
             its kin"
        ),
    }
}

fn accepts(function: Function, kind: Kind) -> bool {
    match function {
        Function::Size => matches!(kind, Kind::String | Kind::List | Kind::Map),
        Function::StartsWith
        | Function::EndsWith
        | Function::Contains
        | Function::LowerAscii
        | Function::UpperAscii => kind == Kind::String,
        Function::Int => kind.is_number() || matches!(kind, Kind::String | Kind::Timestamp),
        Function::Uint | Function::Double => kind.is_number() || kind == Kind::String,
        Function::String => {
            kind.is_number()
                || matches!(
                    kind,
                    Kind::String | Kind::Bool | Kind::Timestamp | Kind::Duration
                )
        }
        Function::Timestamp => matches!(kind, Kind::String | Kind::Int | Kind::Timestamp),
        Function::Duration => matches!(kind, Kind::String | Kind::Duration),
    }
}

/// The kind that an arithmetic operator gives, if CEL defines it between the two.
pub(super) fn arithmetic(operator: Operator, a: Kind, b: Kind) -> Option<Kind> {
    Some(match (operator, a, b) {
        (Operator::Remainder, Kind::Double, Kind::Double) => return None,
        (_, Kind::Int, Kind::Int) => Kind::Int,
        (_, Kind::Uint, Kind::Uint) => Kind::Uint,
        (_, Kind::Double, Kind::Double) => Kind::Double,
        (Operator::Add, Kind::String, Kind::String) => Kind::String,
        (Operator::Add, Kind::List, Kind::List) => Kind::List,
        (Operator::Add, Kind::Timestamp, Kind::Duration)
        | (Operator::Add, Kind::Duration, Kind::Timestamp) => Kind::Timestamp,
        (Operator::Add | Operator::Subtract, Kind::Duration, Kind::Duration) => Kind::Duration,
        (Operator::Subtract, Kind::Timestamp, Kind::Duration) => Kind::Timestamp,
        (Operator::Subtract, Kind::Timestamp, Kind::Timestamp) => Kind::Duration,
        _ => return None,
    })
}

/// The constant as JSON, if JSON holds it without loss; an unsigned one would come back signed.
fn constant(expr: &Expr) -> Option<serde_json::Value> {
    let Expr::Const(constant) = expr else {
        return None;
    };
    Some(match constant {
        Const::Null => serde_json::Value::Null,
        Const::Bool(value) => (*value).into(),
        Const::Int(value) => (*value).into(),
        Const::Double(value) => serde_json::Number::from_f64(*value)?.into(),
        Const::Str(text) => text.as_ref().into(),
        Const::Json(value) => value.clone(),
        Const::Uint(_) | Const::Time(_) | Const::Span(_) => return None,
    })
}

fn json_kind(value: &serde_json::Value) -> Kind {
    match value {
        serde_json::Value::Null => Kind::Null,
        serde_json::Value::Bool(_) => Kind::Bool,
        serde_json::Value::Number(number) if number.is_f64() => Kind::Double,
        serde_json::Value::Number(_) => Kind::Int,
        serde_json::Value::String(_) => Kind::String,
        serde_json::Value::Array(_) => Kind::List,
        serde_json::Value::Object(_) => Kind::Map,
    }
}
