//! The folder of Secrets that `--secrets` names.
//!
//! In: the folder. Out: what it holds, at the start and whenever it changes. A folder that cannot be read any more leaves what
//! it held in force, and is told. Must not do: show a value.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::world::{Finding, Name, World};
use crate::policy::diagnostic::Level;

/// Keys and values by Secret.
pub type Folder = BTreeMap<Name, BTreeMap<String, Vec<u8>>>;

/// What the folder holds now; nothing where none is named.
///
/// # Errors
/// What is wrong with it.
pub fn folder(dir: Option<&Path>) -> Result<Folder, String> {
    dir.map_or_else(|| Ok(Folder::new()), super::super::world::folder)
}

/// Gives a world that was read again its Secrets. What cannot be read stays as it was before.
pub fn renew(world: &mut World, before: &World, folder: Result<Folder, String>) -> Option<Finding> {
    let (folder, unread) = match folder {
        Ok(folder) => (folder, None),
        Err(why) => (before.outside.folder.clone(), Some(why)),
    };
    match world.take_secrets(folder, std::env::vars_os()) {
        Ok(_) => {}
        Err(why) => {
            world.outside = before.outside.clone();
            return Some(finding(why));
        }
    }
    unread.map(finding)
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
