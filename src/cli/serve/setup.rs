//! What `serve` takes from the system before anything runs: ports, files, signals.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::super::output::Failure;
use crate::gateway::audit::{AuditLog, AuditWriter};
use crate::gateway::grants::Grants;

/// Listens, or says which flag to change.
pub(super) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program uses this port".to_owned(),
            std::io::ErrorKind::PermissionDenied => "this user may not use this port".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!(
            "cannot listen at {address}: {why}; choose another with {flag}"
        ))
    })
}

/// Who may read the report: a bearer, compared as API keys are.
pub(super) fn report_readers(file: Option<&PathBuf>) -> Result<Grants, Failure> {
    let mut keys = BTreeMap::new();
    if let Some(path) = file {
        let unusable = |why: String| {
            Failure::new(format!(
                "the report token {} cannot be used: {why}",
                path.display()
            ))
        };
        let token = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        if token.trim_ascii().len() < 16 {
            return Err(unusable(
                "it has less than 16 characters; make one with: openssl rand -hex 32".to_owned(),
            ));
        }
        keys.insert("report".to_owned(), token);
    }
    Ok(Grants::new(&keys, false))
}

/// Records go to standard output, and to the file if one is named. With a file, a terminal is not filled with them.
pub(super) fn audit(file: Option<&PathBuf>) -> Result<(AuditLog, AuditWriter), Failure> {
    let mut sinks: Vec<Box<dyn Write + Send>> = Vec::new();
    if file.is_none() || !std::io::stdout().is_terminal() {
        sinks.push(Box::new(std::io::stdout()));
    }
    if let Some(path) = file {
        use std::os::unix::fs::OpenOptionsExt as _;
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path);
        let opened = opened.map_err(|error| {
            Failure::new(format!(
                "the audit file {} cannot be opened: {error}; choose another with --audit-file",
                path.display()
            ))
        })?;
        sinks.push(Box::new(opened));
    }
    AuditLog::start(sinks)
        .map_err(|error| Failure::new(format!("the audit log cannot be started: {error}")))
}

pub(super) async fn signalled() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
