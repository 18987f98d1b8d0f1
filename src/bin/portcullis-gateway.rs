//! `portcullis-gateway`: the programs that run in pods. Today the bridge of stdio servers.

use std::process::ExitCode;

use clap::Parser;
use portcullis::gateway::bridge::command::{self, BridgeArgs};
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
    /// Serve a stdio MCP server over Streamable HTTP
    Bridge(BridgeArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_format, "info");
    let Command::Bridge(args) = cli.command;
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
    match runtime.block_on(command::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
