//! `portcullis-gateway run`: the gateway of one McpServer, in a pod that the operator made.
//!
//! In: the bundle, from the API and from a mounted copy; mounted Secrets; requests of agents. Out:
//! answers, audit records on standard output, and an admin port that the kubelet, Prometheus and
//! the operator read. Must not do: start a server, or touch any object of the API but its own
//! ConfigMap and its server's McpApprovals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::api::contract;
use crate::gateway::approvals::{Approvals, ClusterApprovals, Records};
use crate::gateway::counters::Counters;
use crate::gateway::force::plan::Stdio;
use crate::gateway::force::{Environment, Sealing};
use crate::gateway::listener::{Routes, SINGLE_SERVER_PATH, serve_as};
use crate::gateway::observe::metrics::Metrics;
use crate::gateway::observe::recorder::ProgramRun;
use crate::gateway::process::{SetupError, Signals, audit, bind, raise_files};
use crate::gateway::{Gateway, Served, Shared};
use crate::policy::signature::PublicKey;
use crate::protocol::seal::Sealer;
use crate::telemetry::admin::{Admin, serve as serve_admin};
use crate::telemetry::process;

mod admin;
mod bundle_source;
pub mod install;
mod mounted_secrets;

use self::admin::GatewayAdmin;
use self::bundle_source::{ApplyResult, BundleNotice, Intake, Readers, Source, watch};
use self::mounted_secrets::{MOUNT_READ_INTERVAL, MountedFile, MountedKey, SecretMounts};

/// The API has this long at the start before the mounted copy of the bundle is taken.
const API_HEAD_START: Duration = Duration::from_secs(2);

/// Run the gateway of one McpServer in a cluster
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The McpServer's namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: String,
    /// The McpServer's name
    #[arg(long, value_name = "NAME")]
    pub server: String,
    /// The McpServer's UID: a bundle for another server, even one of the same name, is refused
    #[arg(long, value_name = "UID")]
    pub server_uid: String,
    /// The operator's public key, by whose signature bundles are believed; may be given several
    /// times
    #[arg(long = "bundle-key", value_name = "HEX", required = true)]
    pub bundle_keys: Vec<PublicKey>,
    /// The mounted copy of the bundle; the ConfigMap NAME-gateway is read and watched through the
    /// API besides
    #[arg(long, value_name = "FILE")]
    pub bundle_file: PathBuf,
    /// Where Secrets are mounted, each key as DIR/SECRET/KEY
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: PathBuf,
    /// The keys that seal what clients hand back, one base64 key of 32 bytes a line; the gateway
    /// waits for the file
    #[arg(long, value_name = "FILE")]
    pub sealing_keys_file: PathBuf,
    /// The bridge of a stdio server
    #[arg(long, value_name = "URL", requires = "upstream_bearer_file")]
    pub upstream_url: Option<String>,
    /// The secret that the bridge wants to see as a bearer; the gateway waits for the file
    #[arg(long, value_name = "FILE", requires = "upstream_url")]
    pub upstream_bearer_file: Option<PathBuf>,
    /// The folder for the journal of what limits count; without it counts are lost with the process
    #[arg(long, value_name = "DIR")]
    pub counters_dir: Option<PathBuf>,
    /// Where MCP clients connect, at /mcp; [::] is IPv4 as well
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8080")]
    pub listen: SocketAddr,
    /// Where /livez, /readyz, /metrics and /report are
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9090")]
    pub admin_listen: SocketAddr,
    /// Renew the watch on the ConfigMap after this many seconds, which also detects a watch that
    /// went silent
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub watch_timeout: u32,
    /// On SIGTERM, keep accepting requests for this many seconds while load balancers notice that
    /// the pod is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    pub lame_duck: u32,
    /// After that, give calls in progress this many seconds to finish
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub grace_period: u32,
    /// After that, wait at most this many seconds until the operator has stored every violation
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub report_wait: u32,
}

