//! `portcullis explain --decision`: a decision that a gateway made, from the lines of its audit
//! log.
//!
//! In: audit logs, a decision id, and perhaps the files of the policies. Out: the lines in words,
//! the text of the rules that decided, and the decision that the files at hand give for the
//! arguments in the log. Must not do: decide again with an argument that the log does not have, or
//! present files of another revision as those that decided.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::audit_lines::{self, AuditLine, DecisionLines, FoundLine};
use super::known_arguments::known;
use super::report::{Again, Report, RuleText, Rules};
use super::{Args, explain};
use crate::cli::load::{bound, project};
use crate::cli::output::{Failure, Output, manifest, print, print_data, visible};
use crate::cli::project::{Project, shown};
use crate::cli::tools;
use crate::policy::Call;
use crate::policy::acceptance::Place;
use crate::policy::bundle::Bundle;
use crate::policy::cases::{self, Verdict};
use crate::policy::explain::StepResult;

/// This many characters of a revision are shown where it stands in a sentence.
const SHORT_REVISION: usize = 12;

/// Runs the command.
///
/// # Errors
/// [`Failure`] when there is no such decision, or files cannot be used.
pub(super) fn run(args: &Args, id: &str) -> Result<(), Failure> {
    let DecisionLines {
        id,
        lines,
        unusable,
    } = audit_lines::find(id, &args.audit)?;
    let mut report = Report {
        approval: approval_steps(args, &lines)?,
        decision_id: id,
        lines,
        rules: None,
        decided_again: None,
        notes: unusable.note().into_iter().collect(),
    };
    let mut failed = None;
    let decisions: Vec<&AuditLine> = report
        .lines
        .iter()
        .map(|found| &found.line)
        .filter(|line| line.event == "decision")
        .collect();
    let mut notes = Vec::new();
    if report.lines.iter().any(|found| found.line.v > 1) {
        notes.push(
            "the line was written by a newer release; use that release to see all of it".to_owned(),
        );
    }
    match decisions[..] {
        [] if report
            .lines
            .iter()
            .any(|found| found.line.event == "authentication") => {}
        [] => notes.push(
            "the line with the decision itself is not in these files; name the file before this one too, with --audit".to_owned(),
        ),
        [line] => {
            if args.filename.is_empty() {
                notes.push(
                    "name the files of the server and its policies with -f to see the rules and to decide the call again"
                        .to_owned(),
                );
            } else {
                match by_files(args, line, &mut notes) {
                    Ok((rules, again)) => {
                        report.rules = rules;
                        report.decided_again = again;
                    }
                    Err(failure) => failed = Some(failure),
                }
            }
        }
        _ => {
            return Err(Failure {
                message: format!(
                    "{} are different decisions with the id {}, which is unique in the logs of the gateways of one server; find out \
                     which of them a gateway wrote",
                    report
                        .lines
                        .iter()
                        .filter(|found| found.line.event == "decision")
                        .map(FoundLine::place)
                        .collect::<Vec<_>>()
                        .join(", "),
                    report.decision_id
                ),
                code: 1,
            });
        }
    }
    report.notes.extend(notes);
    match args.output {
        Output::Yaml | Output::Json => print_data(&report, args.output)?,
        Output::Table | Output::Wide => print(&super::words::report(&report))?,
    }
    failed.map_or(Ok(()), Err)
}

/// The steps of the approval that the decision names, of other decisions too. Standard input cannot
/// be read twice.
fn approval_steps(args: &Args, lines: &[FoundLine]) -> Result<Vec<FoundLine>, Failure> {
    let name = lines
        .iter()
        .find_map(|found| found.line.approval.as_deref());
    let Some(name) = name.filter(|_| args.audit.iter().all(|file| file != Path::new("-"))) else {
        return Ok(Vec::new());
    };
    let known = |step: &FoundLine| {
        lines
            .iter()
            .any(|line| line.record.get() == step.record.get())
    };
    let mut steps = audit_lines::steps(name, &args.audit)?;
    steps.retain(|step| !known(step));
    Ok(steps)
}

