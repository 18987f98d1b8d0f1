//! The inner loops of the [`Reader`]: passing over values while checking them, and finding the ends
//! of strings.
//!
//! In: the position of a first byte. Out: the position after the last one, or none, with the fault
//! kept in the reader. Positions are passed by value, so that they stay in registers; the cursor of
//! the reader is not moved here.

use std::borrow::Cow;
use std::collections::HashSet;

use super::super::{ErrorKind, MAX_DEPTH};
use super::{Error, Reader};

/// Objects with more keys than this find duplicates with a hash set, once a key needs comparing at
/// all.
const LINEAR_KEYS: usize = 16;

/// Room for the keys of the small objects that are open at once in a usual message.
const USUAL_KEYS: usize = 16;

/// A number without exponent and of at most this many bytes cannot overflow a double (its largest
/// has 309 digits).
const SAFE_NUMBER: usize = 300;

/// A stack of keys, the first few of which need no allocation.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    few: [&'a [u8]; USUAL_KEYS],
    many: Vec<&'a [u8]>,
    len: usize,
}

impl<'a> Keys<'a> {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            few: [&[]; USUAL_KEYS],
            many: Vec::new(),
            len: 0,
        }
    }

    #[inline]
    fn push(&mut self, key: &'a [u8]) {
        match self.few.get_mut(self.len) {
            Some(place) => *place = key,
            None => self.many.push(key),
        }
        self.len += 1;
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.len = len;
        if !self.many.is_empty() {
            self.many.truncate(len.saturating_sub(USUAL_KEYS));
        }
    }

    /// Those above the lowest `base`.
    fn above(&self, base: usize) -> impl Iterator<Item = &'a [u8]> {
        let few = self.few[..self.len.min(USUAL_KEYS)].iter().skip(base);
        let many = self.many.iter().skip(base.saturating_sub(USUAL_KEYS));
        few.chain(many).copied()
    }
}

/// The keys of one object so far.
pub(super) struct Seen<'a> {
    /// Where they start in [`Reader::keys`].
    base: usize,
    /// The [`mark`]s of all of them: a key whose mark is missing needs no comparing. All of them if
    /// `large` is used.
    marks: u64,
    /// All of them, once they are many or one of them was escaped in the text.
    large: Option<HashSet<Cow<'a, [u8]>>>,
}

/// One bit that equal keys share.
#[inline]
fn mark(key: &[u8]) -> u64 {
    let (first, last) = match key {
        [first, .., last] => (*first, *last),
        [only] => (*only, *only),
        [] => (0, 0),
    };
    1 << ((usize::from(first) + usize::from(last) * 5 + key.len() * 11) & 63)
}

/// The first position from `at` on that is not white space.
#[inline]
pub(super) fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at)
        && byte <= b' '
        && matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
    {
        at += 1;
    }
    at
}

/// The first position from `at` on of a quote, a backslash or a control character; the length if
/// there is none.
#[inline]
pub(crate) fn special(bytes: &[u8], at: usize) -> usize {
    match word(bytes, at).map(specials) {
        Some(0) => special_after(bytes, at + 8),
        Some(found) => at + (found.trailing_zeros() / 8) as usize,
        None => special_near_end(bytes, at),
    }
}

#[inline(never)]
fn special_after(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = word(bytes, at) {
        let found = specials(word);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
        while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<32>())
            && !any_word(block, specials)
        {
            at += 32;
        }
    }
    special_near_end(bytes, at)
}

/// Whether `marks` finds something in one of the block's words.
#[inline]
fn any_word(block: &[u8; 32], marks: impl Fn(u64) -> u64) -> bool {
    let (words, _) = block.as_chunks::<8>();
    let found = words
        .iter()
        .fold(0, |found, word| found | marks(u64::from_le_bytes(*word)));
    found != 0
}

#[inline(never)]
fn special_near_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at)
        && !is_special(byte)
    {
        at += 1;
    }
    at
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let block = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*block))
}

