//! The operator's keys: the bearers that read gateways' reports follow from them, and the
//! signatures of bundles.
//!
//! In: a mounted Secret with one key a line: the first is used, and what any of them signed is
//! believed. Out: one bearer for each server and its hash for the bundle, signatures, public keys.
//! Must not do: show a key or a bearer.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::policy::bundle::Bundle;
use crate::policy::canonical::sha256;
use crate::policy::signature::{self, PublicKey, SignatureError, Signer};

/// Shorter keys are refused.
const MIN_KEY_BYTES: usize = 16;

/// Of which key the seed of the signing key is made, so that it is never the same as a bearer.
const SIGNING: &[u8] = b"portcullis bundle signing 1";

/// The keys of the operator.
pub struct OperatorKey {
    /// HMAC-SHA256 (RFC 2104).
    bearers: hmac::Key,
    signer: Signer,
    public: Vec<PublicKey>,
}

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
        "the operator's key {0} has less than {MIN_KEY_BYTES} bytes; make one with: openssl rand -base64 32"
    )]
    Short(String),
    #[error("the operator's key {0} has the same key in two lines; remove one of them")]
    Twice(String),
    #[error("the operator's key cannot sign: {0}; make one with: openssl rand -base64 32")]
    Signing(String),
    #[error("the system has no random numbers to offer")]
    Random,
}

impl OperatorKey {
    /// Of keys, the first of which is used.
    ///
    /// # Errors
    /// [`KeyError`]; `shown` names their file.
    pub fn new(bytes: &[u8], shown: &str) -> Result<Self, KeyError> {
        // A key that is not text is one key, whatever bytes are in it.
        let lines: Vec<&[u8]> = match std::str::from_utf8(bytes) {
            Ok(text) => text
                .lines()
                .map(|line| line.trim_ascii().as_bytes())
                .filter(|line| !line.is_empty())
                .collect(),
            Err(_) => vec![bytes.trim_ascii()],
        };
        if lines.is_empty() || lines.iter().any(|line| line.len() < MIN_KEY_BYTES) {
            return Err(KeyError::Short(shown.to_owned()));
        }
        let mut signers = Vec::with_capacity(lines.len());
        for line in &lines {
            let seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, line), SIGNING);
            let mut bytes = [0; 32];
            for (to, from) in bytes.iter_mut().zip(seed.as_ref()) {
                *to = *from;
            }
            signers.push(Signer::of_seed(&bytes).map_err(KeyError::Signing)?);
        }
        // In an order of their own, so that pods are not replaced when another line comes first.
        let mut public: Vec<PublicKey> = signers.iter().map(Signer::public).collect();
        public.sort_unstable();
        if public.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(KeyError::Twice(shown.to_owned()));
        }
        let first = lines.first().copied().unwrap_or_default();
        Ok(OperatorKey {
            bearers: hmac::Key::new(hmac::HMAC_SHA256, first),
            signer: signers.swap_remove(0),
            public,
        })
    }

    /// Reads the keys. White space at the ends of lines does not count.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| KeyError::Read {
            path: shown.clone(),
            source,
        })?;
        Self::new(&bytes, &shown)
    }

    /// What gateways believe bundles by.
    pub fn public(&self) -> &[PublicKey] {
        &self.public
    }

    /// Signs a bundle that has its revision and its sequence.
    pub fn sign(&self, bundle: &mut Bundle) {
        self.signer.sign(bundle);
    }

    /// Whether an operator with these keys wrote a bundle.
    pub fn verify(&self, bundle: &Bundle) -> Result<(), SignatureError> {
        signature::verify(bundle, &self.public)
    }

    /// Reads the key, and waits for it while there is none: a Secret that was made just now reaches
    /// the pod a moment later.
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
        hex::encode(hmac::sign(&self.bearers, server_uid.as_bytes()))
    }

    /// What the bundle says of that bearer.
    pub fn bearer_sha256(&self, server_uid: &str) -> String {
        hex::encode(sha256(self.bearer(server_uid).as_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> OperatorKey {
        OperatorKey::new(text.as_bytes(), "key").unwrap()
    }

    #[test]
    fn each_server_has_a_bearer_of_its_own_that_follows_from_the_key() {
        let one = key("0123456789abcdef");
        assert_eq!(one.bearer("u1"), key("0123456789abcdef\n").bearer("u1"));
        assert_ne!(one.bearer("u1"), one.bearer("u2"));
        assert_ne!(one.bearer("u1"), key("another key here").bearer("u1"));
        assert_eq!(one.bearer("u1").len(), 64);
        assert_ne!(one.bearer_sha256("u1"), one.bearer("u1"));
    }

    #[test]
    fn of_several_keys_the_first_signs_and_all_are_believed() {
        let (old, new) = ("the old key of ours", "the new key of ours");
        let (both, only_old) = (key(&format!("{old}\n{new}\n")), key(old));
        let turned = key(&format!("{new}\r\n\n{old}"));
        // Gateways' pods are not replaced when the order of lines changes.
        assert_eq!(both.public(), turned.public());
        assert_eq!(both.bearer("u"), only_old.bearer("u"));
        assert_eq!(turned.bearer("u"), key(new).bearer("u"));
        let mut bundle = crate::policy::tests::bundle("", &[]);
        turned.sign(&mut bundle);
        assert_eq!(both.verify(&bundle), Ok(()));
        assert!(only_old.verify(&bundle).is_err());
        let twice = OperatorKey::new(format!("{old}\n{old}").as_bytes(), "key");
        assert!(matches!(twice, Err(KeyError::Twice(_))));
    }

    #[test]
    fn a_key_that_could_be_guessed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for short in ["short\n", "", "\n\n", "long enough to be a key\nshort"] {
            std::fs::write(&path, short).unwrap();
            assert!(matches!(OperatorKey::read(&path), Err(KeyError::Short(_))));
        }
        std::fs::write(&path, "long enough to be a key\n").unwrap();
        assert!(OperatorKey::read(&path).is_ok());
        // No text, with a line end in it.
        std::fs::write(&path, [&[0xff; 9][..], b"\n", &[0xfe; 9]].concat()).unwrap();
        assert_eq!(OperatorKey::read(&path).unwrap().public().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_mounted_later_is_waited_for_and_a_bad_one_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { OperatorKey::wait(&path).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        std::fs::write(&path, random_text().unwrap()).unwrap();
        assert!(waiting.await.unwrap().is_ok());
        let folder_itself = OperatorKey::wait(folder.path()).await.err().unwrap();
        assert!(
            folder_itself.to_string().contains("cannot be read"),
            "{folder_itself}"
        );
    }
}
