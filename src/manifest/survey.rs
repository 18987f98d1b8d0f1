//! Files one by one, so that a mistake in one of them takes nothing from the others.
//!
//! In: paths. Out: the objects of all that can be read, every mistake, and what cannot be read any
//! more although it is still there: an object that was read from it before must not count as
//! one that was removed. Must not do: guess what a broken document says.

use super::found::{Ignored, Located, ManifestError, Manifests};
use super::object::{self, Object, Read};
use super::tree::{self, Node};
use crate::api::policy::McpPolicy;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Folders below one that is named are searched this deep for manifests that were put there by
/// mistake.
const DEPTH: usize = 4;
/// Files that are opened for that at most.
const STRAYS: usize = 200;
/// Bytes of a file that is opened for that.
const STRAY_BYTES: u64 = 1 << 20;

/// What files hold, as far as they can be read.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The objects, and the documents that are not for Portcullis.
    pub manifests: Manifests,
    /// What is wrong, in the order of the files.
    pub errors: Vec<ManifestError>,
    /// What is still there and cannot be read as what it may have been before.
    pub lost: Vec<Lost>,
    /// Policies that have errors, with nothing but their targets.
    pub broken: Vec<BrokenPolicy>,
}

/// A policy that cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokenPolicy {
    /// The policy, with nothing but its targets, as far as they can be read.
    pub policy: McpPolicy,
    /// The first error.
    pub message: String,
}

/// A document, or a whole file, that may have been an object before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The file that the object was read from, or a folder around it; any if absent.
    pub file: Option<String>,
    /// Namespace and name of the object; any if absent.
    pub name: Option<(String, String)>,
    /// Where it is now, and why it is not read.
    pub why: String,
}

impl Lost {
    /// Whether this may be the object of that name that was read from that file.
    pub fn may_be(&self, file: &str, namespace: &str, name: &str) -> bool {
        self.file
            .as_deref()
            .is_none_or(|own| Path::new(file).starts_with(own))
            && self
                .name
                .as_ref()
                .is_none_or(|own| (own.0.as_str(), own.1.as_str()) == (namespace, name))
    }
}

/// Reads the documents of one file. Two of them may be of one object.
pub(super) fn documents_of(file: &str, text: &str) -> Survey {
    let mut survey = Survey::default();
    let documents = match tree::documents(text) {
        Ok(documents) => documents,
        Err(broken) => {
            survey.lost.push(Lost {
                file: Some(file.to_owned()),
                name: None,
                why: format!("{file} is not valid YAML"),
            });
            survey.errors.push(not_yaml(file, broken));
            return survey;
        }
    };
    for document in &documents {
        match object::items(document) {
            Some(items) => items.iter().for_each(|item| survey.document(file, item)),
            None => survey.document(file, document),
        }
    }
    let Manifests { objects, ignored } = &survey.manifests;
    if objects.is_empty() && ignored.is_empty() && survey.lost.is_empty() {
        // A file that is emptied before it is written again looks like this for a moment.
        survey.lost.push(Lost {
            file: Some(file.to_owned()),
            name: None,
            why: format!("{file} holds no document"),
        });
    }
    survey
}

/// A text that is not valid YAML.
pub(super) fn not_yaml(file: &str, broken: tree::Broken) -> ManifestError {
    ManifestError {
        file: file.to_owned(),
        at: broken.at,
        path: String::new(),
        message: format!("this is not valid YAML: {}", broken.message),
    }
}

impl Survey {
    /// Of two objects of one name neither is taken: either could be the one that is meant.
    pub(super) fn drop_duplicates(mut self) -> Survey {
        let mut found: BTreeMap<(&str, &str, &str), Vec<&Located<Object>>> = BTreeMap::new();
        for located in &self.manifests.objects {
            let same = found.entry(located.object.identity()).or_default();
            same.push(located);
        }
        found.retain(|_, same| same.len() > 1);
        for ((kind, namespace, name), same) in &found {
            let Some((first, others)) = same.split_first() else {
                continue;
            };
            let place = format!("{}:{}", first.file, first.at.line);
            self.errors.extend(others.iter().map(|other| ManifestError {
                file: other.file.clone(),
                at: other.position("metadata.name"),
                path: "metadata.name".to_owned(),
                message: format!(
                    "the {kind} {namespace}/{name} is already in {place}; remove one or rename it"
                ),
            }));
            self.lost.push(Lost {
                file: None,
                name: Some(((*namespace).to_owned(), (*name).to_owned())),
                why: format!("it is in {place} and once more elsewhere"),
            });
        }
        let twice: BTreeSet<(String, String, String)> = found.into_keys().map(owned).collect();
        self.manifests
            .objects
            .retain(|located| !twice.contains(&owned(located.object.identity())));
        self
    }

