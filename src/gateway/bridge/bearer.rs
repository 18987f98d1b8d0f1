//! The secret between a gateway and its bridge.
//!
//! In: request headers. Out: whether they carry the secret. It must not keep or show the secret
//! itself.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use parking_lot::RwLock;
use ring::hmac::{self, Tag};

/// Where a gateway presents a secret besides the one in `Authorization`, while the secret changes.
pub const ANOTHER: HeaderName = HeaderName::from_static("portcullis-bearer");

/// At most this many headers of that name are read.
const MAX_OTHERS: usize = 8;

/// A secret that requests must present as `Authorization: Bearer …`. While it changes, several are
/// good.
#[derive(Clone)]
pub struct Bearer {
    key: hmac::Key,
    tags: Arc<RwLock<Vec<Tag>>>,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// Why a secret cannot be a bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    #[error("the bearer must be at least 16 characters of visible ASCII")]
    Weak,
    #[error("the system has no random numbers to offer")]
    Random,
}

impl Bearer {
    /// A bearer of at least 16 characters of visible ASCII.
    ///
    /// # Errors
    /// When the secret is weaker than that, or the system has no random numbers.
    pub fn new(secret: &str) -> Result<Self, BearerError> {
        let random = ring::rand::SystemRandom::new();
        let key =
            hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(|_| BearerError::Random)?;
        let bearer = Self {
            key,
            tags: Arc::default(),
        };
        bearer.accept(&[secret.as_bytes()])?;
        Ok(bearer)
    }

    /// Whether a secret is strong enough to be one.
    pub(super) fn check(secret: &[u8]) -> Result<(), BearerError> {
        let visible = secret.iter().all(u8::is_ascii_graphic);
        if secret.len() < 16 || !visible {
            return Err(BearerError::Weak);
        }
        Ok(())
    }

    /// Accepts these secrets from now on, and no others.
    ///
    /// # Errors
    /// When one of them is too weak; then nothing changes.
    pub fn accept(&self, secrets: &[&[u8]]) -> Result<(), BearerError> {
        let tags: Result<Vec<Tag>, BearerError> = secrets
            .iter()
            .map(|secret| {
                Self::check(secret)?;
                Ok(hmac::sign(&self.key, secret))
            })
            .collect();
        *self.tags.write() = tags?;
        Ok(())
    }

    /// In constant time: both sides are compared as MACs under a key that only this process knows.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let presented = value.as_bytes();
        let Some((scheme, secret)) = presented.split_at_checked(7) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return false;
        }
        let tags = self.tags.read();
        let good = |secret: &[u8]| {
            let is = |tag: &Tag| hmac::verify(&self.key, secret, tag.as_ref()).is_ok();
            tags.iter().any(is)
        };
        let others = headers.get_all(ANOTHER).iter().take(MAX_OTHERS);
        good(secret) || others.map(|value| value.as_bytes()).any(good)
    }
}
