//! `portcullis-operator`: reconciles McpServers, McpPolicies and McpApprovals in a cluster.

use std::process::ExitCode;

use clap::Parser;
use portcullis::controller::check::{CheckArgs, check};
use portcullis::controller::{self, Args};
use portcullis::telemetry::logging;

/// The control plane of Portcullis
#[derive(Debug, Parser)]
#[command(name = "portcullis-operator", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: Option<Args>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask a URL until it answers 200
    Check(CheckArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(format!("the runtime cannot be started: {error}")),
    };
    let result = match (cli.command, cli.args) {
        (Some(Command::Check(args)), _) => runtime
            .block_on(check(args, |why| eprintln!("waiting: {why}")))
            .map_err(|error| error.to_string()),
        (None, Some(args)) => {
            logging::start(args.log_format, "info");
            runtime
                .block_on(controller::run(args))
                .map_err(|error| error.to_string())
        }
        (None, None) => Err("nothing to do; see --help".to_owned()),
    };
    result.map_or_else(failed, |()| ExitCode::SUCCESS)
}

fn failed(why: String) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(2)
}
