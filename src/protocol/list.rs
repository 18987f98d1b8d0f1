//! Filtering lists of tools, prompts, resources and templates by their shape.
//!
//! In: a parsed message from the upstream, whatever request it answers, and a callback that says
//! which names may be seen. Out: the message's bytes without the others, or `None` if it has no
//! list or loses nothing. An upstream that answers `ping` with a list of tools, or hides one in the
//! result of a task, gains nothing. It must fail closed: an entry whose name cannot be read is
//! dropped, and a message whose list is not a list is refused whole.

use std::borrow::Cow;

use crate::json::{Kind, Member};

use super::emit::Edits;
use super::envelope::{Fault, Message, Object, Outcome};
use super::keys;

mod carriers;
mod entries;
mod links;

use self::carriers::{CARRIERS, COMPLETION, filter_carriers, filter_completion};
use self::entries::filter_array;
pub use self::entries::{entries, named_twice, next_cursor};
use self::links::{SHAPELESS, filter_links};

/// What a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    Tools,
    Prompts,
    Resources,
    ResourceTemplates,
}

impl ListKind {
    /// All of them.
    pub const ALL: [ListKind; 4] = [
        ListKind::Tools,
        ListKind::Prompts,
        ListKind::Resources,
        ListKind::ResourceTemplates,
    ];

    /// What the answers to a method list.
    pub fn of_method(method: &str) -> Option<Self> {
        Some(match method {
            "tools/list" => ListKind::Tools,
            "prompts/list" => ListKind::Prompts,
            "resources/list" => ListKind::Resources,
            "resources/templates/list" => ListKind::ResourceTemplates,
            _ => return None,
        })
    }

    /// The member of `result` that holds such a list.
    pub fn key(self) -> &'static str {
        match self {
            ListKind::Tools => "tools",
            ListKind::Prompts => "prompts",
            ListKind::Resources => "resources",
            ListKind::ResourceTemplates => "resourceTemplates",
        }
    }

    /// The member of an entry that policy knows it by.
    fn identity(self) -> &'static str {
        match self {
            ListKind::Tools | ListKind::Prompts => "name",
            ListKind::Resources => "uri",
            ListKind::ResourceTemplates => "uriTemplate",
        }
    }
}

/// A message with a list that cannot be filtered. It must be replaced by an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} in the upstream's answer must be an array")]
    NotAList(&'static str),
    #[error("the result inside the upstream's answer cannot be read: {0}")]
    Nested(Fault),
    #[error("results inside the upstream's answer nest too deep")]
    TooDeep,
}

/// A `result` inside a `result` (tasks) is looked into this often.
const NESTING: usize = 4;

/// One entry of a list: its name, or the URI (template) that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: Cow<'a, str>,
    /// The whole definition, as the upstream wrote it.
    pub raw: &'a str,
}

/// What a caller may see.
pub trait Visibility {
    /// Whether an entry of this kind, or what stands for one, may be seen.
    fn keep(&mut self, kind: ListKind, entry: &Entry<'_>) -> bool;

    /// Whether a text without further meaning may be seen: not if it is the name of something
    /// hidden.
    fn may_mention(&mut self, _text: &str) -> bool {
        true
    }
}

/// Only entries are hidden, by a function.
struct Entries<F>(F);

impl<F: FnMut(ListKind, &Entry<'_>) -> bool> Visibility for Entries<F> {
    fn keep(&mut self, kind: ListKind, entry: &Entry<'_>) -> bool {
        (self.0)(kind, entry)
    }
}

/// [`filter_by`] with a function that says whether an entry may be seen.
pub fn filter(
    message: &Message<'_>,
    edits: &Edits<'_>,
    keep: impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    filter_by(message, edits, Entries(keep))
}

/// The message without the entries that `visibility` refuses; `None` if nothing has to go, so that
/// it can be emitted as it is.
///
/// `visibility` gets each entry, named by a tool's or prompt's name, a resource's URI, a template's
/// URI template. Tools that one list names twice are dropped without asking: which of the two a
/// caller means is not decidable.
pub fn filter_by(
    message: &Message<'_>,
    edits: &Edits<'_>,
    mut visibility: impl Visibility,
) -> Result<Option<Vec<u8>>, Malformed> {
    let object = match message {
        Message::Response(response) => match &response.outcome {
            Outcome::Result(result) => result,
            Outcome::Error(_) => return Ok(None),
        },
        // `notifications/tasks` (2026-07-28) carries the whole result of a task.
        Message::Notification(notification) => match &notification.params {
            Some(params) => params,
            None => return Ok(None),
        },
        Message::Request(_) => return Ok(None),
    };
    let top = matches!(message, Message::Response(_));
    let changes = changes(object, top, NESTING, &mut visibility)?;
    if changes.is_empty() {
        return Ok(None);
    }
    let edits = changes
        .into_iter()
        .fold(edits.clone(), |edits, (key, raw)| edits.set(key, raw));
    Ok(Some(message.emit(&edits)))
}

/// One member of a result without what may not be seen, with its name; `None` if it loses nothing.
fn filter_member(
    member: &Member<'_>,
    visibility: &mut impl Visibility,
) -> Result<Option<(&'static str, String)>, Malformed> {
    let (key, found, raw) = (&*member.key, member.kind, member.raw);
    if let Some(kind) = ListKind::ALL.into_iter().find(|kind| kind.key() == key) {
        let filtered = filter_array(kind, found, raw, visibility)?;
        return Ok(filtered.map(|raw| (kind.key(), raw)));
    }
    if let Some((name, carrier)) = CARRIERS.into_iter().find(|(name, _)| *name == key) {
        let filtered = filter_carriers(carrier, found, raw, visibility)?;
        return Ok(filtered.map(|raw| (name, raw)));
    }
    if key == COMPLETION {
        let filtered = filter_completion(found, raw, visibility)?;
        return Ok(filtered.map(|raw| (COMPLETION, raw)));
    }
    if let Some(name) = SHAPELESS.into_iter().find(|name| *name == key) {
        let filtered = filter_links(raw, visibility)?;
        return Ok(filtered.map(|raw| (name, raw)));
    }
    Ok(None)
}

/// The members of a result (or, with `lists` false, of something around one) that must be replaced.
fn changes(
    object: &Object<'_>,
    lists: bool,
    nesting: usize,
    visibility: &mut impl Visibility,
) -> Result<Vec<(&'static str, String)>, Malformed> {
    let mut changes = Vec::new();
    for member in object.members.iter().filter(|_| lists) {
        if let Some(replaced) = filter_member(member, visibility)? {
            changes.push(replaced);
        }
    }
    let Some(inner) = object
        .get("result")
        .filter(|member| member.kind == Kind::Object)
    else {
        return Ok(changes);
    };
    if nesting == 0 {
        return Err(Malformed::TooDeep);
    }
    let result = Object::from_raw(inner.raw, keys::RESULT).map_err(Malformed::Nested)?;
    let below = self::changes(&result, true, nesting - 1, visibility)?;
    if !below.is_empty() {
        let edits = below
            .into_iter()
            .fold(Edits::new(), |edits, (key, raw)| edits.set(key, raw));
        changes.push(("result", result.to_text(&edits)));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests;
