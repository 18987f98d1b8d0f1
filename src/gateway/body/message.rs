//! Messages as the bodies of responses: what a response holds, how a message becomes one, how an
//! answer is read from one.
//!
//! In: a response, or the bytes of a message. Out: its content type, a response, an answer. Must
//! not do: depend on the caller.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::{Body, full, read};
use crate::protocol::envelope::{self, Id, Message};
use crate::protocol::sse::{Decoder, Item};

/// An upstream answer may be this large.
pub const MAX_ANSWER: usize = 64 << 20;
/// One event of a stream may be this large: as a line of a stdio server, with what goes around it.
pub const MAX_EVENT: usize = 17 << 20;
/// When the client may try again after the upstream failed.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Between two pieces of an answer that is read whole, and for all of it.
const ANSWER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What the bodies of responses may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// One message.
    Json,
    /// A stream of events.
    EventStream,
}

/// The content type of a response, if it is one of the two that MCP has.
pub fn content_type<B>(response: &Response<B>) -> Option<ContentType> {
    let mut values = response.headers().get_all(CONTENT_TYPE).iter();
    let (first, None) = (values.next()?, values.next()) else {
        return None;
    };
    // What nearly every server sends.
    if first == "application/json" {
        return Some(ContentType::Json);
    }
    let kind = first.to_str().ok()?.split(';').next()?.trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Some(ContentType::Json)
    } else if kind.eq_ignore_ascii_case("text/event-stream") {
        Some(ContentType::EventStream)
    } else {
        None
    }
}

/// One JSON message as a response.
pub fn json_response(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A stream of events as a response.
pub fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// The answer to one request of the gateway's own, or of a client's handshake.
pub struct ReadAnswer {
    /// The bytes of the response message.
    pub body: Bytes,
    /// The session id that came with it.
    pub session: Option<HeaderValue>,
}

/// Reads a response of at most `limit` bytes up to the message that answers `id`.
///
/// # Errors
/// Says why when there is no such message.
pub async fn read_answer(
    response: Response<Body>,
    id: &Id<'_>,
    limit: usize,
) -> Result<ReadAnswer, String> {
    let session = response.headers().get("mcp-session-id").cloned();
    let answers = |body: &[u8]| {
        envelope::parse(body).is_ok_and(|message| {
            matches!(message, Message::Response(_))
                && message.id().is_some_and(|answered| answered.answers(id))
        })
    };
    match content_type(&response) {
        Some(ContentType::Json) => {
            let body = read(
                response.into_body(),
                limit,
                ANSWER_READ_TIMEOUT,
                ANSWER_READ_TIMEOUT,
            )
            .await
            .map_err(|error| error.to_string())?;
            envelope::parse(&body).map_err(|refusal| refusal.to_string())?;
            if answers(&body) {
                Ok(ReadAnswer { body, session })
            } else {
                Err("it is not the answer to this request".to_owned())
            }
        }
        Some(ContentType::EventStream) => {
            let mut decoder = Decoder::new(limit.min(MAX_EVENT));
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| error.to_string())?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                decoder.push(&data);
                while let Some(item) = decoder.next_item() {
                    let Item::Event(event) = item.map_err(|error| error.to_string())? else {
                        continue;
                    };
                    let data = event.data.unwrap_or_default();
                    if answers(data.as_bytes()) {
                        return Ok(ReadAnswer {
                            body: data.into(),
                            session,
                        });
                    }
                }
            }
            Err("the stream ended before the answer".to_owned())
        }
        None => Err(format!("HTTP {} with no message", response.status())),
    }
}
