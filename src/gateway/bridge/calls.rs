//! What the bridge itself answers to a call, and how it recognises answers in lines that it cannot
//! pass on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::session::Full;
use super::stream::{self, Accepts, Body, Event};
use super::wire::{self, Id, code};
use crate::gateway::upstream::stdio::{AnsweredIds, Piece, printable};
use crate::gateway::upstream::unserved::{Unserved, mark};
use crate::protocol::envelope::Refusal;

/// Why the bridge answers a call in the child's place. Whether the child has seen a byte of the
/// call goes beside the message, where the child has no say.
#[derive(Debug, Clone)]
pub(super) struct Unanswered {
    pub(super) why: String,
    pub(super) delivered: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Unanswered {
    /// The child cannot take calls now.
    pub(super) fn down(why: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            why: why.into(),
            delivered: false,
            retry_after: Some(retry_after),
        }
    }

    /// The child had the call, and there will be no answer.
    pub(super) fn lost(why: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self {
            why: why.into(),
            delivered: true,
            retry_after,
        }
    }

    fn unserved(&self) -> Unserved {
        if self.delivered {
            Unserved::Lost
        } else {
            Unserved::Undelivered
        }
    }

    fn message(&self, id: &Id) -> Bytes {
        let data = self
            .retry_after
            .map(|after| format!(r#"{{"retryAfterMs":{}}}"#, after.as_millis()));
        wire::error(Some(id), code::INTERNAL, &self.why, data.as_deref())
    }

    /// As the answer on the stream of a call.
    pub(super) fn event(&self, id: &Id) -> Event {
        Event::Unserved(self.message(id), self.unserved())
    }

    /// As an answer with that status.
    pub(super) fn response(&self, status: StatusCode, id: &Id) -> Response<Body> {
        mark(
            stream::json(status, self.message(id)),
            Some(self.unserved()),
        )
    }
}

/// An answer of the bridge's own that is known already.
pub(super) fn at_once(text: Bytes, accepts: Accepts, keep_alive: Duration) -> Response<Body> {
    now(Event::Answer(text), accepts, keep_alive)
}

/// An answer that is known already.
pub(super) fn now(answer: Event, accepts: Accepts, keep_alive: Duration) -> Response<Body> {
    if accepts.json {
        let unserved = match &answer {
            Event::Unserved(_, unserved) => Some(*unserved),
            Event::Message(_) | Event::Answer(_) => None,
        };
        return mark(stream::json(StatusCode::OK, answer.into_text()), unserved);
    }
    let (_, receiver) = stream::channel(stream::StreamLimits {
        messages: 1,
        bytes: 0,
    });
    stream::sse(Some(answer), receiver, keep_alive)
}

/// No session could be opened because the child does not run.
pub(super) fn unavailable(id: &Id, error: &Unanswered) -> Response<Body> {
    let mut response = error.response(StatusCode::SERVICE_UNAVAILABLE, id);
    let seconds = error.retry_after.unwrap_or_default().as_secs().max(1);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// No session could be opened because there are too many.
pub(super) fn full(id: &Id, full: Full) -> Response<Body> {
    let why = match full {
        Full::All(most) => format!(
            "All {most} sessions of this server are in use; end one (DELETE) or retry later."
        ),
        Full::Caller(share) => format!(
            "This caller has {share} sessions with a call or an open stream, as many as one caller may have; end one (DELETE) or retry later."
        ),
    };
    unavailable(id, &Unanswered::down(why, Duration::from_secs(10)))
}

/// A line that is not a valid message: what to log, and the calls that it may be meant to answer.
pub(super) struct Unreadable {
    pub(super) why: String,
    pub(super) excerpt: String,
    pub(super) answers: Vec<Id>,
}

/// Looks at what the strict parser refused, just far enough to see whether calls wait for it.
pub(super) fn unreadable(piece: &Piece, refusal: Option<&Refusal>, cap: usize) -> Unreadable {
    let (start, why, answers) = match piece {
        Piece::Line(line) => {
            let mut answers = AnsweredIds::default();
            answers.read(line);
            let why = refusal.map_or_else(String::new, ToString::to_string);
            (line, why, answers.finish())
        }
        Piece::TooLong {
            start,
            length,
            answers,
        } => {
            let why = format!("{length} bytes long, more than a line may have");
            (start, why, answers.clone())
        }
    };
    Unreadable {
        why,
        excerpt: printable(start, cap),
        answers: answers.iter().filter_map(|raw| wire::id(raw)).collect(),
    }
}

/// Exponential, with jitter of up to a half, so that many bridges do not restart in step.
pub(super) fn backoff(failures: u32, first: Duration, max: Duration) -> Duration {
    let full = first.saturating_mul(1 << failures.min(16)).min(max);
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    // The upper bits of a version 4 UUID are random.
    let share = f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    full.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_within_its_bounds() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        for (failures, full) in [
            (0, 100),
            (1, 200),
            (2, 400),
            (3, 800),
            (4, 1000),
            (99, 1000),
        ] {
            for _ in 0..50 {
                let delay = backoff(failures, first, max).as_millis();
                assert!((full / 2..=full).contains(&delay), "{failures}: {delay}");
            }
        }
    }
}
