//! Protocol versions of the bridge: those that open a session. The gateway knows more versions.

use crate::protocol::version::Version;

/// Spoken by older stdio servers. Its messages are a subset of those of 2025-03-26, so they are
/// served as that.
const OLDEST_CHILD: &str = "2024-11-05";

pub(super) fn is_supported(version: &str) -> bool {
    Version::SESSION
        .iter()
        .any(|known| known.as_str() == version)
}

/// What a child that answered with `version` is served as; `None` if the bridge cannot serve it.
pub(super) fn of_child(version: &str) -> Option<Version> {
    if version == OLDEST_CHILD {
        return Some(Version::V2025_03_26);
    }
    Version::parse(version).filter(|version| !version.is_stateless())
}

/// What a client is answered that asks for `asked`, in front of a child that speaks `child`.
///
/// A server that supports the version asked for must answer with it, otherwise with one that it
/// does support (MCP, "Lifecycle", version negotiation). Each of these versions only adds to the
/// messages that a server sends, and a client ignores members that it does not know, so a child
/// also serves every older version.
pub(super) fn negotiate(asked: &str, child: Version) -> Version {
    match of_client(asked) {
        Some(asked) if asked <= child => asked,
        _ => child,
    }
}

fn of_client(asked: &str) -> Option<Version> {
    Version::parse(asked).filter(|version| !version.is_stateless())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_own_version_unless_the_child_is_older() {
        let newest = Version::LATEST_SESSION;
        assert_eq!(negotiate("2025-06-18", newest), Version::V2025_06_18);
        assert_eq!(negotiate("2025-11-25", newest), newest);
        assert_eq!(
            negotiate("2025-11-25", Version::V2025_03_26),
            Version::V2025_03_26
        );
        assert_eq!(negotiate("2026-07-28", newest), newest);
        assert_eq!(
            negotiate("2024-11-05", Version::V2025_06_18),
            Version::V2025_06_18
        );
    }

    #[test]
    fn an_old_child_is_served_as_the_oldest_http_version_and_an_unknown_one_not_at_all() {
        assert_eq!(of_child("2024-11-05"), Some(Version::V2025_03_26));
        assert_eq!(of_child("2025-11-25"), Some(Version::V2025_11_25));
        assert_eq!(of_child("2026-07-28"), None);
        assert_eq!(of_child("2099-01-01"), None);
        assert!(!is_supported("2026-07-28") && is_supported("2025-03-26"));
    }
}
