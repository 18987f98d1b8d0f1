//! The HTTP proxy through which an upstream is reached.
//!
//! In: what the spec says, or the usual variables of this process's environment. Out: where to
//! connect to, and the credentials for it. Must not do: send anything to a proxy that is meant for
//! this machine.

use std::error::Error;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use crate::gateway::body::BoxError;

/// A shorter secret, or part of one, is the name of a scheme, or is found in too many texts.
pub(super) const MIN_SECRET_BYTES: usize = 8;

/// A proxy, with what it asks for.
#[derive(Clone)]
pub struct Proxy {
    /// Where it is: scheme and authority.
    pub uri: Uri,
    /// `Proxy-Authorization`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// USER:PASSWORD. Must not be shown, so there is no `Debug`.
    login: Option<String>,
}

/// No connection came about through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("the proxy at {place} gives no connection")]
pub struct ProxyFailed {
    /// The proxy's host and port.
    pub place: String,
    #[source]
    source: BoxError,
}

impl ProxyFailed {
    /// Names the proxy as the cause, unless the server behind it is: then its certificate is at
    /// fault.
    pub fn cause(proxy: Option<&Proxy>, error: impl Error + Send + Sync + 'static) -> BoxError {
        let Some(proxy) = proxy.filter(|_| !is_of_tls(&error)) else {
            return error.into();
        };
        ProxyFailed {
            place: proxy.place().to_owned(),
            source: error.into(),
        }
        .into()
    }
}

fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // An `io::Error` does not show the error that it wraps as its source.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    wrapped.is_some_and(|inner| is_of_tls(inner)) || error.source().is_some_and(is_of_tls)
}

/// Why a proxy cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It is not one that speaks HTTP.
    #[error("`{0}` is not the URL of an HTTP proxy; write it as http://HOST:PORT")]
    Url(String),
    /// The credentials are not as they have to be. They are never shown.
    #[error("its credentials must be USER:PASSWORD on one line")]
    Credentials,
}

impl Proxy {
    /// The proxy of a spec, with its credentials as USER:PASSWORD.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn new(url: &str, credentials: Option<&[u8]>) -> Result<Proxy, ProxyError> {
        let shown = || {
            url.rsplit_once('@')
                .map_or(url, |(_, place)| place)
                .to_owned()
        };
        let uri: Uri = url.parse().map_err(|_| ProxyError::Url(shown()))?;
        let plain = uri.scheme() == Some(&Scheme::HTTP)
            && uri
                .authority()
                .is_some_and(|place| !place.as_str().contains('@'));
        if !plain {
            return Err(ProxyError::Url(shown()));
        }
        let login = credentials.map(login).transpose()?;
        let authorization = login.as_deref().map(basic).transpose()?;
        Ok(Proxy {
            uri,
            authorization,
            login,
        })
    }

    /// The proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in capitals or not, name for
    /// a URL. Never for this machine itself, as in Go's clients, and none for a URL that cannot be
    /// read.
    ///
    /// # Errors
    /// [`ProxyError::Url`] where they name a proxy of another kind, such as SOCKS.
    pub fn of_environment(url: &str) -> Result<Option<Proxy>, ProxyError> {
        let Ok(uri) = url.parse() else {
            return Ok(None);
        };
        Self::found_by(&Matcher::from_env(), &uri)
    }

    fn found_by(matcher: &Matcher, uri: &Uri) -> Result<Option<Proxy>, ProxyError> {
        if uri.host().is_none_or(is_this_machine) {
            return Ok(None);
        }
        let Some(found) = matcher.intercept(uri) else {
            return Ok(None);
        };
        let proxy = found.uri();
        if proxy.scheme() != Some(&Scheme::HTTP) || found.raw_auth().is_some() {
            let place = proxy.authority().map_or("", |place| place.as_str());
            let scheme = proxy.scheme_str().unwrap_or_default();
            return Err(ProxyError::Url(format!("{scheme}://{place}")));
        }
        let mut authorization = found.basic_auth().cloned();
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let encoded = authorization.as_ref().and_then(|value| {
            let text = value.to_str().ok()?.strip_prefix("Basic ")?;
            String::from_utf8(STANDARD.decode(text).ok()?).ok()
        });
        Ok(Some(Proxy {
            uri: proxy.clone(),
            authorization,
            login: encoded,
        }))
    }

    /// Whether a text holds its credentials, or the password alone.
    pub fn holds_secret(&self, text: &str) -> bool {
        self.login.as_deref().is_some_and(|login| {
            let password = login.split_once(':').map_or("", |(_, password)| password);
            text.contains(login) || password.len() >= MIN_SECRET_BYTES && text.contains(password)
        })
    }

    /// Its place, for messages.
    pub fn place(&self) -> &str {
        self.uri.authority().map_or("", |place| place.as_str())
    }
}

