//! The pages that need a server, done as a reader does them, with the real MLflow and mlflow-mcp;
//! and the jobs of `tests/docs/`, each of which takes the steps of a page and then asks MLflow
//! itself.

#[path = "../docs/pages.rs"]
#[allow(
    dead_code,
    reason = "shared with the offline tests, which use all of it"
)]
mod pages;
#[path = "../docs/run.rs"]
#[allow(
    dead_code,
    reason = "shared with the offline tests, which use all of it"
)]
mod run;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::support::{installed, missing};

/// Two MLflows that start at once on a small machine keep their readers waiting for longer than a
/// server may take.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn programs(what: &str) -> Option<Vec<PathBuf>> {
    let program = installed("PORTCULLIS_TEST_MLFLOW_MCP", what)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("jq").is_file()) {
        let why = "jq is missing; install it (on Debian or Ubuntu: apt-get install jq)";
        missing(what, "jq", why);
        return None;
    }
    Some(vec![Path::new(&program).parent().unwrap().to_owned()])
}

/// Does a job, and what its page says, with the real programs.
fn job(script: &str, page: &str) {
    let Some(programs) = programs(script) else {
        return;
    };
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    run::job(Some(script), &[page], &programs);
}

#[test]
fn an_mlflow_is_guarded_from_nothing_by_the_page() {
    job("tests/docs/guard.sh", "docs/tutorials/guard.md");
}

#[test]
fn why_a_call_was_denied_is_found_and_corrected_by_the_page() {
    job("tests/docs/denied.sh", "docs/tutorials/denied.md");
}

#[test]
fn a_policy_first_audits_and_then_enforces_by_the_page() {
    job("tests/docs/audit.sh", "docs/tutorials/audit.md");
}

#[test]
fn a_promotion_is_approved_by_the_page() {
    job("tests/docs/approval.sh", "docs/tutorials/approval.md");
}

#[test]
fn policies_are_checked_with_pins_by_the_page_about_continuous_integration() {
    job("tests/docs/ci.sh", "docs/ci.md");
}

#[test]
fn the_commands_of_the_readme_are_what_they_say() {
    job("tests/docs/readme.sh", "README.md");
}

/// Every page with steps is run by a job here or among the offline tests.
#[test]
fn every_page_that_needs_a_server_has_a_job() {
    let jobs = std::fs::read_to_string(pages::root().join("tests/gateway/docs.rs")).unwrap();
    let starts = |page: &pages::Page| {
        let blocks = page.blocks();
        blocks
            .iter()
            .any(|block| matches!(run::use_of(block), run::Use::Start(_)))
    };
    let without: Vec<String> = pages::all()
        .into_iter()
        .filter(|page| starts(page) && !jobs.contains(&format!("\"{}\"", page.path)))
        .map(|page| page.path)
        .collect();
    assert!(without.is_empty(), "add a job for {without:?}");
}
