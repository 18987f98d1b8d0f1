//! `portcullis explain`: how a call would be decided, and why, rule by rule; with `--decision`, how
//! a call of the audit log was decided.
//!
//! In: files, a tool, arguments, a caller; or an audit log and the id of a decision. Out: the
//! decision of the engine that the gateway uses, with its trace. Exit code 0 for every decision.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::load::{bound, project};
use super::output::{Failure, Output, print, print_data};
use super::tools;
use crate::policy::Call;
use crate::policy::cases::{self, Verdict};
use crate::policy::explain::{Step, StepResult, Trace};

mod audit_lines;
mod decision;
mod known_arguments;
mod report;
mod words;

/// Print the decision on a call and the rules that led to it, or explain a decision of the audit
/// log
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a directory of YAML files; may be given several times
    #[arg(
        short,
        long = "filename",
        required_unless_present = "decision",
        value_name = "FILE|DIR"
    )]
    filename: Vec<PathBuf>,
    /// The name of the tool
    #[arg(long, required_unless_present = "decision")]
    tool: Option<String>,
    /// The call's arguments, a JSON object [default: {}]; with --decision, those that the log does
    /// not have
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// The caller: key:NAME, serviceaccount:NAMESPACE/NAME, jwt:PROVIDER/CLAIM or anonymous
    #[arg(long, value_name = "GRANT", default_value = "anonymous")]
    caller: String,
    /// The server, if the files define several
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    server: Option<String>,
    /// Explain this decision of the audit log: an id that an answer or a line has, or the beginning
    /// of one
    #[arg(long, value_name = "ID", requires = "audit", conflicts_with_all = ["tool", "caller", "server"])]
    decision: Option<String>,
    /// An audit log, also rotated, or - for standard input; may be given several times
    #[arg(long, value_name = "FILE", requires = "decision")]
    audit: Vec<PathBuf>,
    /// A saved tools/list result of the server; without it only the names of tools are known
    #[arg(long, value_name = "FILE")]
    listing: Option<PathBuf>,
    /// Policies in this namespace are guardrails over all servers
    #[arg(long, default_value = "portcullis-system", value_name = "NAMESPACE")]
    operator_namespace: String,
    /// Also show rules that do not select the tool
    #[arg(long)]
    all: bool,
    /// The output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A decision of the engine in words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    server: String,
    tool: String,
    caller: String,
    decision: Verdict,
    policy: String,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    visible: bool,
    risk: &'static str,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<String>,
    limits: Vec<String>,
    /// What is read before a person is asked, and again before the call is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    observes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<String>,
    trace: Vec<Step>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] when the files or arguments cannot be used.
pub fn run(args: Args) -> Result<(), Failure> {
    if let Some(id) = &args.decision {
        return decision::run(&args, id);
    }
    let tool = args.tool.as_deref().unwrap_or_default();
    let project = project(&args.filename, &args.operator_namespace)?;
    let server = &project.server(args.server.as_deref())?.object;
    let listing = match &args.listing {
        Some(path) => tools::listing(path)?,
        None => tools::assumed(&[tool.to_owned()]),
    };
    let bound = bound(&project.whole_bundle(server)?, &listing)?;
    let caller =
        cases::caller(&args.caller).map_err(|why| Failure::new(format!("--caller: {why}")))?;
    let arguments = object(args.args.as_deref().unwrap_or("{}"))?;
    let call = Call {
        tool,
        arguments: arguments.as_bytes(),
        caller: &caller,
        session: "",
    };
    let trace = bound.explain(&call, Timestamp::now());
    let server = super::project::shown(&server.metadata);
    let explanation = explain(&server, &call, &trace, args.all);
    match args.output {
        Output::Yaml | Output::Json => print_data(&explanation, args.output)?,
        Output::Table | Output::Wide => print(&words::explanation(&explanation))?,
    }
    if args.listing.is_none() {
        if let Some(near) = near(tool) {
            eprintln!(
                "note: no known MLflow MCP server has a tool `{}`; did you mean `{near}`?",
                super::output::visible(tool)
            );
        }
        eprintln!("{}", tools::UNCHECKED);
    }
    Ok(())
}

/// The value of `--args`, which must be a JSON object.
fn object(text: &str) -> Result<&str, Failure> {
    match crate::json::parse(text.as_bytes()) {
        Ok(crate::json::Value::Object(_)) => Ok(text),
        Ok(_) => Err(Failure::new(
            "--args is not an object; write a JSON object, such as '{\"run_id\": \"1\"}'",
        )),
        Err(error) => {
            let at = text
                .get(..error.offset)
                .map_or(error.offset, |before| before.chars().count());
            Err(Failure::new(format!(
                "--args: {} at character {}; write a JSON object, such as '{{\"run_id\": \"1\"}}'",
                error.kind,
                at + 1
            )))
        }
    }
}

/// A trace in words. `all` keeps the rules that do not select the tool.
fn explain(server: &str, call: &Call<'_>, trace: &Trace, all: bool) -> Explanation {
    let decision = &trace.decision;
    let steps = trace.steps.iter();
    Explanation {
        server: server.to_owned(),
        tool: call.tool.to_owned(),
        caller: call.caller.grant.clone(),
        decision: decision.outcome.into(),
        policy: decision.by.policy_label().into_owned(),
        rule: decision.by.rule.clone(),
        reason: decision.reason.as_deref().map(str::to_owned),
        visible: trace.visible,
        risk: trace.risk,
        severity: trace.severity,
        withheld: trace.withheld.clone(),
        limits: decision
            .charges
            .iter()
            .filter(|charge| charge.enforced())
            .map(|charge| {
                let counter = &charge.counter;
                format!(
                    "{} of {} per {} ({:?}, counter {})",
                    charge.cost, counter.max, counter.window_text, charge.scope, counter.name
                )
            })
            .collect(),
        observes: decision
            .approval
            .as_ref()
            .and_then(|demand| demand.observe.as_ref())
            .map(|observation| format!("{} {}", observation.tool, observation.arguments)),
        shadow: decision
            .shadow
            .as_ref()
            .map(|shadow| format!("{:?} by {}", Verdict::from(shadow.outcome), shadow.by)),
        trace: steps
            .filter(|step| all || step.result != StepResult::OtherTool)
            .cloned()
            .collect(),
    }
}

/// A catalogued tool whose name is nearly this one.
fn near(tool: &str) -> Option<&'static str> {
    if crate::catalog::lookup(tool).next().is_some() || tool.len() > 80 {
        return None;
    }
    let distances = crate::catalog::all()
        .iter()
        .map(|entry| (strsim::osa_distance(tool, entry.name), entry.name));
    distances
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name)
}
