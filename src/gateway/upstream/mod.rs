//! The protected MCP server: one request in, one response out, over HTTP or straight into the
//! bridge of a child process.
//!
//! A call needs a [`Permit`]. Nothing of the client's request is sent except what the permit holds;
//! headers are made here, from an allow-list.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use self::request_headers::RequestHeaders;
use crate::gateway::body::Body;
use crate::gateway::bridge::{Bridge, CREDENTIAL};
use crate::gateway::permit::Permit;

pub mod cause;
pub mod connect;
mod error;
pub mod http_client;
pub mod pool;
pub mod proxy;
mod request_headers;
pub mod stdio;
pub mod unserved;

pub use error::UpstreamError;
pub use http_client::HttpUpstream;
pub use unserved::{Bridged, Unserved};

const CREDENTIAL_ID: HeaderName = HeaderName::from_static(CREDENTIAL);

/// Headers of requests to a bridge in this process.
static BRIDGE: LazyLock<RequestHeaders> =
    LazyLock::new(|| RequestHeaders::new(&HeaderMap::new(), None, true));

/// The server behind the gateway.
pub enum Upstream {
    /// A Streamable HTTP endpoint.
    Http(Box<HttpUpstream>),
    /// A stdio server that runs as a child of this process, and the credential by which its bridge
    /// starts processes, where that differs by caller.
    Bridge(Arc<Bridge>, Option<HeaderValue>),
}

impl Upstream {
    /// Whether it keeps sessions that the gateway has to bound; bridges bound theirs themselves.
    pub fn keeps_sessions(&self) -> bool {
        matches!(self, Upstream::Http(upstream) if !upstream.bridge)
    }

    /// Whether it is the pod of the server itself, which the operator runs: its address is nothing
    /// that a user could correct.
    pub fn is_own_pod(&self) -> bool {
        matches!(self, Upstream::Http(upstream) if upstream.bridge)
    }

    /// Whether a text holds a value that only the server may know, such as one that it echoes.
    pub fn holds_secret(&self, text: &str) -> bool {
        match self {
            Upstream::Http(upstream) => upstream.holds_secret(text),
            Upstream::Bridge(..) => false,
        }
    }

    /// The same server in this process, as callers with another credential reach it.
    pub fn with_credential(&self, id: &str) -> Option<Upstream> {
        match self {
            Upstream::Bridge(bridge, _) => {
                let id = HeaderValue::from_str(id).ok()?;
                Some(Upstream::Bridge(Arc::clone(bridge), Some(id)))
            }
            Upstream::Http(_) => None,
        }
    }

    /// Sends what the permit allows and returns the response once its head is there.
    ///
    /// # Errors
    /// [`UpstreamError`]; a redirect or an encoded body is `Unacceptable`, as policy could not read
    /// it.
    pub async fn call(
        &self,
        permit: Permit,
        within: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        let (method, envelope, body) = permit.into_parts();
        let headers = match self {
            Upstream::Http(upstream) => upstream.headers().of(&method, envelope),
            Upstream::Bridge(_, credential) => {
                let mut headers = BRIDGE.of(&method, envelope);
                if let Some(credential) = credential {
                    headers.insert(CREDENTIAL_ID, credential.clone());
                }
                headers
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        // Pinned here and boxed there, as every move of a future copies it.
        let sent = pin!(async {
            match self {
                Upstream::Http(upstream) => upstream.send(request).await,
                Upstream::Bridge(bridge, _) => {
                    let response = Box::pin(bridge.handle(request)).await;
                    Ok(unserved::of_bridge(response, false))
                }
            }
        });
        let response = tokio::time::timeout(within, sent)
            .await
            .map_err(|_| UpstreamError::Timeout(within))??;
        if response.status().is_redirection() {
            return Err(UpstreamError::Unacceptable(format!(
                "it redirects ({}); write the final address into upstream.http.url",
                response.status()
            )));
        }
        let encoded = response
            .headers()
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
        if encoded {
            return Err(UpstreamError::Unacceptable(
                "its body is content-encoded although only identity was accepted".to_owned(),
            ));
        }
        Ok(response)
    }
}
