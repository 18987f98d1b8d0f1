//! A Streamable HTTP upstream: a pool of connections and the headers that the McpServer gives it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::UpstreamError;
use super::pool::Pool;
use super::proxy::{MIN_SECRET_BYTES, Proxy, ProxyFailed};
use super::request_headers::RequestHeaders;
use super::unserved::of_bridge;
use crate::gateway::body::Body;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One upstream URL with its connections.
pub struct HttpUpstream {
    /// Whether it is the bridge of our own stdio server, the only upstream that is trusted about
    /// calls it did not deliver.
    pub bridge: bool,
    /// Names the gateway that asks, so that it knows its own requests when they come back.
    hop: Option<HeaderValue>,
    configured: HeaderMap,
    headers: RequestHeaders,
    transport: ClientTransport,
}

enum ClientTransport {
    /// HTTP/1.1 on plain connections, as between containers: the common way, and the fast one.
    Plain(Box<Pool>),
    /// HTTP/2 or HTTP/1.1 over TLS.
    Tls {
        uri: Uri,
        settings: Arc<TlsSettings>,
        client: Box<TlsClient>,
    },
}

struct TlsSettings {
    config: rustls::ClientConfig,
    host: Option<HeaderValue>,
    proxy: Option<Proxy>,
}

enum TlsClient {
    Direct(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    /// Through a proxy that is asked to CONNECT.
    Tunneled(Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
}

/// A Streamable HTTP endpoint and how it is reached.
#[derive(Clone, Copy, Default)]
pub struct Endpoint<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The McpServer's headers, with their values resolved.
    pub headers: &'a [(String, Vec<u8>)],
    /// The PEM bundle that alone is trusted for it, if given.
    pub ca: Option<&'a [u8]>,
    /// What it gets as Host, if not what the URL says.
    pub host: Option<&'a str>,
    /// The proxy, if there is one.
    pub proxy: Option<&'a Proxy>,
}

/// Why an upstream's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL is not one that can be called.
    #[error("upstream.http.url `{url}` cannot be used: {why}")]
    Url {
        /// As written.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A header cannot be sent. Its value is never shown.
    #[error("upstream.http.headers `{name}` cannot be sent: {why}")]
    Header {
        /// As written.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The Host header cannot be sent.
    #[error(
        "upstream.http.host: `{0}` cannot be a Host header; write a name, and a port if need be"
    )]
    Host(String),
    /// The certificates cannot be read.
    #[error("upstream.http.tls: {0}")]
    Tls(String),
}

/// Headers that belong to the gateway or to the connection: an McpServer must not set them.
const RESERVED: [&str; 16] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    crate::gateway::bridge::CALLER,
    crate::protocol::header::HOPS_NAME,
    "te",
    "transfer-encoding",
    "upgrade",
];

