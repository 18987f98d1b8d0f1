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
    /// The McpServer that the policy is for; a policy reaches only servers in its own namespace
    #[arg(long, default_value = "mlflow", value_name = "[NAMESPACE/]NAME")]
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
    let (namespace, server) = match args.server.split_once('/') {
        Some((namespace, server)) if namespace.is_empty() || server.is_empty() => {
            return Err(Failure::new(format!(
                "--server {:?} names no server; write NAME or NAMESPACE/NAME",
                args.server
            )));
        }
        Some((namespace, server)) => (Some(namespace), server),
        None => (None, args.server.as_str()),
    };
    let imported = import(&text, server).map_err(|error| Failure {
        message: format!("{shown}: {error}"),
        code: 1,
    })?;
    for note in &imported.notes {
        eprintln!("note: {}", visible(note));
    }
    if namespace.is_none() {
        eprintln!(
            "note: the policy has no namespace; it must be in that of the McpServer, which --server NAMESPACE/{server} writes"
        );
    }
    let mut policy = McpPolicy::new(&format!("{server}-imported"), imported.spec);
    // Where it is not given, `kubectl apply -n` decides.
    policy.metadata.namespace = namespace.map(str::to_owned);
    print_data(&policy, args.output)
}
