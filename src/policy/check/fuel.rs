//! The budget of an evaluation, and the reasons why it may end without a value.

use std::borrow::Cow;
use std::cell::Cell;

/// Steps that the rules of one call may take: some milliseconds at most, where usual calls take
/// some hundred steps.
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

/// Work that is left for a call, over all rules, conditions, patterns and the tool's schema. It is
/// counted in steps, not in time, so that the same call always ends the same way.
#[derive(Debug)]
pub struct Fuel(Cell<usize>);

impl Default for Fuel {
    fn default() -> Self {
        Self::full()
    }
}

impl Fuel {
    /// What one call has.
    pub fn full() -> Self {
        Fuel(Cell::new(FUEL))
    }

    /// Takes all that is left.
    pub fn spend(&self) -> EvalError {
        self.0.set(0);
        EvalError {
            message: Cow::Borrowed(
                "this call takes too much work to decide; send fewer or shorter arguments",
            ),
            exhausted: true,
        }
    }

    /// Steps that are left.
    pub fn left(&self) -> usize {
        self.0.get()
    }

    /// Takes some.
    ///
    /// # Errors
    /// When less than that is left; then nothing is left.
    pub fn burn(&self, steps: usize) -> Result<(), EvalError> {
        match self.0.get().checked_sub(steps) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(self.spend()),
        }
    }

    /// Text is worked through many bytes a step.
    ///
    /// # Errors
    /// When less than that is left.
    pub fn burn_bytes(&self, bytes: usize) -> Result<(), EvalError> {
        self.burn(bytes / 16)
    }
}
