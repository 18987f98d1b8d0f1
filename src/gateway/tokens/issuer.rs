//! One issuer of tokens that a server trusts.
//!
//! In: a token. Out: the caller that it proves under this issuer, and until when. Must not do: say
//! to a caller what was wrong, beyond what RFC 6750 has a word for.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::crypto;
use super::keys::{Fingerprint, KeySet};
use super::remote::RemoteKeys;
use crate::policy::Caller;
use crate::policy::decision::CallerKind;
use crate::protocol::text;

/// The longest token that is read: the largest that common issuers make, with groups, is half of
/// it.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Clocks of issuers may differ by this much.
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest value of the claim that names a caller.
const MAX_NAME_BYTES: usize = 256;
/// The most groups of a caller.
const MAX_GROUPS: usize = 256;

/// An issuer, what its tokens must carry, and its keys.
pub struct Issuer {
    pub kind: IssuerKind,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The `aud` values of which a token must carry one.
    pub audiences: Vec<String>,
    /// The scopes that a token must carry, all of them.
    pub scopes: Vec<String>,
    pub keys: IssuerKeys,
}

/// How callers are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// `serviceaccount:NAMESPACE/NAME`.
    ServiceAccount,
    /// `jwt:PROVIDER/CLAIM`.
    Provider {
        /// The provider's name.
        name: String,
        /// The claim that names the caller.
        claim: String,
    },
}

/// Where the keys of an issuer come from.
pub enum IssuerKeys {
    /// They are known; None where they cannot be read, so that no token is accepted.
    Fixed(Option<Arc<KeySet>>),
    /// They are fetched.
    Remote(Arc<RemoteKeys>),
}

/// What a token proves.
pub struct Proven {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// When the token expires.
    pub expires: Timestamp,
    issuer: Arc<Issuer>,
    key: Fingerprint,
}

impl Proven {
    /// Whether the token has not expired, and its issuer still has the key that signed it.
    pub fn holds(&self, now: Timestamp) -> bool {
        now <= self.expires
            && self
                .issuer
                .keys(now)
                .is_some_and(|keys| keys.has(&self.key))
    }

    /// Whether these issuers still accept it.
    pub fn is_accepted_by(&self, issuers: &[Arc<Issuer>], now: Timestamp) -> bool {
        let trusted = |issuer: &Arc<Issuer>| {
            issuer.is_same(&self.issuer) && issuer.keys(now).is_some_and(|keys| keys.has(&self.key))
        };
        now <= self.expires && issuers.iter().any(trusted)
    }
}

/// The token proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    /// It is not a token of this issuer.
    #[error("another issuer's")]
    Foreign,
    /// It is one, and is not valid.
    #[error("not valid")]
    Invalid,
    /// It is one with a valid signature, and its time is over.
    #[error("expired")]
    Expired,
    /// It names a key that is not known, or no keys are known: newer keys may verify it.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// It is valid, and lacks a scope that is required.
    #[error("lacks a required scope")]
    Scope,
}

impl Issuer {
    /// Whether both accept the same tokens, apart from the keys.
    fn is_same(&self, other: &Issuer) -> bool {
        (&self.kind, &self.issuer, &self.audiences, &self.scopes)
            == (&other.kind, &other.issuer, &other.audiences, &other.scopes)
    }

    /// Whether it is an authorization server that clients can be sent to: the API server is not.
    pub fn authorizes(&self) -> bool {
        matches!(self.kind, IssuerKind::Provider { .. })
    }

