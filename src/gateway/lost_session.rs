//! Whether a server refuses a request because it does not know the session, and what that proves.
//!
//! In: the answer to a request that named a session of the server. Out: whether it says so, however
//! it says it, and an [`Unexecuted`] where the request cannot have been carried out. A leaf. Must
//! not do: take a tool's own words for the server's.

use http::StatusCode;

use crate::json;
use crate::protocol::answer::code;
use crate::protocol::envelope::{self, Id, Message, Outcome};
use crate::protocol::text::printable;

/// This much of an HTTP error is read.
pub const FIRST_BYTES: usize = 4 << 10;
/// This much of an HTTP error is shown.
const MAX_WORDS: usize = 200;

/// Proof that a server refused a request before it read it, as of an unknown session: sent
/// again, the request is not carried out twice. It is used up by that.
#[derive(Debug)]
pub struct Unexecuted(());

/// An answer that says that the session is not known.
#[derive(Debug)]
pub struct LostSession {
    /// None where the words may be those of a tool that has run.
    pub unexecuted: Option<Unexecuted>,
}

impl LostSession {
    /// Reads an answer to the request with the id `asked`. `whole`: its body is there to the end.
    /// `repeatable`: the request changes nothing, however often it is made.
    pub fn read(
        status: StatusCode,
        body: &[u8],
        whole: bool,
        asked: Option<&Id<'_>>,
        repeatable: bool,
    ) -> Option<LostSession> {
        let parsed = envelope::parse(body);
        let message = parsed.as_ref().ok();
        let error = match message {
            Some(Message::Response(response)) => match &response.outcome {
                Outcome::Error(error) => Some(error),
                Outcome::Result(_) => None,
            },
            _ => None,
        };
        // A tool that has run answers its call under the call's id; servers that check the session
        // first do not know the id, or use another status.
        let of_request = message.and_then(Message::id).is_some_and(|id| {
            let asked = asked.filter(|asked| id.answers(asked));
            asked.is_some()
        });
        let says = error.is_some_and(|error| {
            let protocols = matches!(
                error.code,
                code::SESSION_NOT_FOUND | code::SERVER_ERROR | code::INVALID_REQUEST
            );
            // Under the request's id it may be the tool that speaks, of a session of its own.
            let names = match of_request {
                true => is_lost_session,
                false => names_lost_session,
            };
            protocols && names(&error.message)
        });
        let lost = match status {
            // MCP 2025-11-25, Streamable HTTP, "Session Management": that is what it stands for.
            StatusCode::NOT_FOUND => true,
            StatusCode::BAD_REQUEST | StatusCode::GONE => {
                says || error.is_none()
                    && first_words(body).is_some_and(|words| names_lost_session(&words))
            }
            StatusCode::OK => says,
            // Of something else, whose status says more.
            _ => false,
        };
        // Only what a server says before it reads a request proves anything: the words of MCP's
        // libraries, or none at all. All else may tell of a call that was made.
        let refused = whole
            && match (status, error) {
                (StatusCode::NOT_FOUND, Some(error)) => {
                    says && (!of_request || error.code == code::SESSION_NOT_FOUND)
                }
                (_, Some(_)) => says && !of_request,
                (status, None) => {
                    let empty = status == StatusCode::NOT_FOUND && body.is_empty();
                    empty || parsed.is_err() && is_plain_refusal(body)
                }
            };
        lost.then(|| LostSession {
            unexecuted: (repeatable || refused).then_some(Unexecuted(())),
        })
    }
}

/// Whether a body is one line of text about the session, as servers without JSON write it.
fn is_plain_refusal(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let text = text.trim();
    text.len() <= MAX_WORDS && !text.contains(['{', '[', '<', '\n', '"']) && is_lost_session(text)
}

/// How an HTTP error begins: the text that its JSON names, or its own, without tags.
pub fn first_words(body: &[u8]) -> Option<String> {
    let parsed = json::parse(body).ok();
    let named = parsed.as_ref().and_then(|value| {
        let members = ["message", "detail", "error_description", "error", "title"];
        let error = value.get("error").unwrap_or(value);
        let texts = members.iter().filter_map(|key| error.get(key)?.as_str());
        texts.chain(error.as_str()).next().map(str::to_owned)
    });
    let text = named.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let mut words = String::new();
    for part in text.split('<').enumerate() {
        // Of everything but the first part, what follows the tag.
        let shown = match part {
            (0, text) => text,
            (_, text) => text.split_once('>').map_or("", |(_, text)| text),
        };
        for word in shown.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
    }
    let words = printable(&words, MAX_WORDS);
    (!words.is_empty()).then_some(words)
}

/// Whether the message of an error says that a session is not known.
fn names_lost_session(message: &str) -> bool {
    let message = message.to_lowercase();
    let lost = [
        "not found",
        "no valid",
        "invalid",
        "unknown",
        "expired",
        "missing",
        "terminated",
        "does not exist",
        "not exist",
        "closed",
    ];
    message.contains("not initialized")
        || message.contains("session") && lost.iter().any(|word| message.contains(word))
}

