//! The one strict JSON reader, used for everything that comes over the wire.
//!
//! In: bytes from a client or an upstream. Out: a borrowed tree ([`parse`]), a yes or no
//! ([`check`]), or a walk with raw slices ([`Reader`], [`members`]). Proxies have been bypassed
//! because they and the server behind them read the same bytes differently, so whatever two readers
//! could disagree about is refused here, at every depth: duplicate keys (compared after
//! unescaping), invalid UTF-8, a byte order mark, unpaired surrogates, `NaN` and `Infinity`,
//! numbers that overflow a double, trailing bytes, nesting deeper than [`MAX_DEPTH`]. RFC 8259
//! leaves these open; I-JSON (RFC 7493) forbids most of them.
//!
//! It must not repair, coerce or drop anything, and it never panics, whatever the bytes.

mod reader;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::borrow::Cow;
use std::fmt;

pub(crate) use reader::is_one_line;
pub use reader::{Member, Reader, decode_string, members};
pub use write::{
    canonical, canonical_by_value, quoted, write_canonical, write_number, write_string,
};

/// Arrays and objects may nest this deep: `[[1]]` has depth 2.
pub const MAX_DEPTH: usize = 64;

/// A JSON value that borrows from the bytes it was read from.
///
/// Numbers keep their token: what `1.0`, `1e0` and a 30-digit integer mean is for the reader of the
/// value to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    /// In the order of the text; keys are unique.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// What sort of value this is.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Bool,
            Value::Number(_) => Kind::Number,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::Object(_) => Kind::Object,
        }
    }

    /// The member of that name, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.as_object()?
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if this is an array.
    pub fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&[(Cow<'a, str>, Value<'a>)]> {
        match self {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }
}

/// The six sorts of JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "an array",
            Kind::Object => "an object",
        })
    }
}

/// Why bytes were refused, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct Error {
    /// Counted from the start of what was handed in.
    pub offset: usize,
    pub kind: ErrorKind,
}

/// The ways in which bytes fail to be strict JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    Utf8,
    ByteOrderMark,
    End,
    Literal,
    Number,
    Overflow,
    Control,
    Escape,
    Surrogate,
    Key,
    Colon,
    Comma,
    Duplicate,
    Depth,
    Trailing,
    /// A walker asked for one kind of value and found another.
    Unexpected(Kind),
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::Utf8 => "invalid UTF-8",
            ErrorKind::ByteOrderMark => "a byte order mark; send plain UTF-8",
            ErrorKind::End => "the JSON text ends too early",
            ErrorKind::Literal => "not a JSON value",
            ErrorKind::Number => "not a JSON number",
            ErrorKind::Overflow => "a number too large for a double; send it as a string",
            ErrorKind::Control => "an unescaped control character in a string",
            ErrorKind::Escape => "an invalid escape in a string",
            ErrorKind::Surrogate => "an unpaired surrogate in a string",
            ErrorKind::Key => "a key must be a string in double quotes",
            ErrorKind::Colon => "a colon is missing after a key",
            ErrorKind::Comma => "a comma or a closing bracket is missing",
            ErrorKind::Duplicate => "a key is repeated in one object",
            ErrorKind::Depth => "arrays and objects nest deeper than 64",
            ErrorKind::Trailing => "there is text after the JSON value",
            ErrorKind::Unexpected(kind) => {
                return write!(f, "{kind} where another kind of value belongs");
            }
        })
    }
}

/// Reads exactly one JSON value into a tree.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut reader = Reader::new(bytes)?;
    let value = reader.value()?;
    reader.finish()?;
    Ok(value)
}

/// Whether [`parse`] would accept the bytes, without building the tree.
pub fn check(bytes: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(bytes)?;
    reader.raw()?;
    reader.finish()
}
