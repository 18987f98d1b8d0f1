//! Which of the two ways of speaking MCP a message uses.
//!
//! In: a message and the version that its headers name. Out: whether it belongs to a session or
//! stands alone. It must not guess: a version that is in no table is handed on as it was named, to
//! be refused.

use std::borrow::Cow;

use crate::json;

use super::envelope::Message;
use super::version::Version;

/// The key under which a stateless request carries its version in `params._meta` (2026-07-28,
/// basic, "Per-request protocol fields").
pub const VERSION_META_KEY: &str = "io.modelcontextprotocol/protocolVersion";

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
}