    fn document(&mut self, file: &str, document: &Node) {
        let at = document.at;
        let is_json = Path::new(file)
            .extension()
            .is_some_and(|extension| extension == "json");
        match object::read(document, is_json) {
            Ok(Read::Object(object)) => self.manifests.objects.push(Located {
                object: *object,
                file: file.to_owned(),
                at,
                positions: document.positions(),
            }),
            Ok(Read::Ignored(what)) => {
                let name = object::name(document);
                if name.is_some() || object::foreign(document, is_json).is_some() {
                    self.lost.push(Lost {
                        file: Some(file.to_owned()),
                        // Without a name it may be any object of the file, changed beyond
                        // recognition.
                        why: format!(
                            "the document of that name in {file}:{} is now: {what}",
                            at.line
                        ),
                        name,
                    });
                }
                self.manifests.ignored.push(Ignored {
                    file: file.to_owned(),
                    at,
                    what,
                });
            }
            Ok(Read::Nothing) => {}
            Err(faults) => {
                if let (Some(policy), Some(first)) = (object::targets(document), faults.first()) {
                    let message = match first.path.as_str() {
                        "" => first.message.clone(),
                        path => format!("{path}: {}", first.message),
                    };
                    self.broken.push(BrokenPolicy { policy, message });
                }
                let name = object::name(document);
                self.lost.push(Lost {
                    file: name.is_none().then(|| file.to_owned()),
                    name,
                    why: format!("its document in {file}:{} has errors", at.line),
                });
                self.errors
                    .extend(faults.into_iter().map(|fault| ManifestError {
                        file: file.to_owned(),
                        at: fault.at,
                        path: fault.path,
                        message: fault.message,
                    }));
            }
        }
    }

    fn add(&mut self, other: Survey) {
        self.manifests.objects.extend(other.manifests.objects);
        self.manifests.ignored.extend(other.manifests.ignored);
        self.errors.extend(other.errors);
        self.lost.extend(other.lost);
        self.broken.extend(other.broken);
    }

    fn stray(&mut self, stray: &Stray) {
        let (file, why) = (stray.path.display().to_string(), &stray.why);
        let Some(mut found) = stray.survey() else {
            return;
        };
        // Folders hold Namespaces for other programs.
        let of_ours = |located: &Located<Object>| !matches!(located.object, Object::Namespace(_));
        found.manifests.objects.retain(of_ours);
        if found.manifests.objects.is_empty() && found.lost.is_empty() {
            return;
        }
        let names = found
            .manifests
            .objects
            .iter()
            .map(|located| {
                let (_, namespace, name) = located.object.identity();
                Some((namespace.to_owned(), name.to_owned()))
            })
            .chain(found.lost.into_iter().map(|lost| lost.name));
        let lost: Vec<Lost> = names
            .map(|name| Lost {
                // Where it cannot be read, it may be all of the file that had its name before.
                file: name.is_none().then(|| stray.before.display().to_string()),
                name,
                why: format!("{file} is not read"),
            })
            .collect();
        self.lost.extend(lost);
        if stray.is_hidden {
            // Editors and synchronizers leave such files behind.
            return;
        }
        self.errors.push(ManifestError {
            file,
            at: super::position::Position::default(),
            path: String::new(),
            message: format!("this file is for Portcullis and is not read: {why}"),
        });
    }
}

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), sorted by
/// name.
pub fn paths(paths: &[PathBuf]) -> Survey {
    let mut survey = Survey::default();
    let mut read = BTreeSet::new();
    let mut strays = Vec::new();
    for path in paths {
        let found = match files(path) {
            Ok(files) => files,
            Err(error) => {
                survey.lost.push(unread(path));
                survey.errors.push(unreadable(path, &error));
                continue;
            }
        };
        strays.extend(found.strays);
        survey.lost.extend(found.folders.iter().map(|folder| Lost {
            file: Some(folder.display().to_string()),
            name: None,
            why: format!("{} is a folder", folder.display()),
        }));
        if found.files.is_empty() {
            survey.errors.push(ManifestError {
                message:
                    "there is no *.yaml, *.yml or *.json in this directory; name another, or a file"
                        .to_owned(),
                ..unreadable(path, &io::Error::other(""))
            });
        }
        for file in found.files {
            // A file that is named twice is one file, not two of everything.
            if !read.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
                continue;
            }
            match contents(&file) {
                Ok(contents) => survey.add(documents_of(&file.display().to_string(), &contents)),
                Err(error) => {
                    survey.lost.push(unread(&file));
                    survey.errors.push(unreadable(&file, &error));
                }
            }
        }
    }
    for stray in strays {
        // One that another path names is read.
        let canonical = fs::canonicalize(&stray.path).unwrap_or_else(|_| stray.path.clone());
        if !read.contains(&canonical) {
            survey.stray(&stray);
        }
    }
    survey.drop_duplicates()
}

fn owned(identity: (&str, &str, &str)) -> (String, String, String) {
    let (kind, namespace, name) = identity;
    (kind.to_owned(), namespace.to_owned(), name.to_owned())
}

