//! The protocol versions, and how the gateway answers the version that a client requests.
//!
//! In: version strings from headers and bodies. Out: which era a message belongs to, which version
//! to offer upstream, whether the upstream's choice is usable. It must not guess: a string that is
//! not in the table is unsupported.

use std::borrow::Cow;
use std::fmt;

use crate::json;

use super::envelope::Message;

/// The key under which a stateless request carries its version in `params._meta` (2026-07-28,
/// basic, "Per-request protocol fields").
pub const VERSION_META_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// A version that the gateway knows, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Version {
    /// The versions that open a session with `initialize`, newest first.
    pub const SESSION: [Version; 3] = [
        Version::V2025_11_25,
        Version::V2025_06_18,
        Version::V2025_03_26,
    ];
    /// The newest of [`Self::SESSION`].
    pub const LATEST_SESSION: Version = Version::V2025_11_25;

    /// The version of that exact name.
    pub fn parse(text: &str) -> Option<Version> {
        Some(match text {
            "2025-03-26" => Version::V2025_03_26,
            "2025-06-18" => Version::V2025_06_18,
            "2025-11-25" => Version::V2025_11_25,
            "2026-07-28" => Version::V2026_07_28,
            _ => return None,
        })
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V2025_03_26 => "2025-03-26",
            Version::V2025_06_18 => "2025-06-18",
            Version::V2025_11_25 => "2025-11-25",
            Version::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether each request stands alone (2026-07-28) instead of belonging to a session.
    pub fn is_stateless(self) -> bool {
        self == Version::V2026_07_28
    }

    /// Whether clients send `MCP-Protocol-Version` after `initialize` (from 2025-06-18).
    pub fn has_header(self) -> bool {
        self >= Version::V2025_06_18
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of the two ways of speaking MCP a message uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Era<'a> {
    /// Up to 2025-11-25: `initialize`, then a session.
    Session,
    /// 2026-07-28 and whatever comes later; the version as the message names it, which may be none
    /// that we know.
    Stateless(Cow<'a, str>),
}

/// The era of a message that came with that `MCP-Protocol-Version` header.
///
/// The body decides, as it does in the SDKs' servers: a request with a version in `params._meta` is
/// stateless. Without one, a header that names no session version makes it stateless too, so that
/// the sender gets the answer that lists what is supported (2026-07-28, Streamable HTTP, "Protocol
/// Version Header"; until 2025-11-25 such a header is a 400 as well).
pub fn era<'a>(header: Option<&'a str>, message: &'a Message<'_>) -> Era<'a> {
    if let Some(member) = message
        .params()
        .and_then(|params| params.meta(VERSION_META_KEY))
    {
        // A version that is not a string is echoed unchanged: it cannot be in a list of versions.
        return Era::Stateless(
            json::decode_string(member.raw).unwrap_or(Cow::Borrowed(member.raw)),
        );
    }
    match header {
        Some(name) if Version::parse(name).is_none_or(Version::is_stateless) => {
            Era::Stateless(Cow::Borrowed(name))
        }
        _ => Era::Session,
    }
}

/// What to ask the upstream for when a client's `initialize` asks for `requested`: the same if it
/// is a session version, else our newest (2025-11-25, Lifecycle, "Version Negotiation").
pub fn offer(requested: &str) -> Version {
    Version::parse(requested)
        .filter(|version| !version.is_stateless())
        .unwrap_or(Version::LATEST_SESSION)
}

/// The version that an upstream chose in its answer to `initialize`, which becomes the session's.
pub fn chosen(answered: &str) -> Result<Version, UnsupportedVersion> {
    match Version::parse(answered) {
        Some(version) if !version.is_stateless() => Ok(version),
        _ => Err(UnsupportedVersion {
            answered: answered.chars().take(64).collect(),
        }),
    }
}

/// The upstream speaks a version that the gateway does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the upstream chose protocol version {answered:?}; it must speak 2025-03-26, 2025-06-18 or 2025-11-25"
)]
pub struct UnsupportedVersion {
    pub answered: String,
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    fn of(header: Option<&str>, body: &str) -> Option<String> {
        match era(header, &envelope::parse(body.as_bytes()).unwrap()) {
            Era::Session => None,
            Era::Stateless(version) => Some(version.into_owned()),
        }
    }

    #[test]
    fn the_body_decides_the_era_and_then_the_header() {
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let modern = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        assert_eq!(of(None, plain), None);
        assert_eq!(of(Some("2025-03-26"), plain), None);
        assert_eq!(of(Some("2025-11-25"), plain), None);
        assert_eq!(of(Some("2026-07-28"), plain), Some("2026-07-28".into()));
        assert_eq!(of(Some("2024-11-05"), plain), Some("2024-11-05".into()));
        assert_eq!(of(Some("x"), plain), Some("x".into()));
        assert_eq!(of(None, modern), Some("2026-07-28".into()));
        assert_eq!(of(Some("2025-11-25"), modern), Some("2026-07-28".into()));
    }

    #[test]
    fn negotiation_offers_what_was_asked_for_or_our_newest_session_version() {
        assert_eq!(offer("2025-06-18"), Version::V2025_06_18);
        assert_eq!(offer("2024-11-05"), Version::V2025_11_25);
        assert_eq!(offer("2026-07-28"), Version::V2025_11_25);
        assert_eq!(chosen("2025-03-26"), Ok(Version::V2025_03_26));
        assert!(chosen("2026-07-28").is_err());
        assert!(chosen("2024-11-05").is_err());
    }

    #[test]
    fn names_read_back() {
        for version in Version::SESSION.into_iter().chain([Version::V2026_07_28]) {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert_eq!(Version::parse("2025-11-25 "), None);
    }
}
