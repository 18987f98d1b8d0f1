//! The single pass behind [`parse`](super::parse) and [`check`](super::check), as a pull reader.
//!
//! In: bytes. Out: values, raw slices or callbacks per member, each already checked as strictly as
//! the whole. A caller that walks an object sees every member checked to its last byte; nothing is
//! checked lazily.

use std::borrow::Cow;

use super::{Error, ErrorKind, Kind, Value};

mod scan;

pub(crate) use scan::is_one_line;
pub(super) use scan::special;

/// One member of an object: its key unescaped, its value as it stands in the text, without
/// surrounding white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    pub key: Cow<'a, str>,
    pub kind: Kind,
    pub raw: &'a str,
}

/// The members of the object that the bytes must be, everything below them checked too, in one
/// pass.
pub fn members(bytes: &[u8]) -> Result<Vec<Member<'_>>, Error> {
    let mut reader = Reader::new(bytes)?;
    let members = reader.members()?;
    reader.finish()?;
    Ok(members)
}

/// The text of a raw slice that is a JSON string.
pub fn decode_string(raw: &str) -> Result<Cow<'_, str>, Error> {
    let bytes = raw.as_bytes();
    if bytes.first() == Some(&b'"')
        && let end = special(bytes, 1)
        && bytes.get(end..) == Some(b"\"")
    {
        return Ok(Cow::Borrowed(&raw[1..end]));
    }
    let mut reader = Reader::over(raw);
    let text = reader.string()?;
    reader.finish()?;
    Ok(text)
}

/// A cursor over one JSON text. After an error it has no more to give: every later call fails too.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    failed: bool,
    /// The text has been checked before.
    checked: bool,
    /// Keys of the small objects that are open right now, outermost first.
    keys: scan::Keys<'a>,
    /// What [`scan`] found.
    fault: Option<Error>,
}

