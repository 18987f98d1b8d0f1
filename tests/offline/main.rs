//! Tests that need no network, no process and no clock.

mod crds;
mod generated;
