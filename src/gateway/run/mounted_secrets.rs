//! The mounts of the pod: Secrets, and the copy of the bundle.
//!
//! In: paths. Out: their current contents, read twice a second. Contents are compared, not times:
//! that also sees the symlink swaps by which a kubelet changes a mounted volume. Must not do: show
//! a value, or take half of a change.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::gateway::force::secrets::Secrets;
use crate::gateway::rotation::Rotating;

/// The time between two reads of the mounts.
pub const MOUNT_READ_INTERVAL: Duration = Duration::from_millis(500);

/// How often a volume that is swapped while it is read is read again at once.
const READ_ATTEMPTS: usize = 3;

/// A key of the gateway's own that was replaced is good for this time: sessions were sealed with
/// it, and other replicas use it until their own copy has changed.
const OWN_KEYS_GOOD_AFTER_CHANGE: Duration = Duration::from_secs(3600);

type Contents = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// One key of a Secret that is mounted at a path of its own. If the operator makes the Secret again
/// with another value, the values are given out as lines, the one to use first, until all copies
/// have changed.
#[derive(Clone, Debug)]
pub struct MountedKey {
    /// The Secret.
    pub name: String,
    /// Its key.
    pub key: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether a value is one that can be used.
    pub is_usable: fn(&[u8]) -> bool,
}

/// Mounted Secrets: `DIR/NAME/KEY`, and some at paths of their own.
pub struct SecretMounts {
    folder: PathBuf,
    own: Vec<(MountedKey, Rotating)>,
    held: MountedSecrets,
    problems: Vec<String>,
}

/// The Secrets as they were last read.
#[derive(Clone, Default)]
pub struct MountedSecrets(Arc<RwLock<Contents>>);

impl Secrets for MountedSecrets {
    fn all(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let contents = self.0.read();
        // An optional volume whose Secret is missing is an empty folder.
        contents.get(name).filter(|keys| !keys.is_empty()).cloned()
    }

    fn key(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let contents = self.0.read();
        contents.get(name)?.get(key).cloned()
    }
}

impl SecretMounts {
    /// Nothing has been read yet.
    pub fn new(folder: PathBuf, own: Vec<MountedKey>) -> Self {
        let rotating = |own: MountedKey| {
            let values = Rotating::new(OWN_KEYS_GOOD_AFTER_CHANGE, own.is_usable);
            (own, values)
        };
        SecretMounts {
            folder,
            own: own.into_iter().map(rotating).collect(),
            held: MountedSecrets::default(),
            problems: Vec::new(),
        }
    }

    /// The Secrets as they were last read, also after later reads.
    pub fn held(&self) -> MountedSecrets {
        self.held.clone()
    }

    /// Reads everything; true if something differs from what was read before.
    pub fn refresh(&mut self) -> bool {
        self.refresh_at(Instant::now())
    }

    fn refresh_at(&mut self, time: Instant) -> bool {
        let mut problems = Vec::new();
        let mut now = Contents::new();
        for name in folders(&self.folder, &mut problems) {
            match secret(&self.folder.join(&name)) {
                Ok(keys) => {
                    now.insert(name, keys);
                }
                Err(why) => problems.push(why),
            }
        }
        for (own, values) in &mut self.own {
            let value = match std::fs::read(&own.path) {
                Ok(value) => Some(value),
                Err(error) => {
                    if !is_missing(&error) {
                        problems.push(unreadable(&own.path, &error));
                    }
                    None
                }
            };
            values.read(value.as_deref(), time);
            if let Some(lines) = values.lines(time) {
                now.entry(own.name.clone())
                    .or_default()
                    .insert(own.key.clone(), lines);
            }
        }
        if problems != self.problems {
            for problem in &problems {
                tracing::warn!("{problem}; what cannot be read counts as missing");
            }
            self.problems = problems;
        }
        let mut held = self.held.0.write();
        let differs = *held != now;
        if differs {
            *held = now;
        }
        differs
    }
}

/// The names of the folders in a folder; none if it is not there.
fn folders(folder: &Path, problems: &mut Vec<String>) -> Vec<String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if !is_missing(&error) {
                problems.push(unreadable(folder, &error));
            }
            return Vec::new();
        }
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with("..") && folder.join(name).is_dir())
        .collect();
    names.sort();
    names
}

/// Every key of one mounted Secret, all from one moment: a kubelet writes a new folder and then
/// swaps the link `..data` to it.
fn secret(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let link = folder.join("..data");
    let mut last = None;
    for _ in 0..READ_ATTEMPTS {
        let real = std::fs::canonicalize(&link).unwrap_or_else(|_| folder.to_owned());
        match keys(&real) {
            Ok(keys) => return Ok(keys),
            Err((path, error)) => last = Some(unreadable(&path, &error)),
        }
    }
    Err(last.unwrap_or_default())
}