/// The rules of the files, and what they decide.
fn by_files(
    args: &Args,
    line: &AuditLine,
    notes: &mut Vec<String>,
) -> Result<(Option<Rules>, Option<Again>), Failure> {
    let project = project(&args.filename, &args.operator_namespace)?;
    let server = project.server(Some(&line.server))?;
    let logged = line.revision.as_deref().unwrap_or_default();
    let bundle = bundle(&project, &server.object, logged)?;
    let revision = bundle.rules_revision();
    let same = revision == logged;
    if !same {
        let files: Vec<String> = args
            .filename
            .iter()
            .map(|path| visible(&path.display().to_string()))
            .collect();
        let files = files.join(" ");
        notes.push(format!(
            "other files decided: the line has the revision {}, and these files have {}. `git log --oneline -- {files}` lists the \
             commits; check each out beside this one (`git worktree add DIR COMMIT`) until `portcullis validate -o yaml` prints \
             {logged} for its files, and name those with -f",
            short(logged),
            short(&revision)
        ));
    }
    let rules = Rules {
        revision: logged.to_owned(),
        revision_of_files: revision,
        same,
        texts: texts(&project, line)?,
    };
    let again = again(args, line, &bundle, same, notes)?;
    Ok((Some(rules), again))
}

/// What the server enforces. A policy that is not accepted in a cluster may be accepted on one
/// machine, so that the revision says which it was.
fn bundle(
    project: &Project,
    server: &crate::api::server::McpServer,
    logged: &str,
) -> Result<Bundle, Failure> {
    let enforced = |place| project.enforced(server, place);
    let in_process = enforced(Place::Process);
    if let Ok(bundle) = &in_process
        && bundle.rules_revision() != logged
        && let Ok(in_cluster) = enforced(Place::Cluster)
        && in_cluster.rules_revision() == logged
    {
        return Ok(in_cluster);
    }
    in_process.map_err(|message| Failure {
        message: format!("McpServer {}: {message}", shown(&server.metadata)),
        code: 1,
    })
}

/// The rules that the line names, where the files have them.
fn texts(project: &Project, line: &AuditLine) -> Result<Vec<RuleText>, Failure> {
    let decided = line.policy.as_deref().zip(line.rule.as_deref());
    let near = line.near.iter().filter_map(|near| near.rsplit_once('/'));
    let namespace = line.server.split('/').next().unwrap_or_default();
    let mut texts = Vec::new();
    for (label, rule) in decided.into_iter().chain(near) {
        let policy = match label.contains('/') {
            true => label.to_owned(),
            false => format!("{namespace}/{label}"),
        };
        let all = &project.policies;
        let Some(located) = all.iter().find(|one| shown(&one.object.metadata) == policy) else {
            continue;
        };
        let spec = &located.object.spec;
        let found = rule_text("rules", &spec.rules, |one| one.name == rule)?
            .or(rule_text("prompts", &spec.prompts, |one| one.name == rule)?)
            .or(rule_text("resources", &spec.resources, |one| {
                one.name == rule
            })?);
        if let Some((path, text)) = found {
            texts.push(RuleText {
                policy: label.to_owned(),
                rule: rule.to_owned(),
                file: located.file.clone(),
                line: located.position(&path).line,
                text,
            });
        }
    }
    Ok(texts)
}

/// The first rule of a list that is wanted: its path in the document, and its text.
fn rule_text<R: Serialize>(
    list: &str,
    rules: &[R],
    is_wanted: impl Fn(&R) -> bool,
) -> Result<Option<(String, String)>, Failure> {
    let Some((at, rule)) = rules.iter().enumerate().find(|(_, rule)| is_wanted(rule)) else {
        return Ok(None);
    };
    let text = manifest(rule, Output::Yaml)?;
    Ok(Some((format!("spec.{list}[{at}]"), text)))
}

