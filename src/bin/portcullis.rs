//! `portcullis`: policies checked, explained, tested and served on this machine. Under the name `kubectl-portcullis` it is a
//! plugin of kubectl, and its approvals are those of a cluster.

use std::process::ExitCode;

use clap::Parser;
use portcullis::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse(), is_plugin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// kubectl runs `kubectl portcullis` as the program `kubectl-portcullis` in PATH.
fn is_plugin() -> bool {
    std::env::args_os()
        .next()
        .map(std::path::PathBuf::from)
        .and_then(|program| Some(program.file_stem()? == "kubectl-portcullis"))
        .unwrap_or(false)
}
