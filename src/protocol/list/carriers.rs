//! Resources that other answers than lists name: contents, content blocks, messages of prompts,
//! completions.
//!
//! In: a member of a result, as it stands in the text, and what [`super::filter`] was given. Out:
//! the member without what names a resource that may not be seen, or None if nothing does. Must not
//! do: let through what a client could read as the name of a resource, and this cannot.

use std::borrow::Cow;

use super::super::emit::Edits;
use super::super::envelope::{Fault, Object};
use super::super::keys;
use super::links::{SHAPELESS, filter_links};
use super::{Entry, ListKind, Malformed, NESTING, Visibility};
use crate::json::{self, Kind, Reader};

/// What an element of a list holds that names resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// It is a resource's contents: `uri`.
    Contents,
    /// It is a content block: `uri` of a link, `resource.uri` of an embedded resource.
    Block,
    /// It has one block, or a list of them, as its `content`.
    Message,
}

/// The members of results that hold such elements: of `resources/read`, `tools/call` and
/// `prompts/get`.
pub(super) const CARRIERS: [(&str, Carrier); 3] = [
    ("contents", Carrier::Contents),
    ("content", Carrier::Block),
    ("messages", Carrier::Message),
];

/// The array without the elements that name a resource which `visibility` refuses; `None` if none
/// does.
pub(super) fn filter_carriers(
    carrier: Carrier,
    found: Kind,
    raw: &str,
    visibility: &mut impl Visibility,
) -> Result<Option<String>, Malformed> {
    // Nearly all answers are text: without these letters, and without escapes in which they could
    // hide, nothing is named.
    if !matches!(found, Kind::Array | Kind::Object) || !may_name_resources(raw) {
        return Ok(None);
    }
    if found == Kind::Object {
        // One element in the place of a list, which clients may read as it is meant.
        let passes = carrier_passes(carrier, found, raw, NESTING, visibility);
        return Ok((!passes).then(|| "[]".to_owned()));
    }
    filter_elements(raw, |kind, element| {
        carrier_passes(carrier, kind, element, NESTING, visibility)
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
    visibility: &mut impl Visibility,
) -> bool {
    if kind != Kind::Object {
        // Text names nothing that a client would follow; a list inside of a list is not a block.
        return carrier == Carrier::Block && kind != Kind::Array;
    }
    // A client could read these keys differently, so that no decision about them would hold.
    let Ok(object) = Object::from_raw(raw, keys::BLOCK) else {
        return false;
    };
    // Of messages, and of blocks such as the results of tools within messages.
    let within = match object.get("content") {
        Some(content) if carrier != Carrier::Contents && nesting > 0 => {
            blocks_pass(content.kind, content.raw, nesting - 1, visibility)
        }
        Some(_) => carrier == Carrier::Contents,
        None => true,
    };
    let within = within
        && SHAPELESS.iter().all(|key| {
            object
                .get(key)
                .is_none_or(|member| filter_links(member.raw, visibility) == Ok(None))
        });
    if carrier == Carrier::Message || !within {
        return within;
    }
    let mut named = |object: &Object<'_>| match object.string("uri") {
        Ok(Some(name)) => Some(visibility.keep(
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
fn blocks_pass(kind: Kind, raw: &str, nesting: usize, visibility: &mut impl Visibility) -> bool {
    if kind != Kind::Array {
        return carrier_passes(Carrier::Block, kind, raw, nesting, visibility);
    }
    let refused = filter_elements(raw, |kind, element| {
        carrier_passes(Carrier::Block, kind, element, nesting, visibility)
    });
    refused == Ok(None)
}

/// The member of the result of `completion/complete`.
pub(super) const COMPLETION: &str = "completion";

/// The completion without values that are names of hidden things, or URIs of hidden resources;
/// `None` if there are none.
pub(super) fn filter_completion(
    found: Kind,
    raw: &str,
    visibility: &mut impl Visibility,
) -> Result<Option<String>, Malformed> {
    if found != Kind::Object {
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
        if !is_uri(text) {
            return visibility.may_mention(text);
        }
        let name = Cow::Borrowed(text);
        visibility.keep(ListKind::Resources, &Entry { name, raw })
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