/// RFC 7617: what follows the first colon is the password.
fn login(credentials: &[u8]) -> Result<String, ProxyError> {
    let text =
        std::str::from_utf8(credentials.trim_ascii()).map_err(|_| ProxyError::Credentials)?;
    let whole = text.contains(':') && !text.chars().any(char::is_control);
    whole
        .then(|| text.to_owned())
        .ok_or(ProxyError::Credentials)
}

fn basic(login: &str) -> Result<HeaderValue, ProxyError> {
    let text = format!("Basic {}", STANDARD.encode(login));
    let mut value = HeaderValue::try_from(text).map_err(|_| ProxyError::Credentials)?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_a_spec_is_an_http_url_and_no_message_shows_its_password() {
        let proxy = Proxy::new("http://proxy:3128", Some(b"joe:hunter2\n")).unwrap();
        let value = proxy.authorization.unwrap();
        assert_eq!(value, "Basic am9lOmh1bnRlcjI=");
        assert!(value.is_sensitive());
        for url in [
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy",
            "http://joe:hunter2@proxy:3128",
            "http://joe:hunter2@pro xy",
            "",
        ] {
            let error = Proxy::new(url, None).map(drop).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for credentials in [&b"hunter2"[..], b"joe:hunter2\nx", b"joe:hunter2\0"] {
            let error = Proxy::new("http://proxy", Some(credentials))
                .map(drop)
                .unwrap_err();
            assert_eq!(error, ProxyError::Credentials);
        }
    }

    #[test]
    fn the_environment_names_a_proxy_for_others_and_never_for_this_machine() {
        let matcher = Matcher::builder()
            .http("http://plain:1")
            .https("http://joe:hunter2@secure:2")
            .no("internal.example,10.0.0.0/8")
            .build();
        let place = |url: &str| {
            let found = Proxy::found_by(&matcher, &url.parse().unwrap()).unwrap();
            found.map(|proxy| (proxy.place().to_owned(), proxy.authorization.is_some()))
        };
        let proxied = |place: &str, known: bool| Some((place.to_owned(), known));
        assert_eq!(
            place("http://mlflow.example/mcp"),
            proxied("plain:1", false)
        );
        assert_eq!(
            place("https://mlflow.example/mcp"),
            proxied("secure:2", true)
        );
        for url in [
            "http://mlflow.internal.example/mcp",
            "https://10.1.2.3/mcp",
            "http://localhost:5000/mcp",
            "http://LOCALHOST.:5000/mcp",
            "http://a.localhost/mcp",
            "http://127.0.0.2/mcp",
            "http://[::1]:80/mcp",
        ] {
            assert_eq!(place(url), None, "{url}");
        }
        let socks = Matcher::builder()
            .all("socks5://joe:hunter2@socks:1080")
            .build();
        let refused = Proxy::found_by(&socks, &Uri::from_static("http://mlflow.example/"));
        let text = refused.map(drop).unwrap_err().to_string();
        assert!(
            text.contains("socks5://socks:1080") && !text.contains("hunter2"),
            "{text}"
        );
    }
}
