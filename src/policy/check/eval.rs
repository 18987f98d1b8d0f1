//! Runs a compiled expression over one call.
//!
//! In: an [`Expr`] and an [`Env`]. Out: a value, or why there is none. Work is bounded by fuel,
//! recursion by the depth that the compiler admitted. Nothing is looked up by name, and nothing
//! here panics.

use super::eval_errors::{overflow, wrong};
use super::fuel::{EvalError, Fuel};
use super::functions::{component, convert};
use super::ir::{Expr, Function, Macro, Operator, Variable};
use super::lower::arithmetic;
use super::value::{Args, List, Map, Val};
use crate::policy::decision::Caller;
use jiff::Timestamp;
use std::{borrow::Cow, cmp::Ordering};

/// Elements that a macro goes over.
const MAX_ELEMENTS: usize = 1_000;
/// Bytes of text that a pattern is run over.
const MAX_SUBJECT: usize = 64 * 1024;

/// What an expression can see.
#[derive(Clone, Copy, Debug)]
pub struct Env<'a> {
    /// Arguments of the call.
    pub args: Args<'a>,
    /// Name of the tool.
    pub tool: &'a str,
    /// Its risk class, or `Unclassified`.
    pub risk: &'a str,
    /// Its severity, or "".
    pub severity: &'a str,
    /// Who calls.
    pub caller: &'a Caller,
    /// The session, or "".
    pub session: &'a str,
    /// The time of the decision.
    pub now: Timestamp,
    /// The work that is left for the call.
    pub fuel: &'a Fuel,
}

pub(super) struct Run<'a> {
    pub env: &'a Env<'a>,
    pub local: Option<Val<'a>>,
}

