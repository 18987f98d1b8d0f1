//! Runs one child process that speaks newline-delimited messages on stdin and stdout (MCP,
//! "Transports", stdio).
//!
//! In: what to run, and lines for it. Out: its lines, and how it ended. Its stderr goes to the log.
//!
//! A child leads a process group of its own. However it ends, the whole group ends with it: stdin
//! is closed, then the group gets SIGTERM, then SIGKILL, and the leader is reaped last, so that its
//! id cannot meanwhile name another group. What has left the group is ended afterwards, where this
//! process adopts orphans ([`orphans`]). Nothing here may hold more of the child's output than one
//! line of the permitted length, and nothing but PATH, HOME and LANG of this process's environment
//! reaches the child unless it is asked for.

mod answered_ids;
mod chatter;
mod leaders;
mod lines;
pub mod orphans;
mod supervisor;

pub use answered_ids::AnsweredIds;
use chatter::Chatter;
pub use lines::Piece;
pub(crate) use lines::printable;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a child inherits of the environment of this process, if it is set.
pub const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// The bytes that a queued line takes beside its own, roughly.
const LINE_OVERHEAD_BYTES: usize = 128;

/// What to run.
#[derive(Debug, Clone)]
pub struct ChildConfig {
    /// The server's name, for the log.
    pub name: Arc<str>,
    pub command: OsString,
    pub args: Vec<OsString>,
    /// Set for the child, over anything inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Names taken from this process's environment, besides [`INHERITED`].
    pub inherit: Vec<OsString>,
    /// Whom it runs as, if not as the user of this process.
    pub user: Option<RunAs>,
    pub limits: ChildLimits,
    /// Bounds what of its lines is logged, for all its processes together.
    pub chatter: Arc<Chatters>,
}

/// The user that a child runs as. It belongs to the user's own group and to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
    /// Its home, in place of this process's.
    pub home: OsString,
}

/// What a server writes that goes to the log.
#[derive(Debug)]
pub struct Chatters {
    /// Lines of standard error.
    pub errors: Chatter,
    /// Lines of standard output that are not valid messages, or too long.
    pub garbage: Chatter,
    /// Messages for its log.
    pub messages: Chatter,
    /// The last line of standard error that was not empty.
    pub last_words: Mutex<Option<String>>,
}

impl Default for Chatters {
    fn default() -> Self {
        Chatters {
            errors: Chatter::new(200, Duration::from_millis(50)),
            garbage: Chatter::new(20, Duration::from_secs(1)),
            messages: Chatter::new(200, Duration::from_millis(50)),
            last_words: Mutex::default(),
        }
    }
}

/// How much, and how long.
#[derive(Debug, Clone)]
pub struct ChildLimits {
    /// A longer line of stdout is dropped and logged.
    pub line_bytes: usize,
    /// A line of stderr is cut here.
    pub log_line_bytes: usize,
    /// Bytes that may wait to be written to stdin; writers wait beyond that.
    pub stdin_bytes: usize,
    /// From closing stdin to SIGTERM.
    pub close_grace: Duration,
    /// From SIGTERM to SIGKILL.
    pub term_grace: Duration,
}

impl Default for ChildLimits {
    fn default() -> Self {
        Self {
            line_bytes: 16 << 20,
            log_line_bytes: 8 << 10,
            stdin_bytes: 16 << 20,
            close_grace: Duration::from_secs(3),
            term_grace: Duration::from_secs(4),
        }
    }
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(
        "`{command}` was not found; give the full path of the server's executable, or install it where PATH points"
    )]
    NotFound { command: String },
    #[error("`{command}` is not executable; set its mode with chmod +x, or name another file")]
    NotExecutable { command: String },
    #[error("`{command}` could not be started: {source}")]
    Other {
        command: String,
        source: std::io::Error,
    },
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// A sentence part: "exited with status 3", "was killed by signal 9".
    pub how: String,
}

/// A running child. Dropping it stops the child as [`Child::stop`] does.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub input: Input,
    /// Its lines, without line end. Ends once no more can come.
    pub lines: mpsc::Receiver<Piece>,
    pub handle: Handle,
    _stop_on_drop: tokio_util::sync::DropGuard,
}

/// Stops a child and reports how it ended; can be held separately from the child's lines.
#[derive(Debug, Clone)]
pub struct Handle {
    stop: CancellationToken,
    exit: watch::Receiver<Progress>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Progress {
    exit: Option<Exit>,
    /// The group is gone and the leader reaped.
    gone: bool,
}

impl Handle {
    /// Starts to stop the child; does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the leader has ended, for whatever reason. `None` only if the runtime went away
    /// first.
    pub async fn ended(&self) -> Option<Exit> {
        let mut exit = self.exit.clone();
        let seen = exit
            .wait_for(|progress| progress.exit.is_some())
            .await
            .ok()?;
        seen.exit.clone()
    }

