//! What a gateway's process takes from the system before anything runs: ports, places for the audit log, signals.
//!
//! In: addresses, paths. Out: listeners, an audit log, the wish to stop. Must not do: start anything half-way; what is not
//! to be had is said with what to change.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::audit::{AuditLog, AuditWriter};
use crate::telemetry::listen::{self, ListenError};

/// Why the process cannot have what it needs.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The port is not to be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The file cannot be written.
    #[error("the audit file {path} cannot be opened: {source}; choose another with --audit-file", path = path.display())]
    AuditFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The writer's thread cannot be started.
    #[error("the audit log cannot be started: {0}")]
    Audit(std::io::Error),
    /// Signals cannot be received.
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
}

/// Listens; see [`listen::bind`].
///
/// # Errors
/// [`SetupError::Listen`].
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, SetupError> {
    Ok(listen::bind(address, flag)?)
}

/// Records go to standard output, and to the file if one is named. With a file, a terminal is not filled with them.
///
/// # Errors
/// When the file cannot be opened or the writer not be started.
pub fn audit(file: Option<&Path>) -> Result<(AuditLog, AuditWriter), SetupError> {
    let mut sinks: Vec<Box<dyn Write + Send>> = Vec::new();
    if file.is_none() || !std::io::stdout().is_terminal() {
        sinks.push(Box::new(std::io::stdout()));
    }
    if let Some(path) = file {
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| SetupError::AuditFile {
                path: path.to_owned(),
                source,
            })?;
        sinks.push(Box::new(opened));
    }
    AuditLog::start(sinks).map_err(SetupError::Audit)
}

/// SIGTERM and SIGINT, from the moment at which this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both over from the system.
    ///
    /// # Errors
    /// [`SetupError::Signals`].
    pub fn new() -> Result<Self, SetupError> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(SetupError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(SetupError::Signals)?,
        })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
