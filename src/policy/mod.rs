//! The policy engine: bundle to program, call to decision.
//!
//! In: a [`bundle::Bundle`], the upstream's list of tools, a call with its caller and the time.
//! Out: a [`decision::Decision`] with everything that is needed to act on it. Pure: no I/O, no
//! clock, no log. It never panics, and what it cannot compile or evaluate never allows anything.

pub mod acceptance;
pub mod approval;
mod arguments;
pub mod bundle;
pub(crate) mod canonical;
pub mod cases;
pub mod check;
pub mod compile;
pub mod content;
pub mod credential;
pub mod decision;
pub mod deployability;
pub mod diagnostic;
pub mod evaluate;
pub mod explain;
mod form;
pub mod import;
pub mod inventory;
pub mod limit;
pub mod lint;
pub mod matcher;
mod misfit;
pub mod observed;
pub mod preview;
mod program;
mod schema;
pub mod signature;
pub mod target;
mod uri;

pub use compile::compile;
pub use decision::{Call, Caller, Decision, Outcome};
pub use inventory::{Bound, Definition};
pub use program::Program;

#[cfg(test)]
pub(crate) mod tests;
