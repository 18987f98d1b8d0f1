//! Authenticates the author of a bundle: the operator's Ed25519 signature (RFC 8032) over its
//! content.
//!
//! In: a bundle, keys. Out: a signed bundle, or why it is not trusted. The signature covers the
//! server's UID, the revision, which is a digest of the whole content, and the sequence. Must not
//! do: show a private key.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::bundle::Bundle;

/// Separates these signatures from any others that a key may ever make.
const DOMAIN: &[u8] = b"portcullis bundle 1";

/// Why a bundle is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It has no signature.
    #[error(
        "the bundle is not signed: another writer than the operator wrote it, and the operator will overwrite it"
    )]
    Unsigned,
    /// The signature is not by one of these keys, or not for this bundle.
    #[error(
        "the bundle's signature is not the operator's: another writer changed the bundle, or the operator's key was \
        replaced and this gateway's pod has not been replaced yet"
    )]
    Forged,
}

/// A public key, as gateways get it on their command line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = hex::decode(text)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(PublicKey)
            .ok_or_else(|| "write an Ed25519 public key as 64 hexadecimal digits".to_owned())
    }
}

/// A private key.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// The key of a secret seed.
    ///
    /// # Errors
    /// When the seed cannot be one.
    pub fn of_seed(seed: &[u8; 32]) -> Result<Self, String> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Signer)
            .map_err(|error| error.to_string())
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// Signs a bundle that has its revision and its sequence.
    pub fn sign(&self, bundle: &mut Bundle) {
        bundle.signature = Some(hex::encode(self.0.sign(&message(bundle))));
    }
}

/// Whether one of these keys signed the bundle, whose revision must have been compared with its
/// content.
///
/// # Errors
/// Why it is not trusted.
pub fn verify(bundle: &Bundle, keys: &[PublicKey]) -> Result<(), SignatureError> {
    let signature = bundle
        .signature
        .as_deref()
        .ok_or(SignatureError::Unsigned)?;
    let signature = hex::decode(signature).map_err(|_| SignatureError::Forged)?;
    let message = message(bundle);
    let by = |key: &PublicKey| {
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&message, &signature)
            .is_ok()
    };
    keys.iter()
        .any(by)
        .then_some(())
        .ok_or(SignatureError::Forged)
}

/// What is signed: each part with its length before it, so that no two bundles have the same signed
/// bytes.
fn message(bundle: &Bundle) -> Vec<u8> {
    let sequence = bundle.sequence.to_be_bytes();
    let parts: [&[u8]; 4] = [
        DOMAIN,
        bundle.server.uid.as_bytes(),
        bundle.revision.as_bytes(),
        &sequence,
    ];
    let mut message = Vec::with_capacity(200);
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::bundle;

    #[test]
    fn a_bundle_is_believed_as_it_was_signed_and_no_other_way() {
        let signer = Signer::of_seed(&[7; 32]).unwrap();
        let other = Signer::of_seed(&[8; 32]).unwrap();
        let keys = [other.public(), signer.public()];
        let mut signed = bundle("", &[("p", "defaultAction: Hide")]);
        assert_eq!(verify(&signed, &keys), Err(SignatureError::Unsigned));
        signer.sign(&mut signed);
        assert_eq!(verify(&signed, &keys), Ok(()));
        assert_eq!(
            verify(&signed, &[other.public()]),
            Err(SignatureError::Forged)
        );
        // As it travels.
        let text = serde_json::to_vec(&signed).unwrap();
        let read = Bundle::parse(&text).unwrap();
        assert_eq!((verify(&read, &keys), &read), (Ok(()), &signed));
        let forged: [fn(&mut Bundle); 5] = [
            |bundle| bundle.sequence += 1,
            |bundle| bundle.sequence = u64::MAX,
            |bundle| bundle.server.uid = "another".to_owned(),
            |bundle| bundle.policies.clear(),
            |bundle| bundle.report_token_sha256 = Some("00".repeat(32)),
        ];
        for forge in forged {
            let mut forged = signed.clone();
            forge(&mut forged);
            let forged = forged.sealed().unwrap();
            assert_eq!(verify(&forged, &keys), Err(SignatureError::Forged));
        }
        for signature in ["", "0", "zz", "é", &"00".repeat(64), "+1"] {
            let mut forged = signed.clone();
            forged.signature = Some(signature.to_owned());
            assert_eq!(verify(&forged, &keys), Err(SignatureError::Forged));
        }
    }

    #[test]
    fn a_public_key_is_written_and_read() {
        let key = Signer::of_seed(&[7; 32]).unwrap().public();
        assert_eq!(key.to_string().parse(), Ok(key));
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"+0".repeat(32)] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
