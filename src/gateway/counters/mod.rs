//! Counting the units of limits. Redis comes later; until then counts live in this process.

pub mod local;

pub use local::{Exhausted, Local, Reservation};
