//! Arguments that an expression compares with constants.
//!
//! In: a compiled expression. Out: each such argument with the kind of the constant, so that a
//! comparison which can only fail is found before a call. Must not do: judge; the type of an
//! argument is the server's to say.

use super::ir::{Const, Expr, Kind, Operator, Variable};

/// `args.name` beside a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The argument.
    pub argument: String,
    /// The operator, as it is written.
    pub operator: &'static str,
    constant: Kind,
}

impl Comparison {
    /// Whether an argument whose schema has this type can be compared with the constant; of unknown
    /// types it can.
    pub fn fits(&self, schema_type: &str) -> bool {
        match schema_type {
            "string" => self.constant == Kind::String,
            "integer" | "number" => self.constant.is_number(),
            "boolean" => self.constant == Kind::Bool,
            "array" => self.constant == Kind::List,
            "object" => self.constant == Kind::Map,
            _ => true,
        }
    }

    /// The kind of the constant, for messages.
    pub fn constant(&self) -> &'static str {
        match self.constant {
            Kind::String => "text",
            Kind::Bool => "true or false",
            Kind::List => "a list",
            Kind::Map => "a map",
            kind if kind.is_number() => "a number",
            kind => kind.name(),
        }
    }
}

pub(super) fn of(expr: &Expr) -> Vec<Comparison> {
    let mut found = Vec::new();
    look(expr, &mut found);
    found
}

fn look(expr: &Expr, found: &mut Vec<Comparison>) {
    match expr {
        Expr::Binary(operator, sides) => {
            let (left, right) = &**sides;
            match operator {
                Operator::Equal
                | Operator::NotEqual
                | Operator::Less
                | Operator::LessEqual
                | Operator::Greater
                | Operator::GreaterEqual => {
                    for (one, other) in [(left, right), (right, left)] {
                        compare(operator.text(), argument(one), kind(other), found);
                    }
                }
                Operator::In => {
                    if let Expr::Const(Const::Json(serde_json::Value::Array(items))) = right
                        && let Some(first) = items.first()
                    {
                        compare(operator.text(), argument(left), of_json(first), found);
                    }
                }
                _ => {}
            }
            look(left, found);
            look(right, found);
        }
        Expr::Not(operand)
        | Expr::Negate(operand)
        | Expr::Matches(operand, _)
        | Expr::Part(_, operand, _)
        | Expr::IsOf(operand, _) => look(operand, found),
        Expr::And(items) | Expr::Or(items) | Expr::List(items) | Expr::Call(_, items) => {
            items.iter().for_each(|item| look(item, found));
        }
        Expr::Ternary(parts) => {
            let (condition, yes, no) = &**parts;
            [condition, yes, no]
                .into_iter()
                .for_each(|part| look(part, found));
        }
        // What a macro compares is an element and not the argument.
        Expr::Macro(..)
        | Expr::Map(_)
        | Expr::Index(..)
        | Expr::Select(..)
        | Expr::Has(..)
        | Expr::Const(_)
        | Expr::Variable(_)
        | Expr::Local => {}
    }
}

fn compare(
    operator: &'static str,
    argument: Option<&str>,
    kind: Option<Kind>,
    found: &mut Vec<Comparison>,
) {
    // Anything may be compared with null, and the tests of a type come before such a comparison.
    if let (Some(argument), Some(constant)) = (argument, kind.filter(|kind| *kind != Kind::Null)) {
        found.push(Comparison {
            argument: argument.to_owned(),
            operator,
            constant,
        });
    }
}

fn argument(expr: &Expr) -> Option<&str> {
    let is_args = |expr: &Expr| matches!(expr, Expr::Variable(Variable::Args));
    match expr {
        Expr::Select(operand, name) if is_args(operand) => Some(name),
        Expr::Index(operand, index) if is_args(operand) => match &**index {
            Expr::Const(Const::Str(name)) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

fn kind(expr: &Expr) -> Option<Kind> {
    let Expr::Const(constant) = expr else {
        return None;
    };
    Some(match constant {
        Const::Null => Kind::Null,
        Const::Bool(_) => Kind::Bool,
        Const::Int(_) => Kind::Int,
        Const::Uint(_) => Kind::Uint,
        Const::Double(_) => Kind::Double,
        Const::Str(_) => Kind::String,
        Const::Time(_) => Kind::Timestamp,
        Const::Span(_) => Kind::Duration,
        Const::Json(value) => return of_json(value),
    })
}

fn of_json(value: &serde_json::Value) -> Option<Kind> {
    Some(match value {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(_) => Kind::Bool,
        serde_json::Value::Number(_) => Kind::Double,
        serde_json::Value::String(_) => Kind::String,
        serde_json::Value::Array(_) => Kind::List,
        serde_json::Value::Object(_) => Kind::Map,
    })
}
