//! `portcullis validate`: lists every mistake in files, without a cluster or against one.
//!
//! In: files, and the resources of a cluster if the options name one. Out: findings with file, line
//! and column; exit code 1 if one is an error. The checks are those of the API server (schema, CEL
//! rules) and of the operator (the policy compiler). With a cluster, its API server checks each
//! object by a dry run, and the operator's checks cover each server with all policies that would
//! apply to it.

use std::path::PathBuf;

use serde::Serialize;

use super::cluster::{Cluster, ClusterArgs};
use super::output::{Failure, Output, columns, plural, print, print_data};
use super::project::{self, Finding, Project};
use crate::policy::diagnostic::Level;

/// Check files as the API server and the operator would
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a directory of YAML files; may be given several times
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// The same, without -f
    #[arg(value_name = "FILE|DIR", required_unless_present = "filename")]
    files: Vec<PathBuf>,
    /// Policies in this namespace are guardrails over all servers
    #[arg(long, default_value = "portcullis-system", value_name = "NAMESPACE")]
    operator_namespace: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// A saved tools/list result of the server, with which argument types and pins are checked
    #[arg(long, value_name = "FILE")]
    listing: Option<PathBuf>,
    /// The server of the listing, if the files define several
    #[arg(long, value_name = "[NAMESPACE/]NAME", requires = "listing")]
    server: Option<String>,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// The output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    servers: usize,
    policies: usize,
    findings: Vec<Finding>,
    /// What each server of the files would enforce under the policies of the files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revisions: Vec<Revision>,
    ignored: Vec<String>,
}

/// The revision that status and audit lines show for these files.
#[derive(Serialize)]
struct Revision {
    server: String,
    revision: String,
}

/// Runs the command.
///
/// # Errors
/// Code 1 if the files contain a mistake.
pub fn run(args: Args) -> Result<(), Failure> {
    let paths: Vec<PathBuf> = args.filename.into_iter().chain(args.files).collect();
    let report = match Project::load(&paths, &args.operator_namespace) {
        Err(findings) => Report {
            valid: false,
            servers: 0,
            policies: 0,
            findings,
            revisions: Vec::new(),
            ignored: Vec::new(),
        },
        Ok(mut project) => {
            let cluster = args.cluster.cluster()?;
            if let Some(cluster) = &cluster {
                project.surround(
                    cluster.namespace(),
                    cluster.list(None)?,
                    cluster.list(None)?,
                );
                for name in project.unknown_namespaces() {
                    if let Some(labels) = cluster.namespace_labels(&name)? {
                        project.add_namespace(name, labels);
                    }
                }
            }
            let mut findings = project.findings();
            findings.extend(project.advice());
            if let Some(path) = &args.listing {
                let listed = super::tools::listing(path)?;
                let server = project.server(args.server.as_deref())?;
                findings.extend(project.by_listing(server, &listed, path));
            }
            if let Some(cluster) = &cluster {
                findings.extend(refusals(cluster, &project)?);
            }
            findings.extend(project.cross_check()?);
            findings.sort_by(|a, b| {
                (a.level, &a.file, a.line, a.column).cmp(&(b.level, &b.file, b.line, b.column))
            });
            let revisions = project.revisions();
            let fails = |finding: &Finding| finding.level == Level::Error || args.strict;
            Report {
                valid: !findings.iter().any(fails),
                servers: project.servers.len(),
                policies: project.policies.len(),
                findings,
                revisions: revisions
                    .into_iter()
                    .map(|(server, revision)| Revision { server, revision })
                    .collect(),
                ignored: project.ignored,
            }
        }
    };
    match args.output {
        Output::Yaml | Output::Json => print_data(&report, args.output)?,
        Output::Table | Output::Wide => show(&report)?,
    }
    if report.valid {
        return Ok(());
    }
    let errors = report
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    let warnings = report.findings.len() - errors;
    let counts = format!(
        "{}, {}",
        plural(errors, "error"),
        plural(warnings, "warning")
    );
    let message = match errors {
        0 => format!("{counts}, which --strict counts as errors"),
        _ => format!("{counts}\n  Under `serve`, {}.", project::RULE),
    };
    Err(Failure { message, code: 1 })
}

/// The API server's answer for each object.
fn refusals(cluster: &Cluster, project: &Project) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for server in &project.servers {
        if let Err(message) = cluster.would_take(&server.object)? {
            findings.push(project::refused(server, "McpServer", message));
        }
    }
    for policy in &project.policies {
        if let Err(message) = cluster.would_take(&policy.object)? {
            findings.push(project::refused(policy, "McpPolicy", message));
        }
    }
    Ok(findings)
}

fn show(report: &Report) -> Result<(), Failure> {
    for finding in &report.findings {
        print(&format!(
            "{}\n",
            super::output::visible_lines(&finding.to_string())
        ))?;
    }
    for ignored in &report.ignored {
        print(&format!("{ignored}\n"))?;
    }
    if report.valid {
        let rows = [vec![
            report.servers.to_string(),
            report.policies.to_string(),
            report.findings.len().to_string(),
        ]];
        if report.servers + report.policies == 0 {
            return Err(Failure {
                message: "these files contain neither an McpServer nor an McpPolicy; write them, as examples/quickstart shows, or name \
                          other files"
                    .to_owned(),
                code: 1,
            });
        }
        print(&columns(&["McpServers", "McpPolicies", "Warnings"], &rows))?;
        print("valid\n")?;
    }
    Ok(())
}
