//! YAML files to API objects.
//!
//! In: the text of files. Out: McpServers, McpPolicies and Secrets, each with the place of every
//! field, or every mistake with file, line, column, what it is and what to do next. Documents that
//! the API server would refuse are refused here, by the same schema and the same rules. Must not
//! do: guess, skip a broken document, or print the value of a Secret. [`parse`] is pure; only
//! [`load`] and [`survey`] read files.

mod advice;
mod definitions;
mod found;
mod object;
mod other;
mod position;
mod rules;
mod schema;
pub mod survey;
mod tree;
mod yaml;

pub use found::{Ignored, Located, ManifestError, Manifests};
pub use object::{Object, Secret};
pub use other::documents;
pub use position::Position;
pub use survey::{BrokenPolicy, Lost, Survey};

use std::path::PathBuf;

/// Reads the documents of one file. All mistakes are reported, not only the first.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn parse(file: &str, text: &str) -> Result<Manifests, Vec<ManifestError>> {
    survey::documents_of(file, text).drop_duplicates().finish()
}

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), sorted by
/// name.
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
