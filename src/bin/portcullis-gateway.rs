//! `portcullis-gateway`: the programs that run in pods: the gateway itself, and the bridge of a
//! stdio server.

use std::process::ExitCode;

use clap::Parser;
use portcullis::gateway::bridge::command::{self, BridgeArgs};
use portcullis::gateway::run::install::{self, InstallArgs};
use portcullis::gateway::run::{self, RunArgs};
use portcullis::telemetry::logging;

/// The data plane of Portcullis
#[derive(Debug, Parser)]
#[command(name = "portcullis-gateway", version, max_term_width = 100)]
struct Cli {
    /// How the log on standard error is written
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the gateway of one McpServer in a cluster
    Run(RunArgs),
    /// Serve a stdio MCP server over Streamable HTTP
    Bridge(BridgeArgs),
    /// Copy this program into a directory, for the container of a stdio server
    Install(InstallArgs),
}

/// The gateway itself logs errors of the API client, once and not at each retry.
const LOGGED: &str = "warn,kube_client=off,portcullis=info";

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_format, LOGGED);
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn execute(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = || {
        tokio::runtime::Runtime::new()
            .map_err(|error| format!("the runtime cannot be started: {error}"))
    };
    match command {
        Command::Run(args) => runtime()?.block_on(run::run(args))?,
        Command::Bridge(args) => runtime()?.block_on(command::run(args))?,
        Command::Install(args) => {
            tracing::info!("installed as {}", install::run(&args)?.display());
        }
    }
    Ok(())
}
