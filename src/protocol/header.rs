//! HTTP headers: the accepted values of a client's headers, and the headers that go upstream.
//!
//! In: header values. Out: whether they are acceptable, and the few that pass. It must not forward
//! any header of the client that is not on the list: the client's credentials and cookies end here.

use std::borrow::Cow;

use ::http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::envelope::Request;
use super::version::Version;

mod fields;
mod hosts;

pub use self::fields::{Field, Fields};
pub use self::hosts::{AllowedHosts, origin_allowed};

/// `Mcp-Session-Id`.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method` (2026-07-28).
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name` (2026-07-28).
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Last-Event-ID`.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The gateways that a request has passed through, the nearest last. Our own.
pub const HOPS_NAME: &str = "portcullis-hops";
/// What mirrors a tool's arguments starts so (2026-07-28).
pub const PARAM_PREFIX: &str = "mcp-param-";

/// Longer session ids are not examined.
const MAX_SESSION_ID: usize = 8192;

/// Why a request is refused for its headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("the header {0} must occur once, in visible ASCII")]
    Unusable(&'static str),
    #[error("the header mcp-protocol-version names two versions; send one")]
    VersionTwice,
    #[error("Accept must list application/json or text/event-stream, or better both")]
    AcceptPost,
    #[error("Accept must list text/event-stream")]
    AcceptGet,
    #[error("Content-Type must be application/json")]
    ContentType,
    #[error("Content-Encoding is not supported; send the body without it")]
    ContentEncoding,
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("the header {0} does not match the body")]
    Mismatch(&'static str),
    #[error(
        "this MCP-Protocol-Version is not supported; use the version that initialize answered with"
    )]
    Version,
}

/// The value of a header that may stand once at most, as text.
fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, HeaderFault> {
    match Field::of(headers, HeaderName::from_static(name)) {
        Field::Absent => Ok(None),
        Field::Once(value) => {
            let text = value.to_str().map_err(|_| HeaderFault::Unusable(name))?;
            Ok(Some(text))
        }
        Field::Repeated => Err(HeaderFault::Unusable(name)),
    }
}

/// `MCP-Protocol-Version`. Some clients add it twice, on lines of their own or in one list: equal
/// copies are one (RFC 9110, section 5.3).
pub fn protocol_version<'h>(fields: &Fields<'h>) -> Result<Option<&'h str>, HeaderFault> {
    match fields.protocol_version {
        Field::Absent => return Ok(None),
        Field::Once(value) => {
            // What nearly every client sends.
            let names = Version::SESSION.map(Version::as_str);
            let known = names.into_iter().find(|name| value == *name);
            if known.is_some() {
                return Ok(known);
            }
        }
        Field::Repeated => {}
    }
    let mut found = None;
    for value in fields.all().get_all(PROTOCOL_VERSION) {
        let text = value
            .to_str()
            .map_err(|_| HeaderFault::Unusable("mcp-protocol-version"))?;
        for version in text.split(',').map(str::trim) {
            if found.is_some_and(|found| found != version) {
                return Err(HeaderFault::VersionTwice);
            }
            found = Some(version);
        }
    }
    Ok(found)
}

/// `Mcp-Session-Id`, visible ASCII only (2025-11-25, Streamable HTTP, "Session Management").
pub fn session_id<'h>(fields: &Fields<'h>) -> Result<Option<&'h str>, HeaderFault> {
    let unusable = HeaderFault::Unusable("mcp-session-id");
    let id = match fields.session_id {
        Field::Absent => return Ok(None),
        Field::Once(value) => value.as_bytes(),
        Field::Repeated => return Err(unusable),
    };
    if id.is_empty() || id.len() > MAX_SESSION_ID || !is_visible(id) {
        return Err(unusable);
    }
    std::str::from_utf8(id).map(Some).map_err(|_| unusable)
}

/// The types of answer that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedTypes {
    /// `application/json` and `text/event-stream`.
    Both,
    /// `application/json` alone.
    Json,
    /// `text/event-stream` alone.
    Events,
}

