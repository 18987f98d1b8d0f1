//! JSON-RPC messages: exactly one request, notification or response, read strictly.
//!
//! In: the bytes of one message, from a client or an upstream. Out: a [`Message`] that borrows from
//! them, or a [`Refusal`] that says how to answer. Everything in the bytes has been checked by
//! then, the raw slices included. Forwarded messages are serialized from the parsed message
//! ([`super::emit`]); the original bytes must never be forwarded.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::json::{self, Kind, Member, Reader};

use super::keys::{self, Suspicion};
use super::method;

/// The id of a request: a string or an integer (MCP narrows JSON-RPC to these).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Id<'a> {
    Integer(i64),
    String(Cow<'a, str>),
}

impl Id<'_> {
    /// The same id, owning its text.
    pub fn into_owned(self) -> Id<'static> {
        match self {
            Id::Integer(number) => Id::Integer(number),
            Id::String(text) => Id::String(Cow::Owned(text.into_owned())),
        }
    }

    /// The same id, which borrows its text.
    pub fn borrowed(&self) -> Id<'_> {
        match self {
            Id::Integer(number) => Id::Integer(*number),
            Id::String(text) => Id::String(Cow::Borrowed(text)),
        }
    }

    /// Appends the id as JSON.
    pub fn write(&self, out: &mut String) {
        match self {
            Id::Integer(number) => {
                // Writing to a String does not fail.
                let _ = write!(out, "{number}");
            }
            Id::String(text) => json::write_string(out, text),
        }
    }

    /// Whether an answer under this id is meant for a request with `asked`, where only one request
    /// can be meant: some servers turn a number into a text.
    pub fn answers(&self, asked: &Id<'_>) -> bool {
        match (self, asked) {
            (Id::String(text), Id::Integer(_)) => **text == asked.to_json(),
            _ => self == asked,
        }
    }

    /// The id as JSON.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Reads what [`Self::to_json`] wrote, or an id that stands elsewhere in a message
    /// (`requestId`, `progressToken`).
    pub fn from_json(raw: &str) -> Option<Id<'_>> {
        match raw.as_bytes().first()? {
            b'"' => json::decode_string(raw).ok().map(Id::String),
            b'-' | b'0'..=b'9' => {
                let number: i64 = raw.parse().ok()?;
                // Two spellings of one number ("-0", "007") must not be two ids.
                let digits = raw.strip_prefix('-').unwrap_or(raw);
                let plain = !digits.starts_with('0') || raw == "0";
                plain.then_some(Id::Integer(number))
            }
            _ => None,
        }
    }
}

/// An object of the protocol: its members, and those of its `_meta`, in order. Raw values have been
/// checked whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object<'a> {
    /// As it stood in the text.
    pub raw: &'a str,
    /// All members, `_meta` too.
    pub members: Vec<Member<'a>>,
    /// The members of `_meta`, if there is one.
    pub meta: Option<Vec<Member<'a>>>,
}

