//! Kept HTTP/1.1 connections to one upstream without TLS.
//!
//! In: requests. Out: responses whose bodies stream. A connection is driven by the task that waits
//! for its answer, so that no other task has to be woken for a call; between calls it is not
//! driven. A request is sent again, on another connection, only if not a byte of it was written. A
//! body that is dropped before its end closes its connection.

use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use std::future::{Future as _, poll_fn};
use tokio::net::TcpStream;
use tower_service::Service as _;

use super::error::UpstreamError;
use super::proxy::{Proxy, ProxyFailed};
use crate::gateway::body::{Body, BoxError, empty};
use crate::gateway::fairness::budget::Bounds;

/// The connections to one upstream.
pub struct Pool {
    inner: Arc<PoolInner>,
    connector: HttpConnector,
    /// Where to connect to.
    uri: Uri,
    proxy: Option<Proxy>,
    /// The request target (RFC 9112 section 3.2).
    target: Uri,
    host: HeaderValue,
}

struct PoolInner {
    kept: Mutex<KeptConnections>,
    /// More connections than this are not kept between calls.
    most: usize,
    idle: Duration,
}

#[derive(Default)]
struct KeptConnections {
    /// The most recently used one is last, and is taken first, so that surplus connections grow
    /// old.
    connections: Vec<(KeptConnection, Instant)>,
    swept: bool,
}

/// One connection.
struct KeptConnection {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

/// What became of a request on one connection.
enum Sent {
    Answered(Response<Incoming>),
    /// Not a byte was written.
    Unsent(Request<Full<Bytes>>, BoxError),
    Broken(BoxError),
}

impl Pool {
    /// Connections to the authority of `uri`, or to the proxy for it; those unused for `idle` are
    /// closed.
    ///
    /// # Errors
    /// Why the URL cannot be called.
    pub fn new(
        connector: HttpConnector,
        uri: &Uri,
        proxy: Option<&Proxy>,
        idle: Duration,
    ) -> Result<Self, BoxError> {
        let authority = uri.authority().ok_or("no host")?;
        let target = match proxy {
            // A proxy gets the whole URL (RFC 9112 section 3.2.2).
            Some(_) => uri.clone(),
            None => {
                let target = uri.path_and_query().map_or("/", |path| path.as_str());
                target.parse()?
            }
        };
        Ok(Pool {
            inner: Arc::new(PoolInner {
                kept: Mutex::default(),
                most: Bounds::here().kept_upstream,
                idle,
            }),
            connector,
            uri: proxy.map_or(uri, |proxy| &proxy.uri).clone(),
            proxy: proxy.cloned(),
            target,
            host: HeaderValue::from_str(authority.as_str())?,
        })
    }

    /// Through which it is reached.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Sends another Host than that of the URL.
    pub(super) fn set_host(&mut self, host: HeaderValue) {
        self.host = host;
    }

    /// Other connections to the same place, of which this many pools together keep as many as this
    /// one.
    pub(super) fn another(&self, among: usize) -> Self {
        Pool {
            inner: Arc::new(PoolInner {
                kept: Mutex::default(),
                most: (self.inner.most / among.max(1)).max(1),
                idle: self.inner.idle,
            }),
            connector: self.connector.clone(),
            uri: self.uri.clone(),
            proxy: self.proxy.clone(),
            target: self.target.clone(),
            host: self.host.clone(),
        }
    }

    /// Sends a request; its URI and Host are made here.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, UpstreamError> {
        *request.uri_mut() = self.target.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        let proxy = self.proxy.as_ref();
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
            let headers = request.headers_mut();
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        loop {
            let (mut line, kept) = match self.inner.take() {
                Some(line) => (line, true),
                None => (Box::pin(self.connect()).await?, false),
            };
            match line.exchange(request).await {
                Sent::Answered(response) => return Ok(self.leased(response, line)),
                // The upstream closed it just now.
                Sent::Unsent(unsent, _) if kept => request = unsent,
                Sent::Unsent(_, error) => return Err(UpstreamError::NotSent(error)),
                Sent::Broken(error) => return Err(UpstreamError::Broken(error)),
            }
        }
    }

