//! What files hold, and what is wrong with them, with the place of each.

use super::object::Object;
use super::position::Position;
use std::{collections::BTreeMap, fmt};

/// An object and where it was written.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The object.
    pub object: T,
    /// The file, as it was named to [`parse`].
    pub file: String,
    /// Where the document begins.
    pub at: Position,
    pub(super) positions: BTreeMap<String, Position>,
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

    /// Whether the field at `path` is written.
    pub fn has(&self, path: &str) -> bool {
        self.positions.contains_key(path)
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
    /// Where in it; the very beginning if it could not be read at all.
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
