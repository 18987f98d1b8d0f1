//! YAML files to API objects.
//!
//! In: the text of files. Out: McpServers, McpPolicies and Secrets, each with the place of every field, or every mistake with
//! file, line, column, what it is and what to do. What the API server would refuse is refused here with the same schema and
//! the same rules. Must not do: guess, skip a broken document, or print the value of a Secret. [`parse`] is pure; only
//! [`load`] reads files.

mod object;
mod schema;
mod tree;

pub use object::{Object, Secret};
pub use tree::Position;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

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
    /// The documents that are no business of Portcullis.
    pub ignored: Vec<Ignored>,
}

/// Reads the documents of one file. All mistakes are told, not only the first.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn parse(file: &str, text: &str) -> Result<Manifests, Vec<ManifestError>> {
    let documents = tree::documents(text).map_err(|broken| {
        vec![ManifestError {
            file: file.to_owned(),
            at: broken.at,
            path: String::new(),
            message: format!("this is not valid YAML: {}", broken.message),
        }]
    })?;
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    for document in &documents {
        match object::read(document) {
            Ok(object::Read::Object(object)) => manifests.objects.push(Located {
                object: *object,
                file: file.to_owned(),
                at: document.at,
                positions: document.positions(),
            }),
            Ok(object::Read::Ignored(what)) => {
                manifests.ignored.push(Ignored {
                    file: file.to_owned(),
                    at: document.at,
                    what,
                });
            }
            Ok(object::Read::Nothing) => {}
            Err(faults) => errors.extend(faults.into_iter().map(|fault| ManifestError {
                file: file.to_owned(),
                at: fault.at,
                path: fault.path,
                message: fault.message,
            })),
        }
    }
    errors.extend(duplicates(&manifests.objects));
    finish(manifests, errors)
}

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), sorted by name.
///
/// # Errors
/// Everything that is wrong with any of the files, or that a file cannot be read.
pub fn load(paths: &[PathBuf]) -> Result<Manifests, Vec<ManifestError>> {
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    let mut read = BTreeSet::new();
    for path in paths {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                errors.push(unreadable(path, &error));
                continue;
            }
        };
        if files.is_empty() {
            errors.push(ManifestError {
                message:
                    "there is no *.yaml, *.yml or *.json in this directory; name another, or a file"
                        .to_owned(),
                ..unreadable(path, &io::Error::other(""))
            });
        }
        for file in files {
            // A file that is named twice is one file, not two of everything.
            if !read.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
                continue;
            }
            match text(&file)
                .map_err(|e| vec![unreadable(&file, &e)])
                .and_then(|t| parse(&file.display().to_string(), &t))
            {
                Ok(found) => {
                    manifests.objects.extend(found.objects);
                    manifests.ignored.extend(found.ignored);
                }
                Err(found) => errors.extend(found),
            }
        }
    }
    // Files that are broken in themselves are told first; what they have in common can only be told when all can be read.
    if errors.is_empty() {
        errors.extend(duplicates(&manifests.objects));
    }
    finish(manifests, errors)
}

fn finish(
    manifests: Manifests,
    errors: Vec<ManifestError>,
) -> Result<Manifests, Vec<ManifestError>> {
    if errors.is_empty() {
        Ok(manifests)
    } else {
        Err(errors)
    }
}

fn duplicates(objects: &[Located<Object>]) -> Vec<ManifestError> {
    let mut seen: BTreeMap<(&str, &str, &str), &Located<Object>> = BTreeMap::new();
    let mut errors = Vec::new();
    for located in objects {
        let (kind, namespace, name) = located.object.identity();
        if let Some(first) = seen.get(&(kind, namespace, name)) {
            errors.push(ManifestError {
                file: located.file.clone(),
                at: located.position("metadata.name"),
                path: "metadata.name".to_owned(),
                message: format!(
                    "the {kind} {namespace}/{name} is already in {}:{}; remove one or rename it",
                    first.file, first.at.line
                ),
            });
        } else {
            seen.insert((kind, namespace, name), located);
        }
    }
    errors
}

fn unreadable(path: &Path, error: &io::Error) -> ManifestError {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::InvalidData => format!(
            "this is not UTF-8 text, or more than {} bytes",
            tree::MAX_BYTES
        ),
        _ => format!("cannot be read: {error}"),
    };
    ManifestError {
        file: path.display().to_string(),
        at: Position::default(),
        path: String::new(),
        message,
    }
}

/// The text of one file, which is a regular file of a size that is read at all.
pub(crate) fn text(file: &Path) -> io::Result<String> {
    // Checked before reading, so that a device or a huge file is never read into memory.
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() || metadata.len() > tree::MAX_BYTES as u64 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    fs::read_to_string(file)
}

/// The files that a path stands for, sorted.
pub(crate) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let manifest = file
            .extension()
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
        // Through links, as mounted ConfigMaps are made of them.
        if manifest && !hidden && fs::metadata(&file)?.is_file() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