/// Whether a message is about a session of the protocol, and nothing else.
fn is_lost_session(message: &str) -> bool {
    let message = message.trim().to_lowercase();
    let message = ["bad request: ", "not found: ", "error: "]
        .into_iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .unwrap_or(&message);
    let begins = [
        "session not found",
        "session expired",
        "session has expired",
        "session terminated",
        "session has been terminated",
        "session closed",
        "session does not exist",
        "session id not found",
        "session is not",
        "invalid session",
        "unknown session",
        "no valid session",
        "no session",
        "missing session",
        "invalid or missing session",
        "invalid or expired session",
        "mcp-session-id",
        "server not initialized",
        "not initialized",
    ];
    begins.iter().any(|start| message.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Id<'static> = Id::Integer(7);

    fn read(status: u16, body: &str, repeatable: bool) -> Option<bool> {
        let status = StatusCode::from_u16(status).expect("a status");
        LostSession::read(status, body.as_bytes(), true, Some(&ASKED), repeatable)
            .map(|lost| lost.unexecuted.is_some())
    }

    fn error(id: &str, code: i64, message: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
    }

    #[test]
    fn only_what_no_tool_can_have_said_proves_that_a_call_was_not_run() {
        for (status, body, proven) in [
            (404, String::new(), true),
            (404, error("null", -32001, "Session not found"), true),
            (404, error("7", -32001, "Session not found"), true),
            // Attack: a tool that has run, behind a server that maps its errors to a status.
            (404, error("7", -32000, "run 5 not found"), false),
            (
                404,
                r#"{"jsonrpc":"2.0","id":7,"result":{}}"#.to_owned(),
                false,
            ),
            (400, error("null", -32000, "No valid session ID"), true),
            (404, "Session not found\n".to_owned(), true),
            (
                404,
                r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#.to_owned(),
                true,
            ),
            (400, "invalid session".to_owned(), true),
            (410, error("7", -32000, "session closed"), false),
            (200, error("null", -32600, "Session terminated"), true),
            // Attack: a tool whose own session, to a database, was closed after it had written.
            (200, error("7", -32000, "Session is not open"), false),
            (200, error("\"7\"", -32001, "Session not found"), false),
            // Attack: the answer to a call that was made, in bytes that cannot be read as one.
            (404, "404 page not found".to_owned(), false),
            (404, r#"{"jsonrpc":"2.0","id":null,"#.to_owned(), false),
            (404, "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n".to_owned(), false),
            (404, format!("[{}]", error("7", -32001, "Session not found")), false),
            (404, format!("\u{feff}{}", error("7", -32000, "Session not found")), false),
            (404, r#"{"id":7,"error":{"code":-32001,"message":"Session not found"}}"#.to_owned(), false),
            (404, r#"{"jsonrpc":"2.0","id":7,"id":null,"error":{"code":-32001,"message":"Session not found"}}"#.to_owned(), false),
            (404, error("7", -32000, "session for run 7 not found"), false),
            (404, "Saved, and the session to the database was not found".to_owned(), false),
            (400, r#"{"detail":"session to the database expired while committing"}"#.to_owned(), false),
            (400, "data: db session closed\n\n".to_owned(), false),
        ] {
            assert_eq!(read(status, &body, false), Some(proven), "{status} {body}");
            assert_eq!(read(status, &body, true), Some(true), "{status} {body}");
        }
    }

    #[test]
    fn what_broke_off_proves_nothing() {
        let body = error("null", -32001, "Session not found");
        for (body, repeatable, proven) in
            [("", false, false), (&*body, false, false), ("", true, true)]
        {
            let lost = LostSession::read(
                StatusCode::NOT_FOUND,
                body.as_bytes(),
                false,
                None,
                repeatable,
            );
            assert_eq!(
                lost.is_some_and(|lost| lost.unexecuted.is_some()),
                proven,
                "{body}"
            );
        }
    }

    #[test]
    fn another_error_says_nothing_of_the_session() {
        for (status, body) in [
            (200, error("7", -32603, "session not found")),
            (200, error("7", -32000, "no run in this session")),
            (400, error("null", -32000, "bad host")),
            (401, "session expired".to_owned()),
            (500, String::new()),
            (500, error("null", -32000, "session closed")),
            (429, error("null", -32000, "session expired")),
            // Of a session that the tool has, and not the protocol.
            (200, error("7", -32000, "This session is closed")),
            (
                200,
                error("7", -32000, "Browser session abc not found; create one"),
            ),
            (200, error("7", -32000, "no notes for session 5: not found")),
        ] {
            assert_eq!(read(status, &body, true), None, "{status} {body}");
        }
    }
}
