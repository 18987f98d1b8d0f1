//! A proxy between the operator and the API server that does what a test says to each request.
//!
//! In: requests of the operator. Out: the API server's answers, or what becomes of them on a bad
//! day. Must not do: change what a request or an answer says; real networks and servers do not do
//! that either.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::stream;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Body = BoxBody<Bytes, Failure>;

/// What the operator asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// get, list, watch, create, update, patch or delete.
    pub verb: &'static str,
    /// Empty for all of them.
    pub namespace: String,
    /// With its subresource: `mcpservers/status`.
    pub resource: String,
    pub name: String,
    /// How many requests there were when it came, of any kind.
    pub number: usize,
    /// How often exactly this was asked, so that a plan can be one for each request. By `number`
    /// one could fall into step with others and fail for ever.
    pub time: u32,
}

impl Asked {
    /// Whether it asks for a change of anything but the Lease.
    pub fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch") && self.resource != "leases"
    }

    pub fn watches(&self) -> bool {
        self.verb == "watch"
    }

    fn read(parts: &Parts, number: usize) -> Self {
        let mut path = parts.uri.path().trim_matches('/').split('/');
        match path.next() {
            Some("apis") => path.nth(1),
            _ => path.next(),
        };
        let mut rest: Vec<&str> = path.collect();
        let mut namespace = String::new();
        if let ["namespaces", of, _, ..] = rest.as_slice() {
            namespace = (*of).to_owned();
            rest.drain(..2);
        }
        let query = parts.uri.query().unwrap_or_default();
        let verb = match parts.method {
            Method::GET if query.split('&').any(|one| one == "watch=true") => "watch",
            Method::GET if rest.len() == 1 => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "delete",
        };
        let (resource, name) = match rest.as_slice() {
            [resource, name, sub] => (format!("{resource}/{sub}"), *name),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource] => ((*resource).to_owned(), ""),
            _ => (rest.join("/"), ""),
        };
        Asked {
            verb,
            namespace,
            resource,
            name: name.to_owned(),
            number,
            time: 0,
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// Answered here, with that status; the API server does not hear of it.
    Refuse(u16),
    /// The connection breaks before the API server hears of it.
    Unheard,
    /// The API server does it, and the connection breaks before it has told so.
    Lost,
    /// Sent to the API server a second time; that answer is given.
    Twice,
    /// The answer is given after that time.
    Late(Duration),
    /// The API server does it, and the operator is killed before it hears of that.
    Kill,
    /// A watch.
    Watch(Watching),
}