/// The types of answer that a POST lists. Every version demands both of the client, but plain HTTP
/// clients list one, or send no `Accept`, which stands for everything (RFC 9110, section 12.5.1).
/// `*/*` counts for both; a type with `q=0` is not listed.
pub fn accepted_types(fields: &Fields<'_>) -> Result<AcceptedTypes, HeaderFault> {
    match fields.accept {
        Field::Absent => return Ok(AcceptedTypes::Both),
        Field::Once(value) if lists_both(value) => return Ok(AcceptedTypes::Both),
        Field::Once(_) | Field::Repeated => {}
    }
    let json = accepts(fields.all(), "application", "json");
    match (json, accepts(fields.all(), "text", "event-stream")) {
        (true, true) => Ok(AcceptedTypes::Both),
        (true, false) => Ok(AcceptedTypes::Json),
        (false, true) => Ok(AcceptedTypes::Events),
        (false, false) => Err(HeaderFault::AcceptPost),
    }
}

/// Whether an `Accept` is what nearly every client sends.
fn lists_both(value: &HeaderValue) -> bool {
    matches!(
        value.as_bytes(),
        b"application/json, text/event-stream" | b"text/event-stream, application/json"
    )
}

/// Whether a GET lists `text/event-stream`.
pub fn check_get_accept(headers: &HeaderMap) -> Result<(), HeaderFault> {
    if accepts(headers, "text", "event-stream") {
        Ok(())
    } else {
        Err(HeaderFault::AcceptGet)
    }
}

fn accepts(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let (left, right) = parts
                .next()
                .and_then(|range| range.split_once('/'))
                .unwrap_or_default();
            let listed = (left == "*" && right == "*")
                || (left.eq_ignore_ascii_case(kind)
                    && (right == "*" || right.eq_ignore_ascii_case(subtype)));
            listed && !parts.any(is_zero_quality)
        })
}

/// `q=0`, `q=0.`, `q=0.000` (RFC 9110, section 12.4.2).
fn is_zero_quality(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        let value = value.trim();
        name.trim().eq_ignore_ascii_case("q")
            && value.starts_with('0')
            && value
                .trim_start_matches('0')
                .trim_start_matches('.')
                .trim_start_matches('0')
                .is_empty()
    })
}

/// The body must be `application/json`, in UTF-8 and not encoded.
pub fn check_post_content(fields: &Fields<'_>) -> Result<(), HeaderFault> {
    if !fields.content_encoding.is_absent() {
        return Err(HeaderFault::ContentEncoding);
    }
    match fields.content_type {
        Field::Once(value)
            if value.as_bytes() == b"application/json" || value.to_str().is_ok_and(is_json) =>
        {
            Ok(())
        }
        _ => Err(HeaderFault::ContentType),
    }
}

/// Whether a Content-Type is JSON: without parameters, or with `charset=utf-8` alone.
pub fn is_json(content_type: &str) -> bool {
    is_type(content_type, "application/json")
}

/// Whether a Content-Type is an event stream.
pub fn is_event_stream(content_type: &str) -> bool {
    is_type(content_type, "text/event-stream")
}

fn is_type(content_type: &str, essence: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    parts
        .next()
        .is_some_and(|found| found.eq_ignore_ascii_case(essence))
        && parts.all(|parameter| {
            parameter.is_empty()
                || parameter.split_once('=').is_some_and(|(name, value)| {
                    let value = value
                        .strip_prefix('"')
                        .and_then(|rest| rest.strip_suffix('"'))
                        .unwrap_or(value);
                    name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8")
                })
        })
}

/// The `MCP-Protocol-Version` of a request in a session. It may be missing, as the session knows
/// its version (until 2025-03-26 there was no such header); if it stands there it must be the
/// session's, or at least one that we speak (2025-11-25: an unsupported one is 400; that it is the
/// negotiated one is a SHOULD, and what goes upstream is ours).
pub fn check_session_version(header: Option<&str>) -> Result<(), HeaderFault> {
    match header {
        Some(text) if Version::parse(text).is_none_or(Version::is_stateless) => {
            Err(HeaderFault::Version)
        }
        _ => Ok(()),
    }
}