impl<'a> Object<'a> {
    /// The member of that name.
    pub fn get(&self, key: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.key == key)
    }

    /// The member of `_meta` of that name.
    pub fn meta(&self, key: &str) -> Option<&Member<'a>> {
        self.meta
            .as_deref()?
            .iter()
            .find(|member| member.key == key)
    }

    /// The text of a member that must be a string if it is there.
    pub fn string(&self, key: &'static str) -> Result<Option<Cow<'a, str>>, Fault> {
        self.get(key)
            .map(|member| {
                json::decode_string(member.raw).map_err(|_| Fault::Member(key, "a string"))
            })
            .transpose()
    }

    /// The text of a member that must be there and a string.
    pub fn required_string(&self, key: &'static str) -> Result<Cow<'a, str>, Fault> {
        self.string(key)?.ok_or(Fault::Member(key, "a string"))
    }

    /// A member that must be an object of the protocol if it is there, its keys held to the same
    /// strictness.
    pub fn object(&self, key: &'static str, known: &[&str]) -> Result<Option<Object<'a>>, Fault> {
        self.get(key)
            .map(|member| {
                Object::from_raw(member.raw, known).map_err(|_| Fault::Member(key, "an object"))
            })
            .transpose()
    }

    /// Reads a raw slice that must be an object, with strict keys.
    pub fn from_raw(raw: &'a str, known: &[&str]) -> Result<Object<'a>, Fault> {
        let mut reader = Reader::over(raw);
        let object = Object::read_strict(&mut reader, known).map_err(Fault::Json)??;
        reader.finish().map_err(Fault::Json)?;
        Ok(object)
    }

    /// Reads the next value, with strict keys; the inner error is one that has been read past.
    pub(super) fn read_strict(
        reader: &mut Reader<'a>,
        known: &[&str],
    ) -> Result<Result<Object<'a>, Fault>, json::Error> {
        Ok(Object::read(reader)?.and_then(|object| object.check_keys(known).map(|()| object)))
    }

    /// Reads the next value; the inner error is a value of the wrong shape, which has been read
    /// past.
    fn read(reader: &mut Reader<'a>) -> Result<Result<Object<'a>, Fault>, json::Error> {
        if reader.kind()? != Kind::Object {
            reader.raw()?;
            return Ok(Err(Fault::NotAnObject));
        }
        let mut object = Object::default();
        let mut fault = None;
        let (raw, read) = reader.span(|reader| {
            reader.object(|reader, key| {
                let kind = reader.kind()?;
                let raw = if key == "_meta" && kind == Kind::Object {
                    let (raw, members) = reader.span(Reader::members);
                    object.meta = Some(members?);
                    raw
                } else {
                    if key == "_meta" {
                        fault = Some(Fault::Member("_meta", "an object"));
                    }
                    reader.raw()?
                };
                object.members.push(Member { key, kind, raw });
                Ok::<(), json::Error>(())
            })
        });
        read?;
        object.raw = raw;
        Ok(match fault {
            Some(fault) => Err(fault),
            None => Ok(object),
        })
    }

    fn check_keys(&self, known: &[&str]) -> Result<(), Fault> {
        check_keys(&self.members, known)?;
        self.meta
            .as_deref()
            .map_or(Ok(()), |meta| check_keys(meta, keys::META))
    }
}

fn check_keys(members: &[Member<'_>], known: &[&str]) -> Result<(), Fault> {
    match keys::suspect_member(members, known) {
        Some((key, suspicion)) => Err(Fault::Key(key.to_owned(), suspicion)),
        None => Ok(()),
    }
}

/// One JSON-RPC message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    Request(Request<'a>),
    Notification(Notification<'a>),
    Response(Response<'a>),
}

impl<'a> Message<'a> {
    /// The `params` of a request or notification that has them.
    pub fn params(&self) -> Option<&Object<'a>> {
        match self {
            Message::Request(request) => request.params.as_ref(),
            Message::Notification(notification) => notification.params.as_ref(),
            Message::Response(_) => None,
        }
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        match self {
            Message::Request(request) => Some(&request.method),
            Message::Notification(notification) => Some(&notification.method),
            Message::Response(_) => None,
        }
    }

    /// The id of a request or response that has one.
    pub fn id(&self) -> Option<&Id<'a>> {
        match self {
            Message::Request(request) => Some(&request.id),
            Message::Notification(_) => None,
            Message::Response(response) => response.id.as_ref(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    pub id: Id<'a>,
    pub method: Cow<'a, str>,
    pub params: Option<Object<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification<'a> {
    pub method: Cow<'a, str>,
    pub params: Option<Object<'a>>,
}

/// An answer. Only an error may be without id (the sender could not read the request's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    pub id: Option<Id<'a>>,
    /// The id as it stands in the text.
    pub id_raw: Option<&'a str>,
    pub outcome: Outcome<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    Result(Object<'a>),
    Error(ErrorObject<'a>),
}

/// The `error` of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorObject<'a> {
    pub code: i64,
    pub message: Cow<'a, str>,
    pub data: Option<&'a str>,
}

/// The parts of `tools/call` that policy reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall<'a> {
    pub name: Cow<'a, str>,
    /// An object, as it stands in the text; absent means `{}`.
    pub arguments: Option<&'a str>,
    /// `params.task`: the call asks to be run as a task (2025-11-25).
    pub task: Option<&'a str>,
    /// `params.requestState` and `params.inputResponses`: the call continues an earlier one
    /// (2026-07-28).
    pub request_state: Option<Cow<'a, str>>,
    pub input_responses: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// Reads a `tools/call`.
    pub fn tool_call(&self) -> Result<ToolCall<'a>, Fault> {
        let params = self
            .params
            .as_ref()
            .ok_or(Fault::Member("params", "an object"))?;
        // Null is what some clients write for none; it is not forwarded
        // ([`super::emit::Edits::only`]).
        let object = |key: &'static str| match params.get(key) {
            None => Ok(None),
            Some(member) if member.kind == Kind::Null => Ok(None),
            Some(member) if member.kind == Kind::Object => Ok(Some(member.raw)),
            Some(_) => Err(Fault::Member(key, "an object")),
        };
        Ok(ToolCall {
            name: params.required_string("name")?,
            arguments: object("arguments")?,
            task: object("task")?,
            request_state: params.string("requestState")?,
            input_responses: object("inputResponses")?,
        })
    }

    /// `params.ref` of `completion/complete`.
    pub fn completion_ref(&self) -> Result<CompletionRef<'a>, Fault> {
        let params = self
            .params
            .as_ref()
            .ok_or(Fault::Member("params", "an object"))?;
        let reference = params
            .object("ref", keys::REF)?
            .ok_or(Fault::Member("ref", "an object"))?;
        match reference.required_string("type")?.as_ref() {
            "ref/prompt" => Ok(CompletionRef::Prompt(reference.required_string("name")?)),
            "ref/resource" => Ok(CompletionRef::Resource(reference.required_string("uri")?)),
            _ => Err(Fault::Member("type", "ref/prompt or ref/resource")),
        }
    }
}

/// What a completion is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompletionRef<'a> {
    Prompt(Cow<'a, str>),
    /// A URI or a URI template.
    Resource(Cow<'a, str>),
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("Parse error: {0}")]
    Json(json::Error),
    #[error("Invalid request: batches are not supported; send one message per POST")]
    Batch,
    #[error("Invalid request: a message must be a JSON object")]
    NotAnObject,
    #[error("Invalid request: jsonrpc must be \"2.0\"")]
    Version,
    #[error("Invalid request: id must be a string or an integer")]
    Id,
    #[error("Invalid request: a request needs an id")]
    IdMissing,
    #[error("Invalid request: a notification must not have an id")]
    IdUnwanted,
    #[error("Invalid request: method must be a string")]
    Method,
    #[error("Invalid request: params must be an object")]
    Params,
    #[error("Invalid request: result must be an object")]
    Result,
    #[error("Invalid request: error must have an integer code and a text message")]
    Error,
    #[error("Invalid request: a message is either a request, a notification or a response")]
    Mixture,
    #[error("Invalid request: {}", key_text(.0, *.1))]
    Key(String, Suspicion),
    /// A member that is missing or of the wrong kind.
    #[error("Invalid params: {0} must be {1}")]
    Member(&'static str, &'static str),
}

fn key_text(key: &str, suspicion: Suspicion) -> String {
    let key = super::text::printable(key, 64);
    match suspicion {
        Suspicion::Control => format!("the key {key:?} has a control character"),
        Suspicion::Variant => {
            format!("the key {key:?} differs only in case from one of the protocol's")
        }
        Suspicion::Twice => format!("the key {key:?} differs only in case from another"),
    }
}

impl Fault {
    /// The JSON-RPC code to answer with.
    pub fn code(&self) -> i64 {
        match self {
            Fault::Json(_) => -32700,
            Fault::Member(..) => -32602,
            _ => -32600,
        }
    }
}

/// A message that was refused, with its id where that could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Refusal {
    pub id: Option<Id<'static>>,
    pub fault: Fault,
}

impl From<json::Error> for Refusal {
    fn from(error: json::Error) -> Self {
        Refusal {
            id: None,
            fault: Fault::Json(error),
        }
    }
}

/// The members of a message while it is read; shape faults wait until the JSON has been checked to
/// its end.
#[derive(Default)]
struct Parts<'a> {
    /// Those that are not in [`keys::ENVELOPE`].
    unknown: Vec<Cow<'a, str>>,
    fault: Option<Fault>,
    jsonrpc: bool,
    id: Option<Option<Id<'a>>>,
    id_raw: Option<&'a str>,
    /// An integer that is written with a fraction (`7.0`): the id of an answer only.
    loose_id: Option<i64>,
    method: Option<Cow<'a, str>>,
    params: Option<Object<'a>>,
    result: Option<Object<'a>>,
    error: Option<ErrorObject<'a>>,
}