impl<'a> Run<'a> {
    pub fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>, EvalError> {
        self.env.fuel.burn(1)?;
        Ok(match expr {
            Expr::Const(constant) => Val::constant(constant),
            Expr::Variable(variable) => self.variable(*variable),
            Expr::Local => self
                .local
                .clone()
                .ok_or(EvalError::fixed("there is no element"))?,
            Expr::Select(operand, field) => {
                let operand = self.eval(operand)?;
                self.field(&operand, field)?
            }
            Expr::Has(operand, field) => match self.eval(operand)? {
                Val::Map(map) => Val::Bool(map.has(field, self.env.fuel)?),
                other => return Err(wrong("has() needs a map", &other)),
            },
            Expr::Index(operand, index) => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.index(&operand, &index)?
            }
            Expr::List(items) => Val::List(List::Own(
                items
                    .iter()
                    .map(|item| self.eval(item))
                    .collect::<Result<_, _>>()?,
            )),
            Expr::Map(entries) => {
                let mut members = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let Expr::Const(super::ir::Const::Str(key)) = key else {
                        return Err(EvalError::fixed("the keys of a map must be strings"));
                    };
                    members.push((&**key, self.eval(value)?));
                }
                Val::Map(Map::Own(members))
            }
            Expr::Not(operand) => Val::Bool(!self.bool(operand)?),
            Expr::Negate(operand) => match self.eval(operand)? {
                Val::Int(value) => Val::Int(value.checked_neg().ok_or_else(overflow)?),
                Val::Double(value) => Val::Double(-value),
                other => return Err(wrong("`-` needs a signed number", &other)),
            },
            Expr::And(terms) => self.junction(terms, false)?,
            Expr::Or(terms) => self.junction(terms, true)?,
            Expr::Binary(operator, operands) => self.binary(*operator, &operands.0, &operands.1)?,
            Expr::Ternary(parts) => {
                if self.bool(&parts.0)? {
                    self.eval(&parts.1)?
                } else {
                    self.eval(&parts.2)?
                }
            }
            Expr::Call(function, args) => self.call(*function, args)?,
            Expr::Matches(subject, pattern) => {
                let subject = self.text(subject)?;
                if subject.len() > MAX_SUBJECT {
                    return Err(EvalError::fixed(
                        "the text for a pattern is longer than 64 KiB",
                    ));
                }
                Val::Bool(pattern.search(&subject, self.env.fuel)?)
            }
            Expr::Part(part, operand, zone) => match self.eval(operand)? {
                Val::Time(time) => Val::Int(component(*part, time, zone)?),
                other => return Err(wrong("a part of a time needs a timestamp", &other)),
            },
            Expr::IsOf(operand, kinds) => Val::Bool(kinds.has(self.eval(operand)?.kind())),
            Expr::Macro(kind, parts) => self.comprehension(*kind, &parts.0, &parts.1)?,
        })
    }

    fn variable(&self, variable: Variable) -> Val<'a> {
        let env = self.env;
        match variable {
            Variable::Args => env.args.value(),
            Variable::Sent => env.args.sent(),
            Variable::ToolName => Val::Str(Cow::Borrowed(env.tool)),
            Variable::ToolRisk => Val::Str(Cow::Borrowed(env.risk)),
            Variable::ToolSeverity => Val::Str(Cow::Borrowed(env.severity)),
            Variable::CallerGrant => Val::Str(Cow::Borrowed(&env.caller.grant)),
            Variable::CallerKind => Val::Str(Cow::Borrowed(env.caller.kind.as_str())),
            Variable::CallerGroups => Val::List(List::Strings(&env.caller.groups)),
            Variable::CallerClaims => Val::Map(Map::Plain(&env.caller.claims)),
            Variable::SessionId => Val::Str(Cow::Borrowed(env.session)),
            Variable::Now => Val::Time(env.now),
        }
    }

    fn field(&mut self, operand: &Val<'a>, field: &str) -> Result<Val<'a>, EvalError> {
        let Val::Map(map) = operand else {
            return Err(EvalError::new(format!(
                "{} has no field `{field}`",
                operand.kind().name()
            )));
        };
        map.get(field, self.env.fuel)?
            .ok_or_else(|| EvalError::new(format!("there is no `{}`", shown(field))))?
    }

    fn index(&mut self, operand: &Val<'a>, index: &Val<'a>) -> Result<Val<'a>, EvalError> {
        match (operand, index) {
            (Val::Map(_), Val::Str(key)) => self.field(operand, key),
            (Val::List(list), Val::Int(_) | Val::Uint(_)) => {
                let position = match index {
                    Val::Int(value) => usize::try_from(*value).ok(),
                    Val::Uint(value) => usize::try_from(*value).ok(),
                    _ => None,
                };
                match position.filter(|at| *at < list.len()) {
                    Some(at) => list.at(at),
                    None => Err(EvalError::fixed("the index is outside the list")),
                }
            }
            (a, b) => Err(EvalError::new(format!(
                "{} cannot be indexed by {}",
                a.kind().name(),
                b.kind().name()
            ))),
        }
    }

    fn bool(&mut self, expr: &'a Expr) -> Result<bool, EvalError> {
        match self.eval(expr)? {
            Val::Bool(value) => Ok(value),
            other => Err(wrong("a boolean is needed", &other)),
        }
    }

    fn text(&mut self, expr: &'a Expr) -> Result<Cow<'a, str>, EvalError> {
        match self.eval(expr)? {
            Val::Str(text) => Ok(text),
            other => Err(wrong("text is needed", &other)),
        }
    }

    /// `||` (decided by true) and `&&` (decided by false), as CEL defines them: one deciding term
    /// decides, wherever it stands; without one, an error anywhere is an error. That is sound:
    /// whatever the failed term would have said, the result would be the same. Work that ran out
    /// does not decide, as then nothing is known about the rest.
    fn junction(&mut self, terms: &'a [Expr], decides: bool) -> Result<Val<'a>, EvalError> {
        let mut error = None;
        for term in terms {
            match self.bool(term) {
                Ok(value) if value == decides => return Ok(Val::Bool(decides)),
                Ok(_) => {}
                Err(found) if found.is_exhausted() => return Err(found),
                Err(found) => error = error.or(Some(found)),
            }
        }
        error.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &'a Expr,
        right: &'a Expr,
    ) -> Result<Val<'a>, EvalError> {
        let a = self.eval(left)?;
        let b = self.eval(right)?;
        Ok(match operator {
            Operator::Equal => Val::Bool(a.equals(&b, self.env.fuel)?),
            Operator::NotEqual => Val::Bool(!a.equals(&b, self.env.fuel)?),
            Operator::Less => Val::Bool(a.order(&b, self.env.fuel)? == Some(Ordering::Less)),
            Operator::LessEqual => Val::Bool(matches!(
                a.order(&b, self.env.fuel)?,
                Some(Ordering::Less | Ordering::Equal)
            )),
            Operator::Greater => Val::Bool(a.order(&b, self.env.fuel)? == Some(Ordering::Greater)),
            Operator::GreaterEqual => Val::Bool(matches!(
                a.order(&b, self.env.fuel)?,
                Some(Ordering::Greater | Ordering::Equal)
            )),
            Operator::In => Val::Bool(match (&a, &b) {
                (_, Val::List(list)) => list.contains(&a, self.env.fuel)?,
                (Val::Str(key), Val::Map(map)) => map.has(key, self.env.fuel)?,
                (Val::Null, Val::Map(_)) => false,
                (_, Val::Map(_)) => return Err(wrong("the keys of a map are text", &a)),
                _ => return Err(wrong("`in` needs a list or a map", &b)),
            }),
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => self.arithmetic(operator, a, b)?,
        })
    }

    fn arithmetic(
        &mut self,
        operator: Operator,
        a: Val<'a>,
        b: Val<'a>,
    ) -> Result<Val<'a>, EvalError> {
        if arithmetic(operator, a.kind(), b.kind()).is_none() {
            return Err(EvalError::new(format!(
                "`{}` is not defined between {} and {}",
                operator.text(),
                a.kind().name(),
                b.kind().name()
            )));
        }
        let add = operator == Operator::Add;
        match (a, b) {
            (Val::Int(a), Val::Int(b)) => match operator {
                Operator::Add => a.checked_add(b),
                Operator::Subtract => a.checked_sub(b),
                Operator::Multiply => a.checked_mul(b),
                Operator::Divide => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Val::Int)
            .ok_or_else(overflow),
            (Val::Uint(a), Val::Uint(b)) => match operator {
                Operator::Add => a.checked_add(b),
                Operator::Subtract => a.checked_sub(b),
                Operator::Multiply => a.checked_mul(b),
                Operator::Divide => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Val::Uint)
            .ok_or_else(overflow),
            (Val::Double(a), Val::Double(b)) => {
                let result = match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    _ => a / b,
                };
                // A result that is not a number would make every comparison false; that must not
                // decide anything.
                if result.is_finite() {
                    Ok(Val::Double(result))
                } else {
                    Err(overflow())
                }
            }
            (Val::Str(a), Val::Str(b)) => {
                self.env.fuel.burn_bytes(a.len() + b.len())?;
                Ok(Val::Str(a + b))
            }
            (Val::List(a), Val::List(b)) => {
                self.env.fuel.burn(a.len() + b.len())?;
                let mut items = Vec::with_capacity(a.len() + b.len());
                for list in [a, b] {
                    for index in 0..list.len() {
                        items.push(list.at(index)?);
                    }
                }
                Ok(Val::List(List::Own(items)))
            }
            (Val::Time(a), Val::Time(b)) => Ok(Val::Span(a.duration_since(b))),
            (Val::Time(time), Val::Span(span)) | (Val::Span(span), Val::Time(time)) => {
                let result = if add {
                    time.checked_add(span)
                } else {
                    time.checked_sub(span)
                };
                result.map(Val::Time).map_err(|_| overflow())
            }
            (Val::Span(a), Val::Span(b)) => {
                let result = if add {
                    a.checked_add(b)
                } else {
                    a.checked_sub(b)
                };
                result.map(Val::Span).ok_or_else(overflow)
            }
            _ => Err(overflow()),
        }
    }

    fn comprehension(
        &mut self,
        kind: Macro,
        range: &'a Expr,
        body: &'a Expr,
    ) -> Result<Val<'a>, EvalError> {
        let list = match self.eval(range)? {
            Val::List(list) => list,
            Val::Map(map) if map.len() <= MAX_ELEMENTS => List::Own(
                map.keys()
                    .into_iter()
                    .map(|key| Val::Str(Cow::Borrowed(key)))
                    .collect(),
            ),
            Val::Map(_) => return Err(EvalError::fixed("the map has more than 1000 keys")),
            other => return Err(wrong("a list is needed", &other)),
        };
        if list.len() > MAX_ELEMENTS {
            return Err(EvalError::fixed("the list has more than 1000 elements"));
        }
        let mut error = None;
        let mut count = 0_usize;
        let mut kept = Vec::new();
        for index in 0..list.len() {
            let result = list.at(index).and_then(|item| {
                self.local = Some(item);
                self.bool(body)
            });
            self.local = None;
            match (kind, result) {
                (Macro::All, Ok(false)) => return Ok(Val::Bool(false)),
                (Macro::Exists, Ok(true)) => return Ok(Val::Bool(true)),
                (Macro::ExistsOne, Ok(true)) => count += 1,
                (Macro::Filter, Ok(true)) => kept.push(list.at(index)?),
                (_, Ok(_)) => {}
                // These two need every answer; the others may still find the one that decides.
                (Macro::ExistsOne | Macro::Filter, Err(found)) => return Err(found),
                (_, Err(found)) if found.is_exhausted() => return Err(found),
                (_, Err(found)) => error = error.or(Some(found)),
            }
        }
        if let Some(error) = error {
            return Err(error);
        }
        Ok(match kind {
            Macro::All => Val::Bool(true),
            Macro::Exists => Val::Bool(false),
            Macro::ExistsOne => Val::Bool(count == 1),
            Macro::Filter => Val::List(List::Own(kept)),
        })
    }

    fn call(&mut self, function: Function, args: &'a [Expr]) -> Result<Val<'a>, EvalError> {
        let (first, second) = match args {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => return Err(EvalError::fixed("a function was given too many arguments")),
        };
        if let Some(second) = second {
            let text = self.text(first)?;
            let part = self.text(second)?;
            self.env.fuel.burn_bytes(text.len() + part.len())?;
            return match function {
                Function::StartsWith => Ok(Val::Bool(text.starts_with(&*part))),
                Function::EndsWith => Ok(Val::Bool(text.ends_with(&*part))),
                Function::Contains => Ok(Val::Bool(text.contains(&*part))),
                _ => Err(EvalError::fixed("a function was given too many arguments")),
            };
        }
        let value = self.eval(first)?;
        if let Val::Str(text) = &value {
            self.env.fuel.burn_bytes(text.len())?;
        }
        convert(function, value)
    }
}

/// A name for a message: bounded, as it may come from the call.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
