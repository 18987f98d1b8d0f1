//! Links to resources in members of a result that have no shape of their own: `structuredContent`
//! and `_meta`.
//!
//! In: such a member as it stands in the text. Out: the member without the content blocks that link
//! or embed a resource that may not be seen. Servers that return blocks from a tool write them here
//! a second time (FastMCP: `{"result":[…]}`). Must not do: touch anything else.

use std::borrow::Cow;

use super::{Entry, ListKind, Malformed, Visibility};
use crate::json::{self, Kind, Reader};
use crate::protocol::envelope::Fault;

/// The members of results that hold values of any shape.
pub(super) const SHAPELESS: [&str; 2] = ["structuredContent", "_meta"];

/// A value without its hidden blocks.
enum Kept<'a> {
    Whole(&'a str),
    Part(String),
    /// It is such a block itself.
    Nothing,
}

/// The member without blocks that name a resource which `visibility` refuses; `None` if none does.
pub(super) fn filter_links(
    raw: &str,
    visibility: &mut impl Visibility,
) -> Result<Option<String>, Malformed> {
    // Nearly all results name no resource. An escape could hide the word.
    let finds = |text: &str| memchr::memmem::find(raw.as_bytes(), text.as_bytes()).is_some();
    if !finds("resource") && !finds("\\u") {
        return Ok(None);
    }
    let kept = value(&mut Reader::over_checked(raw), visibility)
        .map_err(|error| Malformed::Nested(Fault::Json(error)))?;
    Ok(match kept {
        Kept::Whole(_) => None,
        Kept::Part(part) => Some(part),
        Kept::Nothing => Some("{}".to_owned()),
    })
}

fn value<'a>(
    reader: &mut Reader<'a>,
    visibility: &mut impl Visibility,
) -> Result<Kept<'a>, json::Error> {
    match reader.kind()? {
        Kind::Array => array(reader, visibility),
        Kind::Object => object(reader, visibility),
        Kind::Null | Kind::Bool | Kind::Number | Kind::String => reader.raw().map(Kept::Whole),
    }
}

fn array<'a>(
    reader: &mut Reader<'a>,
    visibility: &mut impl Visibility,
) -> Result<Kept<'a>, json::Error> {
    let mut items = Vec::new();
    let mut same = true;
    let (raw, read) = reader.span(|reader| {
        reader.array(|reader| {
            match value(reader, visibility)? {
                Kept::Whole(raw) => items.push(Cow::Borrowed(raw)),
                Kept::Part(part) => {
                    same = false;
                    items.push(Cow::Owned(part));
                }
                Kept::Nothing => same = false,
            }
            Ok::<(), json::Error>(())
        })
    });
    read?;
    Ok(if same {
        Kept::Whole(raw)
    } else {
        Kept::Part(format!("[{}]", items.join(",")))
    })
}

fn object<'a>(
    reader: &mut Reader<'a>,
    visibility: &mut impl Visibility,
) -> Result<Kept<'a>, json::Error> {
    let mut members: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
    let mut same = true;
    let (raw, read) = reader.span(|reader| {
        reader.object(|reader, key| {
            match value(reader, visibility)? {
                Kept::Whole(raw) => members.push((key, Cow::Borrowed(raw))),
                Kept::Part(part) => {
                    same = false;
                    members.push((key, Cow::Owned(part)));
                }
                Kept::Nothing => same = false,
            }
            Ok::<(), json::Error>(())
        })
    });
    read?;
    if names_hidden(&members, raw, visibility) {
        return Ok(Kept::Nothing);
    }
    if same {
        return Ok(Kept::Whole(raw));
    }
    let mut out = String::with_capacity(raw.len());
    out.push('{');
    for (index, (key, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json::write_string(&mut out, key);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    Ok(Kept::Part(out))
}

/// Whether the object is a link to a resource, or an embedded one, that may not be seen.
fn names_hidden(
    members: &[(Cow<'_, str>, Cow<'_, str>)],
    raw: &str,
    visibility: &mut impl Visibility,
) -> bool {
    let text = |members: &[(Cow<'_, str>, Cow<'_, str>)], wanted: &str| {
        let (_, raw) = members.iter().find(|(key, _)| key == wanted)?;
        json::decode_string(raw).ok().map(Cow::into_owned)
    };
    let uri = match text(members, "type").as_deref() {
        Some("resource_link") => text(members, "uri"),
        Some("resource") => members
            .iter()
            .find(|(key, _)| key == "resource")
            .and_then(|(_, raw)| json::members(raw.as_bytes()).ok())
            .and_then(|resource| resource.into_iter().find(|member| member.key == "uri"))
            .and_then(|member| json::decode_string(member.raw).ok().map(Cow::into_owned)),
        _ => None,
    };
    uri.is_some_and(|name| {
        let name = Cow::Owned(name);
        !visibility.keep(ListKind::Resources, &Entry { name, raw })
    })
}
