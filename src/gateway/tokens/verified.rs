//! Tokens that were verified: each is verified once, and remembered by its hash until it expires.
//!
//! In: the SHA-256 of a token with what it proves. Out: the same, while it holds. Must not do: keep
//! a token.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;

use super::issuer::Proven;

/// The most tokens that are remembered. Only valid ones are, so that no caller fills it without an
/// issuer's help.
const MAX_TOKENS: usize = 4_096;

/// What tokens prove, by their hash.
#[derive(Default)]
pub struct VerifiedTokens {
    by_hash: RwLock<HashMap<[u8; 32], Arc<Proven>>>,
}

impl VerifiedTokens {
    /// What the token with this hash proves, while that holds.
    pub fn get(&self, hash: &[u8; 32], now: Timestamp) -> Option<Arc<Proven>> {
        let by_hash = self.by_hash.read();
        let proven = by_hash.get(hash)?;
        proven.holds(now).then(|| Arc::clone(proven))
    }

    /// Remembers what a token proves.
    pub fn insert(&self, hash: [u8; 32], proven: Arc<Proven>, now: Timestamp) {
        let mut by_hash = self.by_hash.write();
        if by_hash.len() >= MAX_TOKENS {
            by_hash.retain(|_, proven| proven.holds(now));
        }
        if by_hash.len() >= MAX_TOKENS {
            // The one that expires first is verified again if it comes back.
            let soonest = by_hash
                .iter()
                .min_by_key(|(_, proven)| proven.expires)
                .map(|(hash, _)| *hash);
            soonest.map(|hash| by_hash.remove(&hash));
        }
        by_hash.insert(hash, proven);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_hash.read().len()
    }
}
