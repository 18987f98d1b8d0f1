//! YAML files to API objects.
//!
//! In: the text of files. Out: McpServers, McpPolicies and Secrets, each with the place of every
//! field, or every mistake with file, line, column, what it is and what to do next. Documents that
//! the API server would refuse are refused here, by the same schema and the same rules. Must not
//! do: guess, skip a broken document, or print the value of a Secret. [`parse`] is pure; only
//! [`load`] and [`survey`] read files.

mod definitions;
mod object;
mod rules;
mod schema;
pub mod survey;
mod tree;

pub use object::{Object, Secret};
pub use survey::{BrokenPolicy, Lost, Survey};
pub use tree::Position;

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// An object and where it was written.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The object.
    pub object: T,
    /// The file, as it was named to [`parse`].
    pub file: String,
    /// Where the document begins.
    pub at: Position,
    positions: BTreeMap<String, Position>,
}

impl<T> Located<T> {
    /// Where the field at `path` (`spec.rules[2].when`) is written, or the nearest thing around it.
    pub fn position(&self, path: &str) -> Position {
        let mut path = path;
        loop {
            if let Some(position) = self.positions.get(path) {
                return *position;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = path.get(..end).unwrap_or_default(),
                None => return self.at,
            }
        }
    }

    /// The same place with another object.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            object: f(self.object),
            file: self.file,
            at: self.at,
            positions: self.positions,
        }
    }
}

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestError {
    /// The file.
    pub file: String,
    /// The position in it; its beginning if the file could not be read.
    pub at: Position,
    /// Path of the field, if it is about one.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.at.line > 0 {
            write!(f, ":{}:{}", self.at.line, self.at.column)?;
        }
        if self.path.is_empty() {
            write!(f, ": {}", self.message)
        } else {
            write!(f, ": {}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for ManifestError {}

/// A document that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The file.
    pub file: String,
    /// Where the document begins.
    pub at: Position,
    /// Its apiVersion and kind.
    pub what: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: ignored {}",
            self.file, self.at.line, self.at.column, self.what
        )
    }
}

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The objects, in the order of the files and documents.
    pub objects: Vec<Located<Object>>,
    /// The documents of other APIs.
    pub ignored: Vec<Ignored>,
}

/// Reads the documents of one file. All mistakes are reported, not only the first.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn parse(file: &str, text: &str) -> Result<Manifests, Vec<ManifestError>> {
    survey::documents_of(file, text).drop_duplicates().finish()
}

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), sorted by name.
///
/// # Errors
/// Everything that is wrong with any of the files, or that a file cannot be read.
pub fn load(paths: &[PathBuf]) -> Result<Manifests, Vec<ManifestError>> {
    survey::paths(paths).finish()
}

impl Survey {
    fn finish(self) -> Result<Manifests, Vec<ManifestError>> {
        if self.errors.is_empty() {
            Ok(self.manifests)
        } else {
            Err(self.errors)
        }
    }
}

#[cfg(test)]
mod tests;
