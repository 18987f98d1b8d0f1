//! `portcullis`: policies checked, explained, tested and served on this machine. Under the name
//! `kubectl-portcullis` it is a plugin of kubectl, and its approvals are those of a cluster; under
//! the name `kubectl_complete-portcullis` it completes what is typed after `kubectl portcullis`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use portcullis::cli::{self, Cli, completions, usage};

fn main() -> ExitCode {
    let name = name();
    let done = if name.as_deref() == Some(completions::KUBECTL_NAME) {
        let words: Vec<String> = std::env::args().skip(1).collect();
        completions::kubectl(&Cli::command(), &words)
    } else {
        // kubectl runs `kubectl portcullis` as the program `kubectl-portcullis` in PATH.
        let plugin = name.as_deref() == Some("kubectl-portcullis");
        match Cli::try_parse() {
            Ok(cli) => cli::run(cli, plugin),
            Err(error) => {
                let words: Vec<String> = std::env::args_os()
                    .skip(1)
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect();
                match usage::failure(&error, &Cli::command(), &words) {
                    Some(failure) => Err(failure),
                    None => error.exit(),
                }
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// The name that this program was started by.
fn name() -> Option<String> {
    let program = std::path::PathBuf::from(std::env::args_os().next()?);
    Some(program.file_stem()?.to_str()?.to_owned())
}
