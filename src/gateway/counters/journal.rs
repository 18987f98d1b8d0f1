//! The journal of one server's counters: what was counted outlives the process that counted it.
//!
//! In: records of units that were taken or returned. Out: the same after a crash, and until when
//! some may be missing. Records are written with write(2) before the call is forwarded, so that an
//! end of the process loses nothing; they reach the disk a moment later, from another thread. A
//! journal is a folder with a lock and numbered files; what is still counted is copied into a new
//! file bit by bit, and the old one is removed. Must not do: wait for the disk on the path of a
//! call, or hold anything of a call in clear.

mod replay;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use self::replay::{Replayed, Restored};
use super::clock::{Clock, Reading};
use super::record::{self, HEADER, JournalRecord};

/// Files are called this, and a number.
const PREFIX: &str = "journal.";
/// A file that is shorter is not worth copying. Tests copy sooner.
const SMALL: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// A buffer that has become larger is made smaller again.
const LARGE_BUFFER: usize = 1 << 20;
/// The wall clock is written down again when it has moved by more than this against the other
/// clock.
const DRIFT: u64 = 1_000_000_000;

/// Why limits cannot be counted in a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error(
        "another process counts in {path}: end that process, or give this one another folder",
        path = .0.display()
    )]
    Taken(PathBuf),
    /// The system refuses.
    #[error("{doing} {path}: {source}; make room there, and let this program's user write to it", path = path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// An open journal.
