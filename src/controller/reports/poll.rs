//! Reading the reports of gateways.
//!
//! In: gateways' pods, by their own addresses. Out: their reports, kept for the reconciliation of
//! their server. Must not do: talk to a pod that is not ours, follow a redirect, or read an
//! unbounded answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::controller::context::Context;
use crate::controller::names::{Ident, Name};
use crate::controller::reports::merge;
use crate::controller::reports::schedule::Poll;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::GatewayPod;
use crate::controller::runtime::workqueue::Action;
use crate::controller::server::memory::ServerMemory;
use crate::status::accounting::Account;
use crate::status::report::{MAX_REPORT_BYTES, Report, ReportedCount};

/// Pods that carry calls.
const BUSY_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Pods that have not for [`QUIET_AFTER`].
const QUIET_POLL_INTERVAL: Duration = Duration::from_secs(60);
const QUIET_AFTER: Duration = Duration::from_secs(60);
/// While a bundle is on its way, or a pod has not answered.
const EAGER_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What is waited for that eagerly comes by then, or is asked for at the usual pace.
const EAGER_POLL_PERIOD: Duration = Duration::from_secs(30);
/// Pods whose last report had new violations: a gateway that is killed loses what the operator has
/// not read.
const VIOLATING_POLL_INTERVAL: Duration = Duration::from_millis(800);
const VIOLATING_POLL_PERIOD: Duration = Duration::from_secs(10);
/// A pod that ends, after that: it may still be waiting for its last violations to be stored.
const ENDING_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A whole exchange.
const REPORT_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pods of one server that are asked at once.
const MAX_READS_AT_ONCE: usize = 8;
/// Reports over [`SMALL_REPORT_BYTES`] are read this many at a time: together they must not exhaust
/// the operator. A gateway that sends slowly keeps only others with thousands of tools waiting, and
/// those for no longer than [`REPORT_READ_TIMEOUT`].
static LARGE_REPORTS: Semaphore = Semaphore::const_new(8);
const SMALL_REPORT_BYTES: usize = 64 << 10;
/// Runs of one pod that are not stored yet. A gateway that names another with each report is not
/// read on.
const MAX_UNSTORED_RUNS: usize = 4;

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("connecting: {0}")]
    Connect(#[from] std::io::Error),
    #[error("asking: {0}")]
    Http(#[from] hyper::Error),
    #[error("reading: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("not a report: {0}")]
    Report(#[from] serde_json::Error),
    #[error("it is larger than {MAX_REPORT_BYTES} bytes")]
    Large,
    #[error("it counts more calls than a gateway can decide")]
    Implausible,
    #[error("it did not answer within {} s", REPORT_READ_TIMEOUT.as_secs())]
    Late,
}

/// Asks a server's pods again now.
pub fn poll_now(ctx: &Context, server: &Name) {
    if let Some(memory) = ctx.memory.servers.known(server) {
        memory.lock().polls.values_mut().for_each(Poll::poll_now);
    }
    ctx.queues.reports.add(server.clone());
}

/// Reads the reports of servers that are due, for as long as it runs; one of several workers.
pub async fn work(ctx: Arc<Context>) {
    loop {
        let name = ctx.queues.reports.next().await;
        let next = look(&ctx, &name).await;
        let done = next.map_or(Action::AwaitChange, Action::RequeueAfter);
        ctx.queues.reports.done(&name, done);
    }
}

/// Asks a server's pods that are due, and says when the next one is.
async fn look(ctx: &Context, name: &Name) -> Option<Duration> {
    let memory = ctx.memory.servers.known(name)?;
    let ident = Ident {
        namespace: name.0.clone(),
        name: name.1.clone(),
        uid: memory.lock().uid.clone(),
    };
    let deployment = ctx
        .caches
        .children(Kind::Deployment)
        .get(&(ident.namespace.clone(), ident.gateway()))
        .filter(|live| live.controller() == Some(&ident.uid))?;
    let bearer = ctx.key.get()?.bearer(&ident.uid);
    let pods = ctx.caches.pods_of(&ident, deployment.uid());
    let reads = pods.iter().filter_map(|pod| {
        let ip = pod.ip?;
        let stored = {
            let mut memory = memory.lock();
            is_due(&mut memory, pod, Instant::now()).then(|| stored(&memory, pod.uid()))?
        };
        let address = SocketAddr::new(ip, ctx.args.report_port);
        let (bearer, memory) = (&bearer, &memory);
        Some(async move {
            let read =
                tokio::time::timeout(REPORT_READ_TIMEOUT, read(address, bearer, stored)).await;
            let read = read.unwrap_or(Err(ReadError::Late)).and_then(|mut report| {
                match report.is_plausible(pod_created_at(pod), jiff::Timestamp::now()) {
                    true => Ok(report),
                    false => Err(ReadError::Implausible),
                }
            });
            on_report(&mut memory.lock(), pod, read, Instant::now())
        })
    });
    let reads: Vec<_> = reads.collect();
    let reads = futures::stream::iter(reads).buffer_unordered(MAX_READS_AT_ONCE);
    if reads.collect::<Vec<bool>>().await.contains(&true) {
        ctx.queues.servers.add(name.clone());
    }
    let (memory, now) = (memory.lock(), Instant::now());
    let next = pods
        .iter()
        .filter(|pod| pod.ip.is_some())
        .filter_map(|pod| memory.polls.get(pod.uid()))
        .map(|poll| poll.next.saturating_duration_since(now));
    next.min()
}

/// Since when a pod can have counted anything.
fn pod_created_at(pod: &GatewayPod) -> Option<jiff::Timestamp> {
    let created = kube::Resource::meta(pod).creation_timestamp.as_ref();
    created.map(|created| created.0)
}

/// How many violations of a pod's present run are in the stored ledger: a gateway that ends waits
/// until all are.
fn stored(memory: &ServerMemory, pod: &str) -> u64 {
    let run = memory
        .newest
        .get(pod)
        .map(|instance| merge::run(pod, instance));
    let account = run.and_then(|run| memory.ledger.as_ref()?.1.run(&run));
    account.map_or(0, Account::total)
}

/// Whether it is this pod's turn to be asked.
fn is_due(memory: &mut ServerMemory, pod: &GatewayPod, now: Instant) -> bool {
    let poll = memory
        .polls
        .entry(pod.uid().to_owned())
        .or_insert_with(|| Poll {
            next: now,
            hurried: true,
            asked: false,
            eager_since: None,
            calls: 0,
            violated_at: None,
            quiet_since: now,
            failures: 0,
        });
    let hurried = std::mem::replace(&mut poll.hurried, false);
    hurried || poll.next <= now
}

/// Keeps a report. True if the server should be reconciled because of it.
fn on_report(
    memory: &mut ServerMemory,
    pod: &GatewayPod,
    read: Result<Report, ReadError>,
    now: Instant,
) -> bool {
    let delivering = memory
        .delivering
        .as_ref()
        .map(|(revision, _)| revision.clone());
    let Some(poll) = memory.polls.get_mut(pod.uid()) else {
        return false;
    };
    let first = !std::mem::replace(&mut poll.asked, true);
    let report = match read {
        Ok(report) => report,
        Err(error) => {
            poll.failures = poll.failures.saturating_add(1);
            let wait = EAGER_POLL_INTERVAL.saturating_mul(1 << poll.failures.min(10));
            poll.next = now + wait.min(BUSY_POLL_INTERVAL);
            if poll.failures == 1 {
                tracing::debug!(pod = kube::Resource::meta(pod).name, %error, "a gateway's report could not be read");
            }
            return first;
        }
    };
    poll.failures = 0;
    if report.calls != poll.calls {
        poll.calls = report.calls;
        poll.quiet_since = now;
    }
    let behind = delivering.is_some_and(|wanted| {
        report.revision.as_deref() != Some(wanted.as_str()) && report.bundle_error.is_none()
    });
    // One without a listing has just started.
    let awaited = behind || pod.terminating || report.listing.is_none();
    let eager_since = awaited.then(|| poll.eager_since.unwrap_or(now));
    poll.eager_since = eager_since;
    let eager =
        eager_since.is_some_and(|since| now.saturating_duration_since(since) < EAGER_POLL_PERIOD);
    let key = (pod.uid().to_owned(), report.instance.clone());
    let news = News::of(memory.reports.get(&key), &report);
    if news.violations {
        poll.violated_at = Some(now);
    }
    let violating = poll
        .violated_at
        .is_some_and(|at| now.saturating_duration_since(at) < VIOLATING_POLL_PERIOD);
    let wait = if eager && (behind || pod.terminating) {
        EAGER_POLL_INTERVAL
    } else if eager {
        EAGER_POLL_INTERVAL * 5
    } else if violating {
        VIOLATING_POLL_INTERVAL
    } else if pod.terminating {
        ENDING_POLL_INTERVAL
    } else if now.saturating_duration_since(poll.quiet_since) > QUIET_AFTER {
        QUIET_POLL_INTERVAL
    } else {
        BUSY_POLL_INTERVAL
    };
    poll.next = now + wait;
    if !memory.reports.contains_key(&key) {
        let mut earlier: Vec<&mut Report> = memory
            .reports
            .iter_mut()
            .filter(|((of, _), _)| of == pod.uid())
            .map(|(_, report)| report)
            .collect();
        if earlier.len() >= MAX_UNSTORED_RUNS {
            poll.next = now + BUSY_POLL_INTERVAL;
            return true;
        }
        // Of a run that is over the violations count, until they are stored.
        for report in &mut earlier {
            report.tools = Vec::new();
            report.missing_secret_keys = Vec::new();
        }
    }
    memory.newest.insert(key.0.clone(), key.1.clone());
    memory.reports.insert(key, report);
    news.violations || news.rest
}

/// What a report says that the one before did not.
struct News {
    /// Counts of violations.
    violations: bool,
    /// Anything else that a status shows.
    rest: bool,
}

impl News {
    fn of(before: Option<&Report>, now: &Report) -> News {
        let Report {
            instance,
            revision,
            sequence,
            calls: _,
            violations,
            recent: _,
            tools,
            missing_secret_keys,
            refused_keys,
            equal_keys,
            issuer_faults,
            bundle_error,
            listing,
            upstream_note,
            audit_error,
            counters_error,
            webhook_faults,
        } = now;
        let counted = before.map_or(&[][..], |before| &before.violations);
        let error = |report: &Report| report.listing.as_ref().map(|listing| listing.error.clone());
        News {
            violations: !same_counts(counted, violations),
            rest: before.is_none_or(|before| {
                before.instance != *instance
                    || before.revision != *revision
                    || before.sequence != *sequence
                    || before.tools != *tools
                    || before.missing_secret_keys != *missing_secret_keys
                    || before.refused_keys != *refused_keys
                    || before.equal_keys != *equal_keys
                    || before.issuer_faults != *issuer_faults
                    || before.bundle_error != *bundle_error
                    || before.upstream_note != *upstream_note
                    || before.audit_error != *audit_error
                    || before.counters_error != *counters_error
                    || before.webhook_faults != *webhook_faults
                    || error(before) != listing.as_ref().map(|listing| listing.error.clone())
            }),
        }
    }
}

/// Times alone are not news.
fn same_counts(before: &[ReportedCount], now: &[ReportedCount]) -> bool {
    let said = |one: &ReportedCount| ReportedCount {
        last_time: jiff::Timestamp::UNIX_EPOCH,
        ..one.clone()
    };
    before.len() == now.len() && before.iter().zip(now).all(|(a, b)| said(a) == said(b))
}

async fn read(address: SocketAddr, bearer: &str, stored: u64) -> Result<Report, ReadError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(format!("/report?stored={stored}"))
        .header(header::HOST, address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {bearer}"))
        .body(Empty::<Bytes>::new());
    let result = match request {
        Ok(request) => answer(&mut sender, request).await,
        Err(error) => Err(ReadError::Body(error.into())),
    };
    driver.abort();
    result
}

async fn answer(
    sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Report, ReadError> {
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(ReadError::Status(response.status()));
    }
    let mut body = response.into_body();
    let (mut bytes, mut large) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_REPORT_BYTES {
            return Err(ReadError::Large);
        }
        if bytes.len() + data.len() > SMALL_REPORT_BYTES && large.is_none() {
            // Never closed.
            large = LARGE_REPORTS.acquire().await.ok();
        }
        bytes.extend_from_slice(&data);
    }
    let mut report: Report = serde_json::from_slice(&bytes)?;
    // Their figures are all that a status shows.
    report.shorten();
    Ok(report)
}

#[cfg(test)]
mod tests;
