//! `portcullis approvals`: see and decide the calls that wait for a person.

use jiff::Timestamp;

mod confirm;
mod place;

use self::confirm::Consent;
use self::place::{Place, PlaceArgs};
use super::output::{Failure, Output, age, columns, print, print_data, visible};
use crate::api::approval::{McpApproval, Phase, Verdict};

/// Characters of the arguments in a table.
const BEGINNING: usize = 60;

/// See and decide calls that wait for approval.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(subcommand)]
    command: Command,
}

/// How approvals are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// The whole, as YAML.
    Yaml,
    /// The whole, as JSON.
    Json,
    /// Only their names.
    Name,
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
        output: Format,
    },
    /// Show one: who asks for what, which rule asks, until when, and how to decide
    Show {
        /// Its name, or NAMESPACE/NAME
        name: String,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let the call be made, once, with exactly these arguments; shows it and asks
    Approve {
        /// Its name, or NAMESPACE/NAME
        name: String,
        /// Do not ask: the call that --digest names has been reviewed already
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
        /// Why; the agent reads it
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print a line for each that waits and for each change, until interrupted
    Watch {
        /// How to print: table or name
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Runs the command. `plugin` says that kubectl does, so that the place is a cluster.
///
/// # Errors
/// [`Failure`], ready to be shown.
pub fn run(args: Args, plugin: bool) -> Result<(), Failure> {
    let place = args.place.place(plugin)?;
    match args.command {
        Command::List { pending, output } => {
            let mut found = place.all()?;
            found.retain(|approval| !pending || phase(approval) == Some(Phase::Pending));
            found.sort_by_key(|approval| {
                (
                    phase(approval) != Some(Phase::Pending),
                    std::cmp::Reverse(approval.spec.requested_at.0),
                )
            });
            match output {
                Format::Yaml => print_data(&found, Output::Yaml),
                Format::Json => print_data(&found, Output::Json),
                Format::Name => print(&found.iter().map(name_line).collect::<String>()),
                Format::Table | Format::Wide if found.is_empty() => {
                    print("No calls wait for approval.\n")
                }
                Format::Table | Format::Wide => {
                    let namespaces = place.is_wide() || output == Format::Wide;
                    print(&table(&found, namespaces, Timestamp::now()))
                }
            }
        }
        Command::Show { name, output } => {
            let all = place.all()?;
            let found = find(&all, &name)?;
            match output {
                Format::Yaml => print_data(&found, Output::Yaml),
                Format::Json => print_data(&found, Output::Json),
                Format::Name => print(&name_line(&found)),
                Format::Table | Format::Wide => print(&described(&place, &found, &all)),
            }
        }
        Command::Approve {
            name,
            yes,
            digest,
            reason,
        } => {
            let all = place.all()?;
            let found = find(&all, &name)?;
            let consent = Consent {
                yes,
                digest: digest.as_deref(),
            };
            let deny = place.command("deny", &found);
            let approve = place.command("approve", &found);
            confirm::ask(&found, &all, &consent, (&approve, &deny), Timestamp::now())?;
            decided(&place.decide(&found, Verdict::Approved, reason)?)
        }
        Command::Deny { name, reason } => {
            let found = find(&place.all()?, &name)?;
            decided(&place.decide(&found, Verdict::Denied, reason)?)
        }
        Command::Watch { output } => place.watch(|approval| match output {
            Format::Name => print(&name_line(approval)),
            _ => print(&news(approval)),
        }),
    }
}

/// What a person sees of one, and how to decide it.
fn described(place: &Place, approval: &McpApproval, all: &[McpApproval]) -> String {
    let mut text = confirm::shown(approval, all, Timestamp::now());
    if phase(approval) == Some(Phase::Pending) {
        let digest = confirm::beginning(&approval.spec.arguments_digest);
        text += &format!(
            "To approve it: {} --yes --digest {digest}\nTo refuse it:  {} --reason '…'\n",
            place.command("approve", approval),
            place.command("deny", approval),
        );
    }
    text
}

/// What stands before names in `-o name`, as kubectl prints them.
const KIND: &str = "mcpapproval.portcullis.dev/";

fn name_line(approval: &McpApproval) -> String {
    let name = approval.metadata.name.as_deref().unwrap_or_default();
    format!("{KIND}{}\n", visible(name))
}

/// One line of `watch`.
fn news(approval: &McpApproval) -> String {
    let (spec, metadata) = (&approval.spec, &approval.metadata);
    let phase = phase(approval).map_or_else(String::new, |phase| format!("{phase:?}"));
    let count = match (spec.approvers(), approval.approved()) {
        (1, _) => String::new(),
        (needed, have) => format!(" ({have} of {needed})"),
    };
    format!(
        "{}/{}  {phase}{count}  {} for {}  {}\n",
        visible(metadata.namespace.as_deref().unwrap_or_default()),
        visible(metadata.name.as_deref().unwrap_or_default()),
        visible(&spec.tool),
        visible(&spec.grant),
        visible(&beginning(&spec.arguments_preview)),
    )
}

/// Says what was decided.
fn decided(approval: &McpApproval) -> Result<(), Failure> {
    let spec = &approval.spec;
    let Some(decision) = spec.decisions.last() else {
        return Err(Failure::new("the decision was not taken; try again"));
    };
    let word = match decision.verdict {
        Verdict::Approved => "approved",
        Verdict::Denied => "denied",
    };
    let waits = match spec.approvers().saturating_sub(approval.approved()) {
        more if more > 0 && decision.verdict == Verdict::Approved => {
            format!("; it waits for {more} more")
        }
        _ => String::new(),
    };
    let shown = approval.metadata.name.as_deref().unwrap_or_default();
    print(&format!(
        "{} {word} by {}: {} for {}{waits}\n",
        visible(shown),
        visible(&decision.by),
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
    // As `-o name` prints it; no namespace has a dot.
    let name = name.strip_prefix(KIND).unwrap_or(name);
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

fn table(approvals: &[McpApproval], namespaces: bool, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = approvals
        .iter()
        .map(|approval| {
            let spec = &approval.spec;
            let by: Vec<&str> = spec.decisions.iter().map(|one| one.by.as_str()).collect();
            let mut row = vec![
                approval.metadata.name.clone().unwrap_or_default(),
                spec.server_ref.name.clone(),
                spec.tool.clone(),
                spec.grant.clone(),
                phase(approval).map_or_else(String::new, |phase| format!("{phase:?}")),
                by.join(","),
                age(now.duration_since(spec.requested_at.0).as_secs()),
                left(approval, now),
                beginning(&spec.arguments_preview),
            ];
            if namespaces {
                row.insert(0, approval.metadata.namespace.clone().unwrap_or_default());
            }
            row
        })
        .collect();
    let mut names = vec![
        "Name",
        "Server",
        "Tool",
        "Grant",
        "Phase",
        "By",
        "Age",
        "Expires",
        "Arguments",
    ];
    if namespaces {
        names.insert(0, "Namespace");
    }
    columns(&names, &rows)
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
