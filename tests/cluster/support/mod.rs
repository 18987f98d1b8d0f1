//! A real API server with all that decides there, a node that runs the pods of Portcullis as
//! processes, and namespaces.
//!
//! Set PORTCULLIS_TEST_CONTROLPLANE to a folder with the programs (tests/setup/install.sh
//! controlplane prints the one it built; `make test-cluster` sets it) or PORTCULLIS_TEST_KUBECONFIG
//! to the kubeconfig of a cluster that may be used; without both, tests that need an API server
//! fail, or say that they are skipped if PORTCULLIS_SKIP has `cluster`.

#![allow(dead_code)] // Each test file uses its own part.

pub mod audit;
mod background;
pub mod cluster;
pub mod control_plane;
pub mod kubelet;
pub mod namespace;
pub mod tool;

/// What the gateway's tests have too: the MCP client and the server that does as it is told.
#[path = "../../gateway/support/mod.rs"]
pub mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use namespace::Namespace;

/// Nothing here takes so long unless it is broken, even on a machine that builds something at the
/// same time.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("never: {what}"),
    }
}

/// Polls until there is a value, and says what was there instead when it never comes.
pub async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(instead) => assert!(
                start.elapsed() < PATIENCE,
                "never: {what}; instead: {instead:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
