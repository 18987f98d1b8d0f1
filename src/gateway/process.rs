//! What a gateway's process needs from the system before anything runs: ports, outputs for the
//! audit log, signals.
//!
//! In: addresses, paths. Out: listeners, an audit log, stop signals. Must not do: start anything
//! half-way. Errors say what to change.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::gateway::observe::audit::{AuditLog, AuditWriter, Sink, look_again};
use crate::telemetry::listen::{self, ListenError};

/// Why the process cannot have what it needs.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address cannot be bound.
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
    /// The thread that keeps counters cannot be started.
    #[error("what limits count cannot be kept: {0}")]
    Counters(std::io::Error),
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

/// A log that writes nowhere, for a program that decides no call.
///
/// # Errors
/// When the writer cannot be started.
pub fn audit_nowhere() -> Result<(AuditLog, AuditWriter), SetupError> {
    AuditLog::to(Vec::new()).map_err(SetupError::Audit)
}

/// Records go to standard output, and to the file if one is named. With a file, a terminal is not
/// filled with them.
///
/// # Errors
/// When the file cannot be opened or the writer not be started.
pub fn audit(file: Option<&Path>) -> Result<(AuditLog, AuditWriter), SetupError> {
    let mut sinks = Vec::new();
    if file.is_none() || !std::io::stdout().is_terminal() {
        sinks.push(Sink::stdout().map_err(SetupError::Audit)?);
    }
    if let Some(path) = file {
        let unusable = |source| SetupError::AuditFile {
            path: path.to_owned(),
            source,
        };
        sinks.push(Sink::file(path.to_owned()).map_err(unusable)?);
    }
    AuditLog::to(sinks).map_err(SetupError::Audit)
}

/// More open files than this are not asked for: child processes inherit the limit, and some visit
/// every number below it.
const MAX_OPEN_FILES: u64 = 65_536;

/// Raises the limit on open files to what the system allows. Call it before anything is sized by
/// that limit.
pub fn raise_files() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    if now.current.is_none_or(|current| current >= most) {
        return;
    }
    let raised = Rlimit {
        current: Some(most),
        maximum: now.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

/// Hides the memory and environment of this process, which hold keys, from other processes of its
/// user: `/proc/PID/environ` and `mem`, debuggers, core dumps. Only root can still read them.
///
/// # Errors
/// When the system refuses. Elsewhere than on Linux there is nothing to do.
pub fn keep_memory_private() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// SIGTERM and SIGINT, handled from the creation of this value on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over from the system.
    ///
    /// # Errors
    /// [`SetupError::Signals`].
    pub fn new() -> Result<Self, SetupError> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(SetupError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(SetupError::Signals)?,
            hangup: signal(SignalKind::hangup()).map_err(SetupError::Signals)?,
        })
    }

    /// Waits for the next that asks to stop: SIGTERM, SIGINT, or SIGHUP where a terminal was
    /// closed. To a process without a terminal, SIGHUP says that its audit file was moved.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if std::io::stderr().is_terminal() {
                        return;
                    }
                    look_again();
                }
            }
        }
    }
}
