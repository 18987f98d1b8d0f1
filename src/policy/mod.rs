//! The policy engine: bundle to program, call to decision.
//!
//! In: a [`bundle::Bundle`], the upstream's list of tools, a call with its caller and the time. Out: a
//! [`decision::Decision`] with all that is needed to act on it. Pure: no I/O, no clock, no log. It never panics, and what it
//! cannot compile or evaluate never allows anything.

pub mod bundle;
mod canonical;
pub mod check;
pub mod decision;
pub mod diagnostic;
