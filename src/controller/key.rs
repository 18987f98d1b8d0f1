//! The operator's key, of which the bearers follow that read gateways' reports.
//!
//! In: a mounted Secret. Out: one bearer for each server, and its hash for the bundle. Must not do: show the key or a bearer.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};

/// Shorter keys are refused.
const LEAST: usize = 16;

/// An HMAC-SHA256 key (RFC 2104).
pub struct OperatorKey(hmac::Key);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the operator's key {path} cannot be read: {source}; mount the Secret there, or name it with --key-secret so that it is made"
    )]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "the operator's key {0} has less than {LEAST} bytes; make one with: openssl rand -base64 32"
    )]
    Short(String),
    #[error("the system has no random numbers to offer")]
    Random,
}

impl OperatorKey {
    pub fn new(bytes: &[u8]) -> Self {
        OperatorKey(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads the key. White space at its ends does not count.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| KeyError::Read {
            path: shown(),
            source,
        })?;
        let bytes = bytes.trim_ascii();
        if bytes.len() < LEAST {
            return Err(KeyError::Short(shown()));
        }
        Ok(Self::new(bytes))
    }

    /// Reads the key, and waits for it while there is none: a Secret that was made just now reaches the pod a moment later.
    pub async fn wait(path: &Path) -> Result<Self, KeyError> {
        let mut told = false;
        loop {
            match Self::read(path) {
                Err(KeyError::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(path = %path.display(), "waiting for the operator's key");
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                result => return result,
            }
        }
    }

    /// The bearer for the reports of one server's gateways.
    pub fn bearer(&self, server_uid: &str) -> String {
        hex(hmac::sign(&self.0, server_uid.as_bytes()).as_ref())
    }

    /// What the bundle says of that bearer.
    pub fn bearer_sha256(&self, server_uid: &str) -> String {
        hex(digest::digest(&digest::SHA256, self.bearer(server_uid).as_bytes()).as_ref())
    }
}

/// Fresh random bytes, as text.
pub fn random_text() -> Result<String, KeyError> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Random)?;
    Ok(STANDARD.encode(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_bearer_of_its_own_that_follows_from_the_key() {
        let key = OperatorKey::new(b"0123456789abcdef");
        assert_eq!(
            key.bearer("u1"),
            OperatorKey::new(b"0123456789abcdef").bearer("u1")
        );
        assert_ne!(key.bearer("u1"), key.bearer("u2"));
        assert_ne!(
            key.bearer("u1"),
            OperatorKey::new(b"another key here").bearer("u1")
        );
        assert_eq!(key.bearer("u1").len(), 64);
        assert_ne!(key.bearer_sha256("u1"), key.bearer("u1"));
    }

    #[test]
    fn a_key_that_could_be_guessed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(OperatorKey::read(&path), Err(KeyError::Short(_))));
        std::fs::write(&path, "long enough to be a key\n").unwrap();
        assert!(OperatorKey::read(&path).is_ok());
    }
}