/// Reads exactly one message.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Refusal> {
    let mut reader = Reader::new(bytes)?;
    match reader.kind()? {
        Kind::Object => {}
        kind => {
            reader.raw()?;
            reader.finish()?;
            let fault = if kind == Kind::Array {
                Fault::Batch
            } else {
                Fault::NotAnObject
            };
            return Err(Refusal { id: None, fault });
        }
    }
    let mut parts = Parts::default();
    let read = reader.object(|reader, key| {
        let read = parts.member(reader, &key)?;
        if let Err(fault) = read {
            parts.fault.get_or_insert(fault);
        }
        if !keys::is_known(&key, keys::ENVELOPE) {
            parts.unknown.push(key);
        }
        Ok::<(), json::Error>(())
    });
    let fault = match read.and_then(|()| reader.finish()) {
        Ok(()) => match parts.message() {
            Ok(message) => return Ok(message),
            Err(fault) => fault,
        },
        Err(error) => Fault::Json(error),
    };
    Err(Refusal {
        id: parts.id.flatten().map(Id::into_owned),
        fault,
    })
}

impl<'a> Parts<'a> {
    /// Reads the value of one member; the inner error is a fault of shape.
    fn member(
        &mut self,
        reader: &mut Reader<'a>,
        key: &str,
    ) -> Result<Result<(), Fault>, json::Error> {
        let kind = reader.kind()?;
        match key {
            "jsonrpc" => {
                self.jsonrpc = reader.raw()? == "\"2.0\"";
                Ok(if self.jsonrpc {
                    Ok(())
                } else {
                    Err(Fault::Version)
                })
            }
            "id" => {
                let raw = reader.raw()?;
                self.id = Some(Id::from_json(raw));
                self.id_raw = Some(raw);
                if self.id == Some(None) {
                    self.loose_id = raw.strip_suffix(".0").and_then(|whole| whole.parse().ok());
                }
                // Whether null may stand here depends on the rest of the message.
                let readable =
                    kind == Kind::Null || self.id != Some(None) || self.loose_id.is_some();
                Ok(if readable { Ok(()) } else { Err(Fault::Id) })
            }
            "method" if kind == Kind::String => {
                self.method = Some(reader.string()?);
                Ok(Ok(()))
            }
            // Serializers that write what is not there as null mean no params.
            "params" if kind == Kind::Null => reader.raw().map(|_| Ok(())),
            "params" => self.object(reader, keys::PARAMS, Fault::Params, |parts, object| {
                parts.params = Some(object)
            }),
            "result" => self.object(reader, keys::RESULT, Fault::Result, |parts, object| {
                parts.result = Some(object)
            }),
            "error" => {
                let raw = reader.raw()?;
                Ok(ErrorObject::read(raw).map(|error| self.error = Some(error)))
            }
            "method" => reader.raw().map(|_| Err(Fault::Method)),
            _ => reader.raw().map(|_| Ok(())),
        }
    }

