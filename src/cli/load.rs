//! Files for commands that need them to be valid.
//!
//! In: paths, a bundle. Out: the files' content with Secrets, or compiled policies; else one
//! failure that lists every mistake. Must not do: report warnings of what the files say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::output::Failure;
use super::project::{Folder, Project};
use crate::policy::bundle::Bundle;
use crate::policy::{Bound, compile};

/// The current Secrets of a folder; none if no folder is named.
///
/// # Errors
/// When the folder does not exist.
pub(super) fn folder(dir: Option<&Path>) -> Result<Folder, String> {
    dir.map_or_else(|| Ok(Folder::default()), super::project::folder)
}

/// Gives files the Secrets of a folder, if one is named, and of this process's environment. Prints
/// warnings.
///
/// # Errors
/// When some of the Secrets cannot be used.
pub(super) fn secrets(project: &mut Project, dir: Option<&Path>) -> Result<(), Failure> {
    let folder = folder(dir).map_err(Failure::new)?;
    if !folder.errors.is_empty() {
        return Err(Failure::new(folder.errors.join("\n")));
    }
    let warnings = project.take_secrets(folder.secrets, std::env::vars_os());
    for warning in warnings.map_err(Failure::new)? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

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
