//! The tools for offline commands: a saved `tools/list` result, or the names in the catalogue.

use std::path::Path;

use super::output::Failure;
use crate::catalog;
use crate::json::{self, Value};
use crate::policy::Definition;

/// Reads a file with a `tools/list` result: the result itself, the whole response, or only the
/// array.
///
/// # Errors
/// Says what the file should contain.
pub fn listing(path: &Path) -> Result<Vec<Definition>, Failure> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(format!("{shown} cannot be read: {error}")))?;
    let wrong = |why: String| {
        Failure::new(format!(
            "{shown} does not contain a list of tools ({why}); save the result of the server's tools/list there"
        ))
    };
    let value = json::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let tools = match &value {
        Value::Array(_) => Some(&value),
        value => value
            .get("tools")
            .or_else(|| value.get("result").and_then(|result| result.get("tools"))),
    };
    let tools = tools
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("no `tools`".to_owned()))?;
    tools
        .iter()
        .map(|tool| {
            Definition::parse(json::canonical(tool).as_bytes())
                .map_err(|error| wrong(error.to_string()))
        })
        .collect()
}

/// Every catalogued tool and `extra`, by name only.
pub fn assumed(extra: &[String]) -> Vec<Definition> {
    let mut names: Vec<&str> = catalog::all().iter().map(|entry| entry.name).collect();
    names.extend(extra.iter().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(Definition::assumed).collect()
}
