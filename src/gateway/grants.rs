//! Who is calling: the `Authorization` header against the keys and issuers of this server, to a
//! grant or a refusal.
//!
//! API keys are held and compared as SHA-256 digests, every one on each request, so that neither
//! the time taken nor a memory dump reveals a key. A credential that is presented and fails is
//! refused, never treated as anonymous.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use ring::digest::SHA256_OUTPUT_LEN;

use crate::gateway::fairness::budget::Share;
use crate::gateway::observe::authentication_failure::AuthenticationFailure;
use crate::gateway::tokens::{Issuer, NotProven, Proven, RemoteKeys, VerifiedTokens};
use crate::policy::Caller;
use crate::policy::canonical::sha256;
use crate::protocol::header::Field;

/// The credentials that this server accepts, as read at one moment.
#[derive(Default)]
pub struct Grants {
    keys: Vec<ApiKey>,
    issuers: Vec<Arc<Issuer>>,
    tokens: VerifiedTokens,
    anonymous: Option<Arc<Caller>>,
    refused: Vec<String>,
    equal: Vec<String>,
    /// What is wrong with the issuers.
    faults: Vec<String>,
}

/// Shorter keys are refused: they can be guessed.
pub const SHORTEST_KEY: usize = 16;

const UNKNOWN: Unauthorized = Unauthorized::Refused(AuthenticationFailure::UnknownCredential);

#[derive(Debug)]
struct ApiKey {
    digest: [u8; SHA256_OUTPUT_LEN],
    caller: Arc<Caller>,
}

/// A caller with what it proved to be that: long streams check with it whether the grant still
/// holds.
#[derive(Clone)]
pub struct Grant {
    /// The name under which the engine decides.
    pub caller: Arc<Caller>,
    credential: Credential,
    /// Its share of the bounded resources, once the connection has one.
    pub share: Option<Arc<Share>>,
    /// What its sessions are bound to, if not to its name alone: the credential by which it reaches
    /// the upstream.
    pub binding: Option<Arc<str>>,
}

impl Grant {
    fn new(caller: Arc<Caller>, credential: Credential) -> Self {
        Grant {
            caller,
            credential,
            share: None,
            binding: None,
        }
    }

    /// What tokens for its client are bound to.
    pub fn bound(&self) -> &str {
        self.binding.as_deref().unwrap_or(&self.caller.grant)
    }

    fn of_token(proven: Arc<Proven>) -> Self {
        Grant::new(Arc::clone(&proven.caller), Credential::Token(proven))
    }

    /// When it ends by itself.
    pub fn expires(&self) -> Option<Timestamp> {
        match &self.credential {
            Credential::Token(proven) => Some(proven.expires),
            Credential::None | Credential::Key(_) => None,
        }
    }