    async fn connect(&self) -> Result<KeptConnection, UpstreamError> {
        let mut connector = self.connector.clone();
        let stream = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(self.uri.clone()).await
        };
        let stream = stream.await.map_err(|error| {
            UpstreamError::NotSent(ProxyFailed::cause(self.proxy.as_ref(), error))
        })?;
        let (sender, connection) = http1::handshake(stream)
            .await
            .map_err(|error| UpstreamError::NotSent(error.into()))?;
        let connection = Box::pin(connection);
        Ok(KeptConnection { sender, connection })
    }

    fn leased(&self, response: Response<Incoming>, line: KeptConnection) -> Response<Body> {
        let (head, body) = response.into_parts();
        if body.is_end_stream() {
            self.inner.keep(line);
            return Response::from_parts(head, empty());
        }
        let body = Leased {
            body,
            line: Some(line),
            pool: Arc::clone(&self.inner),
        };
        Response::from_parts(head, body.boxed_unsync())
    }
}

impl KeptConnection {
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Sent {
        let mut answer = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        poll_fn(|cx| {
            // Only the connection can bring the answer, so the answer itself need not wake a task.
            let over = connection.as_mut().poll(cx);
            match (answer.as_mut().poll(&mut quiet()), over) {
                (Poll::Ready(Ok(response)), _) => Poll::Ready(Sent::Answered(response)),
                (Poll::Ready(Err(mut error)), _) => Poll::Ready(match error.take_message() {
                    Some(request) => Sent::Unsent(request, error.into_error().into()),
                    None => Sent::Broken(error.into_error().into()),
                }),
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Sent::Broken(error.into())),
                (Poll::Pending, Poll::Ready(Ok(()))) => {
                    Poll::Ready(Sent::Broken("the connection ended".into()))
                }
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Whether another request can be sent: the upstream has not closed the connection and owes
    /// nothing.
    fn is_usable(&mut self) -> bool {
        self.connection.as_mut().poll(&mut quiet()).is_pending() && self.sender.is_ready()
    }
}

/// Wakes no task.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl PoolInner {
    fn lock(&self) -> MutexGuard<'_, KeptConnections> {
        self.kept.lock()
    }

    fn take(&self) -> Option<KeptConnection> {
        loop {
            let (mut line, _) = self.lock().connections.pop()?;
            if line.is_usable() {
                return Some(line);
            }
        }
    }

    fn keep(self: &Arc<Self>, mut line: KeptConnection) {
        if !line.sender.is_ready() && !line.is_usable() {
            return;
        }
        let mut kept = self.lock();
        if kept.connections.len() >= self.most {
            return;
        }
        kept.connections.push((line, Instant::now()));
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.idle));
        }
    }
}

/// Closes connections that were long unused, or that the upstream has closed, until none is left.
async fn sweep(pool: Weak<PoolInner>, idle: Duration) {
    loop {
        tokio::time::sleep(idle / 4).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut kept = pool.lock();
        let connections = std::mem::take(&mut kept.connections);
        let still = connections
            .into_iter()
            .filter_map(|(mut line, since)| {
                (since.elapsed() < idle && line.is_usable()).then_some((line, since))
            })
            .collect::<Vec<_>>();
        if still.is_empty() {
            kept.swept = false;
            return;
        }
        kept.connections = still;
    }
}

/// A body that drives its connection, and gives it back at its end.
struct Leased {
    body: Incoming,
    /// None once the connection has ended or was given back.
    line: Option<KeptConnection>,
    pool: Arc<PoolInner>,
}

impl Leased {
    fn frame(&mut self) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(&mut quiet())
    }
}

impl http_body::Body for Leased {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        // What came along with the head, or with the piece before, is there already.
        let mut frame = this.frame();
        if frame.is_pending()
            && let Some(line) = &mut this.line
        {
            if line.connection.as_mut().poll(cx).is_ready() {
                this.line = None;
            }
            frame = this.frame();
        }
        match frame {
            Poll::Pending if this.line.is_some() => Poll::Pending,
            Poll::Pending => Poll::Ready(Some(Err("the connection ended".into()))),
            Poll::Ready(Some(Err(error))) => {
                this.line = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(frame) => {
                if (frame.is_none() || this.body.is_end_stream())
                    && let Some(line) = this.line.take()
                {
                    this.pool.keep(line);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
