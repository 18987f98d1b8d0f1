//! `portcullis-operator`: McpServers, McpPolicies and McpApprovals brought about on a cluster.

use std::process::ExitCode;

use clap::Parser;
use portcullis::controller::{self, Args};
use portcullis::telemetry::logging;

/// The control plane of Portcullis
#[derive(Debug, Parser)]
#[command(name = "portcullis-operator", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    let args = Cli::parse().args;
    logging::start(args.log_format, "info");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(controller::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