    /// The same text for the same caller, which does not reveal its name.
    pub fn token(&self) -> HeaderValue {
        let token = hex::encode(&sha256(self.caller.grant.as_bytes())[..16]);
        // Hexadecimal digits are always a valid header value.
        HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

#[derive(Clone)]
enum Credential {
    None,
    /// The digest of an API key.
    Key([u8; SHA256_OUTPUT_LEN]),
    Token(Arc<Proven>),
}

/// No credential, or none that is accepted. The words are the same for every reason, which would
/// help only a guesser; the reason is for the audit log.
#[derive(Debug, thiserror::Error)]
pub enum Unauthorized {
    /// None was sent.
    #[error("no accepted credential")]
    Missing,
    /// The one that was sent is not accepted.
    #[error("no accepted credential")]
    Refused(AuthenticationFailure),
    /// It is a token whose issuer may have newer keys than those that are known.
    #[error("no accepted credential")]
    UnknownKey(Arc<RemoteKeys>),
    /// It is a valid token that lacks one of these scopes.
    #[error("the token lacks a scope that this server requires: {}", .0.join(" "))]
    Scopes(Vec<String>),
}

impl Unauthorized {
    /// Why, for the audit log and metrics.
    pub fn reason(&self) -> AuthenticationFailure {
        match self {
            Unauthorized::Missing => AuthenticationFailure::Missing,
            Unauthorized::Refused(failure) => *failure,
            Unauthorized::UnknownKey(_) => AuthenticationFailure::UnknownSigningKey,
            Unauthorized::Scopes(_) => AuthenticationFailure::MissingScope,
        }
    }
}

/// The text is not the digest of a key.
#[derive(Debug, thiserror::Error)]
#[error("write the SHA-256 of the key as 64 hexadecimal digits")]
pub struct NoDigest;

impl Grants {
    /// Builds the table. Each entry of `keys` is a grant's name and its key; white space around a
    /// key is not part of it (Secrets made from files end in a newline). A key of fewer than
    /// [`SHORTEST_KEY`] characters admits no caller, and is among the [refused](Self::refused).
    /// Keys of several grants that are equal admit no caller either, and are among the
    /// [equal](Self::equal): it would be unclear whose call it is.
    pub fn new(keys: &BTreeMap<String, Vec<u8>>, anonymous: bool) -> Self {
        let (mut accepted, mut refused) = (Vec::with_capacity(keys.len()), Vec::new());
        for (name, key) in keys {
            let key = key.trim_ascii();
            // Characters, as people count them; bytes where the key is not text.
            let length = std::str::from_utf8(key).map_or(key.len(), |text| text.chars().count());
            if length < SHORTEST_KEY {
                refused.push(name.clone());
            } else {
                accepted.push(ApiKey {
                    digest: sha256(key),
                    caller: Arc::new(Caller::key(name)),
                });
            }
        }
        let mut count: BTreeMap<[u8; SHA256_OUTPUT_LEN], usize> = BTreeMap::new();
        for key in &accepted {
            *count.entry(key.digest).or_default() += 1;
        }
        let (accepted, equal): (Vec<ApiKey>, Vec<ApiKey>) = accepted
            .into_iter()
            .partition(|key| count.get(&key.digest) == Some(&1));
        let name = |key: &ApiKey| {
            key.caller
                .grant
                .strip_prefix("key:")
                .unwrap_or_default()
                .to_owned()
        };
        Grants {
            keys: accepted,
            refused,
            equal: equal.iter().map(name).collect(),
            anonymous: anonymous.then(|| Arc::new(Caller::anonymous())),
            ..Grants::default()
        }
    }

    /// Admits the caller that presents the one key with this SHA-256, given in hexadecimal.
    ///
    /// # Errors
    /// [`NoDigest`].
    pub fn of_digest(name: &str, hex: &str) -> Result<Self, NoDigest> {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        hex::decode_to_slice(hex, &mut digest).map_err(|_| NoDigest)?;
        let caller = Arc::new(Caller::key(name));
        Ok(Grants {
            keys: vec![ApiKey { digest, caller }],
            ..Grants::default()
        })
    }

    /// The same, and tokens of these issuers; `faults` says what is wrong with others.
    pub fn with_issuers(self, issuers: Vec<Arc<Issuer>>, faults: Vec<String>) -> Self {
        Grants {
            issuers,
            faults,
            ..self
        }
    }

    /// Why tokens of issuers are refused: keys that cannot be used, or that could not be fetched.
    pub fn issuer_faults(&self) -> Vec<String> {
        let unfetched = self.issuers.iter().filter_map(|issuer| {
            let why = issuer.remote()?.error()?;
            Some(format!(
                "the keys of the issuer {} cannot be fetched: {why}",
                issuer.issuer
            ))
        });
        self.faults.iter().cloned().chain(unfetched).collect()
    }

    /// Names of the keys that are too short to be accepted.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Names of the keys that are also the key of another grant.
    pub fn equal(&self) -> &[String] {
        &self.equal
    }

    /// The grant that a request's headers prove.
    ///
    /// # Errors
    /// [`Unauthorized`] when there is no credential and anonymous callers are not admitted, or when
    /// the header is not one accepted Bearer credential (RFC 6750 section 2.1).
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Grant, Unauthorized> {
        self.authorize(Field::of(headers, AUTHORIZATION))
    }

    /// The grant that an `Authorization` header proves; errors as of [`Grants::authenticate`].
    ///
    /// # Errors
    /// [`Unauthorized`], as there.
    pub fn authorize(&self, authorization: Field<'_>) -> Result<Grant, Unauthorized> {
        let value = match authorization {
            Field::Absent => {
                let caller = self.anonymous.clone().ok_or(Unauthorized::Missing)?;
                return Ok(Grant::new(caller, Credential::None));
            }
            Field::Once(value) => value,
            Field::Repeated => {
                return Err(Unauthorized::Refused(AuthenticationFailure::Malformed));
            }
        };
        let malformed = || Unauthorized::Refused(AuthenticationFailure::Malformed);
        let split = value.as_bytes().split_at_checked(7);
        let (scheme, token) = split.ok_or_else(malformed)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(malformed());
        }
        let token = token.trim_ascii();
        if token.is_empty() {
            return Err(malformed());
        }
        let hash = sha256(token);
        match self.key(&hash) {
            Some(caller) => Ok(Grant::new(Arc::clone(caller), Credential::Key(hash))),
            None if self.issuers.is_empty() => Err(UNKNOWN),
            None => self.token(token, hash),
        }
    }

    fn token(&self, token: &[u8], hash: [u8; SHA256_OUTPUT_LEN]) -> Result<Grant, Unauthorized> {
        let now = Timestamp::now();
        if let Some(proven) = self.tokens.get(&hash, now) {
            return Ok(Grant::of_token(proven));
        }
        let token = std::str::from_utf8(token).map_err(|_| UNKNOWN)?;
        let mut refused = UNKNOWN;
        // Two providers may trust one issuer, for different audiences.
        for issuer in &self.issuers {
            match issuer.verify(token, now) {
                Ok(proven) => {
                    let proven = Arc::new(proven);
                    self.tokens.insert(hash, Arc::clone(&proven), now);
                    return Ok(Grant::of_token(proven));
                }
                Err(NotProven::UnknownKey) => {
                    if let Some(remote) = issuer.remote() {
                        refused = Unauthorized::UnknownKey(Arc::clone(remote));
                    }
                }
                Err(NotProven::Scope) => refused = Unauthorized::Scopes(issuer.scopes.clone()),
                Err(NotProven::Foreign) => {}
                // What another provider makes of it, which may have newer keys or demand a scope,
                // decides the answer.
                Err(invalid @ (NotProven::Invalid | NotProven::Expired)) => {
                    if let Unauthorized::Refused(reason) = &mut refused {
                        *reason = match invalid {
                            NotProven::Expired => AuthenticationFailure::ExpiredToken,
                            _ => AuthenticationFailure::InvalidToken,
                        };
                    }
                }
            }
        }
        Err(refused)
    }

    /// Whether a grant given earlier would still be given.
    pub fn still_holds(&self, grant: &Grant) -> bool {
        match &grant.credential {
            Credential::None => self.anonymous.is_some(),
            Credential::Key(hash) => self
                .key(hash)
                .is_some_and(|caller| caller.grant == grant.caller.grant),
            Credential::Token(proven) => proven.is_accepted_by(&self.issuers, Timestamp::now()),
        }
    }

    /// The issuers that clients can get a token from, each once.
    pub fn authorization_servers(&self) -> Vec<&str> {
        let authorizing = self.issuers.iter().filter(|issuer| issuer.authorizes());
        let mut servers: Vec<&str> = authorizing.map(|issuer| issuer.issuer.as_str()).collect();
        servers.dedup();
        servers
    }

    /// The scopes that tokens need, each once.
    pub fn scopes(&self) -> Vec<&str> {
        let scopes = self.issuers.iter().flat_map(|issuer| &issuer.scopes);
        let mut scopes: Vec<&str> = scopes.map(String::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }

    fn key(&self, presented: &[u8; SHA256_OUTPUT_LEN]) -> Option<&Arc<Caller>> {
        let mut found = None;
        for key in &self.keys {
            if same(&key.digest, presented) && found.is_none() {
                found = Some(&key.caller);
            }
        }
        found
    }
}

/// Compares without an early exit.
fn same(a: &[u8; SHA256_OUTPUT_LEN], b: &[u8; SHA256_OUTPUT_LEN]) -> bool {
    a.iter()
        .zip(b)
        .fold(0, |difference, (a, b)| difference | (a ^ b))
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(anonymous: bool) -> Grants {
        let keys = BTreeMap::from([
            ("trainer".to_owned(), b"s3cret-number-one\n".to_vec()),
            ("empty".to_owned(), b" \n".to_vec()),
        ]);
        Grants::new(&keys, anonymous)
    }

    fn name(grants: &Grants, values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        grants
            .authenticate(&headers)
            .ok()
            .map(|grant| grant.caller.grant.to_owned())
    }

    #[test]
    fn a_key_names_its_grant_and_nothing_else_does() {
        let keyed = grants(false);
        assert_eq!(
            name(&keyed, &["Bearer s3cret-number-one"]).as_deref(),
            Some("key:trainer")
        );
        assert_eq!(
            name(&keyed, &["bearer s3cret-number-one"]).as_deref(),
            Some("key:trainer")
        );
        for bad in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer s3cret-number-two"],
            &["Basic s3cret-number-one"],
            &["Bearer s3cret-number-one", "Bearer s3cret-number-one"],
        ] {
            assert_eq!(name(&keyed, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_key_that_could_be_guessed_admits_nobody_and_is_named() {
        let of = |key: &str| {
            let keys = BTreeMap::from([
                ("short".to_owned(), key.as_bytes().to_vec()),
                ("long".to_owned(), b"0123456789abcdef".to_vec()),
            ]);
            Grants::new(&keys, false)
        };
        for key in ["", "x", "0123456789abcde", " 0123456789abcde\n", "éééééééé"] {
            let grants = of(key);
            assert_eq!(grants.refused(), ["short"], "{key:?}");
            assert_eq!(name(&grants, &[&format!("Bearer {}", key.trim())]), None);
            let long = name(&grants, &["Bearer 0123456789abcdef"]);
            assert_eq!(long.as_deref(), Some("key:long"));
        }
        assert_eq!(of("0123456789abcdeg").refused(), [""; 0]);
    }

    #[test]
    fn a_key_of_two_grants_admits_neither_and_both_are_named() {
        let keys = ["a", "b", "c"].map(|name| {
            let key = if name == "c" {
                "0123456789abcdefg"
            } else {
                "0123456789abcdef"
            };
            // White space around a key is not part of it.
            (
                name.to_owned(),
                format!("{key}{}", if name == "b" { "\n" } else { "" }).into_bytes(),
            )
        });
        let grants = Grants::new(&BTreeMap::from(keys), true);
        assert_eq!(grants.equal(), ["a", "b"]);
        assert_eq!(grants.refused(), [""; 0]);
        assert_eq!(name(&grants, &["Bearer 0123456789abcdef"]), None);
        assert_eq!(
            name(&grants, &["Bearer 0123456789abcdefg"]).as_deref(),
            Some("key:c")
        );
    }

    #[test]
    fn a_bad_credential_is_never_anonymous() {
        let open = grants(true);
        assert_eq!(name(&open, &[]).as_deref(), Some("anonymous"));
        assert_eq!(name(&open, &["Bearer nonsense"]), None);
        assert_eq!(name(&open, &[""]), None);
    }

    #[test]
    fn a_digest_admits_its_key_and_nobody_else() {
        let hex = hex::encode(sha256(b"s3cret-number-one"));
        let grants = Grants::of_digest("report", &hex).unwrap();
        assert_eq!(
            name(&grants, &["Bearer s3cret-number-one"]).as_deref(),
            Some("key:report")
        );
        assert_eq!(name(&grants, &["Bearer s3cret-number-two"]), None);
        assert_eq!(name(&grants, &[]), None);
        for bad in [
            "",
            &hex[1..],
            &hex.replace(|c: char| c.is_ascii_digit(), "g"),
            &format!("{hex}00"),
        ] {
            assert!(Grants::of_digest("report", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revoked_key_no_longer_holds() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer s3cret-number-one".parse().unwrap());
        let grant = grants(false).authenticate(&headers).unwrap();
        assert!(grants(false).still_holds(&grant));
        assert!(!Grants::new(&BTreeMap::new(), true).still_holds(&grant));
        let renamed = BTreeMap::from([("other".to_owned(), b"s3cret-number-one".to_vec())]);
        assert!(!Grants::new(&renamed, false).still_holds(&grant));
    }
}
