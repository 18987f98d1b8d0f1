//! `portcullis serve`: the gateways of some files, on this machine, without a cluster.
//!
//! In: files, an address. Out: a gateway for each McpServer at `/NAME/mcp`, stdio servers as child
//! processes, approvals and status over a Unix socket. Files are reloaded when they change;
//! mistakes in them are reported and change nothing. Startup is all or nothing: either everything
//! that the files define runs, or the command ends and leaves nothing behind.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::load;
use super::output::{Failure, plural};
use super::project::{Accepted, Finding, Name, Project};
use super::socket;
use super::usage;
use crate::api::policy::McpPolicyStatus;
use crate::api::server::McpServer;
use crate::gateway::approvals::{Approvals, Memory, Records};
use crate::gateway::force::Sealing;
use crate::gateway::grants::Grants;
use crate::gateway::listener::Routes;
use crate::gateway::observe::metrics::Metrics;
use crate::gateway::observe::recorder::ProgramRun;
use crate::gateway::process::{Signals, audit, bind, keep_memory_private, raise_files};
use crate::gateway::upstream::stdio::{RunAs, orphans};
use crate::gateway::{Gateway, Shared};
use crate::policy::bundle::Bundle;
use crate::policy::diagnostic::Level;
use crate::status::server::Refusal;
use crate::telemetry::{admin, logging, process};

mod control;
mod files;
mod force;
mod group;
mod sealing;
mod secrets;
mod setup;
mod state;
mod table;
mod user;
mod variables;

use self::files::Watched;
use self::force::paths;
use self::setup::{counters, report_readers, state_folder};

/// How long servers may take to list their tools before the table is shown without them.
const FIRST_LISTING: Duration = Duration::from_secs(90);
/// The time that calls in flight get at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Protect MCP servers on this machine, with the same YAML that a cluster uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a directory of YAML files; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// Where MCP clients connect; each server is at /NAME/mcp
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT", value_parser = usage::address)]
    listen: SocketAddr,
    /// A folder of Secrets, as Kubernetes mounts them: DIR/NAMESPACE/NAME/KEY; it is read again
    /// when it changes
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Set an environment variable of stdio servers, overriding their YAML; may be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Let stdio servers have this variable of the environment of this command; may be given
    /// several times
    #[arg(long, value_name = "NAME")]
    pass_env: Vec<String>,
    /// Run stdio servers as this user (a name, a number, or UID:GID), which keeps them from reading
    /// keys and deciding approvals; needs root
    #[arg(long, value_name = "USER")]
    server_user: Option<String>,
    /// Policies in this namespace are guardrails over all servers
    #[arg(long, default_value = "portcullis-system", value_name = "NAMESPACE")]
    operator_namespace: String,
    /// Also write the audit log here; standard output then stays quiet on a terminal
    #[arg(long, value_name = "FILE")]
    audit_file: Option<PathBuf>,
    /// Serve /metrics, /report, /livez and /readyz here
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = usage::address)]
    admin_listen: Option<SocketAddr>,
    /// A file with the bearer token for /report; without it /report is closed
    #[arg(long, value_name = "FILE", requires = "admin_listen")]
    report_token_file: Option<PathBuf>,
    /// The socket for `status` and `approvals` [default: $PORTCULLIS_SOCKET or
    /// $XDG_RUNTIME_DIR/portcullis/serve.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Let the members of this group (a name or a number) use the socket: they may see and decide
    /// approvals. Its folder then belongs to the group, so it has to be one of its own
    #[arg(long, value_name = "GROUP", requires = "socket")]
    socket_group: Option<String>,
    /// The folder for what limits have counted and for the key of sessions, which survive restarts
    /// [default: $XDG_STATE_HOME/portcullis or ~/.local/state/portcullis]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The file with the keys that sessions are sealed with, the newest first, each as
    /// `openssl rand -base64 32` makes it [default: sealing.key in the folder for state, made if it
    /// is missing]
    #[arg(long, value_name = "FILE")]
    sealing_key: Option<PathBuf>,
    /// The format of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    log_format: logging::Format,
}

