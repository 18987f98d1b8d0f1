//! Protocol versions of the bridge. To be told apart from those of the gateway, which has more.

use crate::gateway::bridge::wire;

/// Those that speak Streamable HTTP with sessions, oldest first.
pub(super) const SUPPORTED: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];
/// What the bridge asks of a shared child.
pub(super) const NEWEST: &str = "2025-11-25";
/// Spoken by older stdio servers. Its messages are a subset of those of 2025-03-26, so they are served as that.
const OLDEST_CHILD: &str = "2024-11-05";

pub(super) fn is_supported(version: &str) -> bool {
    SUPPORTED.contains(&version)
}

/// What a child that answered with `version` is served as; `None` if the bridge cannot serve it.
pub(super) fn of_child(version: &str) -> Option<&'static str> {
    if version == OLDEST_CHILD {
        return Some(SUPPORTED[0]);
    }
    SUPPORTED.into_iter().find(|known| *known == version)
}

/// What a client is answered that asks for `asked`, in front of a child that speaks `child`.
///
/// A server that supports the version asked for must answer with it, otherwise with one that it does support (MCP,
/// "Lifecycle", version negotiation). Each of these versions only adds to the messages that a server sends, and a
/// client ignores members that it does not know, so a child also serves every older version.
pub(super) fn negotiate(asked: &str, child: &'static str) -> &'static str {
    match SUPPORTED.into_iter().find(|known| *known == asked) {
        // They are dates: they compare as text.
        Some(asked) if asked <= child => asked,
        _ => child,
    }
}

/// The version that a client's `initialize` asks for.
pub(super) fn asked(params: Option<&str>) -> Option<String> {
    wire::text(params, "protocolVersion").map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_own_version_unless_the_child_is_older() {
        assert_eq!(negotiate("2025-06-18", "2025-11-25"), "2025-06-18");
        assert_eq!(negotiate("2025-11-25", "2025-11-25"), "2025-11-25");
        assert_eq!(negotiate("2025-11-25", "2025-03-26"), "2025-03-26");
        assert_eq!(negotiate("2026-07-28", "2025-11-25"), "2025-11-25");
        assert_eq!(negotiate("2024-11-05", "2025-06-18"), "2025-06-18");
    }

    #[test]
    fn an_old_child_is_served_as_the_oldest_http_version_and_an_unknown_one_not_at_all() {
        assert_eq!(of_child("2024-11-05"), Some("2025-03-26"));
        assert_eq!(of_child("2025-11-25"), Some("2025-11-25"));
        assert_eq!(of_child("2099-01-01"), None);
    }
}
