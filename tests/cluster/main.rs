//! A real API server, and a node that runs the pods of Portcullis as processes.
//!
//! Helpers here may fail loudly: a broken fixture is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chart;
mod definitions;
mod faults;
mod identities;
mod node;
mod operator;
mod support;