/// Why the gateway did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system does not give what is needed.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Runs until SIGTERM or SIGINT; a second signal ends it at once.
///
/// # Errors
/// [`RunError`] when it could not start.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    raise_files();
    let mut signals = Signals::new()?;
    let listener = bind(args.listen, "--listen")?;
    let admin_listener = bind(args.admin_listen, "--admin-listen")?;
    let (audit, audit_writer) = audit(None)?;
    tracing::info!(
        listen = %listener.local_addr().unwrap_or(args.listen),
        admin = %admin_listener.local_addr().unwrap_or(args.admin_listen),
        "starting the gateway of {}/{}",
        args.namespace,
        args.server
    );
    let mut registry = Registry::default();
    process::register(&mut registry);
    let metrics = Metrics::register(&mut registry);

    let mut mounted = SecretMounts::new(args.secrets_dir.clone(), own_keys(&args));
    mounted.refresh();
    let instance = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    let approvals = Arc::new(ClusterApprovals::new(
        &args.namespace,
        &args.server,
        &instance,
        Records {
            log: Some(audit.clone()),
            times: Some(metrics.approval_decisions.clone()),
        },
    ));
    let shared = Shared {
        run: ProgramRun::named(instance),
        audit,
        metrics,
        sealing: sealing(&args),
        approvals: Approvals::Cluster(Arc::clone(&approvals)),
        counters: match args.counters_dir.clone() {
            Some(folder) => Counters::kept_in(folder).map_err(SetupError::Counters)?,
            None => Counters::default(),
        },
    };
    let environment = Environment {
        secrets: Box::new(mounted.held()),
        stdio: stdio(&args),
        hosts: service_names(&args.namespace, &args.server),
    };
    let served = Served {
        name: format!("{}/{}", args.namespace, args.server),
        uid: args.server_uid.clone(),
    };
    let gateway = Gateway::waiting(&shared, environment, served);
    gateway.keep_inventory();
    gateway.notify_approvers();
    let readers = Readers::default();
    let gateway_admin = Arc::new(GatewayAdmin::new(Arc::clone(&gateway), readers.clone()));
    let routes = Arc::new(Routes::default());
    routes.set([(SINGLE_SERVER_PATH.to_owned(), Arc::clone(&gateway))].into());

    let (stop_http, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let admin = tokio::spawn(serve_admin(
        admin_listener,
        Arc::clone(&gateway_admin) as Arc<dyn Admin>,
        Arc::new(registry),
        stop_admin.clone(),
    ));
    let grace = Duration::from_secs(args.grace_period.into());
    let http = tokio::spawn(serve_as(
        listener,
        routes,
        gateway.transport(),
        stop_http.clone(),
        grace,
    ));
    let target = watch::Target {
        namespace: args.namespace.clone(),
        name: format!("{}-gateway", args.server),
        renewed_after: Duration::from_secs(args.watch_timeout.into()),
    };
    let renewed_after = target.renewed_after;
    tokio::spawn(Arc::clone(&approvals).follow(renewed_after));
    tokio::spawn(approvals.record_steps());
    let (notify, notices) = mpsc::channel(4);
    tokio::spawn(watch::follow(target, notify));
    let keeping = tokio::spawn(keep(
        Intake::new(Arc::clone(&gateway), readers, args.bundle_keys.clone()),
        mounted,
        MountedFile::new(args.bundle_file.clone()),
        notices,
    ));

    signals.next().await;
    gateway_admin.terminate();
    tracing::info!("stopping: not ready for new clients, calls in progress continue");
    let ending = async {
        tokio::time::sleep(Duration::from_secs(args.lame_duck.into())).await;
        stop_http.cancel();
        if let Err(error) = http.await {
            tracing::error!(%error, "the listener failed");
        }
        let wait = Duration::from_secs(args.report_wait.into());
        if tokio::time::timeout(wait, gateway_admin.all_stored())
            .await
            .is_err()
        {
            tracing::warn!("the last violations were not stored by the operator within {wait:?}");
        }
        keeping.abort();
        gateway.shutdown().await;
        stop_admin.cancel();
        if let Err(error) = admin.await {
            tracing::error!(%error, "the admin port failed");
        }
    };
    tokio::select! {
        () = ending => tracing::info!("stopped"),
        () = signals.next() => tracing::warn!("stopped immediately by a second signal"),
    }
    drop(audit_writer);
    Ok(())
}

