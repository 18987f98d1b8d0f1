//! JSON-RPC messages as the bridge needs them: parsed strictly, re-emitted on one line.
//!
//! In: a request body or a line of the child. Out: a [`Message`] whose payloads are raw slices, each checked to its last
//! byte. Nothing is re-typed: what a message carries goes on as it came, only ids and progress tokens are replaced.
//!
//! Sources: JSON-RPC 2.0; MCP 2025-11-25, "Base protocol" (ids are strings or integers, never null).

use std::borrow::Cow;

use bytes::Bytes;

use crate::json::{self, Kind};

/// Errors of ours, as JSON-RPC 2.0 section 5.1 numbers them.
pub(super) mod code {
    pub(crate) const PARSE: i32 = -32700;
    pub(crate) const INVALID: i32 = -32600;
    pub(crate) const METHOD: i32 = -32601;
    pub(crate) const PARAMS: i32 = -32602;
    pub(crate) const INTERNAL: i32 = -32603;
    /// MCP 2026-07-28, "Versioning": unsupported protocol version.
    pub(crate) const VERSION: i32 = -32022;
}

/// A request id. Two ids are equal if they are the same string or the same integer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    pub(super) fn json(&self) -> String {
        match self {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => json::quoted(text),
        }
    }

    /// Reads an id out of a raw value; also progress tokens, which have the same form.
    pub(super) fn read(raw: &str) -> Option<Self> {
        if raw.starts_with('"') {
            let text = json::decode_string(raw).ok()?;
            return Some(Id::Text(text.into_owned()));
        }
        raw.parse().ok().map(Id::Number)
    }
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Request {
        id: Id,
        method: Cow<'a, str>,
        params: Option<&'a str>,
    },
    Notification {
        method: Cow<'a, str>,
        params: Option<&'a str>,
    },
    /// `id` is missing where the sender could not read ours (JSON-RPC 2.0, section 5).
    Response {
        id: Option<Id>,
        outcome: Outcome<'a>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome<'a> {
    Result(&'a str),
    Error(&'a str),
}

impl Outcome<'_> {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Outcome::Result(raw) => ("result", raw),
            Outcome::Error(raw) => ("error", raw),
        }
    }
}

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("not JSON: {0}")]
    NotJson(json::Error),
    #[error("{why}")]
    Invalid {
        why: &'static str,
        /// Of the response that this was perhaps meant to be.
        answers: Option<Id>,
    },
}

