//! `portcullis approvals`: see and decide the calls that wait for a person.

use std::path::PathBuf;

use http::Method;
use jiff::Timestamp;

mod confirm;

use self::confirm::Consent;
use super::output::{Failure, Output, age, columns, print, print_data, visible};
use super::socket::{self, DecisionRequest};
use crate::api::approval::{McpApproval, Phase, Verdict};

/// Characters of the arguments in a table.
const BEGINNING: usize = 60;

/// See and decide calls that wait for approval.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The socket of `portcullis serve` [default: $PORTCULLIS_SOCKET or $XDG_RUNTIME_DIR/portcullis/serve.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List them, those that wait first
    List {
        /// Only those that wait
        #[arg(long)]
        pending: bool,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show one, arguments included
    Show {
        /// Its name, or NAMESPACE/NAME
        name: String,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
        output: Output,
    },
    /// Let the call be made, once, with exactly these arguments; shows it and asks
    Approve {
        /// Its name, or NAMESPACE/NAME
        name: String,
        /// Do not ask: the call that --digest names was looked at already
        #[arg(long)]
        yes: bool,
        /// The digest of the call that is to be approved, or its first 16 digits
        #[arg(long)]
        digest: Option<String>,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Refuse the call
    Deny {
        /// Its name, or NAMESPACE/NAME
        name: String,
        /// Why; the agent is told
        #[arg(long)]
        reason: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`], ready to be shown.
pub fn run(args: Args) -> Result<(), Failure> {
    let path = args.socket.unwrap_or_else(socket::default_path);
    let failed = |error: socket::ClientError| Failure::new(error.to_string());
    let all = || {
        socket::request::<Vec<McpApproval>>(&path, Method::GET, "/approvals", None).map_err(failed)
    };
    match args.command {
        Command::List { pending, output } => {
            let mut found = all()?;
            found.retain(|approval| !pending || phase(approval) == Some(Phase::Pending));
            found.sort_by_key(|approval| {
                (
                    phase(approval) != Some(Phase::Pending),
                    std::cmp::Reverse(approval.spec.requested_at.0),
                )
            });
            match output {
                Output::Yaml | Output::Json => print_data(&found, output),
                Output::Table | Output::Wide if found.is_empty() => {
                    print("No calls wait for approval.\n")
                }
                Output::Table | Output::Wide => print(&table(&found, Timestamp::now())),
            }
        }
        Command::Show { name, output } => {
            let found = find(&all()?, &name)?;
            match output {
                Output::Table | Output::Wide => print(&table(&[found], Timestamp::now())),
                Output::Yaml | Output::Json => print_data(&found, output),
            }
        }
        Command::Approve {
            name,
            yes,
            digest,
            reason,
        } => {
            let all = all()?;
            let found = find(&all, &name)?;
            let consent = Consent {
                yes,
                digest: digest.as_deref(),
            };
            confirm::ask(&found, &all, &consent, Timestamp::now())?;
            let request = DecisionRequest {
                verdict: Verdict::Approved,
                digest: Some(found.spec.arguments_digest.clone()),
                reason,
            };
            decide(&path, &name, &request)
        }
        Command::Deny { name, reason } => {
            let request = DecisionRequest {
                verdict: Verdict::Denied,
                digest: None,
                reason,
            };
            decide(&path, &name, &request)
        }
    }
}

fn decide(path: &std::path::Path, name: &str, request: &DecisionRequest) -> Result<(), Failure> {
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-./".contains(&b))
    {
        return Err(Failure::new(format!(
            "`{}` is not a name of an approval",
            visible(name)
        )));
    }
    let target = format!("/approvals/{name}");
    let decided: McpApproval = socket::request(path, Method::POST, &target, Some(request))
        .map_err(|error| match error {
            socket::ClientError::Refused(message) => Failure { message, code: 1 },
            other => Failure::new(other.to_string()),
        })?;
    let (word, by) = match &decided.spec.decision {
        Some(decision) if decision.verdict == Verdict::Approved => ("approved", &decision.by),
        Some(decision) => ("denied", &decision.by),
        None => return Err(Failure::new("the decision was not taken; try again")),
    };
    let spec = &decided.spec;
    let shown = decided.metadata.name.as_deref().unwrap_or_default();
    print(&format!(
        "{shown} {word} by {by}: {} for {}\n",
        visible(&spec.tool),
        visible(&spec.grant)
    ))
}

fn find(all: &[McpApproval], name: &str) -> Result<McpApproval, Failure> {
    let mut found = all.iter().filter(|approval| named(approval, name));
    let (first, more) = (found.next(), found.next());
    let refused = |message: String| Failure { message, code: 1 };
    let first = first.ok_or_else(|| {
        refused(format!(
            "there is no approval `{}`; `portcullis approvals list` shows them",
            visible(name)
        ))
    })?;
    match more {
        None => Ok(first.clone()),
        Some(_) => Err(refused(format!(
            "`{}` is in several namespaces; write NAMESPACE/NAME",
            visible(name)
        ))),
    }
}

fn named(approval: &McpApproval, name: &str) -> bool {
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, name),
    };
    approval.metadata.name.as_deref() == Some(name)
        && namespace
            .is_none_or(|namespace| approval.metadata.namespace.as_deref() == Some(namespace))
}

fn phase(approval: &McpApproval) -> Option<Phase> {
    approval.status.as_ref().and_then(|status| status.phase)
}

fn table(approvals: &[McpApproval], now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = approvals
        .iter()
        .map(|approval| {
            let spec = &approval.spec;
            vec![
                approval.metadata.name.clone().unwrap_or_default(),
                spec.server_ref.name.clone(),
                spec.tool.clone(),
                spec.grant.clone(),
                phase(approval).map_or_else(String::new, |phase| format!("{phase:?}")),
                spec.decision
                    .as_ref()
                    .map_or_else(String::new, |decision| decision.by.clone()),
                age(now.duration_since(spec.requested_at.0).as_secs()),
                left(approval, now),
                beginning(&spec.arguments_preview),
            ]
        })
        .collect();
    columns(
        &[
            "Name",
            "Server",
            "Tool",
            "Grant",
            "Phase",
            "By",
            "Age",
            "Expires",
            "Arguments",
        ],
        &rows,
    )
}

/// How long it stays of use.
fn left(approval: &McpApproval, now: Timestamp) -> String {
    match phase(approval) {
        Some(Phase::Pending | Phase::Approved | Phase::Denied) => {
            age(approval.spec.expires_at.0.duration_since(now).as_secs())
        }
        _ => String::new(),
    }
}

/// The first characters of the arguments.
fn beginning(preview: &str) -> String {
    match preview.char_indices().nth(BEGINNING) {
        Some((at, _)) => format!("{}…", &preview[..at]),
        None => preview.to_owned(),
    }
}
