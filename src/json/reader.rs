//! The single pass behind [`parse`](super::parse) and [`check`](super::check), as a pull reader.
//!
//! In: bytes. Out: values, raw slices or callbacks per member, each already checked as strictly as the whole. A caller
//! that walks an object sees every member checked to its last byte; there is no lazy part.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Error, ErrorKind, Kind, MAX_DEPTH, Value};

/// Objects with more keys than this find duplicates with a hash set instead of by comparing each pair.
const LINEAR_KEYS: usize = 16;

/// A number without exponent and of at most this many bytes cannot overflow a double (its largest has 309 digits).
const SAFE_NUMBER: usize = 300;

/// The keys of one object so far.
struct Seen<'a> {
    /// Where they start in [`Reader::keys`].
    base: usize,
    /// The [`mark`]s of all of them: a key whose mark is missing needs no comparing.
    marks: u64,
    large: Option<HashSet<Cow<'a, str>>>,
}

/// One bit that equal keys share.
fn mark(key: &str) -> u64 {
    let bytes = key.as_bytes();
    let (first, last) = (
        bytes.first().copied().unwrap_or(0),
        bytes.last().copied().unwrap_or(0),
    );
    1 << ((usize::from(first) + usize::from(last) * 5 + bytes.len() * 11) & 63)
}

/// One member of an object: its key unescaped, its value as it stands in the text, without surrounding white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    pub key: Cow<'a, str>,
    pub kind: Kind,
    pub raw: &'a str,
}

/// The members of the object that the bytes must be, everything below them checked too, in one pass.
pub fn members(bytes: &[u8]) -> Result<Vec<Member<'_>>, Error> {
    let mut reader = Reader::new(bytes)?;
    let members = reader.members()?;
    reader.finish()?;
    Ok(members)
}

