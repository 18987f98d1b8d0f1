//! Clients that take one type of answer only.
//!
//! In: the answer to a POST. Out: the same answer in the type that the client's `Accept` lists: a
//! stream of events read up to the response, or a message as a stream of one event. A client that
//! takes JSON alone hears nothing of what the server says before its response. Must not do: change
//! a message, or keep more of a stream than the caller's share allows.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::responses::Answer;
use crate::gateway::body::message::{
    ContentType, MAX_ANSWER, MAX_EVENT, RETRY_AFTER, content_type,
};
use crate::gateway::body::{full, holding, read_for};
use crate::gateway::grants::Grant;
use crate::protocol::answer;
use crate::protocol::envelope::{self, Message};
use crate::protocol::header::AcceptedTypes;
use crate::protocol::sse::{Decoder, Event, Item, encode};

/// The answer as the client takes it. `within` is for what is left of the call.
pub(super) async fn in_accepted_type(
    answer: Answer,
    accepted: AcceptedTypes,
    grant: &Grant,
    within: Duration,
) -> Answer {
    match (accepted, content_type(&answer)) {
        (AcceptedTypes::Json, Some(ContentType::EventStream)) => {
            as_json(answer, grant, within).await
        }
        (AcceptedTypes::Events, Some(ContentType::Json)) if answer.status() == StatusCode::OK => {
            as_events(answer, grant, within).await
        }
        // Bodies of HTTP errors are for people.
        _ => answer,
    }
}

/// The response that a stream ends with. Our streams hold no message after it.
async fn as_json(answer: Answer, grant: &Grant, within: Duration) -> Answer {
    let (mut head, body) = answer.into_parts();
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let read = read_for(grant.share.as_ref(), body, MAX_ANSWER, within, within).await;
    let (body, room) = match read {
        Ok((stream, room)) => match last_response(&stream) {
            Some(response) => (response, room),
            None => {
                let why = "its stream ended before its answer";
                (answer::upstream_down(None, why, RETRY_AFTER), None)
            }
        },
        Err(error) => (
            answer::upstream_down(None, &error.to_string(), RETRY_AFTER),
            None,
        ),
    };
    Answer::from_parts(head, holding(full(body), room))
}

fn last_response(stream: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(MAX_EVENT);
    decoder.push(stream);
    let mut last = None;
    while let Some(Ok(item)) = decoder.next_item() {
        if let Item::Event(Event {
            data: Some(data), ..
        }) = item
            && matches!(envelope::parse(data.as_bytes()), Ok(Message::Response(_)))
        {
            last = Some(data.into_bytes());
        }
    }
    last
}

/// A stream of one event.
pub(super) async fn as_events(answer: Answer, grant: &Grant, within: Duration) -> Answer {
    let (mut head, body) = answer.into_parts();
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    let read = read_for(grant.share.as_ref(), body, MAX_ANSWER, within, within).await;
    let (message, room) = match read {
        Ok(read) => read,
        Err(error) => {
            let body = answer::upstream_down(None, &error.to_string(), RETRY_AFTER);
            (body.into(), None)
        }
    };
    let mut out = Vec::with_capacity(message.len() + 32);
    let event = Event {
        event: Some("message".to_owned()),
        ..Event::message(String::from_utf8_lossy(&message))
    };
    // A message has data, and no line breaks in its type.
    let _ = encode(&Item::Event(event), &mut out);
    Answer::from_parts(head, holding(full(out), room))
}