impl HttpUpstream {
    /// Whether a text holds a value of the configured headers, or a part of one, or the credentials
    /// for the proxy.
    pub(super) fn holds_secret(&self, text: &str) -> bool {
        let proxy = match &self.transport {
            ClientTransport::Plain(pool) => pool.proxy(),
            ClientTransport::Tls { settings, .. } => settings.proxy.as_ref(),
        };
        if proxy.is_some_and(|proxy| proxy.holds_secret(text)) {
            return true;
        }
        self.configured.values().any(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            let mut parts = value.split_whitespace();
            parts.any(|part| part.len() >= MIN_SECRET_BYTES && text.contains(part))
        })
    }

    /// Checks how an endpoint is reached. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ConfigError`] says which field cannot be used and why.
    pub fn new(endpoint: &Endpoint<'_>) -> Result<Self, ConfigError> {
        let Endpoint {
            url,
            headers,
            ca: ca_pem,
            host,
            proxy,
        } = *endpoint;
        let bad_url = |why: &str| ConfigError::Url {
            url: shown(url),
            why: why.to_owned(),
        };
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| bad_url(&error.to_string()))?;
        let scheme = uri
            .scheme()
            .ok_or_else(|| bad_url("it has no scheme; write http:// or https://"))?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(bad_url("only http and https are spoken"));
        }
        let authority = uri.authority().ok_or_else(|| bad_url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad_url(
                "it holds credentials; put them into upstream.http.headers from a Secret",
            ));
        }
        let configured = header_map(headers)?;
        let host = host.map(|text| {
            let known = text.parse::<http::uri::Authority>().is_ok() && !text.contains('@');
            let value = HeaderValue::from_str(text).ok().filter(|_| known);
            value.ok_or_else(|| ConfigError::Host(text.to_owned()))
        });
        let host = host.transpose()?;
        let transport = if *scheme == Scheme::HTTP {
            // Not needed, but report what is wrong with it.
            ca_pem.map(|pem| tls(Some(pem))).transpose()?;
            let pool = Pool::new(connector(), &uri, proxy, POOL_IDLE_TIMEOUT);
            let mut pool = pool.map_err(|error| bad_url(&error.to_string()))?;
            if let Some(host) = &host {
                pool.set_host(host.clone());
            }
            ClientTransport::Plain(Box::new(pool))
        } else {
            let tls = TlsSettings {
                config: tls(ca_pem)?,
                host,
                proxy: proxy.cloned(),
            };
            ClientTransport::tls(uri, Arc::new(tls))
        };
        Ok(HttpUpstream {
            bridge: false,
            hop: None,
            headers: RequestHeaders::new(&configured, None, false),
            configured,
            transport,
        })
    }

    /// A server beside the protected one, such as an issuer of tokens: reached through the proxy of
    /// this process's environment, if there is one.
    ///
    /// # Errors
    /// Says what cannot be used.
    pub fn aside(url: &str, ca: Option<&[u8]>) -> Result<Self, String> {
        let proxy = Proxy::of_environment(url).map_err(|error| error.to_string())?;
        Self::new(&Endpoint {
            url,
            ca,
            proxy: proxy.as_ref(),
            ..Endpoint::default()
        })
        .map_err(|error| error.to_string())
    }

    /// The same server with other headers, over connections of its own. What one server may keep
    /// idle is divided among this many.
    ///
    /// # Errors
    /// [`ConfigError`] when a header cannot be sent.
    pub fn with_headers(
        &self,
        headers: &[(String, Vec<u8>)],
        among: usize,
    ) -> Result<Self, ConfigError> {
        let transport = match &self.transport {
            ClientTransport::Plain(pool) => ClientTransport::Plain(Box::new(pool.another(among))),
            // The trusted certificates are shared: they are many.
            ClientTransport::Tls { uri, settings, .. } => {
                ClientTransport::tls(uri.clone(), Arc::clone(settings))
            }
        };
        let configured = header_map(headers)?;
        Ok(HttpUpstream {
            bridge: self.bridge,
            hop: self.hop.clone(),
            headers: RequestHeaders::new(&configured, self.hop.clone(), self.bridge),
            configured,
            transport,
        })
    }

    /// The same as the bridge of our own stdio server.
    pub fn as_bridge(mut self) -> Self {
        self.bridge = true;
        self.prepared()
    }

    /// The same, asked by the gateway of that name.
    pub fn asked_by(mut self, hop: HeaderValue) -> Self {
        self.hop = Some(hop);
        self.prepared()
    }

    fn prepared(mut self) -> Self {
        self.headers = RequestHeaders::new(&self.configured, self.hop.clone(), self.bridge);
        self
    }

    /// The headers of its requests.
    pub(super) fn headers(&self) -> &RequestHeaders {
        &self.headers
    }

    /// Sends one request to the URL, with the headers that it has. A request is sent again by the
    /// pool only when a kept connection turned out closed before its first byte was written.
    pub(in crate::gateway) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut request = request.map(Full::new);
        let response = match &self.transport {
            ClientTransport::Plain(pool) => pool.send(request).await,
            ClientTransport::Tls {
                uri,
                client,
                settings,
            } => {
                *request.uri_mut() = uri.clone();
                if let Some(host) = &settings.host {
                    request.headers_mut().insert(HOST, host.clone());
                }
                let answered = match &**client {
                    TlsClient::Direct(client) => Box::pin(client.request(request)).await,
                    TlsClient::Tunneled(client) => Box::pin(client.request(request)).await,
                };
                match answered {
                    Ok(response) => {
                        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
                    }
                    Err(error) if error.is_connect() => Err(UpstreamError::NotSent(
                        ProxyFailed::cause(settings.proxy.as_ref(), error),
                    )),
                    Err(error) => Err(UpstreamError::Broken(error.into())),
                }
            }
        }?;
        Ok(if self.bridge {
            of_bridge(response, true)
        } else {
            response
        })
    }
}

