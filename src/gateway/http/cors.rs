//! Pages of other origins: what a browser must hear before it lets them call.
//!
//! In: the head of a request. Out: the answer to a preflight request, and the headers that let a
//! page read an answer (Fetch standard, section 3.2, "CORS protocol"). Only for origins that
//! `spec.gateway.allowedOrigins` lists, and pages of this machine. Must not do: allow credentials
//! that a browser adds by itself (cookies), or answer to an origin that is not allowed.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::head::{check_host, one};
use super::responses::Answer;
use crate::gateway::Gateway;
use crate::gateway::body::empty;
use crate::gateway::force::settings::Settings;
use crate::protocol::header::{self, Fields, PARAM_PREFIX};

/// The headers that MCP clients send, by version of the protocol.
const REQUEST_HEADERS: &str = "accept, authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, mcp-session-id, traceparent, tracestate";
/// The headers of answers that they read.
const ANSWER_HEADERS: &str =
    "mcp-session-id, portcullis-decision-id, retry-after, www-authenticate";
/// The number of seconds for which a browser need not ask again.
const MAX_AGE: &str = "600";
/// More headers for arguments than this are not repeated.
const MAX_NAMED_BYTES: usize = 4 << 10;

/// The origin that a request comes from, if its pages may call.
fn allowed<'h>(fields: &Fields<'h>, settings: &Settings) -> Option<&'h str> {
    one(fields.origin).filter(|origin| header::origin_allowed(origin, &settings.allowed_origins))
}

/// The answer to a preflight request of an allowed origin. No credential is asked for: a browser
/// sends none with it.
pub(super) fn preflight(gateway: &Gateway, head: &Parts, fields: &Fields<'_>) -> Option<Answer> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let snapshot = gateway.snapshot()?;
    allowed(fields, &snapshot.settings)?;
    // One for another host is refused where other requests are, and counted there.
    check_host(head, fields, &snapshot.settings).ok()?;
    let mut answer = Response::new(empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, DELETE"),
    );
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, request_headers(&head.headers));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    let vary = "Access-Control-Request-Method, Access-Control-Request-Headers";
    headers.append(VARY, HeaderValue::from_static(vary));
    share(gateway, fields, &mut answer);
    Some(answer)
}

/// [`REQUEST_HEADERS`], and those that mirror arguments, whose names only the client knows.
fn request_headers(asked: &HeaderMap) -> HeaderValue {
    let mut names = REQUEST_HEADERS.to_owned();
    let asked = asked
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| name.starts_with(PARAM_PREFIX));
    for name in asked {
        if names.len() + name.len() < MAX_NAMED_BYTES {
            names.push_str(", ");
            names.push_str(&name);
        }
    }
    HeaderValue::try_from(names).unwrap_or(HeaderValue::from_static(REQUEST_HEADERS))
}

/// Lets a page of an allowed origin read the answer.
pub(super) fn share(gateway: &Gateway, fields: &Fields<'_>, answer: &mut Answer) {
    if fields.origin.is_absent() {
        return;
    }
    let Some(snapshot) = gateway.snapshot() else {
        return;
    };
    let origin = allowed(fields, &snapshot.settings).and_then(|text| text.parse().ok());
    let Some(origin) = origin else {
        return;
    };
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(ANSWER_HEADERS),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
