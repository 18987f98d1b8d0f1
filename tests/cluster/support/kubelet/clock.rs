//! A wall clock for each gateway's pod, which a test steps while the gateway runs.
//!
//! In: libfaketime, and how far a clock is to be off. Out: the variables that make a process read
//! its pod's clock, and the clock itself: a file, read each time that the process asks for the
//! time. Must not do: touch the monotonic clock, which no step concerns.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What clocks of pods are made with.
pub struct Clocks {
    library: PathBuf,
    folder: PathBuf,
    /// Seconds that the tests' own clock is off: tests/clock.sh sets it.
    base: i64,
}

impl Clocks {
    pub fn new(library: PathBuf, folder: &Path) -> Self {
        let set = std::env::var("FAKETIME").ok();
        Clocks {
            library,
            folder: folder.to_owned(),
            base: set.map_or(0, |offset| offset.parse().unwrap()),
        }
    }

    /// The variables of a process that reads the clock of this pod, which outlives the process.
    pub fn variables(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let file = self.file(namespace, pod);
        if !file.exists() {
            self.set(namespace, pod, 0)
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        let variables = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        Ok(variables.into())
    }

    /// Sets the clock to a number of seconds ahead of the tests' own or, with a minus, behind it.
    pub fn set(&self, namespace: &str, pod: &str, seconds: i64) -> std::io::Result<()> {
        let file = self.file(namespace, pod);
        // A reader must not find it half written.
        let new = file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.base + seconds))?;
        fs::rename(new, file)
    }

    fn file(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join(format!("{namespace}_{pod}.clock"))
    }
}
