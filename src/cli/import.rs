//! `portcullis import`: another product's policy as an McpPolicy.
//!
//! In: a PolicyLayer `policy.json` or an Intercept YAML. Out: the McpPolicy as YAML on standard output, and on standard error
//! what has no equivalent. Exit code 0 when something could be imported.

use std::path::PathBuf;

use super::output::{Failure, Output, print_data, visible};
use crate::api::policy::McpPolicy;
use crate::policy::import::import;

/// Turn a PolicyLayer policy.json or an Intercept YAML into an McpPolicy
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; `-` reads standard input
    file: PathBuf,
    /// The McpServer that the policy is for
    #[arg(long, default_value = "mlflow", value_name = "NAME")]
    server: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

/// Larger files are no policies.
const MAX_BYTES: u64 = 4 << 20;

/// Runs the command.
///
/// # Errors
/// Code 1 when the file is no policy that is known.
pub fn run(args: Args) -> Result<(), Failure> {
    use std::io::Read as _;
    let shown = args.file.display();
    let unreadable =
        |error: std::io::Error| Failure::new(format!("{shown} cannot be read: {error}"));
    let mut text = String::new();
    let read = if args.file.as_os_str() == "-" {
        std::io::stdin().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(&args.file)
            .map_err(unreadable)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)
    };
    read.map_err(unreadable)?;
    let imported = import(&text, &args.server).map_err(|error| Failure {
        message: format!("{shown}: {error}"),
        code: 1,
    })?;
    for note in &imported.notes {
        eprintln!("note: {}", visible(note));
    }
    let mut policy = McpPolicy::new(&format!("{}-imported", args.server), imported.spec);
    // Left out, so that `kubectl apply -n` decides.
    policy.metadata.namespace = None;
    print_data(&policy, args.output)
}
