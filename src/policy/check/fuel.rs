//! What an evaluation may use up, and why it may end without a value.

use std::borrow::Cow;

/// Steps that one evaluation may take: some milliseconds at most, where usual ones take less than a microsecond.
const FUEL: usize = 1_000_000;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: Cow<'static, str>,
    exhausted: bool,
}

impl EvalError {
    pub(super) fn new(message: String) -> Self {
        Self {
            message: Cow::Owned(message),
            exhausted: false,
        }
    }

    pub(super) fn fixed(message: &'static str) -> Self {
        Self {
            message: Cow::Borrowed(message),
            exhausted: false,
        }
    }

    /// Whether the work ran out: then nothing else that the expression says counts.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}

/// Work that is left.
#[derive(Debug)]
pub(super) struct Fuel(usize);

impl Fuel {
    pub fn full() -> Self {
        Fuel(FUEL)
    }

    pub fn burn(&mut self, steps: usize) -> Result<(), EvalError> {
        match self.0.checked_sub(steps) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                self.0 = 0;
                Err(EvalError {
                    message: Cow::Borrowed("the condition takes too much work on these arguments"),
                    exhausted: true,
                })
            }
        }
    }

    /// Text is worked through many bytes a step.
    pub fn burn_bytes(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.burn(bytes / 16)
    }
}
