//! The folder of Secrets that `--secrets` names.
//!
//! In: the folder. Out: what it holds, at the start and whenever it changes. While the folder as a whole cannot be read, what it
//! held stays in force; what in it cannot be read is left out, so that a mistake keeps no key that is gone in force. Must not
//! do: show a value.

use std::path::Path;

use super::super::world::{Finding, Folder, World, folder};
use crate::policy::diagnostic::Level;

/// What the folder holds now; nothing where none is named.
///
/// # Errors
/// When there is no such folder.
pub fn read(dir: Option<&Path>) -> Result<Folder, String> {
    dir.map_or_else(|| Ok(Folder::default()), folder)
}

/// Gives a world that was read again its Secrets, and says what is wrong with them.
pub fn renew(world: &mut World, before: &World, read: Result<Folder, String>) -> Vec<Finding> {
    let Folder {
        secrets,
        mut errors,
    } = read.unwrap_or_else(|why| Folder {
        secrets: before.outside.folder.clone(),
        errors: vec![why],
    });
    if let Err(why) = world.take_secrets(secrets, std::env::vars_os()) {
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
