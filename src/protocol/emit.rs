//! Serializes messages from their parsed form.
//!
//! In: a parsed message and the changes to make. Out: its bytes, on one line. Unknown members of
//! the envelope are left behind; members of `params` and `result` keep their order and, unless
//! changed, their text. It must not write anything that the strict parser would refuse; values
//! handed in as raw must be JSON that was checked.

use std::borrow::Cow;

use crate::json::{self, Kind, Member};

use super::envelope::{Fault, Id, Message, Notification, Object, Outcome, Request, Response};
use super::forward;

type Change<'e> = (&'e str, Option<Cow<'e, str>>);

/// Changes to a message: to its id, to members of `params` (or `result`), to members of their
/// `_meta`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits<'e> {
    id: Option<Id<'e>>,
    members: Vec<Change<'e>>,
    meta: Vec<Change<'e>>,
    /// The only members that pass, if not all do.
    only: Option<&'static [&'static str]>,
}

impl<'e> Edits<'e> {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another id. A notification stays without one.
    pub fn id(mut self, id: Id<'e>) -> Self {
        self.id = Some(id);
        self
    }

    /// Leaves out every member of the message but these, those of these that are null (which some
    /// clients write for what they do not send), and of `_meta` what [`forward::meta_passes`]
    /// refuses. What is set is written all the same.
    pub fn only(mut self, known: &'static [&'static str]) -> Self {
        self.only = Some(known);
        self
    }

    /// Whether a member passes as it stands.
    fn passes(&self, member: &Member<'_>) -> bool {
        self.only.is_none_or(|known| {
            let key = member.key.as_ref();
            key == "_meta" || known.contains(&key) && member.kind != Kind::Null
        })
    }

    fn meta_passes(&self, member: &Member<'_>) -> bool {
        self.only.is_none() || forward::meta_passes(member)
    }

    /// Whether an object is written as it is read.
    fn is_none_for(&self, object: &Object<'_>) -> bool {
        self.members.is_empty()
            && self.meta.is_empty()
            && (self.only.is_none()
                || object.members.iter().all(|member| self.passes(member))
                    && object
                        .meta
                        .iter()
                        .flatten()
                        .all(|member| self.meta_passes(member)))
    }

    /// Sets a member to a value that is already JSON, replacing it where it stands or adding it at
    /// the end.
    pub fn set(mut self, key: &'e str, raw: impl Into<Cow<'e, str>>) -> Self {
        change(&mut self.members, key, Some(raw.into()));
        self
    }

    /// Sets a member to a string.
    pub fn set_string(self, key: &'e str, text: &str) -> Self {
        self.set(key, json::quoted(text))
    }

    /// Takes a member out.
    pub fn remove(mut self, key: &'e str) -> Self {
        change(&mut self.members, key, None);
        self
    }

    /// [`Self::set`] for a member of `_meta`, which is made if it is missing.
    pub fn set_meta(mut self, key: &'e str, raw: impl Into<Cow<'e, str>>) -> Self {
        change(&mut self.meta, key, Some(raw.into()));
        self
    }

    /// [`Self::remove`] for a member of `_meta`.
    pub fn remove_meta(mut self, key: &'e str) -> Self {
        change(&mut self.meta, key, None);
        self
    }
}

/// A later change of the same member replaces an earlier one: a key is never written twice.
fn change<'e>(changes: &mut Vec<Change<'e>>, key: &'e str, value: Option<Cow<'e, str>>) {
    changes.retain(|(name, _)| *name != key);
    changes.push((key, value));
}

impl Message<'_> {
    /// The message with its changes, as bytes.
    pub fn emit(&self, edits: &Edits<'_>) -> Vec<u8> {
        match self {
            Message::Request(request) => request.emit(edits),
            Message::Notification(notification) => notification.emit(edits),
            Message::Response(response) => response.emit(edits),
        }
    }
}

impl Request<'_> {
    /// The request with its changes, as bytes.
    pub fn emit(&self, edits: &Edits<'_>) -> Vec<u8> {
        let id = edits.id.as_ref().unwrap_or(&self.id);
        call(Some(id), &self.method, self.params.as_ref(), edits)
    }
}

impl Notification<'_> {
    /// The notification with its changes, as bytes.
    pub fn emit(&self, edits: &Edits<'_>) -> Vec<u8> {
        call(None, &self.method, self.params.as_ref(), edits)
    }
}

/// A request, or without an id a notification, of that method with the `params` of another message
/// and changes to them.
pub fn call(
    id: Option<&Id<'_>>,
    method: &str,
    params: Option<&Object<'_>>,
    edits: &Edits<'_>,
) -> Vec<u8> {
    let mut out = open(params);
    if let Some(id) = id {
        out.push_str(",\"id\":");
        id.write(&mut out);
    }
    write_call(&mut out, method, params, edits);
    out.into_bytes()
}

impl Response<'_> {
    /// The response with its changes, which concern `result`, as bytes. An error keeps its content.
    pub fn emit(&self, edits: &Edits<'_>) -> Vec<u8> {
        let result = match &self.outcome {
            Outcome::Result(result) => Some(result),
            Outcome::Error(_) => None,
        };
        let mut out = open(result);
        if let Some(id) = edits.id.as_ref().or(self.id.as_ref()) {
            out.push_str(",\"id\":");
            id.write(&mut out);
        }
        match &self.outcome {
            Outcome::Result(result) => {
                out.push_str(",\"result\":");
                write_object(&mut out, Some(result), edits);
            }
            Outcome::Error(error) => {
                out.push_str(",\"error\":{\"code\":");
                out.push_str(&error.code.to_string());
                out.push_str(",\"message\":");
                json::write_string(&mut out, &error.message);
                if let Some(data) = error.data {
                    out.push_str(",\"data\":");
                    push_line(&mut out, data);
                }
                out.push('}');
            }
        }
        out.push('}');
        out.into_bytes()
    }
}