fn unread(path: &Path) -> Lost {
    let file = path.display().to_string();
    Lost {
        why: format!("{file} cannot be read"),
        file: Some(file),
        name: None,
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ManifestError {
    let message = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file or directory; correct the path".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not read it; change its owner or its mode".to_owned()
        }
        io::ErrorKind::InvalidData => format!(
            "this is not UTF-8 text, or has more than {} bytes; name a YAML file",
            tree::MAX_BYTES
        ),
        io::ErrorKind::IsADirectory => "this is a directory".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    ManifestError {
        file: path.display().to_string(),
        at: super::position::Position::default(),
        path: String::new(),
        message,
    }
}

/// The text of one file, which is a regular file of a size that is read at all.
pub(crate) fn contents(file: &Path) -> io::Result<String> {
    // Checked before reading, so that a device or a huge file is never read into memory.
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() || metadata.len() > tree::MAX_BYTES as u64 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    fs::read_to_string(file)
}

/// The files that a path stands for.
pub(crate) struct Files {
    /// Those that are read, sorted.
    pub files: Vec<PathBuf>,
    /// Folders in the place of such a file.
    pub folders: Vec<PathBuf>,
    /// Those that a person may take for files that are read.
    pub strays: Vec<Stray>,
}

/// A file that is not read for its name or its place.
pub(crate) struct Stray {
    pub path: PathBuf,
    /// The file that it may have been when it was read.
    before: PathBuf,
    /// Its name begins with a dot.
    is_hidden: bool,
    why: String,
}

impl Stray {
    /// What it holds; None if it is not for Portcullis.
    fn survey(&self) -> Option<Survey> {
        let metadata = fs::metadata(&self.path).ok()?;
        if !metadata.is_file() || metadata.len() > STRAY_BYTES {
            return None;
        }
        let contents = fs::read_to_string(&self.path).ok()?;
        if !contents.contains(crate::api::GROUP) {
            return None;
        }
        let found = documents_of(&self.path.display().to_string(), &contents);
        // Prose that mentions the API group, such as a README, is not YAML; a broken manifest has a
        // manifest's name. Test cases lie in folders of their own, and are for `portcullis test`.
        if found.manifests.objects.is_empty() && found.errors.is_empty() {
            return None;
        }
        if self.is_hidden && found.manifests.objects.is_empty() {
            return None;
        }
        let is_yaml = found.lost.iter().all(|lost| lost.name.is_some());
        (has_manifest_name(&self.path, true) || (is_yaml && !found.manifests.objects.is_empty()))
            .then_some(found)
    }
}

fn has_manifest_name(path: &Path, any_case: bool) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known || (any_case && extension.eq_ignore_ascii_case(known)))
    })
}

/// The files that a path stands for.
pub(crate) fn files(path: &Path) -> io::Result<Files> {
    let mut found = Files {
        files: Vec::new(),
        folders: Vec::new(),
        strays: Vec::new(),
    };
    if !fs::metadata(path)?.is_dir() {
        found.files.push(path.to_owned());
        return Ok(found);
    }
    for entry in entries(path)? {
        // Through links, as mounted ConfigMaps are made of them.
        let metadata = fs::metadata(&entry);
        let is_folder = metadata.as_ref().is_ok_and(fs::Metadata::is_dir);
        if let Some(before) = unhidden(&entry) {
            if has_manifest_name(&entry, false) && metadata.is_ok_and(|found| found.is_file()) {
                found.stray(Stray {
                    before,
                    path: entry,
                    is_hidden: true,
                    why: "its name begins with a dot".to_owned(),
                });
            }
        } else if is_folder {
            if has_manifest_name(&entry, false) {
                found.folders.push(entry.clone());
            }
            found.below(path, &entry, 1);
        } else if has_manifest_name(&entry, false) {
            // A link to nowhere, or a pipe, cannot be read, which is an error and not an absence.
            found.files.push(entry);
        } else {
            found.stray(Stray {
                before: entry.with_extension("yaml"),
                path: entry,
                is_hidden: false,
                why: "its name must end with .yaml, .yml or .json; rename it, or move it elsewhere"
                    .to_owned(),
            });
        }
    }
    found.files.sort();
    found.strays.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

fn visible(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = entries(folder)?;
    entries.retain(|path| unhidden(path).is_none());
    Ok(entries)
}

/// The path of a hidden file without the dots in front of its name; None if it is not hidden.
fn unhidden(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    let plain = name.strip_prefix('.')?.trim_start_matches('.');
    Some(path.with_file_name(plain))
}

impl Files {
    fn stray(&mut self, stray: Stray) {
        if self.strays.len() < STRAYS {
            self.strays.push(stray);
        }
    }

    /// Manifests in a folder below the one that was named, which `kubectl apply -f` passes over
    /// too.
    fn below(&mut self, root: &Path, folder: &Path, depth: usize) {
        // Not through links: they may lead anywhere, and back.
        if depth > DEPTH || fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_symlink())
        {
            return;
        }
        for entry in visible(folder).unwrap_or_default() {
            if entry.is_dir() {
                self.below(root, &entry, depth + 1);
            } else if has_manifest_name(&entry, true)
                && let Some(name) = entry.file_name()
            {
                self.stray(Stray {
                    before: root.join(name),
                    is_hidden: false,
                    why: format!(
                        "folders below the one that is named are left alone; move it up, or name {} too",
                        folder.display()
                    ),
                    path: entry,
                });
            }
        }
    }
}