/// Applies bundles and Secrets as they arrive, until the watch ends.
async fn keep(
    mut intake: Intake,
    mut mounted: SecretMounts,
    mut file: MountedFile,
    mut notices: mpsc::Receiver<BundleNotice>,
) {
    let file_from = Instant::now() + API_HEAD_START;
    let mut look = tokio::time::interval(MOUNT_READ_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut api_spoke = false;
    let mut said = None;
    let mut unready = Some(String::new());
    loop {
        let now = intake.unready();
        if unready != now {
            match &now {
                None => tracing::info!("ready"),
                Some(why) => tracing::warn!("not ready: {why}"),
            }
            unready = now;
        }
        tokio::select! {
            notice = notices.recv() => match notice {
                None => return,
                Some(BundleNotice::Bundle(text)) => {
                    if said.take().is_some() {
                        tracing::info!("the ConfigMap is watched through the API again");
                    }
                    log("the API", &intake.offer(Source::Api, text.into_bytes()));
                    api_spoke = true;
                }
                Some(other) => {
                    if said.as_ref() != Some(&other) {
                        complain(&other);
                    }
                    said = Some(other);
                }
            },
            _ = look.tick() => {
                if mounted.refresh() {
                    match intake.secrets_changed() {
                        ApplyResult::Refused(why) => tracing::error!(
                            "the current Secrets cannot be used: {why}; keeping the previous configuration"
                        ),
                        ApplyResult::InForce | ApplyResult::Known => tracing::info!("reloaded the mounted Secrets"),
                    }
                }
                if (api_spoke || Instant::now() >= file_from)
                    && let Some(text) = file.changed()
                {
                    log("the mounted copy", &intake.offer(Source::File, text));
                }
            }
        }
    }
}

fn log(from: &str, result: &ApplyResult) {
    match result {
        ApplyResult::InForce => tracing::info!("the bundle from {from} is in force"),
        ApplyResult::Known => tracing::debug!("the bundle from {from} is already in force"),
        ApplyResult::Refused(why) => {
            tracing::error!(
                "the bundle from {from} is refused: {why}; keeping the previous bundle"
            );
        }
    }
}

fn complain(notice: &BundleNotice) {
    match notice {
        BundleNotice::Bundle(_) => {}
        BundleNotice::Without => {
            tracing::warn!("the ConfigMap has no bundle.json; keeping the previous bundle")
        }
        BundleNotice::Absent => tracing::warn!(
            "the ConfigMap does not exist yet; waiting for the operator to create it"
        ),
        BundleNotice::Deleted => {
            tracing::warn!("the ConfigMap was deleted; keeping the previous bundle")
        }
        BundleNotice::Trouble(why) => {
            tracing::warn!(
                "the ConfigMap cannot be watched through the API: {why}; keeping the previous bundle and retrying"
            );
        }
    }
}

/// The operator's names of the Secret with the sealing keys and of the one with the bridge's
/// bearer, so that they are reported as what they are when they are missing.
fn sealing(args: &RunArgs) -> Sealing {
    Sealing::Secret {
        name: contract::sealing_secret(&args.server, &args.server_uid),
        key: contract::SEALING_KEY.to_owned(),
    }
}

fn bearer(args: &RunArgs) -> (String, String) {
    let name = contract::bearer_secret(&args.server, &args.server_uid);
    (name, contract::BEARER_KEY.to_owned())
}

fn own_keys(args: &RunArgs) -> Vec<MountedKey> {
    let mut own = Vec::new();
    if let Sealing::Secret { name, key } = sealing(args) {
        let path = args.sealing_keys_file.clone();
        let is_usable = |value: &[u8]| {
            std::str::from_utf8(value).is_ok_and(|text| Sealer::from_key_file(text).is_ok())
        };
        own.push(MountedKey {
            name,
            key,
            path,
            is_usable,
        });
    }
    if let Some(path) = args.upstream_bearer_file.clone() {
        let (name, key) = bearer(args);
        own.push(MountedKey {
            name,
            key,
            path,
            is_usable: |value| value.iter().all(u8::is_ascii_graphic),
        });
    }
    own
}

fn stdio(args: &RunArgs) -> Stdio {
    match args.upstream_url.clone() {
        Some(url) => Stdio::Bridge {
            url,
            bearer: bearer(args),
        },
        None => Stdio::Nowhere,
    }
}

/// The names under which agents reach the gateway's Service (Kubernetes, "DNS for Services and
/// Pods"), with any port.
fn service_names(namespace: &str, server: &str) -> Vec<String> {
    ["", ".NS", ".NS.svc", ".NS.svc.cluster.local"]
        .map(|domain| format!("{server}-gateway{}", domain.replace("NS", namespace)))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_names_are_those_that_pods_resolve() {
        assert_eq!(
            service_names("ml", "mlflow"),
            [
                "mlflow-gateway",
                "mlflow-gateway.ml",
                "mlflow-gateway.ml.svc",
                "mlflow-gateway.ml.svc.cluster.local",
            ]
        );
    }
}
