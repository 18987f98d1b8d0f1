//! The parts of a client's message that a server may get: the members that the protocol defines,
//! and nothing else.
//!
//! In: the members of `params`, of `_meta` and of the results of clients. Out: whether each is
//! forwarded. Rules, previews and approvals see the name and the arguments of a call alone;
//! anything else in it would bypass them if the server reads it. Unknown members are left out
//! silently, because peers must ignore them (MCP, "_meta"). Sources: `schema.ts` of the four
//! versions; for trace context SEP-414 and W3C "Trace Context" and "Baggage".

use crate::json::{self, Kind, Member};

use super::envelope::Object;

/// Longer progress tokens are left out: the call is made without progress.
const LONGEST_TOKEN: usize = 256;
/// W3C Trace Context section 3.3.1.3 and W3C Baggage section 3.3.2.
const LONGEST_TRACE_STATE: usize = 512;
const LONGEST_BAGGAGE: usize = 8192;

/// Whether a member of `_meta` goes to the server. Those that only 2026-07-28 knows are not here,
/// as no session has them; `related-task` is not here either, as the gateway carries no tasks that
/// it could name.
pub fn meta_passes(member: &Member<'_>) -> bool {
    match member.key.as_ref() {
        "progressToken" => token_passes(member),
        "traceparent" => text(member).is_some_and(|text| trace_id(&text).is_some()),
        "tracestate" => printable(member, LONGEST_TRACE_STATE),
        "baggage" => printable(member, LONGEST_BAGGAGE),
        _ => false,
    }
}

/// The progress token of a request, as JSON, if it is one that goes to the server.
pub fn progress_token<'a>(params: &Object<'a>) -> Option<&'a str> {
    let member = params.meta("progressToken")?;
    token_passes(member).then_some(member.raw)
}

/// A progress token is a string or an integer.
fn token_passes(member: &Member<'_>) -> bool {
    match member.kind {
        Kind::String => member.raw.len() <= LONGEST_TOKEN,
        Kind::Number => member.raw.parse::<i64>().is_ok(),
        _ => false,
    }
}

fn text(member: &Member<'_>) -> Option<String> {
    let text = json::decode_string(member.raw).ok()?;
    Some(text.into_owned())
}

fn printable(member: &Member<'_>, longest: usize) -> bool {
    text(member).is_some_and(|text| {
        text.len() <= longest && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    })
}

/// The trace id of a valid `traceparent` (version-trace-parent-flags, lower-case hexadecimal, not
/// all zero).
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |text: &str| text.bytes().any(|byte| byte != b'0');
    let valid = hex(version, 2) && version != "ff" && parts.next().is_none();
    (valid && hex(trace, 32) && some(trace) && hex(parent, 16) && some(parent) && hex(flags, 2))
        .then_some(trace)
}

/// The members of a client's answer to a request of the server.
pub fn result_members(method: &str) -> &'static [&'static str] {
    match method {
        "sampling/createMessage" => &["role", "content", "model", "stopReason"],
        "elicitation/create" => &["action", "content"],
        "roots/list" => &["roots"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::emit::Edits;
    use super::super::envelope::{Message, parse};

    fn forwarded(params: &str) -> String {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let Message::Request(request) = parse(text.as_bytes()).unwrap() else {
            panic!("not a request")
        };
        let bytes = request.emit(&Edits::new().only(&["name", "arguments"]));
        let text = String::from_utf8(bytes).unwrap();
        let (_, params) = text.split_once(r#""params":"#).unwrap();
        params.strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn only_members_that_the_protocol_knows_are_forwarded() {
        let plain = r#"{"name":"a","arguments":{"input":1, "_meta":{"x":1}}}"#;
        assert_eq!(forwarded(plain), plain);
        assert_eq!(
            forwarded(
                r#"{"input":{"a":1},"name":"a","requestState":"s","inputResponses":{},"task":{"ttl":1},"uri":"file:///x","inp\u0075ts":2,"x":[]}"#
            ),
            r#"{"name":"a"}"#
        );
        assert_eq!(forwarded(r#"{"x":1}"#), "{}");
        assert_eq!(
            forwarded(r#"{"arguments":null,"name":"a"}"#),
            r#"{"name":"a"}"#
        );
    }

    #[test]
    fn only_progress_and_trace_context_are_forwarded_in_meta() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let whole = format!(
            r#"{{"name":"a","_meta":{{"progressToken":"t","traceparent":"{parent}","tracestate":"a=b","baggage":"k=v"}}}}"#
        );
        assert_eq!(forwarded(&whole), whole);
        assert_eq!(
            forwarded(r#"{"name":"a","_meta":{"progressToken":-7}}"#),
            r#"{"name":"a","_meta":{"progressToken":-7}}"#
        );
        let long = "x".repeat(300);
        for member in [
            r#""progressToken":{"a":1}"#,
            r#""progressToken":1.5"#,
            r#""progressToken":7e0"#,
            r#""progressToken":null"#,
            &format!(r#""progressToken":"{long}""#),
            r#""traceparent":"drop table""#,
            r#""traceparent":["00"]"#,
            r#""tracestate":"a\nb""#,
            r#""tracestate":"é""#,
            r#""baggage":{"k":"v"}"#,
            r#""io.modelcontextprotocol/related-task":{"taskId":"t"}"#,
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#,
            r#""com.example/user":"admin""#,
            r#""x":1"#,
        ] {
            assert_eq!(
                forwarded(&format!(r#"{{"name":"a","_meta":{{{member}}}}}"#)),
                r#"{"name":"a","_meta":{}}"#,
                "{member}"
            );
        }
    }
}
