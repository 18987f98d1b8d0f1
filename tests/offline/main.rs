//! Tests that need no network, no process and no clock.
//!
//! Helpers here may fail loudly: a broken fixture is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_reference;
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
#[allow(
    dead_code,
    reason = "shared with the cluster tests, which use all of it"
)]
#[path = "../cluster/definitions/objects.rs"]
mod objects;
mod plugin;
mod security;
mod type_names;
mod validate;
mod words;