    /// Waits until no process of the group is left.
    pub async fn gone(&self) {
        let mut exit = self.exit.clone();
        // An error means that the task ended, and with it, by its drop guard, the group.
        let _ = exit.wait_for(|progress| progress.gone).await;
    }
}

/// Lines for a child's stdin, written in the order in which they were accepted.
#[derive(Debug, Clone)]
pub struct Input {
    queue: mpsc::UnboundedSender<Queued>,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
}

#[derive(Debug)]
struct Queued {
    line: Bytes,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

/// The child no longer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server no longer reads its input")]
pub struct Closed;

impl Input {
    /// Queues one line, which must hold no line break. Waits while too many bytes are queued.
    pub async fn send(&self, line: Bytes) -> Result<(), Closed> {
        // One line may be larger than the whole budget; then it takes all of it and goes alone.
        let cost = line
            .len()
            .saturating_add(LINE_OVERHEAD_BYTES)
            .min(self.budget_bytes);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| Closed)?;
        self.queue
            .send(Queued {
                line,
                _permit: permit,
            })
            .map_err(|_| Closed)
    }

    /// Queues one line if there is room for it now, else drops it.
    pub fn try_send(&self, line: Bytes) -> Result<(), Closed> {
        let cost = line
            .len()
            .saturating_add(LINE_OVERHEAD_BYTES)
            .min(self.budget_bytes);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget)
            .try_acquire_many_owned(cost)
            .map_err(|_| Closed)?;
        self.queue
            .send(Queued {
                line,
                _permit: permit,
            })
            .map_err(|_| Closed)
    }
}

/// Starts a child. Its supervisor runs on `tasks`, which therefore empties only once its group is
/// gone.
pub fn spawn(config: &ChildConfig, tasks: &TaskTracker) -> Result<Child, SpawnError> {
    let shown = config.command.to_string_lossy().into_owned();
    let mut command = Command::new(&config.command);
    command
        .args(&config.args)
        .env_clear()
        .envs(environment(config))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(user) = &config.user {
        // As root, which `--server-user` asks for, this also leaves every other group.
        command.uid(user.uid).gid(user.gid);
    }
    let started = supervisor::start(&mut command).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => SpawnError::NotFound {
            command: shown.clone(),
        },
        std::io::ErrorKind::PermissionDenied => SpawnError::NotExecutable {
            command: shown.clone(),
        },
        _ => SpawnError::Other {
            command: shown.clone(),
            source,
        },
    })?;
    let pid = started.pid();

    let stop = CancellationToken::new();
    let (exit_tx, exit) = watch::channel(Progress::default());
    let (queue, queued) = mpsc::unbounded_channel();
    let (line_tx, lines) = mpsc::channel(16);
    // Semaphore permits are counted in u32 when acquired.
    let budget_bytes = config.limits.stdin_bytes.clamp(1, u32::MAX as usize);
    let budget = Arc::new(Semaphore::new(budget_bytes));
    tasks.spawn(supervisor::run(supervisor::Supervisor {
        name: Arc::clone(&config.name),
        limits: config.limits.clone(),
        chatter: Arc::clone(&config.chatter),
        started,
        queued,
        budget: Arc::clone(&budget),
        lines: line_tx,
        stop: stop.clone(),
        exit: exit_tx,
    }));
    Ok(Child {
        pid,
        input: Input {
            queue,
            budget,
            budget_bytes,
        },
        lines,
        handle: Handle {
            stop: stop.clone(),
            exit,
        },
        _stop_on_drop: stop.drop_guard(),
    })
}

fn environment(config: &ChildConfig) -> Vec<(OsString, OsString)> {
    let inherited = INHERITED.iter().map(OsString::from);
    inherited
        .chain(config.inherit.iter().cloned())
        .filter_map(|name| std::env::var_os(&name).map(|value| (name, value)))
        .chain(
            config
                .user
                .iter()
                .map(|user| (OsString::from("HOME"), user.home.clone())),
        )
        .chain(config.env.iter().cloned())
        .collect()
}

/// Whether the command can be found and executed, without running it: for an early and clear
/// message.
pub fn check_command(config: &ChildConfig) -> Result<(), SpawnError> {
    let shown = || config.command.to_string_lossy().into_owned();
    let candidates: Vec<PathBuf> = if Path::new(&config.command).components().count() > 1 {
        vec![PathBuf::from(&config.command)]
    } else {
        let path = environment(config)
            .into_iter()
            .rev()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value)
            .unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        std::env::split_paths(&path)
            .map(|folder| folder.join(&config.command))
            .collect()
    };
    let files: Vec<_> = candidates.iter().filter(|path| path.is_file()).collect();
    if files.is_empty() {
        return Err(SpawnError::NotFound { command: shown() });
    }
    let executable =
        |path: &&PathBuf| rustix::fs::access(path.as_path(), rustix::fs::Access::EXEC_OK).is_ok();
    if !files.iter().any(executable) {
        return Err(SpawnError::NotExecutable { command: shown() });
    }
    Ok(())
}
