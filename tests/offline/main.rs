//! Tests that need no network, no process and no clock.
//!
//! Helpers here may fail loudly: a broken fixture is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod chart;
mod circles;
mod crds;
mod docs;
mod examples;
mod generated;
mod import;
mod layering;
mod messages;
mod plugin;
mod security;
mod type_names;
mod validate;
mod words;