impl<'a> Reader<'a> {
    /// Starts before the first byte. The bytes must be UTF-8 without a byte order mark.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.starts_with('\u{feff}') => Err(Error {
                offset: 0,
                kind: ErrorKind::ByteOrderMark,
            }),
            Ok(text) => Ok(Self::over(text)),
            Err(error) => Err(Error {
                offset: error.valid_up_to(),
                kind: ErrorKind::Utf8,
            }),
        }
    }

    /// Starts before the first byte of text that is known to be UTF-8.
    #[inline]
    pub fn over(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            failed: false,
            checked: false,
            keys: scan::Keys::new(),
            fault: None,
        }
    }

    /// [`Self::over`] for a slice that a reader gave as raw: its content is not checked again.
    pub fn over_checked(text: &'a str) -> Self {
        Self {
            checked: true,
            ..Self::over(text)
        }
    }

    /// The kind of the value that comes next, which stays unread.
    pub fn kind(&mut self) -> Result<Kind, Error> {
        self.space();
        Ok(match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            Some(_) => return self.fail(ErrorKind::Literal),
            None => return self.fail(ErrorKind::End),
        })
    }

    /// Checks the next value whole and gives it as it stands in the text.
    pub fn raw(&mut self) -> Result<&'a str, Error> {
        let start = scan::space(self.text.as_bytes(), self.at);
        let end = if self.checked {
            self.pass_checked(start)
        } else {
            self.pass(start)
        };
        self.moved(end)?;
        Ok(&self.text[start..self.at])
    }

    /// What `read` makes of the next value, with the value as it stands in the text.
    pub fn span<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (&'a str, T) {
        self.space();
        let start = self.at;
        let value = read(self);
        (&self.text[start..self.at], value)
    }

    /// Reads the next value, whatever it is, into a tree.
    pub fn value(&mut self) -> Result<Value<'a>, Error> {
        Ok(match self.kind()? {
            Kind::Null => {
                let end = self.pass_literal(self.at, b"null");
                self.moved(end)?;
                Value::Null
            }
            Kind::Bool => Value::Bool(self.bool()?),
            Kind::Number => Value::Number(self.number()?),
            Kind::String => Value::String(self.string()?),
            Kind::Array => {
                let mut items = Vec::new();
                self.array(|reader| {
                    items.push(reader.value()?);
                    Ok::<(), Error>(())
                })?;
                Value::Array(items)
            }
            Kind::Object => {
                let mut members = Vec::new();
                self.object(|reader, key| {
                    members.push((key, reader.value()?));
                    Ok::<(), Error>(())
                })?;
                Value::Object(members)
            }
        })
    }

    /// Reads the next value, an object, as its members.
    pub fn members(&mut self) -> Result<Vec<Member<'a>>, Error> {
        let mut members = Vec::new();
        self.object(|reader, key| {
            let kind = reader.kind()?;
            members.push(Member {
                key,
                kind,
                raw: reader.raw()?,
            });
            Ok::<(), Error>(())
        })?;
        Ok(members)
    }

    /// Reads the next value, an object: `each` gets every key and must read exactly the one value
    /// that follows it.
    pub fn object<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Object)?;
        let bytes = self.text.as_bytes();
        let inside = self.pass_open(self.at);
        self.moved(inside)?;
        if bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
        } else {
            let mut seen = self.seen();
            loop {
                let key = self.key(&mut seen)?;
                each(self, key)?;
                if self.end_of_item(b'}')? {
                    break;
                }
            }
            self.forget(&seen);
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the next value, an array: `each` is called before every item and must read exactly
    /// that item.
    pub fn array<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Array)?;
        let inside = self.pass_open(self.at);
        self.moved(inside)?;
        if self.text.as_bytes().get(self.at) == Some(&b']') {
            self.at += 1;
        } else {
            loop {
                each(self)?;
                if self.end_of_item(b']')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the next value, a string, unescaped.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        self.expect(Kind::String)?;
        let (start, text) = (self.at, self.text);
        let end = special(text.as_bytes(), start + 1);
        if text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&text[start + 1..end]));
        }
        let (text, after) = self.unescaped(start, end)?;
        self.at = after;
        Ok(Cow::Owned(text))
    }

    /// Reads the next value, a number, as its token.
    pub fn number(&mut self) -> Result<&'a str, Error> {
        self.expect(Kind::Number)?;
        let start = self.at;
        let end = self.pass_number(start);
        self.moved(end)?;
        Ok(&self.text[start..self.at])
    }

    /// Reads the next value, `true` or `false`.
    pub fn bool(&mut self) -> Result<bool, Error> {
        self.expect(Kind::Bool)?;
        let yes = self.peek() == Some(b't');
        let end = self.pass_literal(self.at, if yes { b"true" } else { b"false" });
        self.moved(end)?;
        Ok(yes)
    }

    /// Nothing but white space may be left.
    pub fn finish(mut self) -> Result<(), Error> {
        self.space();
        if self.failed {
            return self.fail(ErrorKind::End);
        }
        if self.at < self.text.len() {
            return self.fail(ErrorKind::Trailing);
        }
        Ok(())
    }

    /// Reads the key that must start at the cursor, up to where its value starts.
    #[inline]
    fn key(&mut self, seen: &mut scan::Seen<'a>) -> Result<Cow<'a, str>, Error> {
        let (start, text) = (self.at, self.text);
        if self.peek() != Some(b'"') {
            return self.fail_or_end(ErrorKind::Key);
        }
        let end = special(text.as_bytes(), start + 1);
        let (key, new, after) = if text.as_bytes().get(end) == Some(&b'"') {
            let key = &text[start + 1..end];
            let new = self.checked || self.note(seen, key.as_bytes());
            (Cow::Borrowed(key), new, end + 1)
        } else {
            let (key, after) = self.unescaped(start, end)?;
            let new = self.checked || self.note_escaped(seen, key.clone().into_bytes());
            (Cow::Owned(key), new, after)
        };
        if !new {
            return self.fail(ErrorKind::Duplicate);
        }
        let value = self.pass_colon(after);
        self.moved(value)?;
        Ok(key)
    }

    /// The string whose opening quote stands at `start` and whose first special character at `at`,
    /// and where it ends.
    #[inline(never)]
    fn unescaped(&mut self, start: usize, at: usize) -> Result<(String, usize), Error> {
        let mut text = String::new();
        match self.unescape(start + 1, at, &mut text) {
            Some(after) => Ok((text, after)),
            None => Err(self.failed()),
        }
    }

    /// Takes the comma or closing bracket after an item, and the white space around it; whether it
    /// was the bracket.
    fn end_of_item(&mut self, bracket: u8) -> Result<bool, Error> {
        self.space();
        let last = match self.peek() {
            Some(b',') => false,
            Some(byte) if byte == bracket => true,
            Some(_) => return self.fail(ErrorKind::Comma),
            None => return self.fail(ErrorKind::End),
        };
        self.at += 1;
        if !last {
            self.space();
        }
        Ok(last)
    }

    fn expect(&mut self, kind: Kind) -> Result<(), Error> {
        let found = self.kind()?;
        if found == kind {
            Ok(())
        } else {
            self.fail(ErrorKind::Unexpected(found))
        }
    }

    fn space(&mut self) {
        self.at = scan::space(self.text.as_bytes(), self.at);
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves to where [`scan`] came.
    fn moved(&mut self, to: Option<usize>) -> Result<(), Error> {
        match to {
            Some(at) => {
                self.at = at;
                Ok(())
            }
            None => Err(self.failed()),
        }
    }

    #[cold]
    fn fail<T>(&mut self, kind: ErrorKind) -> Result<T, Error> {
        self.fault = Some(Error {
            offset: self.at,
            kind,
        });
        Err(self.failed())
    }

    #[cold]
    fn fail_or_end<T>(&mut self, kind: ErrorKind) -> Result<T, Error> {
        if self.at < self.text.len() {
            self.fail(kind)
        } else {
            self.fail(ErrorKind::End)
        }
    }

    /// The fault found. Moving to the end makes sure that nothing can be read after an error that a
    /// caller overlooks.
    #[cold]
    fn failed(&mut self) -> Error {
        self.at = self.text.len();
        self.failed = true;
        self.fault.unwrap_or(Error {
            offset: self.at,
            kind: ErrorKind::End,
        })
    }
}
