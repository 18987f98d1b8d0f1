//! Errors that operators and functions share.

use super::fuel::EvalError;
use super::value::Val;

pub(super) fn overflow() -> EvalError {
    EvalError::fixed("the result of a calculation is out of range")
}

pub(super) fn wrong(message: &str, found: &Val<'_>) -> EvalError {
    EvalError::new(format!("{message}, not {}", found.kind().name()))
}
