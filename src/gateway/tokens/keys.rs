//! A JSON Web Key Set (RFC 7517) as keys that verify.
//!
//! In: the text of a set. Out: its keys by `kid`. Keys of unknown kinds, keys for encryption and
//! symmetric keys are left out, as RFC 7517 section 5 demands. Must not do: fetch.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::crypto;
use crate::policy::canonical::sha256;

/// The largest set that is read.
pub const MAX_KEY_SET_BYTES: usize = 256 << 10;
/// The most keys of a set that are used.
const MAX_KEYS: usize = 64;
/// A token without `kid` is tried against this many keys at most.
const MAX_TRIED: usize = 4;
/// The smallest RSA modulus (RFC 7518 section 3.3), which ring checks as well.
const MIN_MODULUS_BYTES: usize = 256;

/// The keys of an issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// The SHA-256 of the text.
    digest: [u8; 32],
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    /// Curves fix the algorithm.
    curve: Option<EllipticCurve>,
    key: DecodingKey,
    /// The SHA-256 of the public key.
    fingerprint: Fingerprint,
}

/// Names a public key.
pub type Fingerprint = [u8; 32];

#[derive(Deserialize)]
struct WrittenKeys {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// Says what is wrong, and that no key of the set can verify a token.
    pub fn parse(text: &[u8]) -> Result<KeySet, String> {
        if text.len() > MAX_KEY_SET_BYTES {
            return Err(format!(
                "the key set has more than {} KiB; give one with the signing keys only",
                MAX_KEY_SET_BYTES >> 10
            ));
        }
        let written: WrittenKeys = serde_json::from_slice(text)
            .map_err(|error| format!("it is not a JSON Web Key Set (RFC 7517): {error}"))?;
        let keys: Vec<Key> = written
            .keys
            .into_iter()
            .filter_map(Key::read)
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() {
            return Err(
                "the key set has no key that verifies signatures (RSA of 2048 bits or more, P-256, P-384 or Ed25519)"
                    .to_owned(),
            );
        }
        let digest = sha256(text);
        Ok(KeySet { keys, digest })
    }

    /// Whether it was read from this text.
    pub fn is_from(&self, text: &[u8]) -> bool {
        self.digest == sha256(text)
    }

    /// The keys that a token with this `kid` and algorithm may be signed with.
    pub fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = (&DecodingKey, Fingerprint)> {
        self.keys
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.fits(algorithm))
            .map(|key| (&key.key, key.fingerprint))
            .take(MAX_TRIED)
    }

    /// Whether it still has this key.
    pub fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| key.fingerprint == *fingerprint)
    }
}

impl Key {
    fn read(value: Value) -> Option<Key> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let common = &jwk.common;
        let signs = common
            .public_key_use
            .as_ref()
            .is_none_or(|used| *used == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = match &common.key_algorithm {
            Some(named) => Some(named.to_string().parse().ok()?),
            None => None,
        };
        let curve = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => None,
            AlgorithmParameters::EllipticCurve(key) => Some(key.curve.clone()),
            AlgorithmParameters::OctetKeyPair(key) => Some(key.curve.clone()),
            _ => return None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let (long_enough, fingerprint) = match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let leading = n.iter().take_while(|byte| **byte == 0).count();
                let text = [&n[..], b".", e].concat();
                (n.len() - leading >= MIN_MODULUS_BYTES, sha256(&text))
            }
            DecodingKeyKind::SecretOrDer(point) => {
                (key.family() != AlgorithmFamily::Hmac, sha256(point))
            }
        };
        let key = Key {
            id: jwk.common.key_id,
            algorithm,
            curve,
            key,
            fingerprint,
        };
        let usable = key.algorithm.is_none_or(|named| key.fits(named));
        (signs && long_enough && usable).then_some(key)
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let curve = match algorithm {
            Algorithm::ES256 => Some(EllipticCurve::P256),
            Algorithm::ES384 => Some(EllipticCurve::P384),
            Algorithm::EdDSA => Some(EllipticCurve::Ed25519),
            _ => None,
        };
        crypto::verifies(algorithm, self.key.family())
            && self.curve == curve
            && self.algorithm.is_none_or(|named| named == algorithm)
    }
}
