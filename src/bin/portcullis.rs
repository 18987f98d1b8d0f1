//! `portcullis`: policies checked, explained, tested and served on this machine.

use std::process::ExitCode;

use clap::Parser;
use portcullis::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
