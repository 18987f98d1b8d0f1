//! Compiles a syntax tree to an expression; every mistake is refused here, with its place.
//!
//! In: a tree. Out: [`Expr`] and the kind of its value, if it is known. Only known variables and
//! functions pass, patterns are literals and compile within bounds, macros do not nest.

mod calls;

use super::ir::{Const, Expr, Kind, Operator, Variable};
use super::tree::{self, Node};
use super::{Fault, Patterns};

type Typed = (Expr, Option<Kind>);

pub(super) struct Lowering<'p> {
    patterns: &'p mut Patterns,
    local: Option<String>,
    in_macro: bool,
}

const VARIABLES: &str = "args, sent, tool.name, tool.risk, tool.severity, caller.grant, caller.kind, caller.groups, \
                         caller.claims, session.id and now";

/// What to write for a name that is not a variable.
fn unknown_variable(name: &str) -> String {
    let write = match name.to_ascii_lowercase().as_str() {
        "true" | "false" | "null" => {
            return format!(
                "`{name}` is not a value; write {}",
                name.to_ascii_lowercase()
            );
        }
        "none" | "nil" | "undefined" => {
            return format!(
                "`{name}` is not a value; write null, or test with !has(args.name) whether an argument is absent"
            );
        }
        "arg" | "arguments" | "params" | "parameters" | "input" | "argument" => {
            "args.name for an argument of the call".to_owned()
        }
        "user" | "grant" | "subject" => "caller.grant for the caller".to_owned(),
        "groups" | "claims" | "kind" => format!("caller.{name}"),
        "risk" | "severity" => format!("tool.{name}"),
        "time" | "today" | "date" => "now for the time of the call".to_owned(),
        _ => format!(
            "args.{name} if it is an argument of the call, or '{name}' in quotes if it is text"
        ),
    };
    format!("there is no variable `{name}`; write {write} (the variables are {VARIABLES})")
}

impl<'p> Lowering<'p> {
    pub fn new(patterns: &'p mut Patterns) -> Self {
        Self {
            patterns,
            local: None,
            in_macro: false,
        }
    }

    pub fn lower(&mut self, node: &Node) -> Result<Typed, Fault> {
        let at = node.at;
        Ok(match &node.kind {
            tree::Kind::Null => (Expr::Const(Const::Null), Some(Kind::Null)),
            tree::Kind::Bool(value) => (Expr::Const(Const::Bool(*value)), Some(Kind::Bool)),
            tree::Kind::Int(value) => (Expr::Const(Const::Int(*value)), Some(Kind::Int)),
            tree::Kind::Uint(value) => (Expr::Const(Const::Uint(*value)), Some(Kind::Uint)),
            tree::Kind::Double(value) => (Expr::Const(Const::Double(*value)), Some(Kind::Double)),
            tree::Kind::Str(text) => (
                Expr::Const(Const::Str(text.as_str().into())),
                Some(Kind::String),
            ),
            tree::Kind::Ident(name) => self.variable(at, name)?,
            tree::Kind::Select(operand, field) => self.select(at, operand, field)?,
            tree::Kind::Index(operand, index) => {
                let (operand, kind) = self.lower(operand)?;
                if let Some(kind) = kind.filter(|k| !matches!(k, Kind::List | Kind::Map)) {
                    return Err(Fault::new(
                        at,
                        format!(
                            "{} has no elements; only lists and maps are indexed with `[…]`",
                            kind.name()
                        ),
                    ));
                }
                let (index, key) = self.lower(index)?;
                match (kind, key) {
                    (Some(Kind::List), Some(found)) if !matches!(found, Kind::Int | Kind::Uint) => {
                        return Err(Fault::new(
                            at,
                            format!(
                                "a list is indexed by a whole number, not by {}; write for example [0]",
                                found.name()
                            ),
                        ));
                    }
                    (Some(Kind::Map), Some(found)) if found != Kind::String => {
                        return Err(Fault::new(
                            at,
                            format!(
                                "this map is indexed by text, not by {}; write for example [\"name\"]",
                                found.name()
                            ),
                        ));
                    }
                    _ => (Expr::Index(Box::new(operand), Box::new(index)), None),
                }
            }
            tree::Kind::List(items) => self.list(items)?,
            tree::Kind::Map(entries) => self.map(entries)?,
            tree::Kind::Not(operand) => (
                Expr::Not(Box::new(self.boolean(operand, "!")?)),
                Some(Kind::Bool),
            ),
            tree::Kind::Negate(operand) => {
                let (operand, kind) = self.lower(operand)?;
                if let Some(kind) = kind.filter(|k| !matches!(k, Kind::Int | Kind::Double)) {
                    return Err(Fault::new(
                        at,
                        format!(
                            "`-` needs a number after it, not {}; write `!` before a condition",
                            kind.name()
                        ),
                    ));
                }
                (Expr::Negate(Box::new(operand)), kind)
            }
            tree::Kind::And(terms) => (Expr::And(self.booleans(terms, "&&")?), Some(Kind::Bool)),
            tree::Kind::Or(terms) => (Expr::Or(self.booleans(terms, "||")?), Some(Kind::Bool)),
            tree::Kind::Binary(operator, left, right) => self.binary(at, *operator, left, right)?,
            tree::Kind::Ternary(condition, yes, no) => {
                let condition = self.boolean(condition, "? :")?;
                let (yes, first) = self.lower(yes)?;
                let (no, second) = self.lower(no)?;
                let kind = first.filter(|_| first == second);
                (Expr::Ternary(Box::new((condition, yes, no))), kind)
            }
            tree::Kind::Call(name, target, args) => self.call(at, name, target.as_deref(), args)?,
        })
    }