/// How a watch goes.
#[derive(Clone, Copy, Debug)]
pub struct Watching {
    /// It ends after that time.
    pub lasts: Option<Duration>,
    pub end: End,
    /// Each event comes twice.
    pub doubled: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum End {
    /// As the API server ends one.
    Clean,
    /// In the middle.
    Cut,
    /// With an event that says that the resource version is too old.
    Gone,
}

/// What is done to all watches of some resources at the moment.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    /// What comes for these waits here, in order.
    pub held: Vec<&'static str>,
    /// Watches of these that were begun up to that number are silent for ever.
    pub silent: (Vec<&'static str>, usize),
    /// Watches that were begun up to that number are cut.
    pub cut: usize,
}

type Plan = Arc<dyn Fn(&Asked) -> Fault + Send + Sync>;

/// The proxy; it ends with the test's runtime.
pub struct Proxy {
    pub addr: SocketAddr,
    /// PEM, to be trusted by the operator.
    pub certificate: String,
    shared: Arc<Shared>,
}

pub struct Shared {
    target: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    plan: Mutex<Plan>,
    kill: Mutex<Option<Box<dyn Fn() + Send>>>,
    asked: AtomicUsize,
    seen: Mutex<BTreeMap<(&'static str, String), usize>>,
    times: Mutex<BTreeMap<(&'static str, [String; 3]), u32>>,
    pub hold: watch::Sender<Hold>,
}

impl Proxy {
    /// Listens on a free port and passes everything on to the API server of `config`.
    pub async fn start(config: &Config) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in config.root_cert.iter().flatten() {
            roots.add(certificate.clone().into()).unwrap();
        }
        let upstream = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(upstream)
            .https_only()
            .enable_http1()
            .build();
        let shared = Arc::new(Shared {
            target: config.cluster_url.clone(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            plan: Mutex::new(Arc::new(|_| Fault::None)),
            kill: Mutex::default(),
            asked: AtomicUsize::new(0),
            seen: Mutex::default(),
            times: Mutex::default(),
            hold: watch::Sender::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            Arc::clone(&shared),
        ));
        Proxy {
            addr,
            certificate: made.cert.pem(),
            shared,
        }
    }

    /// What happens to requests from now on.
    pub fn plan(&self, plan: impl Fn(&Asked) -> Fault + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Arc::new(plan);
    }

    /// What `Fault::Kill` does.
    pub fn on_kill(&self, kill: impl Fn() + Send + 'static) {
        *self.shared.kill.lock().unwrap() = Some(Box::new(kill));
    }

    /// Withholds what watches of these resources bring, until `release`.
    pub fn hold(&self, resources: &[&'static str]) {
        self.shared
            .hold
            .send_modify(|hold| hold.held = resources.to_vec());
    }

    pub fn release(&self) {
        self.shared.hold.send_modify(|hold| hold.held.clear());
    }

    /// The present watches of these resources bring nothing any more and do not end; new ones are
    /// as usual.
    pub fn silence(&self, resources: &[&'static str]) {
        let now = self.shared.asked.load(Ordering::SeqCst);
        self.shared
            .hold
            .send_modify(|hold| hold.silent = (resources.to_vec(), now));
    }

    /// Breaks every present watch.
    pub fn cut(&self) {
        let now = self.shared.asked.load(Ordering::SeqCst);
        self.shared.hold.send_modify(|hold| hold.cut = now);
    }

    /// How often that was asked.
    pub fn seen(&self, verb: &'static str, resource: &str) -> usize {
        let seen = self.shared.seen.lock().unwrap();
        seen.get(&(verb, resource.to_owned())).copied().unwrap_or(0)
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // An operator that is killed leaves broken connections behind.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.handle(request).await.map_err(std::io::Error::other) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Shared {
    /// An error here breaks the operator's connection.
    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut asked = Asked::read(&parts, number);
        asked.time = self.again(&asked);
        let key = (asked.verb, asked.resource.clone());
        *self.seen.lock().unwrap().entry(key).or_default() += 1;
        let plan = Arc::clone(&self.plan.lock().unwrap());
        let fault = plan(&asked);
        match fault {
            Fault::Refuse(code) => return Ok(refusal(code)),
            Fault::Unheard => return Err("the request is lost".into()),
            _ => {}
        }
        let response = self.pass(&parts, body.clone()).await?;
        if asked.watches() && response.status() == StatusCode::OK {
            let how = match fault {
                Fault::Watch(how) => Some(how),
                _ => None,
            };
            return Ok(stream::watch(self, asked, response, how));
        }
        let mut response = whole(response).await?;
        match fault {
            Fault::Lost => return Err("the answer is lost".into()),
            Fault::Twice => response = whole(self.pass(&parts, body).await?).await?,
            Fault::Late(time) => tokio::time::sleep(time).await,
            Fault::Kill => {
                if let Some(kill) = self.kill.lock().unwrap().as_ref() {
                    kill();
                }
                return Err("there is nobody to tell".into());
            }
            _ => {}
        }
        Ok(response)
    }

    /// How often that was asked, with this time.
    fn again(&self, asked: &Asked) -> u32 {
        let what = [&asked.namespace, &asked.resource, &asked.name].map(String::clone);
        let mut times = self.times.lock().unwrap();
        let times = times.entry((asked.verb, what)).or_default();
        *times += 1;
        *times
    }

    async fn pass(&self, parts: &Parts, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let mut uri = self.target.clone().into_parts();
        uri.path_and_query = parts.uri.path_and_query().cloned();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = Uri::from_parts(uri)?;
        *request.headers_mut() = end_to_end(&parts.headers);
        Ok(self.client.request(request).await?)
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for hop in [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(hop);
    }
    headers
}

/// The answer with its whole body, so that it is given at once or not at all.
async fn whole(response: Response<Incoming>) -> Result<Response<Body>, Failure> {
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    parts.headers = end_to_end(&parts.headers);
    Ok(Response::from_parts(parts, full(body)))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// As an API server says it (meta/v1 Status).
pub fn status(code: u16) -> serde_json::Value {
    let (reason, message) = match code {
        410 => ("Expired", "too old resource version"),
        429 => (
            "TooManyRequests",
            "too many requests, please try again later",
        ),
        503 => (
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        ),
        504 => ("Timeout", "Too large resource version"),
        _ => ("InternalError", "a fault of this test"),
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn refusal(code: u16) -> Response<Body> {
    let mut response = Response::new(full(status(code).to_string().into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    if code == 429 {
        headers.insert(header::RETRY_AFTER, "1".parse().unwrap());
    }
    response
}
