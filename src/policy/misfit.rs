//! Why an argument is not acceptable to a rule.
//!
//! In: nothing. Out: messages for agents, and places. It is a leaf that schemas and forms share.

use std::borrow::Cow;

/// Which argument is wrong, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit(pub String);

/// An argument whose text is not the only spelling of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Off<'o> {
    /// The argument.
    pub name: Cow<'o, str>,
    /// What to write.
    pub misfit: Misfit,
}
