//! What a gateway's process takes from the system before anything runs: ports, places for the audit log, signals.
//!
//! In: addresses, paths. Out: listeners, an audit log, the wish to stop. Must not do: start anything half-way; what is not
//! to be had is said with what to change.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::audit::{AuditLog, AuditWriter};
use crate::telemetry::listen::ListenError;
pub use crate::telemetry::listen::bind;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_of_both_families_takes_calls_over_ipv4() {
        let listener = bind("[::]:0".parse().unwrap(), "--listen").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port));
        let (accepted, connected) = tokio::join!(listener.accept(), client);
        accepted.unwrap();
        connected.unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_flag_to_change() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), "--listen").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(
            bind(address, "--admin-listen").unwrap_err().to_string(),
            format!(
                "cannot listen at {address}: another program uses this port; choose another with --admin-listen"
            )
        );
    }

    #[test]
    fn only_a_machine_without_ipv6_is_served_over_ipv4_alone() {
        let refused = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(no_ipv6(&refused(Errno::AFNOSUPPORT)) && no_ipv6(&refused(Errno::ADDRNOTAVAIL)));
        assert!(!no_ipv6(&refused(Errno::ADDRINUSE)) && !no_ipv6(&refused(Errno::ACCESS)));
    }
}
