//! Why an upstream gave no usable response: a leaf that every way to an upstream shares.

use std::time::Duration;

use crate::gateway::body::BoxError;

/// Why the upstream gave no usable response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No byte of the request left: units that were reserved for it can be returned.
    #[error("the upstream cannot be reached")]
    NotSent(#[source] BoxError),
    /// The request may have arrived and may have been carried out.
    #[error("the upstream's answer broke off")]
    Broken(#[source] BoxError),
    /// Nothing came within the time allowed.
    #[error("the upstream did not answer within {0:?}")]
    Timeout(Duration),
    /// Something came that a client must not be given.
    #[error("the upstream's answer is not acceptable: {0}")]
    Unacceptable(String),
}

impl UpstreamError {
    /// True only when it is certain that no byte of the request was written.
    pub fn not_sent(&self) -> bool {
        matches!(self, UpstreamError::NotSent(_))
    }
}