/// What the files decide for the request of the line; nothing, with a note, if the log does not say
/// enough.
fn again(
    args: &Args,
    line: &AuditLine,
    bundle: &Bundle,
    same: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Again>, Failure> {
    let Some((tool, method)) = line.tool.as_deref().zip(line.method.as_deref()) else {
        return Ok(None);
    };
    let time: Timestamp = line.time.parse().map_err(|_| {
        Failure::new("the line has no valid `time`; use the log as the gateway wrote it")
    })?;
    let grant = line.grant.as_deref().unwrap_or("anonymous");
    let caller =
        cases::caller(grant).map_err(|why| Failure::new(format!("the line's grant: {why}")))?;
    let logged = line.outcome.as_deref().unwrap_or_default();
    let listing = match &args.listing {
        Some(path) => tools::listing(path)?,
        None => tools::assumed(&[tool.to_owned()]),
    };
    let bound = bound(bundle, &listing)?;
    let named = match method {
        "tools/call" => None,
        "prompts/get" => Some(bound.prompt(tool, &caller)),
        method if method.starts_with("resources/") => Some(bound.resource(tool, &caller)),
        _ => {
            notes.push(format!(
                "a request of the method {} is not decided again; its rule is the one that the line names",
                visible(method)
            ));
            return Ok(None);
        }
    };
    if let Some(decision) = named {
        let verdict = decision.outcome.into();
        return Ok(Some(Again {
            decision: verdict,
            as_logged: agrees(logged, verdict, decision.shadow.is_some()),
            policy: decision.by.policy_label().into_owned(),
            rule: decision.by.rule.clone(),
            reason: decision.reason.as_deref().map(str::to_owned),
            explanation: None,
        }));
    }
    let arguments = known(line, args.args.as_deref())?;
    let call = Call {
        tool,
        arguments: arguments.text.as_bytes(),
        caller: &caller,
        session: line.session.as_deref().unwrap_or_default(),
    };
    let trace = bound.explain(&call, time);
    let applies = trace
        .steps
        .iter()
        .filter(|step| !matches!(step.result, StepResult::OtherTool | StepResult::OtherCaller));
    let unknown = arguments.unknown_to(applies.clone().map(|step| &step.reads));
    let by_token: Vec<String> = applies
        .filter(|step| {
            step.reads.reads_token() && grant != "anonymous" && !grant.starts_with("key:")
        })
        .map(|step| format!("{}/{}", step.policy, step.rule))
        .collect();
    let checked = args.listing.is_some() && !arguments.complete();
    if let Some(missing) = unknown.or_else(|| checked.then(|| arguments.describe())) {
        notes.push(format!(
            "not decided again: {missing}. Set `spec.audit.arguments: Full` in the McpServer to have the values of later calls \
             (those that `spec.tools[].redact` names stay out), or write the missing ones as --args '{{\"NAME\": VALUE}}'"
        ));
        return Ok(None);
    }
    if !by_token.is_empty() {
        notes.push(format!(
            "not decided again: {} reads the groups or claims of the caller, which are in the caller's token and not in the log; \
             write a case with them for `portcullis test`",
            by_token.join(", ")
        ));
        return Ok(None);
    }
    let verdict = trace.decision.outcome.into();
    let as_logged = agrees(logged, verdict, trace.decision.shadow.is_some());
    if logged == "limited" {
        notes.push(
            "a limit refused the call: rules alone let it through, and how much of a limit was used is not in the log".to_owned(),
        );
    } else if !as_logged && same {
        notes.push(different(logged, args.listing.is_none()));
    }
    let explanation = explain(&line.server, &call, &trace, args.all);
    Ok(Some(Again {
        decision: verdict,
        as_logged,
        policy: explanation.policy.clone(),
        rule: explanation.rule.clone(),
        reason: explanation.reason.clone(),
        explanation: Some(explanation),
    }))
}

/// Whether rules that decide so lead to such a line. Limits, approvals and the state of the server
/// decide the rest.
fn agrees(logged: &str, verdict: Verdict, shadow: bool) -> bool {
    use Verdict::{Allow, BadArguments, Deny, Hide, RequireApproval, Unknown};
    match logged {
        "allowed" => matches!(verdict, Allow | RequireApproval),
        "audited" => matches!(verdict, Allow | RequireApproval) && shadow,
        "hidden" => verdict == Hide,
        "denied" => verdict == Deny,
        "badArguments" => verdict == BadArguments,
        "unknown" => matches!(verdict, Unknown | Hide),
        "limited" | "unavailable" | "unrecorded" => matches!(verdict, Allow | RequireApproval),
        "unapproved" => verdict == RequireApproval,
        _ => false,
    }
}

/// Why the same rules may give another decision.
fn different(logged: &str, assumed: bool) -> String {
    match logged {
        "badArguments" | "unknown" | "hidden" if assumed => format!(
            "the gateway decided `{logged}` by what the server lists, which these files do not say; give its tools with --listing \
             (`portcullis tools --save FILE`)"
        ),
        "audited" => {
            "a limit of an Audit policy would have refused the call; how much of a limit was used is not in the log".to_owned()
        }
        _ => "the files have the revision of the line and decide otherwise: the server's tools, the state of limits, or the release of \
              portcullis differ"
            .to_owned(),
    }
}

/// The beginning of a revision, as sentences have it.
fn short(revision: &str) -> &str {
    match revision {
        "" => "(none)",
        revision => crate::protocol::text::cut(revision, SHORT_REVISION),
    }
}
