//! The headers of requests to one upstream.
//!
//! In: the headers that the McpServer gives, and the envelope of a message. Out: the headers of its
//! request. What all requests have in common is made once: a map that is copied costs less than one
//! that is filled.

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::gateway::bridge::CALLER;
use crate::gateway::hops;
use crate::gateway::permit::Envelope;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const CALLER_ID: HeaderName = HeaderName::from_static(CALLER);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// In the place of a value that each request has; growing the copy costs more than replacing one.
const EACH: HeaderValue = HeaderValue::from_static("");

/// The headers of a POST, but for what differs between messages.
pub(super) struct RequestHeaders {
    common: HeaderMap,
    /// Names this gateway, so that it knows its own requests when they come back.
    hop: Option<HeaderValue>,
    names_caller: bool,
}

impl RequestHeaders {
    /// For an upstream that gets these headers from the McpServer. `hop` names the gateway, for
    /// upstreams that might lead back to it; `names_caller` says who calls, for bridges.
    pub(super) fn new(
        configured: &HeaderMap,
        hop: Option<HeaderValue>,
        names_caller: bool,
    ) -> Self {
        let mut common = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (
                ACCEPT,
                HeaderValue::from_static("application/json, text/event-stream"),
            ),
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (SESSION_ID, EACH),
            (PROTOCOL_VERSION, EACH),
        ]);
        if names_caller {
            common.insert(CALLER_ID, EACH);
        }
        if let Some(hop) = &hop {
            common.insert(hops::HOPS, hop.clone());
        }
        for (name, value) in configured {
            common.append(name.clone(), value.clone());
        }
        RequestHeaders {
            common,
            hop,
            names_caller,
        }
    }

    /// The headers of one request.
    pub(super) fn of(&self, method: &Method, envelope: Envelope) -> HeaderMap {
        let Envelope {
            session,
            version,
            last_event_id,
            caller,
            hops,
            trace,
        } = envelope;
        let mut headers = self.common.clone();
        if *method != Method::POST {
            headers.remove(CONTENT_TYPE);
            if *method == Method::GET {
                headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
            } else {
                headers.remove(ACCEPT);
            }
        }
        set(&mut headers, SESSION_ID, session);
        set(&mut headers, PROTOCOL_VERSION, version);
        if self.names_caller {
            set(&mut headers, CALLER_ID, caller);
        }
        if let Some(event) = last_event_id {
            headers.insert(LAST_EVENT_ID, event);
        }
        if let (Some(before), Some(own)) = (hops, &self.hop) {
            set(&mut headers, hops::HOPS, hops::with(&before, own));
        }
        for (name, value) in trace {
            headers.append(name, value);
        }
        headers
    }
}

/// Replaces the value, or removes the header.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn a_request_has_what_is_configured_and_what_its_message_says_and_no_more() {
        let mut configured = HeaderMap::new();
        configured.append("x-tenant", value("a"));
        configured.append("x-tenant", value("b"));
        let headers = RequestHeaders::new(&configured, Some(value("own")), false);
        let bare = headers.of(&Method::POST, Envelope::default());
        let common = [
            "accept-encoding: identity",
            "accept: application/json, text/event-stream",
            "content-type: application/json",
            "portcullis-hops: own",
            "x-tenant: a",
            "x-tenant: b",
        ];
        assert_eq!(text(&bare), common);
        let envelope = Envelope {
            session: Some(value("s")),
            version: Some(value("2025-06-18")),
            last_event_id: Some(value("7")),
            // For bridges only.
            caller: Some(value("key:ci")),
            hops: Some(value("first")),
            trace: vec![(HeaderName::from_static("traceparent"), value("00-1-2-01"))],
        };
        assert_eq!(
            text(&headers.of(&Method::GET, envelope.clone())),
            [
                "accept-encoding: identity",
                "accept: text/event-stream",
                "last-event-id: 7",
                "mcp-protocol-version: 2025-06-18",
                "mcp-session-id: s",
                "portcullis-hops: first,own",
                "traceparent: 00-1-2-01",
                "x-tenant: a",
                "x-tenant: b",
            ]
        );
        let end = headers.of(&Method::DELETE, Envelope::default());
        assert_eq!(text(&end)[..2], ["accept-encoding: identity", common[3]]);
        // A bridge gets the caller, and nothing leads from it back to a gateway.
        let bridge = RequestHeaders::new(&HeaderMap::new(), None, true);
        let told = bridge.of(&Method::POST, envelope);
        assert_eq!(told[CALLER_ID], "key:ci");
        assert!(!told.contains_key(hops::HOPS));
        // Nothing of one request is in the next.
        assert_eq!(
            text(&headers.of(&Method::POST, Envelope::default())),
            common
        );
    }
}