    fn object(
        &mut self,
        reader: &mut Reader<'a>,
        known: &[&str],
        shape: Fault,
        set: impl FnOnce(&mut Self, Object<'a>),
    ) -> Result<Result<(), Fault>, json::Error> {
        Ok(match Object::read(reader)? {
            Ok(object) => object.check_keys(known).map(|()| set(self, object)),
            Err(Fault::NotAnObject) => Err(shape),
            Err(fault) => Err(fault),
        })
    }

    /// The message, or its first fault, which leaves the id.
    fn message(&mut self) -> Result<Message<'a>, Fault> {
        // The keys that are not here are those of `keys::ENVELOPE`, once each, and no variants of
        // one another.
        if let Some((key, suspicion)) =
            keys::suspect(self.unknown.iter().map(Cow::as_ref), keys::ENVELOPE)
        {
            return Err(Fault::Key(key.to_owned(), suspicion));
        }
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if !self.jsonrpc {
            return Err(Fault::Version);
        }
        if self.method.is_some() == (self.result.is_some() || self.error.is_some())
            || (self.result.is_some() && self.error.is_some())
            || (self.method.is_none() && self.params.is_some())
        {
            return Err(Fault::Mixture);
        }
        if let Some(method) = self.method.take() {
            let params = self.params.take();
            return match (&mut self.id, method::is_notification(&method)) {
                (Some(None), _) => Err(Fault::Id),
                (Some(Some(_)), true) => Err(Fault::IdUnwanted),
                (None, false) => Err(Fault::IdMissing),
                (Some(id @ Some(_)), false) => {
                    let id = id.take().ok_or(Fault::Id)?;
                    Ok(Message::Request(Request { id, method, params }))
                }
                (None, true) => Ok(Message::Notification(Notification { method, params })),
            };
        }
        if let Some(whole) = self.loose_id {
            self.id = Some(Some(Id::Integer(whole)));
        }
        let outcome = match (self.result.take(), self.error.take()) {
            (Some(_), _) if self.id.as_ref().is_none_or(Option::is_none) => return Err(Fault::Id),
            (Some(result), _) => Outcome::Result(result),
            (None, Some(error)) => Outcome::Error(error),
            (None, None) => return Err(Fault::Mixture),
        };
        let id = self.id.take().flatten();
        Ok(Message::Response(Response {
            id,
            id_raw: self.id_raw,
            outcome,
        }))
    }
}

impl<'a> ErrorObject<'a> {
    fn read(raw: &'a str) -> Result<Self, Fault> {
        let object = Object::from_raw(raw, keys::ERROR).map_err(|fault| match fault {
            Fault::Key(..) => fault,
            _ => Fault::Error,
        })?;
        let code = object
            .get("code")
            .and_then(|member| member.raw.parse().ok())
            .ok_or(Fault::Error)?;
        let message = object
            .required_string("message")
            .map_err(|_| Fault::Error)?;
        Ok(ErrorObject {
            code,
            message,
            data: object.get("data").map(|member| member.raw),
        })
    }
}

#[cfg(test)]
mod tests;
