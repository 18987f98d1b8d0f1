//! The keys that sessions are sealed with, kept so that sessions survive a restart.
//!
//! In: a file that was given, or the folder for state. Out: a sealer. Must not do: use a key that
//! other users of this machine can read, or show one.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::protocol::seal::{self, Sealer};

/// The file of the keys in the folder for state.
const FILE: &str = "sealing.key";
/// A file of keys is not larger.
const MAX_BYTES: u64 = 64 << 10;

/// The sealer of the keys in `given`, or of those in the folder for state, which are made if there
/// are none.
///
/// # Errors
/// Says what to do about the file.
pub fn sealer(given: Option<&Path>, state: &Path) -> Result<Sealer, String> {
    if let Some(path) = given {
        return read(path);
    }
    let path = state.join(FILE);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(format!(
            "cannot create the folder {}: a file is in its place; name another with --state DIR",
            state.display()
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(state, &path)?;
            read(&path)
        }
        _ => read(&path),
    }
}

fn read(path: &Path) -> Result<Sealer, String> {
    let shown = path.display();
    let unusable =
        |why: &dyn std::fmt::Display| format!("the sealing keys in {shown} cannot be used: {why}");
    let mut file = OpenOptions::new()
        .read(true)
        .open(path)
        .map_err(|error| unusable(&error))?;
    let metadata = file.metadata().map_err(|error| unusable(&error))?;
    if metadata.is_dir() {
        return Err(unusable(&"it is a folder; name a file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(&format!(
            "other users can read or change it; run chmod 600 {shown}"
        )));
    }
    let mut text = String::new();
    let read = (&mut file).take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| unusable(&error))?;
    Sealer::from_key_file(&text).map_err(|error| unusable(&error))
}

/// Makes a key. Of two programs that do so at once, both use the key of the first.
fn make(state: &Path, path: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "no sealing key could be made in {}: {error}; name another folder with --state DIR",
            state.display()
        )
    };
    let key = seal::generate_key().map_err(|error| failed(&error))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|error| failed(&error))?;
    let new = state.join(format!("{FILE}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            writeln!(file, "{key}")?;
            file.sync_all()
        });
    // A link is made whole or not at all, and never over another file.
    let linked = written.and_then(|()| std::fs::hard_link(&new, path));
    let removed = std::fs::remove_file(&new);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(&error)),
        _ => removed.map_err(|error| failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let first = sealer(None, &state).unwrap();
        let path = state.join(FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let again = sealer(None, &state).unwrap();
        assert_eq!(first.names("x"), again.names("x"));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);

        // One that others can read is refused, with what to do, and so is one without a valid key.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = sealer(None, &state).map(drop).unwrap_err();
        assert!(error.contains("chmod 600"), "{error}");
        assert!(!error.contains(text.trim()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "hunter2\n").unwrap();
        let error = sealer(None, &state).map(drop).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(sealer(None, &state).is_err());
        let given = sealer(Some(&folder.path().join("none")), &state);
        assert!(given.map(drop).unwrap_err().contains("none"));
    }
}
