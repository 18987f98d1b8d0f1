//! Have the files changed? Asked by content, twice a second: that also sees the symlink swaps of mounted ConfigMaps, which
//! change notifications miss.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks.
pub const EVERY: Duration = Duration::from_millis(400);

/// Files, and what they held when last looked at.
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: u64,
}

impl Watched {
    /// Looks for the first time.
    pub fn new(paths: &[PathBuf]) -> Self {
        Watched {
            paths: paths.to_vec(),
            seen: fingerprint(paths),
        }
    }

    /// Whether anything differs from the last look.
    pub fn changed(&mut self) -> bool {
        let now = fingerprint(&self.paths);
        std::mem::replace(&mut self.seen, now) != now
    }
}

fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        let mut files = match std::fs::read_dir(path) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|file| file.is_file())
                .collect(),
            Err(_) => vec![path.clone()],
        };
        files.sort();
        for file in files {
            file.hash(&mut hasher);
            // What cannot be read is told when it is loaded.
            std::fs::read(&file).ok().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_new_files_removals_and_symlink_swaps_are_seen_and_rewrites_of_the_same_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "one").unwrap();
        let mut watched = Watched::new(&[folder.path().to_owned()]);
        assert!(!watched.changed());
        std::fs::write(&file, "one").unwrap();
        assert!(!watched.changed());
        std::fs::write(&file, "two").unwrap();
        assert!(watched.changed());
        std::fs::write(folder.path().join("b.yaml"), "").unwrap();
        assert!(watched.changed());
        std::fs::remove_file(&file).unwrap();
        assert!(watched.changed());
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(one.path().join("c"), "1").unwrap();
        std::fs::write(two.path().join("c"), "2").unwrap();
        let link = folder.path().join("c.yaml");
        std::os::unix::fs::symlink(one.path().join("c"), &link).unwrap();
        assert!(watched.changed());
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(two.path().join("c"), &link).unwrap();
        assert!(watched.changed());
    }
}
