//! The place of a Redis or Valkey server: its URL, and how to speak TLS to it.
//!
//! In: the URL and the CA, as Secrets hold them. Out: a stream to it. Must not do: show a URL,
//! which holds a password.

use std::sync::Arc;

use redis::{IntoConnectionInfo as _, RedisConnectionInfo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes to and from the server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Where the server is, and who connects.
pub struct Address {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// User, password and database.
    pub login: RedisConnectionInfo,
}

impl Address {
    /// Reads the URL.
    ///
    /// # Errors
    /// What is wrong, without a part of the URL.
    pub fn parse(url: &[u8], ca: Option<&[u8]>) -> Result<Address, String> {
        const FORM: &str = "write redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss://… for TLS";
        let url = std::str::from_utf8(url).unwrap_or_default().trim();
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| format!("the Secret holds no URL; {FORM}"))?;
        let secure = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(format!("the URL has another scheme than redis; {FORM}")),
        };
        if rest.contains('#') {
            return Err(format!("the URL has a fragment; {FORM}"));
        }
        let info = format!("redis://{rest}")
            .into_connection_info()
            .map_err(|_| format!("the URL cannot be read; {FORM}"))?;
        let redis::ConnectionAddr::Tcp(host, port) = info.addr().clone() else {
            return Err(format!("the URL names no host; {FORM}"));
        };
        if ca.is_some() && !secure {
            return Err("caSecretRef is for TLS; write a URL with rediss://".to_owned());
        }
        let tls = match secure {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| "the URL's host is not a valid name for TLS".to_owned())?;
                Some((TlsConnector::from(Arc::new(config(ca)?)), name))
            }
        };
        Ok(Address {
            host,
            port,
            tls,
            login: info.redis_settings().clone(),
        })
    }

    /// The host and port, for messages.
    pub fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects.
    ///
    /// # Errors
    /// Why not.
    pub async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((tls, name)) => Box::new(tls.connect(name.clone(), stream).await?),
        })
    }
}

fn config(ca: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let added = certificate.map(|certificate| roots.add(certificate));
                if !matches!(added, Ok(Ok(()))) {
                    return Err("caSecretRef holds no certificates in PEM".to_owned());
                }
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(
            "there is no certificate authority to trust; name one in caSecretRef".to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_being_shown() {
        for url in [
            "",
            "hunter2",
            "http://hunter2@a",
            "redis://",
            "redis://a:hunter2@b:99999",
            "redis://:hunter2@b/hunter2",
            "rediss://:hunter2@b#insecure",
            "unix:///hunter2",
        ] {
            let error = Address::parse(url.as_bytes(), None).err().unwrap();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let ca = Address::parse(b"redis://a", Some(b"x")).err().unwrap();
        assert!(ca.contains("rediss://"), "{ca}");
        let ca = Address::parse(b"rediss://a", Some(b"x")).err().unwrap();
        assert!(ca.contains("caSecretRef"), "{ca}");
    }

    #[test]
    fn a_url_names_host_user_and_database() {
        let plain = Address::parse(b"redis://ci:p%40ss@valkey.ml.svc:6380/2\n", None).unwrap();
        assert_eq!(plain.shown(), "valkey.ml.svc:6380");
        assert_eq!(plain.login.username(), Some("ci"));
        assert_eq!(plain.login.password(), Some("p@ss"));
        assert_eq!(plain.login.db(), 2);
        let usual = Address::parse(b"valkey://a", None).unwrap();
        assert_eq!(usual.shown(), "a:6379");
        assert!(usual.tls.is_none());
    }
}