/// Reads exactly one message.
pub(super) fn read(bytes: &[u8]) -> Result<Message<'_>, Fault> {
    let members = match json::members(bytes) {
        Ok(members) => members,
        // What is JSON but no object is told from what is no JSON at all.
        Err(error) => {
            return Err(match json::check(bytes) {
                Ok(()) => invalid(
                    "a message is one JSON object; batches are not supported",
                    None,
                ),
                Err(_) => Fault::NotJson(error),
            });
        }
    };
    let mut version = None;
    let mut id = None;
    let mut method = None;
    let mut params = None;
    let mut result = None;
    let mut error = None;
    for member in &members {
        let slot = match member.key.as_ref() {
            "jsonrpc" => &mut version,
            "id" => &mut id,
            "method" => &mut method,
            "params" => &mut params,
            "result" => &mut result,
            "error" => &mut error,
            other => {
                let known = ["jsonrpc", "id", "method", "params", "result", "error"];
                if known.iter().any(|key| key.eq_ignore_ascii_case(other)) {
                    return Err(invalid("a key differs from a known one only by case", None));
                }
                continue;
            }
        };
        *slot = Some((member.kind, member.raw));
    }
    let answers = || match (method, id) {
        (None, Some((_, raw))) => Id::read(raw),
        _ => None,
    };
    if version != Some((Kind::String, "\"2.0\"")) {
        return Err(invalid("`jsonrpc` must be \"2.0\"", answers()));
    }
    match (method, result, error) {
        (Some((Kind::String, raw)), None, None) => {
            let method =
                json::decode_string(raw).map_err(|_| invalid("`method` must be a string", None))?;
            let params = match params {
                None => None,
                Some((Kind::Object, raw)) => Some(raw),
                Some(_) => return Err(invalid("`params` must be an object", None)),
            };
            match id {
                None => Ok(Message::Notification { method, params }),
                Some((_, raw)) => match Id::read(raw) {
                    Some(id) => Ok(Message::Request { id, method, params }),
                    None => Err(invalid("`id` must be a string or an integer", None)),
                },
            }
        }
        (None, Some((kind, raw)), None) => match (kind, answers()) {
            (Kind::Object, Some(id)) => Ok(Message::Response {
                id: Some(id),
                outcome: Outcome::Result(raw),
            }),
            (Kind::Object, None) => Err(invalid("a result needs the `id` of its request", None)),
            (_, id) => Err(invalid("`result` must be an object", id)),
        },
        (None, None, Some((kind, raw))) => match (kind, answers(), id) {
            (Kind::Object, Some(id), _) => Ok(Message::Response {
                id: Some(id),
                outcome: Outcome::Error(raw),
            }),
            (Kind::Object, None, None | Some((Kind::Null, _))) => Ok(Message::Response {
                id: None,
                outcome: Outcome::Error(raw),
            }),
            (_, id, _) => Err(invalid(
                "`error` must be an object that answers a request",
                id,
            )),
        },
        _ => Err(invalid(
            "a message has exactly one of `method`, `result` and `error`",
            answers(),
        )),
    }
}

fn invalid(why: &'static str, answers: Option<Id>) -> Fault {
    Fault::Invalid { why, answers }
}

/// A member of a raw object, raw. The object was checked when its message was read.
pub(super) fn member<'a>(object: Option<&'a str>, key: &str) -> Option<&'a str> {
    let members = json::members(object?.as_bytes()).ok()?;
    let found = members.into_iter().find(|member| member.key == key)?;
    Some(found.raw)
}

/// A member of a raw object that is a string.
pub(super) fn text<'a>(object: Option<&'a str>, key: &str) -> Option<Cow<'a, str>> {
    json::decode_string(member(object, key)?).ok()
}

/// The object with one member replaced, appended, or, without a value, left out; the others as they came.
pub(super) fn with(object: Option<&str>, key: &str, value: Option<&str>) -> String {
    let members = object.and_then(|raw| json::members(raw.as_bytes()).ok());
    let mut out = String::from("{");
    let mut write = |key: &str, raw: &str| {
        if out.len() > 1 {
            out.push(',');
        }
        json::write_string(&mut out, key);
        out.push(':');
        out.push_str(raw);
    };
    let mut placed = false;
    for member in members.unwrap_or_default() {
        if member.key != key {
            write(&member.key, member.raw);
        } else if let Some(value) = value {
            write(key, value);
            placed = true;
        }
    }
    if let (false, Some(value)) = (placed, value) {
        write(key, value);
    }
    out.push('}');
    out
}

/// A request, on one line.
pub(super) fn request(id: &Id, method: &str, params: Option<&str>) -> Bytes {
    call(Some(id), method, params)
}

/// A notification, on one line.
pub(super) fn notification(method: &str, params: Option<&str>) -> Bytes {
    call(None, method, params)
}

