//! Filtering lists of tools, prompts, resources and templates by their shape.
//!
//! In: a parsed message from the upstream, whatever request it answers, and a callback that says which names may be
//! seen. Out: the message's bytes without the others, or `None` if it has no list or loses nothing. An upstream that
//! answers `ping` with a list of tools, or hides one in the result of a task, gains nothing. It must fail closed: an
//! entry whose name cannot be read is dropped, and a message whose list is no list is refused whole.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::json::{self, Kind, Reader};

use super::emit::Edits;
use super::envelope::{Fault, Message, Object, Outcome};
use super::keys;

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

/// The message without the entries that `keep` refuses; `None` if nothing has to go, so that it can be emitted as it is.
///
/// `keep` gets each entry, named by a tool's or prompt's name, a resource's URI, a template's URI template. Tools that one list names twice
/// are dropped without asking: which of the two a caller means is not decidable.
pub fn filter(
    message: &Message<'_>,
    edits: &Edits<'_>,
    mut keep: impl FnMut(ListKind, &Entry<'_>) -> bool,
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
    let changes = changes(object, top, NESTING, &mut keep)?;
    if changes.is_empty() {
        return Ok(None);
    }
    let edits = changes
        .into_iter()
        .fold(edits.clone(), |edits, (key, raw)| edits.set(key, raw));
    Ok(Some(message.emit(&edits)))
}

/// The members of a result (or, with `lists` false, of something around one) that must be replaced.
fn changes(
    object: &Object<'_>,
    lists: bool,
    nesting: usize,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Vec<(&'static str, String)>, Malformed> {
    let mut changes = Vec::new();
    for kind in ListKind::ALL {
        if lists
            && let Some(member) = object.get(kind.key())
            && let Some(raw) = filter_array(kind, member.kind, member.raw, keep)?
        {
            changes.push((kind.key(), raw));
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
    let below = self::changes(&result, true, nesting - 1, keep)?;
    if !below.is_empty() {
        let edits = below
            .into_iter()
            .fold(Edits::new(), |edits, (key, raw)| edits.set(key, raw));
        changes.push(("result", result.to_text(&edits)));
    }
    Ok(changes)
}

/// The array without refused entries; `None` if none is refused.
fn filter_array(
    kind: ListKind,
    found: Kind,
    raw: &str,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Option<String>, Malformed> {
    let (entries, mut dropped) = entries_of(kind, found, raw)?;
    let twice = if kind == ListKind::Tools {
        named_twice(&entries)
    } else {
        HashSet::new()
    };
    let mut out = String::with_capacity(raw.len());
    out.push('[');
    for entry in &entries {
        if twice.contains(entry.name.as_ref()) || !keep(kind, entry) {
            dropped = true;
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(entry.raw);
    }
    out.push(']');
    Ok(dropped.then_some(out))
}

/// The entries of a list in the result of a response, those whose name cannot be read left out. None if the result has
/// no such list.
pub fn entries<'a>(
    result: &Object<'a>,
    kind: ListKind,
) -> Result<Option<Vec<Entry<'a>>>, Malformed> {
    result
        .get(kind.key())
        .map(|member| entries_of(kind, member.kind, member.raw).map(|(entries, _)| entries))
        .transpose()
}

/// `nextCursor` of a result, if it is a string.
pub fn next_cursor<'a>(result: &Object<'a>) -> Option<Cow<'a, str>> {
    json::decode_string(result.get("nextCursor")?.raw).ok()
}

/// Names that stand more than once.
pub fn named_twice<'e>(entries: &'e [Entry<'_>]) -> HashSet<&'e str> {
    let mut counts: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for entry in entries {
        *counts.entry(entry.name.as_ref()).or_default() += 1;
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(name, _)| name)
        .collect()
}

/// The readable entries, and whether there are others.
fn entries_of(kind: ListKind, found: Kind, raw: &str) -> Result<(Vec<Entry<'_>>, bool), Malformed> {
    if found != Kind::Array {
        return Err(Malformed::NotAList(kind.key()));
    }
    let mut entries = Vec::new();
    let mut unreadable = false;
    let mut reader = Reader::over(raw);
    reader
        .array(|reader| {
            match entry(kind, reader)? {
                Some(entry) => entries.push(entry),
                None => unreadable = true,
            }
            Ok::<(), json::Error>(())
        })
        .map_err(|error| Malformed::Nested(Fault::Json(error)))?;
    Ok((entries, unreadable))
}

/// Reads the next entry; none if its name is no string, or its keys could be read differently.
fn entry<'a>(kind: ListKind, reader: &mut Reader<'a>) -> Result<Option<Entry<'a>>, json::Error> {
    let Ok(object) = Object::read_strict(reader, keys::ENTRY)? else {
        return Ok(None);
    };
    let name = object.string(kind.identity()).ok().flatten();
    Ok(name.map(|name| Entry {
        name,
        raw: object.raw,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::envelope::parse;
    use super::*;

    fn filtered(text: &str, hide: &[&str]) -> Result<Option<String>, Malformed> {
        let message = parse(text.as_bytes()).unwrap();
        filter(&message, &Edits::new(), |_, entry| {
            !hide.contains(&&*entry.name)
        })
        .map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    fn result(body: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{body}}}"#)
    }

    #[test]
    fn hidden_tools_go_and_every_other_byte_stays() {
        let listed = r#"{"tools":[{"name":"a", "inputSchema":{"x":1.0}},{"name":"b"},{"name":"c","extra":[ ]}],"nextCursor":"n","_meta":{"k":1e0}}"#;
        assert_eq!(
            filtered(&result(listed), &["b"]),
            Ok(Some(result(
                r#"{"tools":[{"name":"a", "inputSchema":{"x":1.0}},{"name":"c","extra":[ ]}],"nextCursor":"n","_meta":{"k":1e0}}"#
            )))
        );
        assert_eq!(filtered(&result(listed), &[]), Ok(None));
        assert_eq!(
            filtered(&result(r#"{"tools":[{"name":"a"}]}"#), &["a"]),
            Ok(Some(result(r#"{"tools":[]}"#)))
        );
    }

    #[test]
    fn prompts_resources_and_templates_are_known_by_name_uri_and_template() {
        let listed = r#"{"prompts":[{"name":"p"},{"name":"q"}],"resources":[{"name":"q","uri":"u:1"},{"name":"n","uri":"u:2"}],"resourceTemplates":[{"name":"q","uriTemplate":"u:{x}"},{"uriTemplate":"v:{x}","name":"n"}]}"#;
        assert_eq!(
            filtered(&result(listed), &["q", "u:2", "v:{x}"]),
            Ok(Some(result(
                r#"{"prompts":[{"name":"p"}],"resources":[{"name":"q","uri":"u:1"}],"resourceTemplates":[{"name":"q","uriTemplate":"u:{x}"}]}"#
            )))
        );
    }

    #[test]
    fn entries_whose_name_cannot_be_read_are_dropped() {
        for entry in [
            r#"{}"#,
            r#"{"name":1}"#,
            r#"{"name":["a"]}"#,
            r#"{"name":null}"#,
            r#"{"title":"a"}"#,
            r#""a""#,
            "null",
            r#"[{"name":"a"}]"#,
            r#"{"name":"ok","Name":"delete"}"#,
            r#"{"name":"ok","name\u0000":"delete"}"#,
        ] {
            assert_eq!(
                filtered(
                    &result(&format!(r#"{{"tools":[{entry},{{"name":"b"}}]}}"#)),
                    &[]
                ),
                Ok(Some(result(r#"{"tools":[{"name":"b"}]}"#))),
                "{entry}"
            );
        }
    }

    #[test]
    fn a_name_is_decided_on_unescaped() {
        assert_eq!(
            filtered(
                &result(r#"{"tools":[{"name":"\u0064elete"}]}"#),
                &["delete"]
            ),
            Ok(Some(result(r#"{"tools":[]}"#)))
        );
    }

    #[test]
    fn tools_listed_twice_are_dropped_both_times() {
        let listed = r#"{"tools":[{"name":"a","v":1},{"name":"b"},{"name":"\u0061","v":2}]}"#;
        assert_eq!(
            filtered(&result(listed), &[]),
            Ok(Some(result(r#"{"tools":[{"name":"b"}]}"#)))
        );
    }

    #[test]
    fn a_list_that_is_no_array_refuses_the_whole_message() {
        for value in [r#"{"0":{"name":"a"}}"#, "null", "\"a\"", "1", "true"] {
            assert_eq!(
                filtered(&result(&format!(r#"{{"tools":{value}}}"#)), &[]),
                Err(Malformed::NotAList("tools")),
                "{value}"
            );
        }
    }

    #[test]
    fn lists_inside_the_results_of_tasks_are_filtered_too() {
        let task = r#"{"taskId":"t","status":"completed","result":{"tools":[{"name":"a"},{"name":"b"}],"x":1}}"#;
        let expected =
            r#"{"taskId":"t","status":"completed","result":{"tools":[{"name":"b"}],"x":1}}"#;
        assert_eq!(filtered(&result(task), &["a"]), Ok(Some(result(expected))));
        let notification = |params: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{params}}}"#)
        };
        assert_eq!(
            filtered(&notification(task), &["a"]),
            Ok(Some(notification(expected)))
        );
        let variant = r#"{"result":{"Tools":[{"name":"a"}]}}"#;
        assert!(matches!(
            filtered(&result(variant), &[]),
            Err(Malformed::Nested(Fault::Key(..)))
        ));
        let mut deep = String::from(r#"{"tools":[]}"#);
        for _ in 0..6 {
            deep = format!(r#"{{"result":{deep}}}"#);
        }
        assert_eq!(filtered(&result(&deep), &[]), Err(Malformed::TooDeep));
    }

    #[test]
    fn what_holds_no_list_passes() {
        for body in [
            r#"{"content":[{"type":"text","text":"{\"tools\":[]}"}],"structuredContent":{"tools":{}}}"#,
            "{}",
        ] {
            assert_eq!(filtered(&result(body), &[]), Ok(None));
        }
        assert_eq!(
            filtered(
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
                &[]
            ),
            Ok(None)
        );
        assert_eq!(
            filtered(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &[]),
            Ok(None)
        );
    }

    #[test]
    fn edits_are_made_along_with_the_filtering() {
        let text = result(r#"{"tools":[{"name":"a"}],"ttlMs":9}"#);
        let message = parse(text.as_bytes()).unwrap();
        let edits = Edits::new()
            .id(super::super::envelope::Id::Integer(2))
            .set("ttlMs", "1");
        let bytes = filter(&message, &edits, |_, _| false).unwrap().unwrap();
        assert_eq!(
            bytes,
            br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[],"ttlMs":1}}"#
        );
    }

    #[test]
    fn definitions_are_taken_out_raw_for_the_inventory() {
        let text = result(
            r#"{"tools":[{"name":"a","x":1.0},{"nome":"b"},{"name":"a"},{"name":"c"}],"nextCursor":"n"}"#,
        );
        let Message::Response(response) = parse(text.as_bytes()).unwrap() else {
            panic!("not a response")
        };
        let Outcome::Result(result) = response.outcome else {
            panic!("not a result")
        };
        let found = entries(&result, ListKind::Tools).unwrap().unwrap();
        assert_eq!(
            found
                .iter()
                .map(|entry| (entry.name.as_ref(), entry.raw))
                .collect::<Vec<_>>(),
            [
                ("a", r#"{"name":"a","x":1.0}"#),
                ("a", r#"{"name":"a"}"#),
                ("c", r#"{"name":"c"}"#)
            ]
        );
        assert_eq!(named_twice(&found), HashSet::from(["a"]));
        assert_eq!(next_cursor(&result).as_deref(), Some("n"));
        assert_eq!(entries(&result, ListKind::Prompts), Ok(None));
    }
}