    fn variable(&mut self, at: usize, name: &str) -> Result<Typed, Fault> {
        if self.local.as_deref() == Some(name) {
            return Ok((Expr::Local, None));
        }
        let (variable, kind) = match name {
            "args" => (Variable::Args, Kind::Map),
            "sent" => (Variable::Sent, Kind::Map),
            "now" => (Variable::Now, Kind::Timestamp),
            "tool" | "caller" | "session" => {
                return Err(Fault::new(
                    at,
                    format!(
                        "`{name}` is not a value; write one of its fields: the variables are {VARIABLES}"
                    ),
                ));
            }
            _ => return Err(Fault::new(at, unknown_variable(name))),
        };
        Ok((Expr::Variable(variable), Some(kind)))
    }

    /// `tool.name` and the like; these are resolved now, so that a misspelt one is found before it
    /// decides anything.
    fn field_of_context(operand: &Node, field: &str) -> Option<Result<(Variable, Kind), Fault>> {
        let tree::Kind::Ident(base) = &operand.kind else {
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
                    format!("there is no variable `{base}.{field}`; the variables are {VARIABLES}"),
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
                format!(
                    "{} has no field `{field}`; only maps such as args have fields",
                    kind.name()
                ),
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
            let tree::Kind::Str(name) = &key.kind else {
                return Err(Fault::new(
                    key.at,
                    "a key of a map must be text in quotes; write {\"name\": value}",
                ));
            };
            if !seen.insert(name) {
                return Err(Fault::new(
                    key.at,
                    format!("the key {name:?} is there twice in this map; remove one"),
                ));
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
                format!(
                    "`{operator}` needs a condition here, and this is {}; compare it with something, for example with `==`",
                    kind.name()
                ),
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
        if let tree::Kind::Call(name, None, operand) = &left.kind
            && name == "type"
        {
            return self.is_of(left.at, operand, operator, right);
        }
        let (left, a) = self.lower(left)?;
        let (right, b) = self.lower(right)?;
        let refuse = |a: Kind, b: Kind| {
            Err(Fault::new(
                at,
                format!(
                    "`{}` cannot stand between {} and {}; {}",
                    operator.text(),
                    a.name(),
                    b.name(),
                    converted(a, b)
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
                        return Err(Fault::new(
                            at,
                            format!(
                                "{} is neither larger nor smaller than anything; compare it with `==`, or its size(…)",
                                kind.name()
                            ),
                        ));
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
                            "`in` looks into a list or a map, not {}; for text write x.contains(\"…\")",
                            b.name()
                        ),
                    ));
                }
                // A constant list whose elements can never equal the operand is a mistake, not a
                // condition.
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
                        format!(
                            "`{}` needs numbers or text on both sides; remove it, or write string(…) around the value",
                            operator.text()
                        ),
                    ));
                }
                (Some(k @ (Kind::Int | Kind::Uint | Kind::Double)), None)
                | (None, Some(k @ (Kind::Int | Kind::Uint | Kind::Double))) => Some(k),
                _ => None,
            },
        };
        Ok((Expr::Binary(operator, Box::new((left, right))), kind))
    }
}

/// The kind that an arithmetic operator gives, if CEL defines it between the two.
/// How two kinds can be compared.
fn converted(a: Kind, b: Kind) -> &'static str {
    match (a, b) {
        (Kind::String, b) if b.is_number() => {
            "write the number in quotes to compare text, or int(…) around the text"
        }
        (a, Kind::String) if a.is_number() => {
            "write the text without quotes if it is a number, or string(…) around the number"
        }
        (Kind::Bool, Kind::String) | (Kind::String, Kind::Bool) => {
            "write true or false without quotes"
        }
        (Kind::Timestamp, Kind::String) | (Kind::String, Kind::Timestamp) => {
            "write timestamp(\"2026-01-31T12:00:00Z\")"
        }
        (Kind::Timestamp, _) | (_, Kind::Timestamp) => {
            "write duration(\"1h\") to add or subtract, or timestamp(\"2026-01-31T12:00:00Z\") to compare"
        }
        (Kind::Duration, _) | (_, Kind::Duration) => "write duration(\"1h\")",
        (Kind::Int | Kind::Uint | Kind::Double, Kind::Int | Kind::Uint | Kind::Double) => {
            "write both as one kind of number, with int(…) or double(…)"
        }
        _ => "compare values of one kind",
    }
}

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
