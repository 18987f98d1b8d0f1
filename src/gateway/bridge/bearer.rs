//! The secret between a gateway and its bridge.
//!
//! In: request headers. Out: whether they carry the secret. It must not keep or show the secret itself.

use http::{HeaderMap, header};

/// A secret that requests must present as `Authorization: Bearer …`.
#[derive(Clone)]
pub struct Bearer {
    key: ring::hmac::Key,
    tag: ring::hmac::Tag,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// A bearer that is no bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    #[error("the bearer must be at least 16 characters of visible ASCII")]
    Weak,
    #[error("the system has no random numbers to offer")]
    Random,
}

impl Bearer {
    pub fn new(secret: &str) -> Result<Self, BearerError> {
        if secret.len() < 16 || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BearerError::Weak);
        }
        let random = ring::rand::SystemRandom::new();
        let key = ring::hmac::Key::generate(ring::hmac::HMAC_SHA256, &random)
            .map_err(|_| BearerError::Random)?;
        let tag = ring::hmac::sign(&key, secret.as_bytes());
        Ok(Self { key, tag })
    }

    /// In constant time: both sides are compared as MACs under a key that nobody outside knows.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let presented = value.as_bytes();
        let Some((scheme, secret)) = presented.split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ")
            && ring::hmac::verify(&self.key, secret, self.tag.as_ref()).is_ok()
    }
}
