//! Filtering lists of tools, prompts, resources and templates by their shape.
//!
//! In: a parsed message from the upstream, whatever request it answers, and a callback that says which names may be
//! seen. Out: the message's bytes without the others, or `None` if it has no list or loses nothing. An upstream that
//! answers `ping` with a list of tools, or hides one in the result of a task, gains nothing. It must fail closed: an
//! entry whose name cannot be read is dropped, and a message whose list is no list is refused whole.

use std::borrow::Cow;
use std::collections::HashSet;

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
    if lists {
        for (key, carrier) in CARRIERS {
            if let Some(member) = object.get(key)
                && let Some(raw) = filter_carriers(carrier, member.kind, member.raw, keep)?
            {
                changes.push((key, raw));
            }
        }
        if let Some(member) = object.get(COMPLETION)
            && let Some(raw) = filter_completion(member.kind, member.raw, keep)?
        {
            changes.push((COMPLETION, raw));
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

/// What an element of a list holds that names resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// It is a resource's contents: `uri`.
    Contents,
    /// It is a content block: `uri` of a link, `resource.uri` of an embedded resource.
    Block,
    /// It has one block, or a list of them, as its `content`.
    Message,
}

/// The members of results that hold such elements: of `resources/read`, `tools/call` and `prompts/get`.
const CARRIERS: [(&str, Carrier); 3] = [
    ("contents", Carrier::Contents),
    ("content", Carrier::Block),
    ("messages", Carrier::Message),
];

/// The array without the elements that name a resource which `keep` refuses; `None` if none does.
fn filter_carriers(
    carrier: Carrier,
    found: Kind,
    raw: &str,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Option<String>, Malformed> {
    // Nearly all answers are text: without these letters, and without escapes in which they could hide, nothing is named.
    if !matches!(found, Kind::Array | Kind::Object) || !may_name_resources(raw) {
        return Ok(None);
    }
    if found == Kind::Object {
        // One element in the place of a list, which clients may read as it is meant.
        let passes = carrier_passes(carrier, found, raw, NESTING, keep);
        return Ok((!passes).then(|| "[]".to_owned()));
    }
    filter_elements(raw, |kind, element| {
        carrier_passes(carrier, kind, element, NESTING, keep)
    })
}

/// The array without the elements that `passes` refuses; `None` if it refuses none.
fn filter_elements(
    raw: &str,
    mut passes: impl FnMut(Kind, &str) -> bool,
) -> Result<Option<String>, Malformed> {
    let mut kept = Vec::new();
    let mut all = 0;
    Reader::over_checked(raw)
        .array(|reader| {
            let kind = reader.kind()?;
            let element = reader.raw()?;
            all += 1;
            if passes(kind, element) {
                kept.push(element);
            }
            Ok::<(), json::Error>(())
        })
        .map_err(|error| Malformed::Nested(Fault::Json(error)))?;
    Ok((kept.len() < all).then(|| format!("[{}]", kept.join(","))))
}

fn may_name_resources(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    memchr::memchr2_iter(b'u', b'U', bytes).any(|at| {
        let escaped = at > 0 && bytes[at - 1] == b'\\';
        escaped
            || bytes
                .get(at + 1..at + 3)
                .is_some_and(|two| two.eq_ignore_ascii_case(b"ri"))
    })
}

fn carrier_passes(
    carrier: Carrier,
    kind: Kind,
    raw: &str,
    nesting: usize,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> bool {
    if kind != Kind::Object {
        // Text names nothing that a client would follow; a list inside of a list is not a block.
        return carrier == Carrier::Block && kind != Kind::Array;
    }
    // Keys that a client could read differently name what nobody can decide on.
    let Ok(object) = Object::from_raw(raw, keys::BLOCK) else {
        return false;
    };
    // Of messages, and of blocks such as the results of tools within messages.
    let within = match object.get("content") {
        Some(content) if carrier != Carrier::Contents && nesting > 0 => {
            blocks_pass(content.kind, content.raw, nesting - 1, keep)
        }
        Some(_) => carrier == Carrier::Contents,
        None => true,
    };
    if carrier == Carrier::Message || !within {
        return within;
    }
    let mut named = |object: &Object<'_>| match object.string("uri") {
        Ok(Some(name)) => Some(keep(
            ListKind::Resources,
            &Entry {
                name,
                raw: object.raw,
            },
        )),
        Ok(None) => None,
        Err(_) => Some(false),
    };
    let own = named(&object);
    if carrier == Carrier::Contents {
        return own == Some(true);
    }
    let embedded = object.get("resource").is_none_or(|resource| {
        Object::from_raw(resource.raw, keys::BLOCK)
            .is_ok_and(|resource| named(&resource) == Some(true))
    });
    own != Some(false) && embedded
}

/// Whether a block, or each of a list of them, passes.
fn blocks_pass(
    kind: Kind,
    raw: &str,
    nesting: usize,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> bool {
    if kind != Kind::Array {
        return carrier_passes(Carrier::Block, kind, raw, nesting, keep);
    }
    let refused = filter_elements(raw, |kind, element| {
        carrier_passes(Carrier::Block, kind, element, nesting, keep)
    });
    refused == Ok(None)
}

/// The member of the result of `completion/complete`.
const COMPLETION: &str = "completion";

/// The completion without values that are URIs of resources which `keep` refuses; `None` if none is.
fn filter_completion(
    found: Kind,
    raw: &str,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Option<String>, Malformed> {
    if found != Kind::Object || !raw.contains([':', '\\']) {
        return Ok(None);
    }
    let object = Object::from_raw(raw, &["values"]).map_err(Malformed::Nested)?;
    let Some(values) = object.get("values") else {
        return Ok(None);
    };
    if values.kind != Kind::Array {
        return Err(Malformed::NotAList("values"));
    }
    let kept = filter_elements(values.raw, |kind, raw| {
        let parsed = json::parse(raw.as_bytes()).ok();
        let text = parsed.as_ref().and_then(json::Value::as_str);
        let Some(text) = text.filter(|_| kind == Kind::String) else {
            return false;
        };
        let name = Cow::Borrowed(text);
        !is_uri(text) || keep(ListKind::Resources, &Entry { name, raw })
    })?;
    let Some(kept) = kept else {
        return Ok(None);
    };
    Ok(Some(object.to_text(&Edits::new().set("values", kept))))
}

/// Whether a value is the URI of something, and not a text with a colon in it.
fn is_uri(text: &str) -> bool {
    let text = text.trim_start();
    let scheme = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    text.contains("://") || ["file:", "urn:", "data:"].into_iter().any(scheme)
}

/// The array without refused entries; `None` if none is refused.
fn filter_array(
    kind: ListKind,
    found: Kind,
    raw: &str,
    keep: &mut impl FnMut(ListKind, &Entry<'_>) -> bool,
) -> Result<Option<String>, Malformed> {
    let (mut entries, unreadable) = entries_of(kind, found, raw)?;
    let readable = entries.len();
    let twice = if kind == ListKind::Tools {
        repeated(&entries)
    } else {
        Vec::new()
    };
    let mut at = 0;
    entries.retain(|entry| {
        let repeated = !twice.is_empty() && twice[at];
        at += 1;
        !repeated && keep(kind, entry)
    });
    if entries.len() == readable && !unreadable {
        return Ok(None);
    }
    let mut out = String::with_capacity(raw.len());
    out.push('[');
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(entry.raw);
    }
    out.push(']');
    Ok(Some(out))
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
    let repeated = repeated(entries);
    entries
        .iter()
        .zip(repeated)
        .filter(|(_, repeated)| *repeated)
        .map(|(entry, _)| entry.name.as_ref())
        .collect()
}

/// For each entry whether another one has its name; empty if no entry has that.
fn repeated(entries: &[Entry<'_>]) -> Vec<bool> {
    // Sorted by a number first, which equal names share, so that few names are compared byte for byte.
    let mut order: Vec<(u64, &str, usize)> = entries
        .iter()
        .enumerate()
        .map(|(at, entry)| (digest(entry.name.as_bytes()), entry.name.as_ref(), at))
        .collect();
    order.sort_unstable();
    let mut found = Vec::new();
    for pair in order.windows(2) {
        if let [(left, left_name, left_at), (right, right_name, right_at)] = pair
            && left == right
            && left_name == right_name
        {
            found.resize(entries.len(), false);
            found[*left_at] = true;
            found[*right_at] = true;
        }
    }
    found
}

/// The last bytes of a name and its length: names in one list often start alike.
fn digest(name: &[u8]) -> u64 {
    let last = match name.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => name
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    };
    last.rotate_left(7) ^ name.len() as u64
}

/// The readable entries, and whether there are others.
fn entries_of(kind: ListKind, found: Kind, raw: &str) -> Result<(Vec<Entry<'_>>, bool), Malformed> {
    if found != Kind::Array {
        return Err(Malformed::NotAList(kind.key()));
    }
    let mut entries = Vec::new();
    let mut unreadable = false;
    let mut unknown = Vec::new();
    let mut reader = Reader::over_checked(raw);
    reader
        .array(|reader| {
            match entry(kind, reader, &mut unknown)? {
                Some(entry) => entries.push(entry),
                None => unreadable = true,
            }
            Ok::<(), json::Error>(())
        })
        .map_err(|error| Malformed::Nested(Fault::Json(error)))?;
    Ok((entries, unreadable))
}

/// Reads the next entry; none if its name is no string, or its keys could be read differently. `unknown` is room for
/// some of those.
fn entry<'a>(
    kind: ListKind,
    reader: &mut Reader<'a>,
    unknown: &mut Vec<Cow<'a, str>>,
) -> Result<Option<Entry<'a>>, json::Error> {
    if reader.kind()? != Kind::Object {
        reader.raw()?;
        return Ok(None);
    }
    unknown.clear();
    let mut name = None;
    let mut sound = true;
    let (raw, read) = reader.span(|reader| {
        reader.object(|reader, key| {
            if key == kind.identity() {
                name = json::decode_string(reader.raw()?).ok();
            } else if key == "_meta" {
                if reader.kind()? == Kind::Object {
                    let meta = reader.members()?;
                    sound &= keys::suspect_member(&meta, keys::META).is_none();
                } else {
                    reader.raw()?;
                    sound = false;
                }
            } else {
                reader.raw()?;
                if !keys::is_known(&key, keys::ENTRY) {
                    unknown.push(key);
                }
            }
            Ok::<(), json::Error>(())
        })
    });
    read?;
    sound &= keys::suspect(unknown.iter().map(Cow::as_ref), keys::ENTRY).is_none();
    Ok(name.filter(|_| sound).map(|name| Entry { name, raw }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// One entry as [`entry`] must read it, by way of the strict object.
    fn plainly(kind: ListKind, raw: &str) -> Option<Entry<'_>> {
        let object = Object::from_raw(raw, keys::ENTRY).ok()?;
        let name = object.string(kind.identity()).ok().flatten()?;
        Some(Entry {
            name,
            raw: object.raw,
        })
    }

    fn any_entry() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec![
            "name",
            "uri",
            "_meta",
            "Name",
            "title",
            "TITLE",
            "a",
            "\\u006eame",
            "x\\n",
            "inputSchema",
        ]);
        let value = prop::sample::select(vec![
            "\"n\"",
            "\"m\"",
            "\"\\u006e\"",
            "1",
            "null",
            "{}",
            "[]",
            "{\"a\":\"]}\\\"{\"}",
            "{\"a\":1,\"A\":2}",
            "{\"x\\u0000\":1}",
            "[1, {\"b\" : [ ]} ]",
        ]);
        let object = prop::collection::vec((key, value), 0..6).prop_map(|members| {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| format!("\"{key}\": {value}"))
                .collect();
            format!("{{ {} }}", members.join(" ,"))
        });
        prop_oneof![8 => object, 1 => prop::sample::select(vec!["1", "[{}]", "\"n\"", "null"]).prop_map(String::from)]
            .prop_filter("checked", |text| json::check(text.as_bytes()).is_ok())
    }

    proptest! {
        #[test]
        fn entries_are_read_and_filtered_as_the_plain_rules_have_it(
            entries in prop::collection::vec(any_entry(), 0..12),
            hidden in prop::sample::select(vec!["n", "m", ""]),
            kind in prop::sample::select(&ListKind::ALL),
        ) {
            let text = result(&format!("{{\"{}\":[ {} ]}}", kind.key(), entries.join(" , ")));
            let read: Vec<_> = entries.iter().map(|raw| plainly(kind, raw)).collect();
            let named = |name: &str| read.iter().flatten().filter(|entry| entry.name == name).count();
            let kept: Vec<_> = read
                .iter()
                .flatten()
                .filter(|entry| entry.name != hidden && (kind != ListKind::Tools || named(&entry.name) == 1))
                .collect();
            let expected = (kept.len() < entries.len()).then(|| {
                let raws: Vec<_> = kept.iter().map(|entry| entry.raw).collect();
                result(&format!("{{\"{}\":[{}]}}", kind.key(), raws.join(",")))
            });
            prop_assert_eq!(filtered(&text, &[hidden]), Ok(expected));
            let readable: Vec<Entry<'_>> = read.iter().flatten().cloned().collect();
            let twice: HashSet<&str> = readable
                .iter()
                .map(|entry| entry.name.as_ref())
                .filter(|name| named(name) > 1)
                .collect();
            prop_assert_eq!(named_twice(&readable), twice);
        }

        #[test]
        fn names_that_stand_more_than_once_are_found(names in prop::collection::vec("(x{0,3}[ab]{0,9}|é?c{0,2})", 0..40)) {
            let entries: Vec<Entry<'_>> = names.iter().map(|name| Entry { name: name.into(), raw: "" }).collect();
            let twice: HashSet<&str> = names
                .iter()
                .filter(|name| names.iter().filter(|other| other == name).count() > 1)
                .map(String::as_str)
                .collect();
            prop_assert_eq!(named_twice(&entries), twice);
        }
    }

    #[test]
    fn a_list_of_very_many_entries_is_filtered_in_one_go() {
        let entries: Vec<_> = (0..100_000)
            .map(|index| format!(r#"{{"name":"tool_{index:09}_same_end"}}"#))
            .collect();
        let text = result(&format!(
            "{{\"tools\":[{},{}]}}",
            entries.join(","),
            entries[7]
        ));
        let rest = [&entries[..7], &entries[8..]].concat().join(",");
        assert_eq!(
            filtered(&text, &[]),
            Ok(Some(result(&format!("{{\"tools\":[{rest}]}}"))))
        );
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
    fn resources_are_filtered_wherever_answers_name_them() {
        let (hidden, seen) = ("file:///secret", "file:///a");
        let check = |before: &str, after: Option<&str>| {
            assert_eq!(
                filtered(&result(before), &[hidden]),
                Ok(after.map(result)),
                "{before}"
            );
        };
        let text = r#"{"type":"text","text":"see the uri file:///secret"}"#;
        check(
            &format!(
                r#"{{"contents":[{{"uri":"{hidden}","text":"x"}},{{"uri":"{seen}","text":"y"}}]}}"#
            ),
            Some(&format!(
                r#"{{"contents":[{{"uri":"{seen}","text":"y"}}]}}"#
            )),
        );
        for block in [
            format!(r#"{{"type":"resource_link","uri":"{hidden}","name":"n"}}"#),
            format!(r#"{{"type":"resource","resource":{{"uri":"{hidden}","text":"x"}}}}"#),
            r#"{"type":"resource_link","\u0075ri":"file:///secret"}"#.to_owned(),
            r#"{"type":"resource_link","uri":"file:\/\/\/\u0073ecret"}"#.to_owned(),
            format!(r#"{{"type":"resource_link","uri":"{seen}","URI":"{hidden}"}}"#),
            format!(r#"{{"type":"resource","resource":{{"Uri":"{hidden}","text":"x"}}}}"#),
            format!(r#"{{"type":"text","text":"t","resource":{{"uri":"{hidden}"}}}}"#),
            r#"{"type":"resource_link","uri":["file:///secret"]}"#.to_owned(),
            r#"{"type":"resource","resource":"uri file:///secret"}"#.to_owned(),
        ] {
            check(
                &format!(r#"{{"content":[{text},{block}],"isError":false}}"#),
                Some(&format!(r#"{{"content":[{text}],"isError":false}}"#)),
            );
            // In the place of a list, and inside of other blocks and lists.
            check(
                &format!(r#"{{"content":{block},"isError":false}}"#),
                Some(r#"{"content":[],"isError":false}"#),
            );
            for outer in [
                format!(r#"{{"type":"tool_result","content":[{text},{block}]}}"#),
                format!(r#"{{"type":"tool_result","content":{block}}}"#),
                format!(r#"{{"type":"x","content":[{{"content":[{block}]}}]}}"#),
                format!("[{block}]"),
            ] {
                check(
                    &format!(r#"{{"content":[{text},{outer}]}}"#),
                    Some(&format!(r#"{{"content":[{text}]}}"#)),
                );
            }
            let message = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
            let kept = message(text);
            for content in [block.clone(), format!("[{text},{block}]")] {
                check(
                    &format!(r#"{{"messages":[{},{kept}]}}"#, message(&content)),
                    Some(&format!(r#"{{"messages":[{kept}]}}"#)),
                );
            }
        }
        for whole in [
            format!(r#"{{"content":[{text}]}}"#),
            format!(r#"{{"content":[{{"type":"resource_link","uri":"{seen}"}}]}}"#),
            format!(
                r#"{{"messages":[{{"role":"user","content":{{"type":"resource","resource":{{"uri":"{seen}"}}}}}}]}}"#
            ),
            r#"{"content":{"uri":"x"}}"#.to_owned(),
        ] {
            check(&whole, None);
        }
        check(
            &format!(
                r#"{{"content":[{{"type":"tool_result","content":[{text},{{"type":"resource_link","uri":"{seen}"}}]}}]}}"#
            ),
            None,
        );
        let deep = r#"{"content":["#.repeat(9) + r#""uri""# + &"]}".repeat(9);
        check(&deep, Some(r#"{"content":[]}"#));
        // What could be typed on.
        check(
            &format!(
                r#"{{"completion":{{"values":["a","{hidden}","FILE:///b","{seen}","k: v",7],"total":6}}}}"#
            ),
            Some(&format!(
                r#"{{"completion":{{"values":["a","FILE:///b","{seen}","k: v"],"total":6}}}}"#
            )),
        );
        check(
            r#"{"completion":{"values":["a","b:c"],"hasMore":false}}"#,
            None,
        );
        // Inside the result of a task, too.
        check(
            &format!(r#"{{"result":{{"contents":[{{"uri":"{hidden}"}}]}}}}"#),
            Some(r#"{"result":{"contents":[]}}"#),
        );
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
