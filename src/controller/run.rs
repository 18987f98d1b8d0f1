//! The operator as a process: watches, the Lease, workers, the admin port.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use kube::Client;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{cache_freshness, cluster_issuer, triggers, watches, workers};
use crate::controller::args::Args;
use crate::controller::caches::Caches;
use crate::controller::context::Context;
use crate::controller::events::Events;
use crate::controller::issuer_keys::ClusterIssuer;
use crate::controller::key::{self, KeyError, OperatorKey};
use crate::controller::memory::Memory;
use crate::controller::metrics::{Kind, KindLabels, Metrics};
use crate::controller::names::MANAGED_BY;
use crate::controller::policy::diagnostics::PolicyDiagnostics;
use crate::controller::queues::Queues;
use crate::controller::runtime::client::{self, ClientError};
use crate::controller::runtime::leader_election::{LeaderElector, WriteFence};
use crate::controller::runtime::writer::{self, WriteError};
use crate::controller::server::build::wanted::Settings;
use crate::telemetry::listen::{ListenError, bind};
use crate::telemetry::{admin, process};

/// The longest wait for the release of the Lease: a moment's work, but for an API server that has
/// much to do; all the time that it takes is less than another replica would wait without it.
const LEASE_RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
const UNLISTED: &str = "not everything has been listed yet; are the CRDs installed, and may the service account list them?";

/// What there is to wait for before this replica is any use, or None.
type Missing = Option<String>;

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the Secret for the operator's key cannot be made: {0}")]
    KeySecret(#[source] WriteError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("signals cannot be awaited: {0}")]
    Signals(#[source] std::io::Error),
    #[error("another replica took the Lease over; this one ends, so that never two of them write")]
    LeaseLost,
    #[error(transparent)]
    Behind(#[from] cache_freshness::Behind),
    #[error("a part of the operator has stopped; the process exits so that it is restarted")]
    Stopped,
}

/// Runs until SIGTERM or SIGINT, or until another replica has taken over.
pub async fn run(args: Args) -> Result<(), RunError> {
    let mut signals = Signals::new()?;
    let mut registry = Registry::default();
    process::register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let (missing, shown) = watch::channel::<Missing>(Some(UNLISTED.to_owned()));
    let stop = CancellationToken::new();
    let listener = bind(args.admin_listen, "--admin-listen")?;
    let queues = Arc::new(Queues::default());
    let admin = Arc::new(AdminPort {
        missing: shown,
        queues: Arc::clone(&queues),
        metrics: metrics.clone(),
    });
    tokio::spawn(admin::serve(
        listener,
        admin,
        Arc::new(registry),
        stop.clone(),
    ));
    let fence = WriteFence::default();
    let clients = client::connect(&metrics, &fence, args.watch_duration).await?;
    let mut contender = LeaderElector::new(
        clients.once,
        &args.namespace,
        &args.lease_name,
        &args.pod_name,
        args.lease_duration,
        fence.clone(),
    );
    let result = tokio::select! {
        result = lead(args, clients.again, metrics, queues, missing, &mut contender) => result,
        () = signals.any() => Ok(()),
    };
    // A replica that waits for the Lease need not wait until it has ended.
    if fence.is_open()
        && tokio::time::timeout(LEASE_RELEASE_TIMEOUT, contender.release())
            .await
            .is_err()
    {
        tracing::warn!("the Lease was not released in time; another replica waits until it ends");
    }
    stop.cancel();
    result
}

struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Self, RunError> {
        let on = |kind| signal(kind).map_err(RunError::Signals);
        Ok(Signals(
            on(SignalKind::terminate())?,
            on(SignalKind::interrupt())?,
        ))
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Keeps the caches warm until the Lease is ours, then works until it is lost.
async fn lead(
    args: Args,
    client: Client,
    metrics: Metrics,
    queues: Arc<Queues>,
    missing: watch::Sender<Missing>,
    contender: &mut LeaderElector,
) -> Result<(), RunError> {
    let (all, policies) = watches::counts(&args.watch_namespace, &args.namespace);
    let ctx = Arc::new(Context {
        settings: Settings {
            gateway_image: args.gateway_image.clone(),
            gateway_image_pull_policy: args.gateway_image_pull_policy.clone(),
            admin_from: args.admin_from.clone(),
            gateway_egress: args.gateway_egress.clone(),
        },
        key: OnceLock::new(),
        caches: Caches::new(
            all,
            policies,
            watches::namespace_watches(&args.watch_namespace),
        ),
        queues: Arc::clone(&queues),
        diagnostics: PolicyDiagnostics::default(),
        memory: Memory::default(),
        metrics,
        events: Events::start(client.clone(), queues, &args.pod_name),
        client,
        args,
        issuer: ClusterIssuer::default(),
    });
    let mut tasks = watches::start(&ctx);
    tasks.spawn(cluster_issuer::keep(Arc::clone(&ctx)));
    let work = async {
        ctx.caches.listed().await;
        missing.send_replace(None);
        tracing::info!(
            lease = ctx.args.lease_name,
            "everything is listed; waiting for the Lease"
        );
        contender.acquire().await;
        tracing::info!("this replica leads");
        ctx.metrics.leader.set(1);
        let working = async {
            let key = key(&ctx, &missing).await?;
            let _ = ctx.key.set(key);
            cache_freshness::wait(&ctx).await?;
            triggers::all(&ctx, |_| true);
            let mut workers = workers::start(&ctx);
            // None of them ends.
            workers.join_next().await;
            Err(RunError::Stopped)
        };
        tokio::select! {
            result = working => result,
            () = contender.hold() => Err(RunError::LeaseLost),
        }
    };
    tokio::select! {
        result = work => result,
        // A watch never ends.
        _ = tasks.join_next() => Err(RunError::Stopped),
    }
}

/// The operator's key; the Secret for it is made if that was asked for.
async fn key(ctx: &Context, missing: &watch::Sender<Missing>) -> Result<OperatorKey, RunError> {
    let path = &ctx.args.key_file;
    if let (false, Some(name)) = (path.exists(), &ctx.args.key_secret) {
        let key = key::random_text()?;
        let body = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": ctx.args.namespace, "labels": { MANAGED_BY.0: MANAGED_BY.1 } },
            "stringData": { "key": key },
        });
        let made = writer::secret(&ctx.client, &body, &ctx.args.namespace)
            .await
            .map_err(RunError::KeySecret)?;
        // The mount follows in a minute; what was made just now is known.
        if made {
            return Ok(OperatorKey::new(key.as_bytes(), name)?);
        }
    }
    if !path.exists() {
        let path = path.display();
        missing.send_replace(Some(format!(
            "the operator's key {path} is not there; does the Secret have it under that name? Nothing is reconciled without it"
        )));
    }
    let key = OperatorKey::wait(path).await?;
    missing.send_replace(None);
    Ok(key)
}

struct AdminPort {
    missing: watch::Receiver<Missing>,
    queues: Arc<Queues>,
    metrics: Metrics,
}

impl admin::Admin for AdminPort {
    fn ready(&self) -> Result<(), String> {
        self.missing.borrow().clone().map_or(Ok(()), Err)
    }

    fn before_scrape(&self) {
        let show = |kind: Kind, depth: usize| {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.metrics
                .depth
                .get_or_create(&KindLabels { kind })
                .set(depth);
        };
        show(Kind::McpServer, self.queues.servers.depth());
        show(Kind::McpPolicy, self.queues.policies.depth());
        show(Kind::McpApproval, self.queues.approvals.depth());
    }

    fn get(&self, _: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        None
    }
}
