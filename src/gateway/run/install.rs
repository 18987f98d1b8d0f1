//! `portcullis-gateway install DIR`: puts this program where a server's container finds it.
//!
//! In: a folder. Out: a copy of the running program in it. The image holds nothing but the program,
//! so no `cp`: an init container copies it into a volume that the container of a stdio server
//! mounts. Must not do: leave half a program there.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The name of the installed program.
const PROGRAM_NAME: &str = "portcullis-gateway";

/// Copy this program into a directory, for the container of a stdio server
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// An existing directory; the program is there as DIR/portcullis-gateway afterwards
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Why it was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The running program cannot be read.
    #[error("this program cannot be read: {0}")]
    Program(std::io::Error),
    /// The folder is not writable.
    #[error("{path} cannot be written: {source}; mount a writable volume there", path = path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Installs the running program, readable and executable for everyone; returns its path.
///
/// # Errors [`InstallError`]; an earlier copy is left in place.
pub fn run(args: &InstallArgs) -> Result<PathBuf, InstallError> {
    let program = std::env::current_exe().map_err(InstallError::Program)?;
    let mut program = File::open(program).map_err(InstallError::Program)?;
    let target = args.directory.join(PROGRAM_NAME);
    let part = args
        .directory
        .join(format!(".{PROGRAM_NAME}.{}", std::process::id()));
    let folder = |source| InstallError::Folder {
        path: target.clone(),
        source,
    };
    let written = write(&mut program, &part).and_then(|()| std::fs::rename(&part, &target));
    written.map_err(|error| {
        // It may not exist.
        let _ = std::fs::remove_file(&part);
        folder(error)
    })?;
    Ok(target)
}

fn write(program: &mut File, part: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(part)?;
    std::io::copy(program, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}
