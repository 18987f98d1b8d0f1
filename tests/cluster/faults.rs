//! The operator behind an API server that fails it in every way that real ones do.
//!
//! Between operator and API server stands a proxy that loses, doubles, delays, cuts and withholds
//! what passes. Each case plays the same story (see `story`) and is held to the same oracle: it
//! ends in the state of a run without faults, nothing is written after that, and no call is
//! answered otherwise than by the last accepted policy.

mod crash;
mod operator;
mod proxy;
mod rights;
mod servers;
mod stage;
mod state;
mod story;
mod stream;
mod traffic;
mod watches;
