//! In-process gateway, real sockets, real and fake MCP servers.
//!
//! Helpers here may fail loudly: a broken fixture is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bridge;
mod browsers;
mod conformance;
mod counters;
mod docs;
mod examples;
mod field;
mod mlflow;
mod oauth;
mod run;
mod sdk;
mod serve;
mod support;
mod wire;
