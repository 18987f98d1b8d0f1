//! The entries of a list, and which of them stay.
//!
//! In: the member of a result that is a list, as it stands in the text. Out: its entries with their
//! names, or the list without those that may not be seen. Must not do: keep an entry whose name
//! cannot be read, or a tool that is listed twice.

use std::borrow::Cow;
use std::collections::HashSet;

use super::super::envelope::{Fault, Object};
use super::super::keys;
use super::{Entry, ListKind, Malformed, Visibility};
use crate::json::{self, Kind, Reader};

/// The array without refused entries; `None` if none is refused.
pub(super) fn filter_array(
    kind: ListKind,
    found: Kind,
    raw: &str,
    visibility: &mut impl Visibility,
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
        !repeated && visibility.keep(kind, entry)
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

/// The entries of a list in the result of a response, those whose name cannot be read left out.
/// None if the result has no such list.
pub fn entries<'a>(
    result: &Object<'a>,
    kind: ListKind,
) -> Result<Option<Vec<Entry<'a>>>, Malformed> {
    result
        .get(kind.key())
        .map(|member| entries_of(kind, member.kind, member.raw).map(|(entries, _)| entries))
        .transpose()
}

/// `nextCursor` of a result, if it is a string. An empty one ends the list, as servers mean it that
/// write a text for what is not there.
pub fn next_cursor<'a>(result: &Object<'a>) -> Option<Cow<'a, str>> {
    let cursor = json::decode_string(result.get("nextCursor")?.raw).ok()?;
    (!cursor.is_empty()).then_some(cursor)
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
    // Sorted by a number first, which equal names share, so that few names are compared byte for
    // byte.
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

/// Reads the next entry; none if its name is not a string, or its keys could be read differently.
/// `unknown` is room for some of those.
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