/// The text of a raw slice that is a JSON string.
pub fn decode_string(raw: &str) -> Result<Cow<'_, str>, Error> {
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
    /// Keys of the small objects that are open right now, outermost first.
    keys: Vec<Cow<'a, str>>,
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
    pub fn over(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            failed: false,
            keys: Vec::new(),
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
        self.space();
        let start = self.at;
        self.skip()?;
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
            Kind::Null => self.literal("null").map(|()| Value::Null)?,
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

    /// Reads the next value, an object: `each` gets every key and must read exactly the one value that follows it.
    pub fn object<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Object)?;
        self.open()?;
        let mut seen = Seen {
            base: self.keys.len(),
            marks: 0,
            large: None,
        };
        if !self.close(b'}') {
            loop {
                self.space();
                let start = self.at;
                if self.peek() != Some(b'"') {
                    return self.fail(if self.at == self.text.len() {
                        ErrorKind::End
                    } else {
                        ErrorKind::Key
                    })?;
                }
                let key = self.string()?;
                if !self.note(&mut seen, key.clone()) {
                    self.at = start;
                    return self.fail(ErrorKind::Duplicate)?;
                }
                self.space();
                if self.peek() != Some(b':') {
                    return self.fail(if self.at == self.text.len() {
                        ErrorKind::End
                    } else {
                        ErrorKind::Colon
                    })?;
                }
                self.at += 1;
                self.space();
                each(self, key)?;
                if self.end_of_item(b'}')? {
                    break;
                }
            }
        }
        self.keys.truncate(seen.base);
        self.depth -= 1;
        Ok(())
    }

    /// Reads the next value, an array: `each` is called before every item and must read exactly that item.
    pub fn array<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Array)?;
        self.open()?;
        if !self.close(b']') {
            loop {
                self.space();
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
        self.at += 1;
        let start = self.at;
        if self.run()? == b'"' {
            let text = &self.text[start..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut text = String::from(&self.text[start..self.at]);
        self.escaped(Some(&mut text))?;
        Ok(Cow::Owned(text))
    }

    /// Reads the next value, a number, as its token.
    pub fn number(&mut self) -> Result<&'a str, Error> {
        self.expect(Kind::Number)?;
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.fail(ErrorKind::Number),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut exponent = false;
        if let Some(b'e' | b'E') = self.peek() {
            exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let token = &self.text[start..self.at];
        if (exponent || token.len() > SAFE_NUMBER)
            && !token.parse::<f64>().is_ok_and(f64::is_finite)
        {
            self.at = start;
            return self.fail(ErrorKind::Overflow);
        }
        Ok(token)
    }

    /// Reads the next value, `true` or `false`.
    pub fn bool(&mut self) -> Result<bool, Error> {
        self.expect(Kind::Bool)?;
        if self.peek() == Some(b't') {
            self.literal("true").map(|()| true)
        } else {
            self.literal("false").map(|()| false)
        }
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

    fn skip(&mut self) -> Result<(), Error> {
        match self.kind()? {
            Kind::Null => self.literal("null"),
            Kind::Bool => self.bool().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::String => {
                self.at += 1;
                if self.run()? == b'"' {
                    self.at += 1;
                    return Ok(());
                }
                self.escaped(None)
            }
            Kind::Array => self.array(Self::skip),
            Kind::Object => self.object(|reader, _| reader.skip()),
        }
    }

    /// Remembers a key of an open object; false if it has been seen.
    fn note(&mut self, seen: &mut Seen<'a>, key: Cow<'a, str>) -> bool {
        if let Some(large) = &mut seen.large {
            return large.insert(key);
        }
        let mark = mark(&key);
        if seen.marks & mark != 0 && self.keys[seen.base..].contains(&key) {
            return false;
        }
        seen.marks |= mark;
        self.keys.push(key);
        if self.keys.len() - seen.base > LINEAR_KEYS {
            seen.large = Some(self.keys.drain(seen.base..).collect());
        }
        true
    }

    /// Takes the opening bracket, at which the cursor stands.
    fn open(&mut self) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return self.fail(ErrorKind::Depth);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Takes the closing bracket of an array or object that turns out to be empty.
    fn close(&mut self, bracket: u8) -> bool {
        self.space();
        let found = self.peek() == Some(bracket);
        self.at += usize::from(found);
        found
    }

    fn end_of_item(&mut self, bracket: u8) -> Result<bool, Error> {
        self.space();
        let last = match self.peek() {
            Some(b',') => false,
            Some(byte) if byte == bracket => true,
            Some(_) => return self.fail(ErrorKind::Comma),
            None => return self.fail(ErrorKind::End),
        };
        self.at += 1;
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

    fn literal(&mut self, word: &str) -> Result<(), Error> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.fail(ErrorKind::Literal);
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            self.fail(ErrorKind::Number)
        } else {
            Ok(())
        }
    }

    /// Moves to the next byte of a string that is a quote or a backslash, and says which.
    fn run(&mut self) -> Result<u8, Error> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        let bytes = self.text.as_bytes();
        // Eight bytes at a time: the classic test for a zero byte, after XOR with the byte looked for, and for a byte
        // below 0x20. The test may mark bytes after the first one found, never before it or instead of it.
        while let Some(block) = bytes
            .get(self.at..self.at + 8)
            .and_then(|block| <[u8; 8]>::try_from(block).ok())
        {
            let word = u64::from_le_bytes(block);
            let quote = word ^ (ONES * u64::from(b'"'));
            let slash = word ^ (ONES * u64::from(b'\\'));
            let zero = |word: u64| word.wrapping_sub(ONES) & !word;
            let control = word.wrapping_sub(ONES * 0x20) & !word;
            let found = (zero(quote) | zero(slash) | control) & HIGH;
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            self.at += 8;
        }
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' | b'\\' => return Ok(byte),
                0..=0x1f => return self.fail(ErrorKind::Control),
                _ => self.at += 1,
            }
        }
        self.fail(ErrorKind::End)
    }

    /// Reads the rest of a string from its first backslash on, through the closing quote.
    fn escaped(&mut self, mut out: Option<&mut String>) -> Result<(), Error> {
        loop {
            let start = self.at;
            let special = self.run()?;
            if let Some(out) = out.as_deref_mut() {
                out.push_str(&self.text[start..self.at]);
            }
            if special == b'"' {
                self.at += 1;
                return Ok(());
            }
            let character = self.escape()?;
            if let Some(out) = out.as_deref_mut() {
                out.push(character);
            }
        }
    }

    /// Reads one escape, at whose backslash the cursor stands.
    fn escape(&mut self) -> Result<char, Error> {
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        let simple = match letter {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            Some(_) => return self.fail(ErrorKind::Escape),
            None => return self.fail(ErrorKind::End),
        };
        self.at += 2;
        Ok(simple)
    }

    fn unicode_escape(&mut self) -> Result<char, Error> {
        let Some(first) = self.hex(self.at) else {
            return self.fail(ErrorKind::Escape);
        };
        let mut length = 6;
        let code = match first {
            0xd800..=0xdbff => match self.hex(self.at + 6) {
                Some(second @ 0xdc00..=0xdfff) => {
                    length = 12;
                    0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                }
                _ => return self.fail(ErrorKind::Surrogate),
            },
            other => other,
        };
        // What `char` does not hold is a lone low surrogate.
        let Some(character) = char::from_u32(code) else {
            return self.fail(ErrorKind::Surrogate);
        };
        self.at += length;
        Ok(character)
    }

    /// The value of a `\uXXXX` that starts at `at`.
    fn hex(&self, at: usize) -> Option<u32> {
        let digits = self.text.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |code, &digit| {
            Some(code * 16 + char::from(digit).to_digit(16)?)
        })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moving to the end makes sure that nothing can be read after an error that a caller overlooks.
    fn fail<T>(&mut self, kind: ErrorKind) -> Result<T, Error> {
        let offset = self.at;
        self.at = self.text.len();
        self.failed = true;
        Err(Error { offset, kind })
    }
}