impl Object<'_> {
    /// The object with its changes, as JSON.
    pub fn to_text(&self, edits: &Edits<'_>) -> String {
        let mut out = String::with_capacity(self.raw.len());
        write_object(&mut out, Some(self), edits);
        out
    }
}

/// The text of an object without some of its members, such as a client's `capabilities` without
/// what the server's spec denies. Keys are held to the strictness of `known`, so that no variant of
/// a member stays behind.
pub fn without(raw: &str, known: &[&str], keys: &[&str]) -> Result<String, Fault> {
    let object = Object::from_raw(raw, known)?;
    let edits = keys
        .iter()
        .fold(Edits::new(), |edits, key| edits.remove(key));
    Ok(object.to_text(&edits))
}

fn open(object: Option<&Object<'_>>) -> String {
    let mut out = String::with_capacity(128 + object.map_or(0, |object| object.raw.len()));
    out.push_str("{\"jsonrpc\":\"2.0\"");
    out
}

fn write_call(out: &mut String, method: &str, params: Option<&Object<'_>>, edits: &Edits<'_>) {
    out.push_str(",\"method\":");
    json::write_string(out, method);
    let adds = edits
        .members
        .iter()
        .chain(&edits.meta)
        .any(|(_, value)| value.is_some());
    if params.is_some() || adds {
        out.push_str(",\"params\":");
        write_object(out, params, edits);
    }
    out.push('}');
}

fn write_object(out: &mut String, object: Option<&Object<'_>>, edits: &Edits<'_>) {
    if let Some(object) = object
        && edits.is_none_for(object)
        && is_compact(object)
    {
        return push_line(out, object.raw);
    }
    let members = object.map_or(&[][..], |object| &object.members);
    let meta = object.and_then(|object| object.meta.as_deref());
    let add_meta = edits.meta.iter().any(|(_, value)| value.is_some());
    // What is set or removed as a whole is not also edited inside.
    let whole_meta = edits.members.iter().any(|(key, _)| *key == "_meta");
    let passes = |member: &Member<'_>| edits.passes(member);
    write_members(out, members, &edits.members, passes, |out, member| {
        let inside = !edits.meta.is_empty() || edits.only.is_some();
        if member.key == "_meta" && !whole_meta && inside {
            write_members(
                out,
                meta.unwrap_or_default(),
                &edits.meta,
                |member| edits.meta_passes(member),
                |out, member| push_line(out, member.raw),
            );
        } else {
            push_line(out, member.raw);
        }
    });
    if meta.is_none() && add_meta && !whole_meta {
        // The closing brace has just been written.
        out.pop();
        if !out.ends_with('{') {
            out.push(',');
        }
        out.push_str("\"_meta\":");
        write_members(
            out,
            &[],
            &edits.meta,
            |_| true,
            |out, member| push_line(out, member.raw),
        );
        out.push('}');
    }
}

/// Whether an object stands in its text as it would be written: nothing escaped in its keys, and no
/// room for anything besides its members and what has to stand between them.
fn is_compact(object: &Object<'_>) -> bool {
    let members = &object.members;
    let plain = members
        .iter()
        .all(|member| matches!(member.key, Cow::Borrowed(_)));
    // A member has two quotes and a colon; the braces go with the commas, of which there is one
    // fewer than members.
    let length = members
        .iter()
        .map(|member| member.key.len() + member.raw.len() + 3)
        .sum::<usize>();
    plain && object.raw.len() == length + members.len().saturating_sub(1) + 2
}

fn write_members(
    out: &mut String,
    members: &[Member<'_>],
    changes: &[Change<'_>],
    passes: impl Fn(&Member<'_>) -> bool,
    mut write: impl FnMut(&mut String, &Member<'_>),
) {
    let mut separator = '{';
    let mut start = |out: &mut String, key: &str| {
        out.push(separator);
        separator = ',';
        json::write_string(out, key);
        out.push(':');
    };
    for member in members {
        match changes.iter().find(|(key, _)| *key == member.key) {
            None if !passes(member) => {}
            None => {
                start(out, &member.key);
                write(out, member);
            }
            Some((key, Some(raw))) => {
                start(out, key);
                push_line(out, raw);
            }
            Some((_, None)) => {}
        }
    }
    for (key, value) in changes {
        if let Some(raw) = value
            && !members.iter().any(|member| member.key == *key)
        {
            start(out, key);
            push_line(out, raw);
        }
    }
    if separator == '{' {
        out.push('{');
    }
    out.push('}');
}

/// Appends raw JSON on one line. Line breaks in JSON stand only between tokens, where a space means
/// the same; a server behind stdio reads lines, and an SSE `data:` field is one.
pub fn push_line(out: &mut String, raw: &str) {
    if json::is_one_line(raw.as_bytes()) {
        return out.push_str(raw);
    }
    out.extend(raw.chars().map(|character| {
        if character == '\n' || character == '\r' {
            ' '
        } else {
            character
        }
    }));
}
