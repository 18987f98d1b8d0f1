//! Conditions and costs: CEL, compiled when a policy is accepted.
//!
//! In: an expression's text. Out: a [`Condition`] or [`Cost`] that can be run over a call, or a
//! [`Fault`] with its place. The language is the Common Expression Language, made strict where
//! leniency would let a call bypass a rule: `==`, `!=` and `in` between different kinds are errors,
//! unknown names are refused before acceptance, work and memory are bounded. Must not do: decide
//! what an error means for a rule.

mod comparisons;
mod dialect;
mod eval;
mod eval_errors;
mod fuel;
mod functions;
mod ir;
mod lex;
mod lower;
mod parse;
mod pattern;
mod reads;
#[cfg(test)]
mod tests;
mod time;
mod tree;
mod value;

pub use comparisons::Comparison;
pub use dialect::{Dialect, from_go};
pub use eval::Env;
pub use fuel::{EvalError, Fuel};
pub use pattern::{Bounds, POLICY, Pattern, Patterns, SERVER, Spent};
pub use reads::Reads;
pub(in crate::policy) use value::int_double;
pub use value::{Args, Fill};

use super::diagnostic::Position;
use eval::Run;
use ir::{Expr, Kind};
use value::Val;

/// Bytes that an expression may have.
pub const MAX_SOURCE: usize = 4 * 1024;
/// Levels that an expression may nest.
pub const MAX_DEPTH: usize = 64;

/// Why an expression is refused, at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    at: usize,
    /// What is wrong and what to write.
    pub message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }

    /// Line and column in the source that was compiled.
    pub fn position(&self, source: &str) -> Position {
        let before = source.get(..self.at).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Position {
            line: number(before.matches('\n').count() + 1),
            column: number(before[line_start..].chars().count() + 1),
        }
    }
}

/// A compiled boolean expression.
#[derive(Clone, Debug)]
pub struct Condition {
    expr: Expr,
    reads: Reads,
    is_boolean: bool,
}

impl Condition {
    /// Compiles a `when` that stands alone.
    pub fn compile(source: &str) -> Result<Self, Fault> {
        Self::compile_with(source, &mut Patterns::default())
    }

    /// Compiles a `when` of a policy with those patterns so far.
    pub fn compile_with(source: &str, patterns: &mut Patterns) -> Result<Self, Fault> {
        let boolean = |kind| kind == Kind::Bool;
        let (expr, reads, kind) = compile(
            source,
            boolean,
            "true or false; compare it with something, for example with `==`",
            patterns,
        )?;
        Ok(Self {
            expr,
            reads,
            is_boolean: kind.is_some(),
        })
    }

    /// Whether it gives true or false whatever the arguments are: the value of an argument may be
    /// anything.
    pub fn is_boolean(&self) -> bool {
        self.is_boolean
    }

    /// The arguments that it compares with constants.
    pub fn comparisons(&self) -> Vec<Comparison> {
        comparisons::of(&self.expr)
    }

    /// Whether the answer can depend on the call's arguments.
    pub fn reads_args(&self) -> bool {
        self.reads.some()
    }

    /// The arguments that it reads.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Whether the condition holds.
    pub fn holds(&self, env: &Env<'_>) -> Result<bool, EvalError> {
        match run(&self.expr, env)? {
            Val::Bool(value) => Ok(value),
            other => Err(EvalError::new(format!(
                "the condition gives {}, not a boolean",
                other.kind().name()
            ))),
        }
    }
}

/// A compiled expression for the units of a call.
#[derive(Clone, Debug)]
pub struct Cost {
    expr: Expr,
    reads: Reads,
}

impl Cost {
    /// Compiles a `cost` that stands alone.
    pub fn compile(source: &str) -> Result<Self, Fault> {
        Self::compile_with(source, &mut Patterns::default())
    }

    /// Compiles a `cost` of a policy with those patterns so far.
    pub fn compile_with(source: &str, patterns: &mut Patterns) -> Result<Self, Fault> {
        let integer = |kind| matches!(kind, Kind::Int | Kind::Uint);
        let (expr, reads, _) = compile(
            source,
            integer,
            "a whole number; write for example 1 or size(args.items)",
            patterns,
        )?;
        Ok(Self { expr, reads })
    }

    /// Whether the units can depend on the call's arguments.
    pub fn reads_args(&self) -> bool {
        self.reads.some()
    }

    /// The arguments that it reads.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The units of the call.
    pub fn units(&self, env: &Env<'_>) -> Result<u64, EvalError> {
        match run(&self.expr, env)? {
            Val::Int(value) => {
                u64::try_from(value).map_err(|_| EvalError::fixed("the cost is negative"))
            }
            Val::Uint(value) => Ok(value),
            other => Err(EvalError::new(format!(
                "the cost is {}, not an integer",
                other.kind().name()
            ))),
        }
    }
}

/// A compiled expression for an argument of another call.
#[derive(Clone, Debug)]
pub struct Argument {
    expr: Expr,
    reads: Reads,
}

impl Argument {
    /// Compiles an expression that may give anything that JSON has.
    pub fn compile(source: &str) -> Result<Self, Fault> {
        let mut patterns = Patterns::default();
        let json = |kind| !matches!(kind, Kind::Timestamp | Kind::Duration);
        let wanted = "a value that JSON has; write string(…) around it";
        let (expr, reads, _) = compile(source, json, wanted, &mut patterns)?;
        if patterns.spent() != Spent::default() {
            return Err(Fault::new(
                0,
                "matches() cannot be used here; write an expression without patterns",
            ));
        }
        Ok(Self { expr, reads })
    }

    /// The arguments that it reads.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Its value as JSON.
    pub fn json(&self, env: &Env<'_>) -> Result<String, EvalError> {
        let mut out = String::new();
        run(&self.expr, env)?.write_json(&mut out, env.fuel)?;
        Ok(out)
    }
}

fn compile(
    source: &str,
    fits: fn(Kind) -> bool,
    wanted: &str,
    patterns: &mut Patterns,
) -> Result<(Expr, Reads, Option<Kind>), Fault> {
    let tree = parse::parse(source)?;
    let mut lowering = lower::Lowering::new(patterns);
    let (expr, kind) = lowering.lower(&tree)?;
    match kind {
        Some(kind) if !fits(kind) => Err(Fault::new(
            tree.at,
            format!("this gives {}, and must give {wanted}", kind.name()),
        )),
        _ => {
            let reads = Reads::of(&expr);
            Ok((expr, reads, kind))
        }
    }
}

fn run<'a>(expr: &'a Expr, env: &'a Env<'a>) -> Result<Val<'a>, EvalError> {
    Run { env, local: None }.eval(expr)
}
