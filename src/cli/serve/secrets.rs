//! The folder of Secrets that `--secrets` names.
//!
//! In: the folder. Out: its Secrets, at the start and whenever they change. While the folder as a
//! whole cannot be read, its previous Secrets stay in force; single files that cannot be read are
//! left out, so that a mistake does not keep a removed key in force. Must not do: show a value.

use super::super::project::{Finding, Folder, Project};
use crate::policy::diagnostic::Level;

/// Adds the Secrets to files that were read again, and reports mistakes in them.
pub fn renew(
    project: &mut Project,
    before: &Project,
    read: Result<Folder, String>,
) -> Vec<Finding> {
    let Folder {
        secrets,
        mut errors,
    } = read.unwrap_or_else(|why| Folder {
        secrets: before.outside.folder.clone(),
        errors: vec![why],
    });
    if let Err(why) = project.take_secrets(secrets, std::env::vars_os()) {
        errors.push(why);
    }
    errors.into_iter().map(finding).collect()
}

fn finding(message: String) -> Finding {
    Finding {
        level: Level::Error,
        file: "--secrets".to_owned(),
        line: 0,
        column: 0,
        object: String::new(),
        rule: None,
        path: String::new(),
        expression: None,
        message,
    }
}
