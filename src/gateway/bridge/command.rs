//! `portcullis-gateway bridge -- CMD`: the bridge as a process of its own, often PID 1 of the
//! server's container.
//!
//! In: arguments. Out: a listening bridge, until SIGTERM or SIGINT, or until the server does not
//! start. It must not listen beyond this machine without a bearer.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::credential_files::CredentialFiles;
use super::{Bearer, BearerError, Bridge, BridgeConfig, Limits, Sessions, StartError};
use crate::gateway::rotation::Rotating;
use crate::gateway::upstream::stdio::orphans;
use crate::policy::credential::CredentialVariables;
use crate::telemetry::listen::{ListenError, bind};

/// Between two reads of the bearer's file.
const BEARER_READ_INTERVAL: Duration = Duration::from_millis(500);

/// A bearer that was replaced is accepted for this time: gateways use it until their own copy of
/// the file has changed.
const BEARER_ACCEPTED_AFTER_CHANGE: Duration = Duration::from_secs(600);

/// Serve an MCP server that speaks stdio over Streamable HTTP, for its gateway.
#[derive(Debug, clap::Args)]
pub struct BridgeArgs {
    /// Address to listen on; the endpoint is /mcp, probes are /livez and /readyz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// File that holds the secret which requests must present as a bearer
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "insecure_no_bearer"
    )]
    pub bearer_file: Option<PathBuf>,
    /// Admit requests without a bearer; only on a loopback address, where every local process can
    /// reach the server
    #[arg(long, conflicts_with = "bearer_file")]
    pub insecure_no_bearer: bool,
    /// The server's name in the log
    #[arg(long, value_name = "NAME", default_value = "server")]
    pub name: String,
    /// One child process for all sessions, or one for each
    #[arg(long, value_enum, default_value = "shared")]
    pub sessions: Sessions,
    /// Sessions at once [default: 256 shared, 16 per-session]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: Option<u32>,
    /// End a session that has not been used for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    pub session_idle_timeout: u64,
    /// Largest request body
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..))]
    pub max_request_bytes: u32,
    /// Set a variable for the server; it inherits only PATH, HOME and LANG (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(OsString, OsString)>,
    /// Let the server inherit this variable too; `*` for all (repeatable)
    #[arg(long, value_name = "NAME")]
    pub pass_env: Vec<OsString>,
    /// The variables of a caller's credential, as a list such as
    /// [{"name":"USER","value":"alice"},{"name":"PASSWORD","secret":"alice","key":"password"}];
    /// with any, a process has only what its gateway names (repeatable; needs --sessions
    /// per-session)
    #[arg(long = "credential", value_name = "JSON", requires = "credentials_dir")]
    pub credentials: Vec<CredentialVariables>,
    /// Where the Secrets of credentials are mounted, each key as DIR/SECRET/KEY
    #[arg(long, value_name = "DIR")]
    pub credentials_dir: Option<PathBuf>,
    /// Also write why the bridge ends to this file, as pods have one for `kubectl describe`
    #[arg(long, value_name = "FILE")]
    pub termination_log: Option<PathBuf>,
    /// The server's command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{path}: {source}; mount the bearer's Secret there, or give another --bearer-file", path = path.display())]
    BearerFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}", path = path.display())]
    Bearer { path: PathBuf, source: BearerError },
    #[error(
        "--insecure-no-bearer listens on loopback only, and {0} is not; use --bearer-file, or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    #[error("no command is given; write it after --")]
    NoCommand,
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
    #[error("the server does not start: {0}")]
    NeverStarts(String),
}

/// Runs until a signal asks it to stop, or the server does not start; then no process of the
/// server's is left.
pub async fn run(args: BridgeArgs) -> Result<(), CommandError> {
    let log = args.termination_log.clone();
    let ended = serve(args).await;
    if let (Err(error), Some(log)) = (&ended, log)
        && let Err(error) = std::fs::write(&log, error.to_string())
    {
        tracing::warn!(%error, "{} cannot be written", log.display());
    }
    ended
}

