//! The operator on a real API server: installed by its chart, with its least rights, and gateways
//! that are the real program.

mod accounting;
mod approval_lines;
mod approval_races;
mod approvals;
mod approved_calls;
mod callers;
mod children;
mod command_line;
mod deep;
mod key;
mod leader;
mod ledger;
mod lifecycle;
mod limits;
mod observed_calls;
mod policies;
mod refusals;
pub mod rig;
