//! Messages of the bridge's own, and small readings of those that pass through.
//!
//! In: what [`crate::protocol`] has parsed. Out: bytes on one line. It must not parse messages
//! itself: the one strict parser does that.

use bytes::Bytes;

use crate::json;
use crate::protocol::envelope::{self, Object};

/// A request id that owns its text.
pub(super) type Id = envelope::Id<'static>;

/// Errors of ours, as JSON-RPC 2.0 section 5.1 numbers them.
pub(super) mod code {
    pub(crate) const PARSE: i64 = -32700;
    pub(crate) const INVALID: i64 = -32600;
    pub(crate) const METHOD: i64 = -32601;
    pub(crate) const PARAMS: i64 = -32602;
    pub(crate) const INTERNAL: i64 = -32603;
    /// MCP 2026-07-28, "Versioning": unsupported protocol version.
    pub(crate) const VERSION: i64 = -32022;
}

/// Reads an id out of a raw value; also progress tokens, which have the same form.
pub(super) fn id(raw: &str) -> Option<Id> {
    envelope::Id::from_json(raw).map(envelope::Id::into_owned)
}

/// A member that is an id or a progress token.
pub(super) fn id_member(object: Option<&Object<'_>>, key: &str) -> Option<Id> {
    id(object?.get(key)?.raw)
}

/// A member that is a string.
pub(super) fn text(object: Option<&Object<'_>>, key: &str) -> Option<String> {
    let text = json::decode_string(object?.get(key)?.raw).ok()?;
    Some(text.into_owned())
}

/// A request of ours; `params` is raw JSON on one line.
pub(super) fn request(id: &Id, method: &str, params: &str) -> Bytes {
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{params}}}"#,
        id.to_json(),
        json::quoted(method)
    ))
}

/// A notification of ours; `params` is raw JSON on one line.
pub(super) fn notification(method: &str, params: Option<&str>) -> Bytes {
    let method = json::quoted(method);
    Bytes::from(match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{params}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","method":{method}}}"#),
    })
}

/// A result of ours; `result` is raw JSON on one line.
pub(super) fn result(id: &Id, result: &str) -> Bytes {
    let id = id.to_json();
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
    ))
}

/// An error of ours; `data` is raw JSON on one line. One whose request is not known carries no
/// `id`.
pub(super) fn error(id: Option<&Id>, code: i64, message: &str, data: Option<&str>) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!(r#""id":{},"#, id.to_json()));
    let data = data.map_or_else(String::new, |data| format!(r#","data":{data}"#));
    let message = json::quoted(message);
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0",{id}"error":{{"code":{code},"message":{message}{data}}}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_bridge_pass_the_strict_parser() {
        let id = Id::String("a\"b".into());
        for message in [
            request(&id, "m", "{}"),
            notification("notifications/m", None),
            notification("notifications/m", Some("{}")),
            result(&id, "{}"),
            error(Some(&id), code::INTERNAL, "line\nbreak", Some("{}")),
            error(None, code::PARSE, "why", None),
        ] {
            envelope::parse(&message).unwrap();
        }
        assert_eq!(
            error(Some(&id), code::INVALID, "why", Some("[1]")),
            r#"{"jsonrpc":"2.0","id":"a\"b","error":{"code":-32600,"message":"why","data":[1]}}"#
        );
    }
}
