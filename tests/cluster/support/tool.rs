//! Command-line programs as a user runs them: kubectl and helm.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a program printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Printed {
    /// Its standard output; the test fails if the program did.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// Its standard error; the test fails if the program did not.
    pub fn refused(self) -> String {
        assert_ne!(self.code, Some(0), "{}{}", self.out, self.err);
        self.err
    }

    /// The table that it printed, cell by cell. Columns are parted by two spaces and more, as
    /// kubectl does.
    pub fn table(self) -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let cells = line
                .split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty());
            cells.map(str::to_owned).collect()
        };
        self.ok().lines().map(cells).collect()
    }
}

/// Runs a program against the cluster of a kubeconfig, with nothing else of the machine's
/// configuration.
pub fn run<S: AsRef<OsStr>>(
    program: &Path,
    kubeconfig: &Path,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Printed {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home.path())
        // Otherwise each run of kubectl asks what the API server serves.
        .env("KUBECACHEDIR", kubeconfig.with_file_name("kubectl-cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program may print more than a pipe holds before it has read all.
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let done = child.wait_with_output().unwrap();
    // One that does not read its input closed the pipe.
    let _ = writer.join();
    Printed {
        code: done.status.code(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}
