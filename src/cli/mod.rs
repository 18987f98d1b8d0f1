//! The subcommands of `portcullis`, one file each.
//!
//! In: parsed arguments. Out: text for people or scripts, and an exit code. Must not do: decide
//! anything itself.

pub mod approvals;
pub mod catalog;
pub mod cluster;
pub mod completions;
pub mod crds;
pub mod explain;
pub mod import;
mod load;
pub mod output;
pub mod project;
pub mod serve;
pub mod socket;
pub mod status;
pub mod test;
pub mod tools;
pub mod usage;
pub mod validate;

use clap::CommandFactory as _;

use self::output::Failure;

/// A policy gateway for MLflow MCP servers
#[derive(Debug, clap::Parser)]
#[command(name = "portcullis", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
    Status(status::Args),
    Approvals(approvals::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Test(test::Args),
    Tools(tools::Args),
    Import(import::Args),
    Catalog(catalog::Args),
    Crds(crds::Args),
    Completions(completions::Args),
}

/// Runs one command. `plugin` says that this runs as `kubectl portcullis`.
///
/// # Errors
/// [`Failure`] with the message and the exit code.
pub fn run(cli: Cli, plugin: bool) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Status(args) => status::run(args, plugin),
        Command::Approvals(args) => approvals::run(args, plugin),
        Command::Validate(args) => validate::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Test(args) => test::run(args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Tools(args) => tools::run(args),
        Command::Import(args) => import::run(args),
        Command::Catalog(args) => {
            let mut text = Vec::new();
            catalog::run(&args, &mut text).map_err(|error| Failure {
                message: error.to_string(),
                code: 1,
            })?;
            output::print(&String::from_utf8_lossy(&text))
        }
        Command::Crds(args) => {
            let mut text = Vec::new();
            crds::run(&args, &mut text).map_err(|error| Failure::new(error.to_string()))?;
            output::print(&String::from_utf8_lossy(&text))
        }
    }
}