fn call(id: Option<&Id>, method: &str, params: Option<&str>) -> Bytes {
    let mut out = String::with_capacity(64 + params.map_or(0, str::len));
    out.push_str(r#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        out.push_str(r#","id":"#);
        out.push_str(&id.json());
    }
    out.push_str(r#","method":"#);
    json::write_string(&mut out, method);
    if let Some(params) = params {
        out.push_str(r#","params":"#);
        out.push_str(params);
    }
    out.push('}');
    one_line(out)
}

/// A response, on one line.
pub(super) fn response(id: Option<&Id>, outcome: Outcome<'_>) -> Bytes {
    let (key, raw) = outcome.parts();
    let id = id.map(Id::json);
    let id = id.as_deref().unwrap_or("null");
    let mut out = String::with_capacity(48 + raw.len());
    out.push_str(r#"{"jsonrpc":"2.0","id":"#);
    out.push_str(id);
    out.push_str(",\"");
    out.push_str(key);
    out.push_str("\":");
    out.push_str(raw);
    out.push('}');
    one_line(out)
}

/// An error of ours. `data` is raw JSON.
pub(super) fn error(id: Option<&Id>, code: i32, message: &str, data: Option<&str>) -> Bytes {
    let mut body = format!(r#"{{"code":{code},"message":{}"#, json::quoted(message));
    if let Some(data) = data {
        body.push_str(",\"data\":");
        body.push_str(data);
    }
    body.push('}');
    match id {
        Some(id) => response(Some(id), Outcome::Error(&body)),
        // Before 2026-07-28 an error whose request is unknown carries no `id`.
        None => Bytes::from(format!(r#"{{"jsonrpc":"2.0","error":{body}}}"#)),
    }
}

/// In JSON a raw line break can only be white space; neither a line of stdio nor a `data:` field of SSE may hold one.
fn one_line(text: String) -> Bytes {
    let mut bytes = text.into_bytes();
    for byte in &mut bytes {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Fault {
        read(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn each_kind_of_message_is_told_from_the_others() {
        let request = read(br#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x": 1.0}}"#);
        assert_eq!(
            request.unwrap(),
            Message::Request {
                id: Id::Text("a".into()),
                method: "m".into(),
                params: Some(r#"{"x": 1.0}"#)
            }
        );
        let notification = read(br#"{"jsonrpc":"2.0","method":"m"}"#);
        assert_eq!(
            notification.unwrap(),
            Message::Notification {
                method: "m".into(),
                params: None
            }
        );
        let response = read(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
        assert_eq!(
            response.unwrap(),
            Message::Response {
                id: Some(Id::Number(7)),
                outcome: Outcome::Result("{}")
            }
        );
        let lost = read(br#"{"jsonrpc":"2.0","id":null,"error":{}}"#);
        assert_eq!(
            lost.unwrap(),
            Message::Response {
                id: None,
                outcome: Outcome::Error("{}")
            }
        );
    }

    #[test]
    fn what_is_json_but_no_message_names_the_request_it_seems_to_answer() {
        let seven = Some(Id::Number(7));
        for text in [
            r#"{"jsonrpc":"2.0","id":7,"result":5}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"1.0","id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
        ] {
            assert!(
                matches!(refused(text), Fault::Invalid { answers, .. } if answers == seven),
                "{text}"
            );
        }
        for text in [
            "[]",
            "5",
            r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"m","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"m","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"m","Params":{}}"#,
        ] {
            assert!(
                matches!(refused(text), Fault::Invalid { answers: None, .. }),
                "{text}"
            );
        }
        for text in ["", "hello", r#"{"a":1,"a":2}"#, r#"{"jsonrpc":"2.0"}x"#] {
            assert!(matches!(refused(text), Fault::NotJson(_)), "{text}");
        }
    }

    #[test]
    fn members_are_replaced_appended_and_left_out_with_the_others_verbatim() {
        let object = Some(r#"{"a": 1.00, "b":{"c" : [1, 2]}}"#);
        assert_eq!(
            with(object, "a", Some("2")),
            r#"{"a":2,"b":{"c" : [1, 2]}}"#
        );
        assert_eq!(with(object, "b", None), r#"{"a":1.00}"#);
        assert_eq!(with(None, "z", Some("null")), r#"{"z":null}"#);
    }

    #[test]
    fn what_is_emitted_stays_on_one_line() {
        let line = request(&Id::Number(1), "m", Some("{\n\"a\":\r\n\"b\\n\"}"));
        assert_eq!(
            line,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{ \"a\":  \"b\\n\"}}"
        );
    }
}
