//! The syntax tree of an expression, as the parser builds it: never deeper than [`MAX_DEPTH`].

use super::{Fault, MAX_DEPTH};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub at: usize,
    pub depth: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(String),
    Ident(String),
    Select(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    /// Function, receiver, arguments.
    Call(String, Option<Box<Node>>, Vec<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// `&&` of all; chains are flat, as the operator is associative.
    And(Vec<Node>),
    /// `||` of all.
    Or(Vec<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Ternary(Box<Node>, Box<Node>, Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    pub fn text(self) -> &'static str {
        match self {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterEqual => ">=",
            Operator::In => "in",
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
        }
    }
}

pub(super) fn node(at: usize, kind: Kind) -> Result<Node, Fault> {
    let below = match &kind {
        Kind::Null
        | Kind::Bool(_)
        | Kind::Int(_)
        | Kind::Uint(_)
        | Kind::Double(_)
        | Kind::Str(_)
        | Kind::Ident(_) => 0,
        Kind::Select(a, _) | Kind::Not(a) | Kind::Negate(a) => a.depth,
        Kind::Index(a, b) | Kind::Binary(_, a, b) => a.depth.max(b.depth),
        Kind::Ternary(a, b, c) => a.depth.max(b.depth).max(c.depth),
        Kind::Call(_, target, args) => args
            .iter()
            .chain(target.as_deref())
            .map(|n| n.depth)
            .max()
            .unwrap_or(0),
        Kind::List(items) | Kind::And(items) | Kind::Or(items) => {
            items.iter().map(|n| n.depth).max().unwrap_or(0)
        }
        Kind::Map(entries) => entries
            .iter()
            .map(|(k, v)| k.depth.max(v.depth))
            .max()
            .unwrap_or(0),
    };
    if below >= MAX_DEPTH {
        return Err(too_deep(at));
    }
    Ok(Node {
        at,
        depth: below + 1,
        kind,
    })
}

pub(super) fn too_deep(at: usize) -> Fault {
    Fault::new(
        at,
        format!(
            "the expression nests deeper than {MAX_DEPTH}; use lists with `in`, or several rules"
        ),
    )
}