/// The headers of the client's that go upstream: trace context, and what mirrors arguments
/// (2026-07-28). Everything else that the upstream gets is the gateway's own.
pub fn forwarded(client: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    client.iter().filter(|(name, value)| {
        let once = client.get_all(*name).iter().nth(1).is_none();
        once && value.to_str().is_ok()
            && (matches!(name.as_str(), "traceparent" | "tracestate")
                || name.as_str().starts_with(PARAM_PREFIX))
    })
}

/// `WWW-Authenticate` of a 401 (RFC 6750 section 3, RFC 9728 section 5.1). The error is named if a
/// credential was presented.
pub fn www_authenticate(resource_metadata: Option<&str>, error: Option<&str>) -> String {
    let mut value = String::from("Bearer");
    let parts = [("error", error), ("resource_metadata", resource_metadata)];
    for (index, (name, text)) in parts
        .into_iter()
        .filter_map(|(name, text)| text.map(|text| (name, text)))
        .enumerate()
    {
        value.push_str(if index == 0 { " " } else { ", " });
        value.push_str(name);
        value.push_str("=\"");
        for character in text
            .chars()
            .filter(|character| matches!(character, ' '..='~'))
        {
            if matches!(character, '"' | '\\') {
                value.push('\\');
            }
            value.push(character);
        }
        value.push('"');
    }
    value
}

/// The text of `Mcp-Name` or `Mcp-Param-*`, its Base64 sentinel decoded (2026-07-28, Streamable
/// HTTP, "Value Encoding").
pub fn decode_value(value: &str) -> Option<Cow<'_, str>> {
    match value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="))
    {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?)
            .ok()
            .map(Cow::Owned),
        None => Some(Cow::Borrowed(value)),
    }
}

/// The header value for a name or argument, in the sentinel form where plain ASCII cannot carry it.
pub fn encode_value(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(text)))
    }
}

/// Whether the headers of a stateless request say what its body says (2026-07-28, "Server
/// Validation"): version and method always, the name where the method has one. A fault is 400 /
/// -32020.
pub fn check_stateless(
    headers: &HeaderMap,
    version: &str,
    request: &Request<'_>,
) -> Result<(), HeaderFault> {
    let agree = |name: &'static str, body: &str| match single(headers, name)? {
        None => Err(HeaderFault::Missing(name)),
        Some(value) if value == body => Ok(()),
        Some(_) => Err(HeaderFault::Mismatch(name)),
    };
    agree("mcp-protocol-version", version)?;
    agree("mcp-method", &request.method)?;
    let key = match request.method.as_ref() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return Ok(()),
    };
    let body = request
        .params
        .as_ref()
        .and_then(|params| params.string(key).ok().flatten());
    let Some(body) = body else {
        return Err(HeaderFault::Mismatch("mcp-name"));
    };
    let value = single(headers, "mcp-name")?.ok_or(HeaderFault::Missing("mcp-name"))?;
    match decode_value(value) {
        Some(decoded) if decoded == body => Ok(()),
        _ => Err(HeaderFault::Mismatch("mcp-name")),
    }
}

/// Whether all bytes are from `!` to `~`.
fn is_visible(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Eight at a time. Whatever a borrow or a carry could spoil lies above a byte that is found
    // anyway.
    let hidden =
        |word: u64| (word.wrapping_sub(ONES * 0x21) | word.wrapping_add(ONES) | word) & HIGH;
    let (words, rest) = text.as_chunks::<8>();
    let found = words
        .iter()
        .fold(0, |found, word| found | hidden(u64::from_le_bytes(*word)));
    found == 0 && rest.iter().all(|byte| matches!(byte, b'!'..=b'~'))
}

#[cfg(test)]
mod tests;