/// A bit in the lowest special byte of eight, and perhaps in later ones. The classic test for bytes
/// below a limit (subtract it, look at the high bits) may mark what follows a byte that it has
/// found, never what precedes it.
#[inline]
fn specials(word: u64) -> u64 {
    // Exchanges the quote (0x22) with the space (0x20) and keeps the control characters among
    // themselves.
    let quote = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let slash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (quote | slash) & !word & HIGH
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

/// Whether a text has no line feed and no carriage return.
pub(crate) fn is_one_line(bytes: &[u8]) -> bool {
    let breaks = |word: u64| {
        let feed = (word ^ (ONES * u64::from(b'\n'))).wrapping_sub(ONES);
        let carriage = (word ^ (ONES * u64::from(b'\r'))).wrapping_sub(ONES);
        (feed | carriage) & !word & HIGH
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    let (words, rest) = rest.as_chunks::<8>();
    !blocks.iter().any(|block| any_word(block, breaks))
        && !words
            .iter()
            .any(|word| breaks(u64::from_le_bytes(*word)) != 0)
        && !rest.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

impl<'a> Reader<'a> {
    /// Passes over the value that starts at `at`, checking it whole.
    pub(super) fn pass(&mut self, at: usize) -> Option<usize> {
        match self.text.as_bytes().get(at) {
            Some(b'"') => self.pass_string(at),
            Some(b'{') => self.pass_object(at),
            Some(b'[') => self.pass_array(at),
            Some(b'-' | b'0'..=b'9') => self.pass_number(at),
            Some(b't') => self.pass_literal(at, b"true"),
            Some(b'f') => self.pass_literal(at, b"false"),
            Some(b'n') => self.pass_literal(at, b"null"),
            Some(_) => self.fault(at, ErrorKind::Literal),
            None => self.fault(at, ErrorKind::End),
        }
    }

    /// Passes over the value that starts at `at` in text that has been checked: only quotes and
    /// brackets count.
    pub(super) fn pass_checked(&mut self, mut at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut open = 0_usize;
        loop {
            match bytes.get(at) {
                Some(b'"') => {
                    let end = special(bytes, at + 1);
                    at = if bytes.get(end) == Some(&b'"') {
                        end + 1
                    } else {
                        self.pass_string(at)?
                    };
                }
                Some(b'{' | b'[') => {
                    open += 1;
                    at += 1;
                    continue;
                }
                Some(b'}' | b']') if open > 0 => {
                    open -= 1;
                    at += 1;
                }
                Some(_) if open > 0 => {
                    at += 1;
                    continue;
                }
                _ => return self.pass(at),
            }
            if open == 0 {
                return Some(at);
            }
        }
    }

    fn pass_object(&mut self, at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = self.pass_open(at)?;
        if bytes.get(at) == Some(&b'}') {
            self.depth -= 1;
            return Some(at + 1);
        }
        let mut seen = self.seen();
        loop {
            at = self.pass_key(at, &mut seen)?;
            at = self.pass(at)?;
            at = space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = space(bytes, at + 1),
                Some(b'}') => break,
                _ => return self.fault_or_end(at, ErrorKind::Comma),
            }
        }
        self.forget(&seen);
        self.depth -= 1;
        Some(at + 1)
    }

    fn pass_array(&mut self, at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = self.pass_open(at)?;
        if bytes.get(at) == Some(&b']') {
            self.depth -= 1;
            return Some(at + 1);
        }
        loop {
            at = self.pass(at)?;
            at = space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = space(bytes, at + 1),
                Some(b']') => break,
                _ => return self.fault_or_end(at, ErrorKind::Comma),
            }
        }
        self.depth -= 1;
        Some(at + 1)
    }

    /// Takes the opening bracket at `at`, and the white space after it.
    #[inline]
    pub(super) fn pass_open(&mut self, at: usize) -> Option<usize> {
        if self.depth == MAX_DEPTH {
            return self.fault(at, ErrorKind::Depth);
        }
        self.depth += 1;
        Some(space(self.text.as_bytes(), at + 1))
    }

    /// Passes over a key and what stands between it and its value.
    #[inline]
    fn pass_key(&mut self, at: usize, seen: &mut Seen<'a>) -> Option<usize> {
        let bytes = self.text.as_bytes();
        if bytes.get(at) != Some(&b'"') {
            return self.fault_or_end(at, ErrorKind::Key);
        }
        let end = special(bytes, at + 1);
        let after = match bytes.get(end) {
            Some(b'"') => {
                if !self.note(seen, &bytes[at + 1..end]) {
                    return self.fault(at, ErrorKind::Duplicate);
                }
                end + 1
            }
            Some(b'\\') => {
                let mut key = String::new();
                let after = self.unescape(at + 1, end, &mut key)?;
                if !self.note_escaped(seen, key.into_bytes()) {
                    return self.fault(at, ErrorKind::Duplicate);
                }
                after
            }
            _ => return self.fault_or_end(end, ErrorKind::Control),
        };
        self.pass_colon(after)
    }

    /// Takes the colon after a key, and the white space around it.
    #[inline]
    pub(super) fn pass_colon(&mut self, at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let at = space(bytes, at);
        if bytes.get(at) != Some(&b':') {
            return self.fault_or_end(at, ErrorKind::Colon);
        }
        Some(space(bytes, at + 1))
    }

    /// Passes over the string whose opening quote stands at `at`.
    #[inline]
    pub(super) fn pass_string(&mut self, at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = at + 1;
        loop {
            at = special(bytes, at);
            match bytes.get(at) {
                Some(b'"') => return Some(at + 1),
                Some(b'\\') => match bytes.get(at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                    _ => at = self.escape(at)?.1,
                },
                _ => return self.fault_or_end(at, ErrorKind::Control),
            }
        }
    }

    /// Appends a string that starts after its quote at `start` and has its first backslash at `at`;
    /// the position after its closing quote.
    pub(super) fn unescape(&mut self, start: usize, at: usize, out: &mut String) -> Option<usize> {
        let text = self.text;
        let (mut start, mut at) = (start, at);
        loop {
            out.push_str(&text[start..at]);
            match text.as_bytes().get(at) {
                Some(b'"') => return Some(at + 1),
                Some(b'\\') => {
                    let (character, after) = self.escape(at)?;
                    out.push(character);
                    start = after;
                }
                _ => return self.fault_or_end(at, ErrorKind::Control),
            }
            at = special(text.as_bytes(), start);
        }
    }

    /// Reads one escape, whose backslash stands at `at`: what it means, and the position after it.
    fn escape(&mut self, at: usize) -> Option<(char, usize)> {
        let simple = match self.text.as_bytes().get(at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(at),
            Some(_) => return self.fault(at, ErrorKind::Escape),
            None => return self.fault(at, ErrorKind::End),
        };
        Some((simple, at + 2))
    }

    fn unicode_escape(&mut self, at: usize) -> Option<(char, usize)> {
        let Some(first) = self.hex(at) else {
            return self.fault(at, ErrorKind::Escape);
        };
        let (code, length) = match first {
            0xd800..=0xdbff => match self.hex(at + 6) {
                Some(second @ 0xdc00..=0xdfff) => {
                    (0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12)
                }
                _ => return self.fault(at, ErrorKind::Surrogate),
            },
            other => (other, 6),
        };
        // What `char` does not hold is a lone low surrogate.
        match char::from_u32(code) {
            Some(character) => Some((character, at + length)),
            None => self.fault(at, ErrorKind::Surrogate),
        }
    }

    /// The value of a `\uXXXX` that starts at `at`.
    fn hex(&self, at: usize) -> Option<u32> {
        let digits = self.text.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |code, &digit| {
            Some(code * 16 + char::from(digit).to_digit(16)?)
        })
    }

    /// Passes over the number that starts at `at`.
    pub(super) fn pass_number(&mut self, start: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        match bytes.get(at) {
            Some(b'0') => at += 1,
            Some(b'1'..=b'9') => at = digits(bytes, at),
            _ => return self.fault(at, ErrorKind::Number),
        }
        if bytes.get(at) == Some(&b'.') {
            at = self.some_digits(at + 1)?;
        }
        let mut exponent = false;
        if let Some(b'e' | b'E') = bytes.get(at) {
            exponent = true;
            at += 1;
            if let Some(b'+' | b'-') = bytes.get(at) {
                at += 1;
            }
            at = self.some_digits(at)?;
        }
        if (exponent || at - start > SAFE_NUMBER)
            && !self.text[start..at]
                .parse::<f64>()
                .is_ok_and(f64::is_finite)
        {
            return self.fault(start, ErrorKind::Overflow);
        }
        Some(at)
    }

    fn some_digits(&mut self, start: usize) -> Option<usize> {
        let at = digits(self.text.as_bytes(), start);
        if at == start {
            return self.fault(at, ErrorKind::Number);
        }
        Some(at)
    }

    #[inline]
    pub(super) fn pass_literal(&mut self, at: usize, word: &[u8]) -> Option<usize> {
        match self.text.as_bytes().get(at..) {
            Some(rest) if rest.starts_with(word) => Some(at + word.len()),
            _ => self.fault(at, ErrorKind::Literal),
        }
    }

    /// For an object that opens now.
    #[inline]
    pub(super) fn seen(&self) -> Seen<'a> {
        Seen {
            base: self.keys.len,
            marks: 0,
            large: None,
        }
    }

    /// For an object that closes now.
    #[inline]
    pub(super) fn forget(&mut self, seen: &Seen<'a>) {
        self.keys.truncate(seen.base);
    }

    /// Remembers a key of an open object; false if it has been seen.
    #[inline]
    pub(super) fn note(&mut self, seen: &mut Seen<'a>, key: &'a [u8]) -> bool {
        let mark = mark(key);
        if seen.marks & mark != 0 {
            return self.note_again(seen, key);
        }
        seen.marks |= mark;
        self.keys.push(key);
        true
    }

    /// [`Self::note`] for a key whose mark has been seen, or any where all keys are in the set.
    #[inline(never)]
    fn note_again(&mut self, seen: &mut Seen<'a>, key: &'a [u8]) -> bool {
        if seen.large.is_some() || self.keys.len - seen.base >= LINEAR_KEYS {
            return self.note_large(seen, Cow::Borrowed(key));
        }
        if self.keys.above(seen.base).any(|before| before == key) {
            return false;
        }
        self.keys.push(key);
        true
    }

    /// [`Self::note`] for a key that does not stand in the text as it is.
    pub(super) fn note_escaped(&mut self, seen: &mut Seen<'a>, key: Vec<u8>) -> bool {
        self.note_large(seen, Cow::Owned(key))
    }

    #[cold]
    fn note_large(&mut self, seen: &mut Seen<'a>, key: Cow<'a, [u8]>) -> bool {
        if seen.large.is_none() {
            seen.large = Some(self.keys.above(seen.base).map(Cow::Borrowed).collect());
            seen.marks = u64::MAX;
            self.keys.truncate(seen.base);
        }
        seen.large.get_or_insert_default().insert(key)
    }

    #[cold]
    pub(super) fn fault<T>(&mut self, offset: usize, kind: ErrorKind) -> Option<T> {
        self.fault = Some(Error { offset, kind });
        None
    }

    /// The fault of a byte that does not belong, unless it is missing.
    #[cold]
    pub(super) fn fault_or_end<T>(&mut self, at: usize, kind: ErrorKind) -> Option<T> {
        if at >= self.text.len() {
            self.fault(at, ErrorKind::End)
        } else {
            self.fault(at, kind)
        }
    }
}

fn digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    at
}