pub struct Journal {
    folder: PathBuf,
    /// Held as long as the journal is open.
    _lock: File,
    file: File,
    number: u64,
    /// Bytes of the file that are whole records.
    whole: u64,
    /// Bytes may follow them, of a record that could not be written.
    torn: bool,
    /// Bytes of the file when everything that counts had been copied into it.
    floor: u64,
    /// What was written last of the clocks.
    clocks: (u64, Reading),
    unsynced: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal in a folder, which is made if it is not there, and reads it.
    ///
    /// # Errors
    /// [`JournalError`]; nothing may be counted then.
    pub fn open(folder: &Path, clock: &Clock) -> Result<(Journal, Restored), JournalError> {
        let at = |doing: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::System {
                doing,
                path,
                source,
            }
        };
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(at("cannot create the folder", folder))?;
        let lock_path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at("cannot open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Taken(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at("cannot lock", &lock_path)(error)),
        }
        let numbers = numbers(folder).map_err(at("cannot list", folder))?;
        let mut replayed = Replayed::default();
        for number in &numbers {
            let path = folder.join(format!("{PREFIX}{number}"));
            let bytes = std::fs::read(&path).map_err(at("cannot read", &path))?;
            let last = numbers.last() == Some(number);
            if let Some(place) = replayed.file(&bytes, last, clock.read().boot) {
                tracing::error!(
                    "{}: byte {place} is damaged; limits refuse calls until nothing that may be missing counts any more",
                    path.display()
                );
            }
        }
        let reading = clock.read();
        let restored = replayed.finish(reading);
        let number = numbers.last().map_or(0, |last| last + 1);
        let path = folder.join(format!("{PREFIX}{number}"));
        let file = create(&path).map_err(at("cannot create", &path))?;
        let mut journal = Journal {
            folder: folder.to_owned(),
            _lock: lock,
            file,
            number,
            whole: 0,
            torn: false,
            floor: 0,
            clocks: (restored.now, reading),
            unsynced: true,
            buffer: Vec::new(),
        };
        let copied = journal.copy(&restored).and_then(|()| {
            journal.file.sync_all()?;
            journal.remove_older()?;
            // So that what was removed does not come back, and the new file is found.
            File::open(folder)?.sync_all()
        });
        if let Err(error) = copied {
            // The older files still say everything.
            let _ = std::fs::remove_file(&path);
            return Err(at("cannot write", &path)(error));
        }
        journal.floor = journal.whole;
        Ok((journal, restored))
    }

    fn copy(&mut self, restored: &Restored) -> io::Result<()> {
        self.begin(restored.now, restored.unknown_until)?;
        for state in &restored.states {
            record::write(&mut self.buffer, &JournalRecord::State(state.clone()));
            self.flush()?;
        }
        Ok(())
    }

    /// The first bytes of a file.
    fn begin(&mut self, at: u64, unknown: Option<u64>) -> io::Result<()> {
        self.buffer.extend_from_slice(HEADER);
        let reading = self.clocks.1;
        record::write(&mut self.buffer, &JournalRecord::Clocks { at, reading });
        if let Some(at) = unknown {
            record::write(&mut self.buffer, &JournalRecord::Unknown { at });
        }
        self.flush()
    }

    /// Where the next records go; [`Journal::flush`] writes them.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Which file is written: what a key has counted must be in it before units are.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes what is in the buffer: all of it, or nothing that will be read again.
    ///
    /// # Errors
    /// When the system does not take it; the buffer is empty in either case.
    pub fn flush(&mut self) -> io::Result<()> {
        let written = self.write();
        self.buffer.clear();
        self.buffer.shrink_to(LARGE_BUFFER);
        written
    }

    fn write(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.whole)?;
            self.torn = false;
        }
        self.torn = true;
        self.file.write_all(&self.buffer).inspect_err(|_| {
            if self.file.set_len(self.whole).is_ok() {
                self.torn = false;
            }
        })?;
        self.torn = false;
        self.whole += self.buffer.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Whether it holds what may not be on the disk yet.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// The file, if it holds what may not be on the disk yet.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn unsynced(&mut self) -> io::Result<Option<File>> {
        if !self.unsynced {
            return Ok(None);
        }
        let file = self.file.try_clone()?;
        self.unsynced = false;
        Ok(Some(file))
    }

    /// Whether most of the file counts nothing any more, as far as its length tells.
    pub fn is_long(&self) -> bool {
        self.whole > SMALL.max(self.floor.saturating_mul(2))
    }

    /// Begins a new file; everything that counts has to be copied into it before
    /// [`Journal::copied`].
    ///
    /// # Errors
    /// When it cannot be written; the old file stays in use then.
    pub fn renew(&mut self, at: u64, unknown: Option<u64>, reading: Reading) -> io::Result<()> {
        let number = self.number + 1;
        let path = self.folder.join(format!("{PREFIX}{number}"));
        let file = create(&path)?;
        let old = (
            std::mem::replace(&mut self.file, file),
            std::mem::replace(&mut self.whole, 0),
            std::mem::replace(&mut self.torn, false),
            std::mem::replace(&mut self.clocks, (at, reading)),
        );
        if let Err(error) = self.begin(at, unknown) {
            (self.file, self.whole, self.torn, self.clocks) = old;
            std::fs::remove_file(&path)?;
            return Err(error);
        }
        // A record may have been cut off there, and a file that others follow must be whole.
        if old.2 {
            old.0.set_len(old.1)?;
        }
        self.number = number;
        Ok(())
    }

    /// Everything that counts is in the current file, and on the disk: the older ones can go.
    ///
    /// # Errors
    /// When they cannot be removed; they are read before the current one, so they do no harm.
    pub fn copied(&mut self) -> io::Result<()> {
        self.floor = self.whole;
        self.remove_older()
    }

    fn remove_older(&self) -> io::Result<()> {
        for number in numbers(&self.folder)? {
            if number < self.number {
                std::fs::remove_file(self.folder.join(format!("{PREFIX}{number}")))?;
            }
        }
        Ok(())
    }

    /// Writes the clocks down if the wall clock was moved, or in any case.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_clocks(&mut self, at: u64, reading: Reading, always: bool) -> io::Result<()> {
        let (before, known) = self.clocks;
        let expected = known.wall.saturating_add(at.saturating_sub(before));
        if !always && reading.wall.abs_diff(expected) <= DRIFT {
            return Ok(());
        }
        record::write(&mut self.buffer, &JournalRecord::Clocks { at, reading });
        self.flush()?;
        self.clocks = (at, reading);
        Ok(())
    }

    /// Writes go there instead, for tests.
    #[cfg(test)]
    pub fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// The file that is written.
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{PREFIX}{}", self.number))
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The numbers of the files, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
