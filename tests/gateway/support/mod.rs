//! A gateway on a free port of loopback, MCP servers behind it, and a client that controls every byte.

#![allow(dead_code)] // Each test file uses its own part.

pub mod client;
pub mod rig;
pub mod upstream;

use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Nothing here takes so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("never: {what}"),
    }
}

/// Polls until it holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value of a variable that names an installed program; says what is skipped where it is not set.
///
/// Written past the test harness's capture, as tests/run.sh counts such lines.
pub fn installed(variable: &str, what: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    if value.is_none() {
        let line = format!("\nskipped: {what}: {variable} is not set\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
    value
}