    /// The keys to fetch, where they are fetched.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            IssuerKeys::Remote(remote) => Some(remote),
            IssuerKeys::Fixed(_) => None,
        }
    }

    /// The keys that tokens are verified with now.
    pub(super) fn keys(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        match &self.keys {
            IssuerKeys::Fixed(keys) => keys.clone(),
            IssuerKeys::Remote(remote) => remote.current(now),
        }
    }

    /// What a token proves.
    ///
    /// # Errors
    /// [`NotProven`].
    pub fn verify(self: &Arc<Self>, token: &str, now: Timestamp) -> Result<Proven, NotProven> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(NotProven::Foreign);
        }
        // Only who claims to have issued it; nothing else is taken from it before it is verified.
        let claimed: Claimed = insecure_decode_claims(token).map_err(|_| NotProven::Foreign)?;
        if claimed.iss != self.issuer {
            return Err(NotProven::Foreign);
        }
        // Algorithms that no key of ours can verify, `none` among them, are not even parsed.
        let header = decode_header(token).map_err(|_| NotProven::Invalid)?;
        if !crypto::is_asymmetric(header.alg) {
            return Err(NotProven::Invalid);
        }
        // `crit`: RFC 7515 section 4.1.11; we understand no extension. `cty`: a nested token.
        if header.crit.is_some() || header.cty.is_some() || !typ_fits(header.typ.as_deref()) {
            return Err(NotProven::Invalid);
        }
        let keys = self.keys(now).ok_or(NotProven::UnknownKey)?;
        let mut candidates = keys
            .candidates(header.kid.as_deref(), header.alg)
            .peekable();
        if candidates.peek().is_none() {
            return Err(NotProven::UnknownKey);
        }
        crypto::install();
        let validation = self.validation(header.alg);
        let mut why = NotProven::Invalid;
        let (claims, key): (Map<String, Value>, _) = candidates
            .find_map(|(key, fingerprint)| match decode(token, key, &validation) {
                Ok(decoded) => Some((decoded.claims, fingerprint)),
                Err(error) => {
                    // Claims are read only once the signature has been verified.
                    if matches!(error.kind(), ErrorKind::ExpiredSignature) {
                        why = NotProven::Expired;
                    }
                    None
                }
            })
            .ok_or(why)?;
        let expires = expiry(&claims).ok_or(NotProven::Invalid)?;
        if now > expires {
            return Err(NotProven::Expired);
        }
        if !self.has_scopes(&claims) {
            return Err(NotProven::Scope);
        }
        let caller = self.caller(claims).ok_or(NotProven::Invalid)?;
        Ok(Proven {
            caller: Arc::new(caller),
            expires,
            issuer: Arc::clone(self),
            key,
        })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation
    }

    /// `scope` (RFC 8693 section 4.2, RFC 9068), or `scp` as a list or text, as some issuers write.
    fn has_scopes(&self, claims: &Map<String, Value>) -> bool {
        let granted: Vec<&str> = match claims.get("scope").or_else(|| claims.get("scp")) {
            Some(Value::String(scopes)) => scopes.split(' ').collect(),
            Some(Value::Array(scopes)) => scopes.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        self.scopes
            .iter()
            .all(|scope| granted.contains(&scope.as_str()))
    }

    fn caller(&self, claims: Map<String, Value>) -> Option<Caller> {
        let (grant, kind, groups) = match &self.kind {
            IssuerKind::ServiceAccount => {
                let subject = claims.get("sub")?.as_str()?;
                let account = subject.strip_prefix("system:serviceaccount:")?;
                let (namespace, name) = account.split_once(':')?;
                if !is_dns_name(namespace) || !is_dns_name(name) {
                    return None;
                }
                let groups = vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
                let grant = format!("serviceaccount:{namespace}/{name}");
                (grant, CallerKind::ServiceAccount, groups)
            }
            IssuerKind::Provider { name, claim } => {
                let value = claims.get(claim)?.as_str().filter(|value| names(value))?;
                let groups = match claims.get("groups") {
                    Some(Value::Array(groups)) => groups
                        .iter()
                        .filter_map(Value::as_str)
                        .take(MAX_GROUPS)
                        .map(str::to_owned)
                        .collect(),
                    Some(Value::String(group)) => vec![group.clone()],
                    _ => Vec::new(),
                };
                (format!("jwt:{name}/{value}"), CallerKind::Jwt, groups)
            }
        };
        Some(Caller {
            grant,
            kind,
            groups,
            claims,
        })
    }
}

#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// Access tokens and plain JWTs (RFC 9068 section 2.1, RFC 8725 section 3.11); not logout tokens,
/// proofs of possession or security events, which the same issuer signs with the same keys.
fn typ_fits(typ: Option<&str>) -> bool {
    typ.is_none_or(|typ| {
        let typ = typ
            .strip_prefix("application/")
            .unwrap_or(typ)
            .to_ascii_lowercase();
        matches!(typ.as_str(), "jwt" | "at+jwt")
    })
}

/// `exp` (RFC 7519 section 4.1.4) with the leeway, as a moment.
fn expiry(claims: &Map<String, Value>) -> Option<Timestamp> {
    let seconds = claims.get("exp")?.as_f64()?;
    if !(0.0..253_402_000_000.0).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let exp = Timestamp::from_second(seconds.floor() as i64).ok()?;
    exp.checked_add(jiff::SignedDuration::try_from(LEEWAY).ok()?)
        .ok()
}

/// What may name a caller in policies, logs and statuses.
fn names(value: &str) -> bool {
    !value.is_empty() && value.len() <= MAX_NAME_BYTES && !value.chars().any(text::hidden)
}

/// RFC 1123, as Kubernetes demands it of namespaces and service accounts.
fn is_dns_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
}