fn keys(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, (PathBuf, std::io::Error)> {
    let entries = std::fs::read_dir(folder).map_err(|error| (folder.to_owned(), error))?;
    let mut keys = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| (folder.to_owned(), error))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Keys of Secrets never start with this; such entries belong to the kubelet.
        if name.starts_with("..") || path.is_dir() {
            continue;
        }
        let value = std::fs::read(&path).map_err(|error| (path, error))?;
        keys.insert(name, value);
    }
    Ok(keys)
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!(
        "{} cannot be read: {error}; mount it readable for this user",
        path.display()
    )
}

/// A mounted file that is given out once for each content.
pub struct MountedFile {
    path: PathBuf,
    seen: Option<u64>,
}

impl MountedFile {
    /// Nothing has been read yet.
    pub fn new(path: PathBuf) -> Self {
        MountedFile { path, seen: None }
    }

    /// The content, if it differs from the last time. A file that is missing or cannot be read has
    /// none.
    pub fn changed(&mut self) -> Option<Vec<u8>> {
        let bytes = std::fs::read(&self.path).ok()?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let now = Some(hasher.finish());
        (std::mem::replace(&mut self.seen, now) != now).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Writes a volume as a kubelet does, or changes it.
    fn swap(volume: &Path, moment: &str, keys: &[(&str, &str)]) {
        let data = volume.join(format!("..{moment}"));
        std::fs::create_dir_all(&data).unwrap();
        for (key, value) in keys {
            std::fs::write(data.join(key), value).unwrap();
            let link = volume.join(key);
            if !link.exists() {
                symlink(Path::new("..data").join(key), link).unwrap();
            }
        }
        symlink(format!("..{moment}"), volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    }

    #[test]
    fn a_change_is_seen_once_through_symlink_swaps_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("mlflow");
        let mut mounted = SecretMounts::new(folder.path().to_owned(), Vec::new());
        let held = mounted.held();
        assert!(!mounted.refresh());
        assert_eq!(held.all("mlflow"), None);
        std::fs::create_dir(&volume).unwrap();
        mounted.refresh();
        assert_eq!(held.all("mlflow"), None, "an empty volume is not a Secret");
        swap(&volume, "1", &[("a", "1"), ("b", "1")]);
        assert!(mounted.refresh() && !mounted.refresh());
        swap(&volume, "2", &[("a", "2"), ("c", "2")]);
        std::fs::remove_dir_all(volume.join("..1")).unwrap();
        assert!(mounted.refresh() && !mounted.refresh());
        let expected: BTreeMap<String, Vec<u8>> = [("a", "2"), ("c", "2")]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into();
        assert_eq!(held.all("mlflow"), Some(expected));
        assert_eq!(held.key("mlflow", "b"), None);
        std::fs::remove_dir_all(&volume).unwrap();
        assert!(mounted.refresh());
        assert_eq!(held.all("mlflow"), None);
    }

    #[test]
    fn a_key_at_a_path_of_its_own_is_a_key_of_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let own = MountedKey {
            name: "sealing".to_owned(),
            key: "keys".to_owned(),
            path: path.clone(),
            is_usable: |_| true,
        };
        let mut mounted = SecretMounts::new(folder.path().join("no-such-folder"), vec![own]);
        let held = mounted.held();
        assert!(!mounted.refresh());
        std::fs::write(&path, "k").unwrap();
        assert!(mounted.refresh());
        assert_eq!(held.key("sealing", "keys"), Some(b"k".to_vec()));
        // Made again with another value: what was sealed with the old one opens, until all copies
        // are new and for a while after.
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        std::fs::write(&path, "k2\n").unwrap();
        assert!(mounted.refresh_at(after(0)) && !mounted.refresh_at(after(100)));
        assert_eq!(held.key("sealing", "keys"), Some(b"k\nk2".to_vec()));
        std::fs::remove_file(&path).unwrap();
        assert!(mounted.refresh_at(after(130)));
        assert_eq!(held.key("sealing", "keys"), Some(b"k2\nk".to_vec()));
        assert!(mounted.refresh_at(after(3700)));
        assert_eq!(held.key("sealing", "keys"), Some(b"k2".to_vec()));
    }

    #[test]
    fn a_file_is_given_out_once_for_each_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.json");
        let mut file = MountedFile::new(path.clone());
        assert_eq!(file.changed(), None);
        std::fs::write(&path, "1").unwrap();
        assert_eq!(
            (file.changed(), file.changed()),
            (Some(b"1".to_vec()), None)
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.changed(), None);
        std::fs::write(&path, "1").unwrap();
        assert_eq!(file.changed(), None);
        std::fs::write(&path, "2").unwrap();
        assert_eq!(file.changed(), Some(b"2".to_vec()));
    }
}
