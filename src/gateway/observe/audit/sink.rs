//! One output for lines, also when it takes only a part of them.
//!
//! In: whole lines. Out: whole lines: a partly written line is removed from a file, and completed
//! first in other outputs. A file that was moved away or removed is made again where it was. Must
//! not do: log, wait.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many bytes are kept that one sink has not taken.
const MAX_PENDING_BYTES: usize = 4 << 20;

/// A file is looked for at its path this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often [`look_again`] was called.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Has every file looked for at its path before the next line, as after a SIGHUP.
pub fn look_again() {
    ASKED.fetch_add(1, Ordering::Relaxed);
}

/// Where lines are written.
pub struct Sink {
    name: String,
    out: Out,
    /// What it has not taken yet, in the order made.
    pending: Vec<u8>,
}

enum Out {
    Any(Box<dyn Write + Send>),
    File(AuditFile),
}

/// A file that is opened for reading too, and to append.
struct AuditFile {
    file: File,
    path: PathBuf,
    looked: Instant,
    asked: u64,
}

impl AuditFile {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let metadata = file.metadata()?;
        // Another run of the program may have left a line half-written.
        if metadata.is_file() && metadata.len() > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, metadata.len() - 1)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(AuditFile {
            file,
            path,
            looked: Instant::now(),
            asked: ASKED.load(Ordering::Relaxed),
        })
    }

    /// Opens the file again if another one, or none, is at its path now. While that fails, lines go
    /// to the file that was moved away; an error only where that one is gone.
    fn follow(&mut self) -> std::io::Result<()> {
        let asked = ASKED.load(Ordering::Relaxed);
        if asked == self.asked && self.looked.elapsed() < LOOK_INTERVAL {
            return Ok(());
        }
        (self.asked, self.looked) = (asked, Instant::now());
        let own = self.file.metadata()?;
        let same = |there: Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
        if !own.is_file() || std::fs::metadata(&self.path).is_ok_and(same) {
            return Ok(());
        }
        match Self::open(self.path.clone()) {
            Ok(opened) => *self = opened,
            Err(error) if own.nlink() == 0 => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

impl Sink {
    pub(super) fn of(out: Box<dyn Write + Send>) -> Self {
        Sink {
            name: "audit log".to_owned(),
            out: Out::Any(out),
            pending: Vec::new(),
        }
    }

    /// Standard output, without a buffer in between: what was written has left this process.
    ///
    /// # Errors
    /// When it is closed.
    pub fn stdout() -> std::io::Result<Self> {
        let out = std::io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Sink {
            name: "standard output".to_owned(),
            ..Self::of(Box::new(File::from(out)))
        })
    }

    /// The file at a path, readable for its owner alone. A line that another run of the program
    /// left half-written is ended, so that the first of this run is a line of its own.
    ///
    /// # Errors
    /// When the file cannot be opened, read or written.
    pub fn file(path: PathBuf) -> std::io::Result<Self> {
        Ok(Sink {
            name: path.display().to_string(),
            out: Out::File(AuditFile::open(path)?),
            pending: Vec::new(),
        })
    }

    /// Writes lines after what is pending; returns how many were dropped because too much is
    /// pending.
    ///
    /// # Errors
    /// Names the sink. What could not be written is kept as far as there is room.
    pub(super) fn put(&mut self, lines: &[u8]) -> (u64, Result<(), String>) {
        let mut lost = 0;
        let mut result = Ok(());
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            result = self.write(&pending);
        }
        if self.pending.is_empty() && result.is_ok() {
            result = self.write(lines);
        } else if self.pending.len() + lines.len() <= MAX_PENDING_BYTES {
            self.pending.extend_from_slice(lines);
        } else {
            lost = lines_in(lines);
        }
        let result = result.map_err(|error| format!("{}: {error}", self.name));
        (lost, result)
    }

    /// Writes what it can; the rest is pending afterwards.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Out::File(file) = &mut self.out
            && let Err(error) = file.follow()
        {
            return self.failed(bytes, 0, error);
        }
        let mut at = 0;
        while at < bytes.len() {
            let wrote = match &mut self.out {
                Out::Any(out) => out.write(&bytes[at..]),
                Out::File(AuditFile { file, .. }) => file.write(&bytes[at..]),
            };
            match wrote {
                Ok(0) => return self.failed(bytes, at, ErrorKind::WriteZero.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.failed(bytes, at, error),
            }
        }
        match &mut self.out {
            Out::Any(out) => out.flush(),
            Out::File(_) => Ok(()),
        }
    }

    fn failed(&mut self, bytes: &[u8], at: usize, error: Error) -> std::io::Result<()> {
        let begun = bytes[..at].iter().rposition(|byte| *byte == b'\n');
        let begun = begun.map_or(0, |end| end + 1);
        let from = match &self.out {
            Out::File(AuditFile { file, .. })
                if begun < at && take_back(file, &bytes[begun..at]).is_ok() =>
            {
                begun
            }
            _ => at,
        };
        self.pending.extend_from_slice(&bytes[from..]);
        Err(error)
    }
}

/// Removes the beginning of a line from the end of a file, if it is still what stands there.
pub(super) fn take_back(file: &File, half: &[u8]) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    let begins = metadata.len().checked_sub(half.len() as u64);
    let Some(begins) = begins.filter(|_| metadata.is_file()) else {
        return Err(ErrorKind::Unsupported.into());
    };
    let mut there = vec![0; half.len()];
    file.read_exact_at(&mut there, begins)?;
    if there != half {
        // Another process writes to it.
        return Err(ErrorKind::InvalidData.into());
    }
    file.set_len(begins)
}

/// How many lines these are.
pub(super) fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
