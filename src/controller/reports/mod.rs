//! What gateways report of their calls.
//!
//! In: gateways' pods. Out: their reports, and how the violations in them add up to a ledger. Must
//! not do: write to the API.

pub mod merge;
pub mod poll;
pub mod schedule;
