//! `portcullis explain`: how a call would be decided, and why, rule by rule.
//!
//! In: files, a tool, arguments, a caller. Out: the decision of the engine that the gateway uses,
//! with its trace. Exit code 0 for every decision.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::load::{bound, project};
use super::output::{Failure, Output, columns, print, print_data};
use super::tools;
use crate::policy::Call;
use crate::policy::cases::{self, Verdict};
use crate::policy::explain::Step;

/// Print the decision on a call and the rules that led to it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a directory of YAML files; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// The name of the tool
    #[arg(long)]
    tool: String,
    /// The call's arguments, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    args: String,
    /// The caller: key:NAME, serviceaccount:NAMESPACE/NAME, jwt:PROVIDER/CLAIM or anonymous
    #[arg(long, value_name = "GRANT", default_value = "anonymous")]
    caller: String,
    /// The server, if the files define several
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    server: Option<String>,
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    server: String,
    tool: &'a str,
    caller: &'a str,
    decision: Verdict,
    policy: String,
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    visible: bool,
    risk: &'a str,
    severity: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<&'a str>,
    limits: Vec<String>,
    /// What is read before a person is asked, and again before the call is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    observes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<String>,
    trace: Vec<&'a Step>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] when the files or arguments cannot be used.
pub fn run(args: Args) -> Result<(), Failure> {
    let project = project(&args.filename, &args.operator_namespace)?;
    let server = &project.server(args.server.as_deref())?.object;
    let listing = match &args.listing {
        Some(path) => tools::listing(path)?,
        None => tools::assumed(std::slice::from_ref(&args.tool)),
    };
    let bound = bound(&project.whole_bundle(server)?, &listing)?;
    let caller =
        cases::caller(&args.caller).map_err(|why| Failure::new(format!("--caller: {why}")))?;
    match crate::json::parse(args.args.as_bytes()) {
        Ok(crate::json::Value::Object(_)) => {}
        Ok(_) => {
            return Err(Failure::new(
                "--args is not an object; write a JSON object, such as '{\"run_id\": \"1\"}'",
            ));
        }
        Err(error) => {
            let at = args
                .args
                .get(..error.offset)
                .map_or(error.offset, |before| before.chars().count());
            return Err(Failure::new(format!(
                "--args: {} at character {}; write a JSON object, such as '{{\"run_id\": \"1\"}}'",
                error.kind,
                at + 1
            )));
        }
    }
    let call = Call {
        tool: &args.tool,
        arguments: args.args.as_bytes(),
        caller: &caller,
        session: "",
    };
    let trace = bound.explain(&call, Timestamp::now());
    let decision = &trace.decision;
    let steps: Vec<&Step> = trace
        .steps
        .iter()
        .filter(|step| args.all || step.result != crate::policy::explain::StepResult::OtherTool)
        .collect();
    let (namespace, name) = super::project::name_of(&server.metadata);
    let explanation = Explanation {
        server: format!("{namespace}/{name}"),
        tool: &args.tool,
        caller: &args.caller,
        decision: decision.outcome.into(),
        policy: decision.by.policy_label().into_owned(),
        rule: &decision.by.rule,
        reason: decision.reason.as_deref(),
        visible: trace.visible,
        risk: trace.risk,
        severity: trace.severity,
        withheld: trace.withheld.as_deref(),
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
        trace: steps,
    };
    match args.output {
        Output::Yaml | Output::Json => print_data(&explanation, args.output)?,
        Output::Table | Output::Wide => show(&explanation)?,
    }
    if args.listing.is_none() {
        if let Some(near) = near(&args.tool) {
            eprintln!(
                "note: no known MLflow MCP server has a tool `{}`; did you mean `{near}`?",
                super::output::visible(&args.tool)
            );
        }
        eprintln!("{}", tools::UNCHECKED);
    }
    Ok(())
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

fn show(explanation: &Explanation<'_>) -> Result<(), Failure> {
    let mut text = format!(
        "{:?}  {} for {} at {}\n  by policy {}, rule {}",
        explanation.decision,
        explanation.tool,
        explanation.caller,
        explanation.server,
        explanation.policy,
        explanation.rule
    );
    if let Some(reason) = explanation.reason {
        text.push_str(&format!(": {}", super::output::visible(reason)));
    }
    let class = if explanation.risk.is_empty() {
        "no such tool".to_owned()
    } else {
        format!("{} {}", explanation.risk, explanation.severity)
    };
    let listed = if explanation.visible {
        "in the caller's list"
    } else {
        "not in the caller's list"
    };
    text.push_str(&format!("\n  tool: {}, {listed}\n", class.trim_end()));
    if let Some(withheld) = explanation.withheld {
        text.push_str(&format!("  hidden from all callers: {withheld}\n"));
    }
    for limit in &explanation.limits {
        text.push_str(&format!("  limit: {limit}\n"));
    }
    if let Some(observes) = &explanation.observes {
        text.push_str(&format!(
            "  shows who decides: {}\n",
            super::output::visible(observes)
        ));
    }
    if let Some(shadow) = &explanation.shadow {
        text.push_str(&format!("  in audit: {shadow}\n"));
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = explanation
        .trace
        .iter()
        .map(|step| {
            let mode = if step.audit { " (audit)" } else { "" };
            vec![
                format!("{}{mode}", step.policy),
                step.rule.clone(),
                format!("{:?}", step.action),
                step.detail.clone(),
            ]
        })
        .collect();
    text.push_str(&columns(&["Policy", "Rule", "Action", "Result"], &rows));
    if rows.is_empty() {
        text.push_str("No rule selects this tool.\n");
    }
    print(&text)
}
