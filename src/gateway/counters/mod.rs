//! Counting the units of limits: in this process with a journal of its own, or in a Redis or Valkey
//! server that several gateways share.

mod bounds;
mod clock;
mod exhausted;
mod journal;
mod keeper;
pub mod local;
mod record;
mod servers;
pub mod shared;
mod table;

pub use exhausted::{Cause, Exhausted};
pub use local::{Local, Reservation};
pub use servers::Counters;
pub use shared::{SharedCounters, SharedReservation};
