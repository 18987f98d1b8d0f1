//! How a call ended, by the message that answers it.

use crate::gateway::enforce::End;
use crate::gateway::upstream::Unserved;
use crate::protocol::answer::code;
use crate::protocol::envelope::{Message, Outcome};

/// The codes of errors that say that a request was not run (JSON-RPC 2.0, section 5.1). Servers use
/// every other code, internal error included, also after the effect.
const NOT_RUN: [i64; 4] = [
    code::PARSE_ERROR,
    code::INVALID_REQUEST,
    code::METHOD_NOT_FOUND,
    code::INVALID_PARAMS,
];

/// How a call ended that the bridge answered in place of its server.
pub(super) fn end_of_unserved(unserved: Unserved) -> End {
    match unserved {
        Unserved::Undelivered => End::Unreachable,
        Unserved::Lost => End::Broken,
    }
}

/// How a call ended, by the message that answers it. What the error's `data` says has no meaning
/// here: it is the server's.
pub(super) fn end_of(message: &Message<'_>) -> End {
    let Message::Response(response) = message else {
        return End::Broken;
    };
    match &response.outcome {
        Outcome::Error(error) if NOT_RUN.contains(&error.code) => End::Refused,
        Outcome::Error(_) => End::Error,
        Outcome::Result(result)
            if result
                .get("isError")
                .is_some_and(|member| member.raw == "true") =>
        {
            End::ToolError
        }
        Outcome::Result(_) => End::Result,
    }
}