/// A variable with its value.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "`{text}` is not a variable with its value; write NAME=VALUE"
        )),
    }
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`Failure`] when it could not start; it then leaves nothing running.
pub fn run(args: Args) -> Result<(), Failure> {
    logging::start(args.log_format, "warn,portcullis=info");
    keep_memory_private().map_err(|error| {
        Failure::new(format!(
            "the system does not let this process protect its memory from other processes, so every server could read \
            your keys: {error}"
        ))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    let result = runtime.block_on(serve(args));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// One McpServer that is being served.
struct Served {
    gateway: Arc<Gateway>,
    server: McpServer,
    sequence: u64,
    environment: EnvironmentKey,
    created: Timestamp,
    /// The wanted configuration; it differs from the enforced one only while a change is refused.
    wanted: Bundle,
}

type EnvironmentKey = (super::project::FileSecrets, BTreeMap<String, String>);

/// What changes while serving.
struct State {
    project: Project,
    accepted: Accepted,
    served: BTreeMap<Name, Served>,
    /// The mistakes in the current files; `status` shows them too.
    findings: Vec<Finding>,
    policies_created: HashMap<Name, Timestamp>,
    policy_statuses: HashMap<Name, McpPolicyStatus>,
    /// Servers whose newest version is not in force, and why.
    refusals: HashMap<Name, Refusal>,
}

struct Serving {
    args: Args,
    env: BTreeMap<String, String>,
    server_user: Option<RunAs>,
    shared: Shared,
    memory: Arc<Memory>,
    routes: Arc<Routes>,
    state: Mutex<State>,
    started: Timestamp,
    address: SocketAddr,
    report_readers: Grants,
}

async fn serve(args: Args) -> Result<(), Failure> {
    let mut watched = Watched::new(&args.filename, args.secrets.as_deref());
    let mut project = Project::load(&args.filename, &args.operator_namespace)
        .map_err(|findings| failed(&findings))?;
    load::secrets(&mut project, args.secrets.as_deref())?;
    for ignored in &project.ignored {
        eprintln!("note: {ignored}");
    }
    let findings = project.findings();
    for warning in findings
        .iter()
        .filter(|finding| finding.level == Level::Warning)
    {
        eprintln!("{warning}");
    }
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return Err(failed(&findings));
    }
    if project.servers.is_empty() {
        return Err(Failure::new(
            "these files contain no McpServer; add one, as examples/quickstart/server.yaml shows",
        ));
    }
    paths(&project)?;

    let here = |name: &str| std::env::var(name).ok();
    let env = variables::given(&args.env, &args.pass_env, here).map_err(Failure::new)?;
    let server_user = match &args.server_user {
        Some(named) => Some(user::find(named).map_err(Failure::new)?),
        None => None,
    };
    raise_files();
    orphans::adopt().map_err(|error| {
        Failure::new(format!(
            "the system does not let this process adopt processes that its servers leave behind: {error}"
        ))
    })?;
    // Acquire everything that another program may hold before starting any child process.
    let mut signals = Signals::new()?;
    let listener = bind(args.listen, "--listen")?;
    let admin_listener = match args.admin_listen {
        Some(address) => Some(bind(address, "--admin-listen")?),
        None => None,
    };
    let socket_path = args.socket.clone().unwrap_or_else(socket::default_path);
    let approvers = args.socket_group.as_deref().map(group::find).transpose();
    let approvers = approvers.map_err(Failure::new)?;
    let control = socket::Listener::bind(&socket_path, approvers).map_err(Failure::new)?;
    let report_readers = report_readers(args.report_token_file.as_ref())?;
    let folder = state_folder(args.state.as_deref())?;
    let counters = counters(&folder)?;
    let sealer = sealing::sealer(args.sealing_key.as_deref(), &folder).map_err(Failure::new)?;
    let (audit, audit_writer) = audit(args.audit_file.as_deref())?;

    let mut registry = Registry::default();
    process::register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let memory = Arc::new(Memory::recorded(Records {
        log: Some(audit.clone()),
        times: Some(metrics.approval_decisions.clone()),
    }));
    let serving = Arc::new(Serving {
        env,
        server_user,
        shared: Shared {
            run: ProgramRun::named(&uuid::Uuid::new_v4().simple().to_string()[..12]),
            audit,
            metrics,
            sealing: Sealing::Own(Arc::new(sealer)),
            approvals: Approvals::Memory(Arc::clone(&memory)),
            counters,
        },
        memory,
        routes: Arc::new(Routes::default()),
        state: Mutex::new(State {
            project: Project::default(),
            accepted: Accepted::default(),
            served: BTreeMap::new(),
            findings: Vec::new(),
            policies_created: HashMap::new(),
            policy_statuses: HashMap::new(),
            refusals: HashMap::new(),
        }),
        report_readers,
        started: Timestamp::now(),
        address: listener.local_addr().unwrap_or(args.listen),
        args,
    });
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    // Before the servers list their tools, so that a server whose URL leads back here gets an
    // answer, and is named, at once.
    let http = tokio::spawn(crate::gateway::listener::serve(
        listener,
        Arc::clone(&serving.routes),
        stop.clone(),
        GRACE,
    ));
    let orphans_stop = CancellationToken::new();
    let orphans = tokio::spawn(orphans::care_for(orphans_stop.clone()));
    let end = async |serving: &Serving| {
        serving.shutdown().await;
        orphans_stop.cancel();
        if let Err(error) = orphans.await {
            tracing::error!(%error, "some processes that the servers left behind were not ended");
        }
    };
    let result = start(&serving, project, &mut signals).await;
    if let Err(failure) = result {
        stop.cancel();
        end(&serving).await;
        return Err(failure);
    }

    let registry = Arc::new(registry);
    if let Some(listener) = admin_listener {
        tokio::spawn(admin::serve(
            listener,
            Arc::clone(&serving) as Arc<dyn admin::Admin>,
            registry,
            stop.clone(),
        ));
    }
    tokio::spawn(control.serve(
        Arc::clone(&serving) as Arc<dyn socket::Handler>,
        stop.clone(),
    ));

    let expiry = tokio::spawn(Arc::clone(&serving.memory).record_expiries());
    let reload = async {
        let mut poll = tokio::time::interval(files::POLL_INTERVAL);
        loop {
            poll.tick().await;
            if watched.changed() {
                serving.reload().await;
            }
        }
    };
    tokio::select! {
        () = signals.next() => {}
        () = reload => {}
    }
    eprintln!(
        "\nStopping; waiting for calls in flight (at most {} s) …",
        GRACE.as_secs()
    );
    stopping.cancel();
    expiry.abort();
    if let Err(error) = http.await {
        tracing::error!(%error, "the listener failed");
    }
    let summary = table::summary(&serving.lock(), serving.started);
    end(&serving).await;
    drop(audit_writer);
    eprint!("{summary}");
    Ok(())
}

/// Starts every gateway and waits for their tools, then shows the table.
async fn start(
    serving: &Arc<Serving>,
    project: Project,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let findings = serving.put(project).await;
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return Err(failed(&findings));
    }
    let gateways = serving.gateways();
    for gateway in &gateways {
        if let Some(why) = gateway.uncounted() {
            return Err(Failure::new(format!(
                "McpServer {}: what its limits count cannot be kept: {why}; --state DIR names another folder",
                gateway.observe.server()
            )));
        }
    }
    eprintln!("Starting {} …", plural(gateways.len(), "MCP server"));
    let listed = async {
        for gateway in &gateways {
            gateway.inventory.first().await;
        }
    };
    let in_time = tokio::select! {
        () = signals.next() => return Err(Failure { message: "stopped before the servers had started".to_owned(), code: 130 }),
        in_time = tokio::time::timeout(FIRST_LISTING, listed) => in_time.is_ok(),
    };
    for gateway in &gateways {
        let latest = gateway.inventory.latest();
        let problem = match (&latest.error, in_time || latest.time.is_some()) {
            (Some(error), _) => error.clone(),
            (None, false) => format!(
                "it did not list its tools within {} s",
                FIRST_LISTING.as_secs()
            ),
            (None, true) => continue,
        };
        let server = gateway.observe.server();
        if gateway
            .snapshot()
            .is_some_and(|snapshot| snapshot.server.spec.upstream.stdio.is_some())
        {
            let problem = match gateway.why_down().await {
                Some(why) => why,
                None => problem,
            };
            let said = gateway.last_words().map_or_else(
                || "it wrote nothing to its standard error".to_owned(),
                |line| format!("its last line was: {}", super::output::visible(&line)),
            );
            return Err(Failure::new(format!(
                "McpServer {server}: its command did not start to speak MCP: {problem}; {said}\n  The log above has the rest of \
                its output; try the command of spec.upstream.stdio by hand."
            )));
        }
        eprintln!(
            "warning: McpServer {server}: {problem}\n  The gateway retries until it answers; until then, calls are \
            answered with an error."
        );
    }
    eprint!("{}", table::start(&serving.lock(), serving.address));
    Ok(())
}

impl Serving {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn gateways(&self) -> Vec<Arc<Gateway>> {
        self.lock()
            .served
            .values()
            .map(|served| Arc::clone(&served.gateway))
            .collect()
    }

    async fn shutdown(&self) {
        let gateways = self.gateways();
        let all = gateways.iter().map(|gateway| gateway.shutdown());
        futures::future::join_all(all).await;
    }
}

fn failed(findings: &[Finding]) -> Failure {
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .map(ToString::to_string)
        .collect();
    Failure::new(format!(
        "nothing was started; correct this first:\n{}",
        errors.join("\n")
    ))
}
