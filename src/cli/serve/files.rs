//! Detects changes of the files by their content, twice a second. Unlike change notifications, this
//! also detects the symlink swaps of mounted ConfigMaps.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::manifest::survey;

/// The time between two polls; a change is applied at the second poll that sees it.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Files, their content when they were last loaded, and their content at the last poll.
pub struct Watched {
    paths: Vec<PathBuf>,
    secrets: Option<PathBuf>,
    read: u64,
    seen: u64,
}

impl Watched {
    /// Polls for the first time.
    pub fn new(paths: &[PathBuf], secrets: Option<&Path>) -> Self {
        let now = fingerprint(paths, secrets);
        Watched {
            paths: paths.to_vec(),
            secrets: secrets.map(Path::to_owned),
            read: now,
            seen: now,
        }
    }

    /// Whether the files differ from the last loaded content and did not change between two polls.
    /// A partially written file is often valid, but lacks the rules at its end.
    pub fn changed(&mut self) -> bool {
        let now = fingerprint(&self.paths, self.secrets.as_deref());
        let still = std::mem::replace(&mut self.seen, now) == now;
        still && std::mem::replace(&mut self.read, now) != now
    }
}

fn fingerprint(paths: &[PathBuf], secrets: Option<&Path>) -> u64 {
    let mut hasher = DefaultHasher::new();
    super::load::folder(secrets).hash(&mut hasher);
    for path in paths {
        let (files, folders, strays) = match survey::files(path) {
            Ok(found) => (found.files, found.folders, found.strays),
            Err(_) => (vec![path.clone()], Vec::new(), Vec::new()),
        };
        folders.hash(&mut hasher);
        for file in files {
            file.hash(&mut hasher);
            // Loading reports files that cannot be read.
            survey::contents(&file).ok().hash(&mut hasher);
        }
        // The content of other files, such as an audit log in the folder, does not matter.
        for stray in strays {
            stray.path.hash(&mut hasher);
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
        let mut watched = Watched::new(&[folder.path().to_owned()], None);
        let looks =
            |watched: &mut Watched| (watched.changed(), watched.changed(), watched.changed());
        let taken = (false, true, false);
        assert_eq!(looks(&mut watched), (false, false, false));
        std::fs::write(&file, "one").unwrap();
        assert_eq!(looks(&mut watched), (false, false, false));
        std::fs::write(&file, "two").unwrap();
        assert_eq!(looks(&mut watched), taken);
        std::fs::write(folder.path().join("b.yaml"), "").unwrap();
        assert_eq!(looks(&mut watched), taken);
        let log = folder.path().join("audit.log");
        std::fs::write(&log, "not a manifest").unwrap();
        assert_eq!(looks(&mut watched), taken);
        std::fs::write(&log, "and written to all the time").unwrap();
        assert_eq!(looks(&mut watched), (false, false, false));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(looks(&mut watched), taken);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(one.path().join("c"), "1").unwrap();
        std::fs::write(two.path().join("c"), "2").unwrap();
        let link = folder.path().join("c.yaml");
        std::os::unix::fs::symlink(one.path().join("c"), &link).unwrap();
        assert_eq!(looks(&mut watched), taken);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(two.path().join("c"), &link).unwrap();
        assert_eq!(looks(&mut watched), taken);
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone_until_it_rests() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "").unwrap();
        let mut watched = Watched::new(&[folder.path().to_owned()], None);
        for written in ["a", "ab", "abc"] {
            std::fs::write(&file, written).unwrap();
            assert!(!watched.changed(), "{written}");
        }
        assert!(watched.changed());
        assert!(!watched.changed());
        // What was there before comes back before it was read.
        std::fs::write(&file, "ab").unwrap();
        assert!(!watched.changed());
        std::fs::write(&file, "abc").unwrap();
        assert!(!watched.changed() && !watched.changed());
    }
}
