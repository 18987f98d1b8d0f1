//! What a gateway's process takes from the system before anything runs: ports, places for the audit log, signals.
//!
//! In: addresses, paths. Out: listeners, an audit log, the wish to stop. Must not do: start anything half-way; what is not
//! to be had is said with what to change.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::audit::{AuditLog, AuditWriter};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Why the process cannot have what it needs.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The port is not to be had.
    #[error("cannot listen at {address}: {why}; choose another with {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        why: String,
        /// The option that names the address.
        flag: &'static str,
    },
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

/// Listens. Every address of both families (`[::]`) falls back to every IPv4 address where the machine has no IPv6.
///
/// # Errors
/// [`SetupError::Listen`] says which flag to change.
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, SetupError> {
    let bound = match listen(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program uses this port".to_owned(),
            std::io::ErrorKind::PermissionDenied => "this user may not use this port".to_owned(),
            _ => error.to_string(),
        };
        SetupError::Listen { address, why, flag }
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(v6) => {
            let socket = TcpSocket::new_v6()?;
            if v6.ip().is_unspecified() {
                // Whatever the machine's default is: `[::]` stands for IPv4 too.
                rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
            }
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn no_ipv6(error: &std::io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
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
