//! The client of the API server, counted.
//!
//! In: KUBECONFIG, or the pod's service account. Out: a client that counts its requests by verb and
//! resource, and that writes nothing but the Lease while this replica is not the leader.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer as _};
use tower_service::Service;

use crate::controller::metrics::{Metrics, RequestLabels};
use crate::controller::runtime::leader_election::WriteFence;

/// A connection that an answer is awaited on and that says nothing for longer than a watch lasts,
/// and this much more, is treated as dead. The watches themselves notice before that (kube's
/// watcher waits five seconds more than a watch lasts).
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first and the longest wait before a request is sent again that was answered 429, 503 or 504,
/// unless the answer says how long; after that it is the queue's, or the watch's, to try again.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
const MAX_RETRIES: u32 = 6;
/// Seconds that an answer may ask for.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no cluster to work on: {0}; run in a pod with a service account, or name a cluster with KUBECONFIG"
    )]
    Config(#[from] kube::config::InferConfigError),
    #[error("the client of the API server cannot be made: {0}")]
    Client(#[from] kube::Error),
}

/// A write of a replica that is not, or no longer, the leader.
#[derive(Debug, thiserror::Error)]
#[error("this replica does not hold the Lease, so it does not write")]
struct NotLeader;

/// Two clients, fenced and counted alike.
pub struct Clients {
    /// Asks again for a while when the API server wants to be left alone. Each attempt is fenced: a
    /// write that waited must not be sent by a replica that was deposed meanwhile.
    pub again: Client,
    /// Tells at once. The Lease cannot wait, and has its own rhythm.
    pub once: Client,
}

/// Makes the clients; a watch of theirs lasts no longer than `watch`.
pub async fn connect(
    metrics: &Metrics,
    fence: &WriteFence,
    watch: Duration,
) -> Result<Clients, ClientError> {
    of_config(Config::infer().await?, metrics, fence, watch)
}

fn of_config(
    mut config: Config,
    metrics: &Metrics,
    fence: &WriteFence,
    watch: Duration,
) -> Result<Clients, ClientError> {
    // kube's own would be within the fence.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(watch + SILENCE_TIMEOUT);
    let (metrics, fence) = (metrics.clone(), fence.clone());
    let fenced = tower::layer::layer_fn(move |inner| Fenced {
        inner,
        metrics: metrics.clone(),
        fence: fence.clone(),
    });
    let once: Client = ClientBuilder::try_from(config)?.with_layer(&fenced).build();
    let again = patient(once.clone(), namespace);
    Ok(Clients { again, once })
}

/// A client that sends again what the API server wants to be asked later.
fn patient(sending: Client, namespace: String) -> Client {
    let lists = Arc::new(Semaphore::new(1));
    let send = tower::service_fn(move |request: Request<Body>| {
        let (client, lists) = (sending.clone(), Arc::clone(&lists));
        async move {
            // A user who may store large objects must not decide how much is held here: one answer
            // to a list after the other.
            let is_list =
                labels(request.method(), request.uri()).is_some_and(|of| of.verb == "list");
            let alone = if is_list {
                Some(lists.acquire_owned().await?)
            } else {
                None
            };
            let mut response = client.send(request).await?;
            patience(response.headers_mut());
            // Until the body has been read, or is not wanted any more.
            Ok::<_, BoxError>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _ = &alone;
                    frame
                })
            }))
        }
    });
    let policy =
        RetryPolicy::new(RETRY_DELAYS.0, RETRY_DELAYS.1, MAX_RETRIES, true).unwrap_or_default();
    Client::new(RetryLayer::new(policy).layer(send), namespace)
}

/// Bounds how long an answer has a request wait: an object that is reconciled again later is
/// better served than one that a worker sits on.
fn patience(headers: &mut HeaderMap) {
    let asked = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if asked.is_some_and(|seconds| seconds > MAX_RETRY_AFTER_SECONDS) {
        headers.insert(RETRY_AFTER, MAX_RETRY_AFTER_SECONDS.into());
    }
}

#[derive(Clone)]
struct Fenced<S> {
    inner: S,
    metrics: Metrics,
    fence: WriteFence,
}

impl<S, B> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Response<B>, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(labels) = labels(request.method(), request.uri()) {
            let writes = !matches!(labels.verb, "get" | "list" | "watch");
            if writes && labels.resource != "leases" && !self.fence.is_open() {
                return Either::Right(ready(Err(NotLeader.into())));
            }
            self.metrics.requests.get_or_create(&labels).inc();
        }
        Either::Left(self.inner.call(request))
    }
}

/// What a request does, from its path; None for what is about no resource.
fn labels(method: &Method, uri: &http::Uri) -> Option<RequestLabels> {
    let mut parts = uri.path().trim_matches('/').split('/');
    match parts.next()? {
        "api" => parts.next()?,
        "apis" => parts.nth(1)?,
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    if let ["namespaces", _, _, ..] = rest.as_slice() {
        rest.drain(..2);
    }
    let resource = match rest.as_slice() {
        [resource, _, sub] => format!("{resource}/{sub}"),
        [resource, ..] => (*resource).to_owned(),
        [] => return None,
    };
    let query = uri.query().unwrap_or_default();
    let verb = match *method {
        Method::GET if query.split('&').any(|one| one == "watch=true") => "watch",
        Method::GET if rest.len() == 1 => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    };
    Some(RequestLabels { verb, resource })
}

#[cfg(test)]
mod tests;
