//! The protocol versions, and how the gateway answers the version that a client requests.
//!
//! In: version strings from headers and bodies. Out: which version to offer upstream, whether the
//! upstream's choice is usable. It must not guess: a string that is not in the table is
//! unsupported.

use std::fmt;

use super::text::printable;

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

/// What to ask the upstream for when a client's `initialize` asks for `requested`: the same if it
/// is a session version, else our newest (2025-11-25, Lifecycle, "Version Negotiation").
pub fn offer(requested: &str) -> Version {
    Version::parse(requested)
        .filter(|version| !version.is_stateless())
        .unwrap_or(Version::LATEST_SESSION)
}

/// What servers of the first version with sessions answer. They are spoken with as with the next
/// one, which adds nothing that they would have to know.
const OLDEST_ANSWERED: &str = "2024-11-05";

/// The version that an upstream chose in its answer to `initialize`, which becomes the session's.
pub fn chosen(answered: &str) -> Result<Version, UnsupportedVersion> {
    if answered == OLDEST_ANSWERED {
        return Ok(Version::V2025_03_26);
    }
    match Version::parse(answered) {
        Some(version) if !version.is_stateless() => Ok(version),
        _ => Err(UnsupportedVersion {
            answered: printable(answered, MAX_VERSION_CHARS),
        }),
    }
}

/// The upstream speaks a version that the gateway does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server speaks protocol version {answered} only; use a release of it that speaks 2025-03-26, 2025-06-18 or 2025-11-25"
)]
pub struct UnsupportedVersion {
    pub answered: String,
}

/// No version is longer.
pub const MAX_VERSION_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_offers_what_was_asked_for_or_our_newest_session_version() {
        assert_eq!(offer("2025-06-18"), Version::V2025_06_18);
        assert_eq!(offer("2024-11-05"), Version::V2025_11_25);
        assert_eq!(offer("2026-07-28"), Version::V2025_11_25);
        assert_eq!(chosen("2025-03-26"), Ok(Version::V2025_03_26));
        assert!(chosen("2026-07-28").is_err());
        assert_eq!(chosen("2024-11-05"), Ok(Version::V2025_03_26));
        assert!(chosen("2024-10-07").is_err());
    }

    #[test]
    fn names_read_back() {
        for version in Version::SESSION.into_iter().chain([Version::V2026_07_28]) {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert_eq!(Version::parse("2025-11-25 "), None);
    }
}