impl ClientTransport {
    fn tls(uri: Uri, settings: Arc<TlsSettings>) -> Self {
        let secured = HttpsConnectorBuilder::new()
            .with_tls_config(settings.config.clone())
            .https_only()
            .enable_http1();
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new());
        // HTTP/2 has the host in the URI only.
        let versions = settings.host.is_none();
        let client = match &settings.proxy {
            None if versions => {
                let secured = secured.enable_http2().wrap_connector(connector());
                TlsClient::Direct(builder.build(secured))
            }
            None => TlsClient::Direct(builder.build(secured.wrap_connector(connector()))),
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri.clone(), connector());
                if let Some(authorization) = &proxy.authorization {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                TlsClient::Tunneled(match versions {
                    true => builder.build(secured.enable_http2().wrap_connector(tunnel)),
                    false => builder.build(secured.wrap_connector(tunnel)),
                })
            }
        };
        ClientTransport::Tls {
            uri,
            settings,
            client: Box::new(client),
        }
    }
}

fn connector() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(Duration::from_secs(30)));
    http
}

/// Headers of an McpServer, checked.
fn header_map(headers: &[(String, Vec<u8>)]) -> Result<HeaderMap, ConfigError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let bad = |why| ConfigError::Header {
            name: name.clone(),
            why,
        };
        let parsed: HeaderName = name.parse().map_err(|_| bad("it is not a header name"))?;
        if RESERVED.contains(&parsed.as_str()) {
            return Err(bad("the gateway sets this header itself"));
        }
        let mut value = HeaderValue::from_bytes(value.trim_ascii())
            .map_err(|_| bad("its value has characters that a header cannot carry"))?;
        value.set_sensitive(true);
        map.append(parsed, value);
    }
    Ok(map)
}

fn tls(ca_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate
                .map_err(|error| ConfigError::Tls(format!("the CA bundle is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| {
                ConfigError::Tls(format!(
                    "a certificate of the CA bundle is not usable: {error}"
                ))
            })?;
        }
        if roots.is_empty() {
            return Err(ConfigError::Tls(
                "the CA bundle holds no certificate".to_owned(),
            ));
        }
    } else {
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            return Err(ConfigError::Tls(
                "this system has no trusted certificates; give the upstream's in tls.caSecretRef"
                    .to_owned(),
            ));
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// A URL as it may be shown: without what stands before an `@`, and without its query, as both can
/// hold credentials.
fn shown(url: &str) -> String {
    let (place, rest) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], "?…"),
        None => (url, ""),
    };
    match (place.find("://"), place.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}***{}{rest}", &place[..scheme + 3], &place[at..])
        }
        _ => format!("{place}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, headers: &[(&str, &str)]) -> String {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()))
            .collect();
        HttpUpstream::new(&Endpoint {
            url,
            headers: &headers,
            ..Endpoint::default()
        })
        .err()
        .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn a_bad_setting_is_named_and_no_secret_is_shown() {
        assert_eq!(
            refusal(
                "http://mlflow.ml.svc:8080/mcp",
                &[("Authorization", "Bearer x")]
            ),
            ""
        );
        for (url, says) in [
            ("mlflow:8080", "scheme"),
            ("ftp://mlflow/mcp", "only http and https"),
            ("http://joe:hunter2@mlflow/mcp", "holds credentials"),
            ("mlflow:8080/mcp?token=hunter2", "cannot be used"),
            ("ftp://mlflow/mcp?a=b&token=hunter2", "only http and https"),
            (
                "http://joe@mlflow/mcp?token=hunter2#hunter2",
                "holds credentials",
            ),
            ("http://mlf low/mcp?token=hunter2", "cannot be used"),
        ] {
            let text = refusal(url, &[]);
            assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
        }
        let text = refusal("http://mlflow/mcp", &[("X-Token", "se\ncret")]);
        assert!(
            text.contains("X-Token") && !text.contains("cret`"),
            "{text}"
        );
        assert!(refusal("http://mlflow/mcp", &[("Mcp-Session-Id", "x")]).contains("itself"));
    }

    #[test]
    fn an_empty_ca_bundle_is_not_a_silent_trust_in_all() {
        let endpoint = Endpoint {
            url: "https://mlflow/mcp",
            ca: Some(b""),
            ..Endpoint::default()
        };
        assert!(HttpUpstream::new(&endpoint).is_err());
    }

    #[test]
    fn a_host_is_a_name_with_a_port_at_most() {
        let endpoint = |host| Endpoint {
            url: "http://mlflow/mcp",
            host: Some(host),
            ..Endpoint::default()
        };
        for host in ["mlflow.example", "mlflow:5000", "[::1]:5000"] {
            assert!(HttpUpstream::new(&endpoint(host)).is_ok(), "{host}");
        }
        for host in ["", "a b", "joe@mlflow", "a\r\nX-Y: z", "mlflow/mcp"] {
            assert!(HttpUpstream::new(&endpoint(host)).is_err(), "{host}");
        }
    }
}
