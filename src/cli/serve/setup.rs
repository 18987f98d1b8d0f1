//! The options of `serve` that are checked before anything runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::output::{Failure, why as words, without_numbers};
use crate::gateway::counters::Counters;
use crate::gateway::grants::Grants;
use crate::gateway::process::SetupError;

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Failure::new(without_numbers(error.to_string()))
    }
}

/// The bearer token that may read the report; it is compared as API keys are.
pub(super) fn report_readers(file: Option<&PathBuf>) -> Result<Grants, Failure> {
    let mut keys = BTreeMap::new();
    if let Some(path) = file {
        let unusable = |why: String| {
            Failure::new(format!(
                "the report token {} cannot be used: {why}",
                path.display()
            ))
        };
        let token = std::fs::read(path).map_err(|error| unusable(words(&error)))?;
        if token.trim_ascii().len() < 16 {
            return Err(unusable(
                "it has less than 16 characters; make one with: openssl rand -hex 32".to_owned(),
            ));
        }
        keys.insert("report".to_owned(), token);
    }
    Ok(Grants::new(&keys, false))
}

/// The folder for what survives a restart.
pub(super) fn state_folder(state: Option<&Path>) -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
    match (state, set("XDG_STATE_HOME"), set("HOME")) {
        (Some(folder), ..) => Ok(folder.to_owned()),
        (None, Some(state), _) => Ok(PathBuf::from(state).join("portcullis")),
        (None, None, Some(home)) => Ok(PathBuf::from(home).join(".local/state/portcullis")),
        (None, None, None) => Err(Failure::new(
            "there is no folder for what limits count: name one with --state DIR",
        )),
    }
}

/// Counters whose journals are below the folder for state.
pub(super) fn counters(folder: &Path) -> Result<Counters, Failure> {
    let kept = Counters::kept_in(folder.join("counters"));
    Ok(kept.map_err(SetupError::Counters)?)
}