async fn serve(args: BridgeArgs) -> Result<(), CommandError> {
    let bearer_file = match &args.bearer_file {
        Some(path) => Some(BearerFile::open(path)?),
        None if args.listen.ip().is_loopback() => None,
        None => return Err(CommandError::Exposed(args.listen)),
    };
    crate::gateway::process::raise_files();
    if let Err(error) = crate::gateway::process::keep_memory_private() {
        tracing::warn!(%error, "the server can read the memory of this process");
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Signals)?;
    let listener = bind(args.listen, "--listen")?;
    let address = listener.local_addr().unwrap_or(args.listen);

    if let Err(error) = orphans::adopt() {
        tracing::warn!(%error, "processes that leave a server's process group cannot be found");
    }
    let orphans_stop = CancellationToken::new();
    let orphans = tokio::spawn(orphans::care_for(orphans_stop.clone()));
    let bearer = bearer_file.as_ref().map(|file| file.bearer.clone());
    let credentials = args.credentials_dir.clone().map(|dir| {
        let credentials = args.credentials.clone();
        CredentialFiles::new(credentials, dir)
    });
    let mut config = config(args, bearer)?;
    config.credentials = credentials.as_ref().map(CredentialFiles::table);
    let bridge = Bridge::start(config)?;
    let mut rereading = Vec::new();
    rereading.extend(bearer_file.map(|file| tokio::spawn(file.follow())));
    rereading.extend(credentials.map(|files| tokio::spawn(files.follow(Arc::clone(&bridge)))));
    tracing::info!(%address, "bridge listens on http://{address}/mcp");
    let (watched, mut gave_up) = (Arc::clone(&bridge), None);
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            why = watched.gives_up() => gave_up = Some(why),
        }
    };
    bridge.serve(listener, asked).await;
    for rereading in rereading {
        rereading.abort();
    }
    orphans_stop.cancel();
    let _ = orphans.await;
    gave_up.map_or(Ok(()), |why| Err(CommandError::NeverStarts(why)))
}

/// The file with the bearer, which may change while the bridge runs.
struct BearerFile {
    path: PathBuf,
    values: Rotating,
    bearer: Bearer,
}

impl BearerFile {
    fn open(path: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read_to_string(path).map_err(|source| CommandError::BearerFile {
            path: path.to_owned(),
            source,
        })?;
        let secret = text.trim_ascii();
        let bearer = Bearer::new(secret).map_err(|source| CommandError::Bearer {
            path: path.to_owned(),
            source,
        })?;
        let mut values = Rotating::new(BEARER_ACCEPTED_AFTER_CHANGE, |value| {
            Bearer::check(value).is_ok()
        });
        values.read(Some(secret.as_bytes()), Instant::now());
        Ok(BearerFile {
            path: path.to_owned(),
            values,
            bearer,
        })
    }

    /// Reads the file again and again, and accepts what it says.
    async fn follow(mut self) {
        let mut reads = interval(BEARER_READ_INTERVAL);
        reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = None;
        loop {
            reads.tick().await;
            let read = std::fs::read(&self.path).ok();
            let value = read.as_deref().map(<[u8]>::trim_ascii);
            if value == refused.as_deref() && value.is_some() {
                continue;
            }
            refused = None;
            if let Err(error) = self.take(value, Instant::now()) {
                let path = self.path.display();
                tracing::error!("{path}: {error}; the previous bearer stays in use");
                refused = value.map(<[u8]>::to_vec);
            }
        }
    }

    fn take(&mut self, value: Option<&[u8]>, now: Instant) -> Result<(), BearerError> {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            Bearer::check(value)?;
        }
        self.values.read(value, now);
        self.bearer.accept(&self.values.values(now))
    }
}

fn config(args: BridgeArgs, bearer: Option<Bearer>) -> Result<BridgeConfig, CommandError> {
    let mut command = args.command.into_iter();
    let mut config = BridgeConfig::new(args.name, command.next().ok_or(CommandError::NoCommand)?);
    config.args = command.collect();
    config.env = args.env;
    config.inherit = if args.pass_env.iter().any(|name| name == "*") {
        std::env::vars_os().map(|(name, _)| name).collect()
    } else {
        args.pass_env
    };
    config.sessions = args.sessions;
    config.bearer = bearer;
    let most = match args.max_sessions {
        Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
        None => args.sessions.most(),
    };
    config.limits = Limits {
        max_sessions: most,
        session_idle: Duration::from_secs(args.session_idle_timeout),
        request_bytes: usize::try_from(args.max_request_bytes).unwrap_or(usize::MAX),
        ..Limits::default()
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn a_file_without_a_good_bearer_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bearer");
        let (old, new) = ("the-first-bearer-of-all", "the-second-bearer-of-all");
        std::fs::write(&path, old).unwrap();
        let mut file = BearerFile::open(&path).unwrap();
        let admits = |file: &BearerFile, bearer: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {bearer}")).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            file.bearer.admits(&headers)
        };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for bad in [
            &b"weak"[..],
            b"with spaces in the middle",
            b"\xff\xfe0123456789abcdef",
        ] {
            assert_eq!(file.take(Some(bad), start), Err(BearerError::Weak));
        }
        assert_eq!(file.take(None, start), Ok(()));
        assert_eq!(file.take(Some(b""), start), Ok(()));
        assert!(admits(&file, old) && !admits(&file, "weak"));
        file.take(Some(new.as_bytes()), start).unwrap();
        assert!(admits(&file, old) && admits(&file, new));
        file.take(Some(new.as_bytes()), after(601)).unwrap();
        assert!(!admits(&file, old) && admits(&file, new));
    }
}
