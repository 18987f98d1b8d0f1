//! Files for commands that need them to be valid.
//!
//! In: paths, a bundle. Out: the files' content, or compiled policies; else one failure that lists every mistake. Must not do:
//! report warnings.

use std::path::PathBuf;
use std::sync::Arc;

use super::output::Failure;
use super::project::Project;
use crate::policy::bundle::Bundle;
use crate::policy::{Bound, compile};

/// Compiles a bundle for a command, or lists every mistake in it.
pub(super) fn bound(
    bundle: &Bundle,
    listing: &[crate::policy::Definition],
) -> Result<Bound, Failure> {
    let program = compile(bundle).map_err(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        Failure {
            message: format!(
                "these policies would not be accepted:\n{}",
                lines.join("\n")
            ),
            code: 1,
        }
    })?;
    Ok(Bound::new(&Arc::new(program), listing))
}

/// Reads files for a command that needs them to be valid.
pub(super) fn project(paths: &[PathBuf], operator_namespace: &str) -> Result<Project, Failure> {
    Project::load(paths, operator_namespace).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failure {
            message: format!("the files have errors:\n{}", lines.join("\n")),
            code: 1,
        }
    })
}
