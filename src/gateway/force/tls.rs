//! TLS towards agents: whether the spec asks for it, and the current certificate.
//!
//! In: `spec.gateway.tls` and the keys `tls.crt` and `tls.key` of its Secret (kubernetes.io/tls).
//! Out: how the listener is to speak. Must not do: fall back to plain text, or show anything of a
//! key.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::rejected::Rejected;
use super::secrets::Lookup;
use crate::api::server::McpServerSpec;

/// How the listener speaks to agents.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Plain HTTP.
    Plain,
    /// HTTP/1.1 within TLS 1.2 or 1.3.
    Tls(Arc<ServerConfig>),
    /// The spec asks for TLS but has no certificate: connections are closed without an answer.
    Closed,
}

impl Transport {
    /// Whether connections of one can continue under the other.
    pub fn same_kind(&self, other: &Transport) -> bool {
        matches!(
            (self, other),
            (Transport::Plain, Transport::Plain)
                | (
                    Transport::Tls(_) | Transport::Closed,
                    Transport::Tls(_) | Transport::Closed
                )
        )
    }

    /// Whether new connections are handled in the same way.
    pub fn same(&self, other: &Transport) -> bool {
        match (self, other) {
            (Transport::Tls(a), Transport::Tls(b)) => Arc::ptr_eq(a, b),
            (Transport::Plain, Transport::Plain) | (Transport::Closed, Transport::Closed) => true,
            _ => false,
        }
    }
}

/// A certificate that was read, and the bytes that it was read from. Holds a private key, so it has
/// no `Debug`.
pub struct Certificate {
    chain: Vec<u8>,
    key: Vec<u8>,
    config: Arc<ServerConfig>,
}

/// Whether the spec asks for TLS.
pub fn wanted(spec: &McpServerSpec) -> bool {
    spec.gateway
        .as_ref()
        .is_some_and(|gateway| gateway.tls.is_some())
}

/// How to speak by this spec and the current Secrets. `lookup` reports what is missing.
pub(super) fn transport(
    spec: &McpServerSpec,
    read: &mut Option<Certificate>,
    lookup: &mut Lookup<'_>,
) -> Result<Transport, Rejected> {
    let Some(tls) = spec
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.tls.as_ref())
    else {
        return Ok(Transport::Plain);
    };
    let name = &tls.secret_ref.name;
    let (chain, key) = (
        lookup.key(name, "tls.crt", false),
        lookup.key(name, "tls.key", false),
    );
    let (Some(chain), Some(key)) = (chain, key) else {
        return Ok(Transport::Closed);
    };
    if let Some(same) = read
        && same.chain == chain
        && same.key == key
    {
        return Ok(Transport::Tls(Arc::clone(&same.config)));
    }
    let config = server_config(&chain, &key).map_err(|why| {
        Rejected::Setting(format!(
            "spec.gateway.tls: the Secret {name} cannot be used: {why}"
        ))
    })?;
    let config = Arc::new(config);
    *read = Some(Certificate {
        chain,
        key,
        config: Arc::clone(&config),
    });
    Ok(Transport::Tls(config))
}

/// The error says what is wrong and shows nothing of the key.
fn server_config(chain: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or("tls.crt is not a chain of PEM certificates")?;
    // The reader's own message may quote the line that it could not read.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "tls.key is not a PEM private key (PKCS #8, PKCS #1 or SEC 1)")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| {
            format!("tls.crt and tls.key do not fit together or cannot be used: {error}")
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
