//! JSON Web Tokens of callers: this cluster's service accounts, and other issuers.
//!
//! In: a bearer token, the issuers that a server trusts with their keys. Out: the caller that the
//! token proves, and until when. Sources: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (attacks and
//! what to check). Must not do: follow anything that a token names (`jku`, `x5u`, `jwk`, `x5c`),
//! accept a symmetric algorithm, or ask anyone about a single token.

mod crypto;
mod issuer;
mod keys;
mod remote;
mod verified;

pub use self::issuer::{Issuer, IssuerKeys, IssuerKind, NotProven, Proven};
pub use self::keys::KeySet;
pub use self::remote::RemoteKeys;
pub use self::verified::VerifiedTokens;

#[cfg(test)]
mod tests;
