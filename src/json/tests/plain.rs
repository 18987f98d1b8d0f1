//! A second, plain implementation of the reader's rules, byte by byte and without shortcuts, as a
//! reference.

use std::collections::HashSet;

use super::super::{Error, ErrorKind, MAX_DEPTH};

/// What [`check`](super::super::check) must say.
pub fn check(bytes: &[u8]) -> Result<(), Error> {
    let fail = |offset, kind| Err(Error { offset, kind });
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with('\u{feff}') => return fail(0, ErrorKind::ByteOrderMark),
        Ok(text) => text,
        Err(error) => return fail(error.valid_up_to(), ErrorKind::Utf8),
    };
    let mut plain = Plain {
        text,
        at: 0,
        depth: 0,
    };
    plain.space();
    plain.value()?;
    plain.space();
    if plain.at < text.len() {
        return plain.fail(ErrorKind::Trailing);
    }
    Ok(())
}

struct Plain<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Plain<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fail<T>(&self, kind: ErrorKind) -> Result<T, Error> {
        Err(Error {
            offset: self.at,
            kind,
        })
    }

    fn fail_or_end<T>(&self, kind: ErrorKind) -> Result<T, Error> {
        self.fail(self.peek().map_or(ErrorKind::End, |_| kind))
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'{') => self.items(b'}', true),
            Some(b'[') => self.items(b']', false),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.fail_or_end(ErrorKind::Literal),
        }
    }

    fn items(&mut self, end: u8, keys: bool) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return self.fail(ErrorKind::Depth);
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let mut seen = HashSet::new();
        let mut first = true;
        while !(first && self.peek() == Some(end)) {
            first = false;
            if keys {
                let start = self.at;
                if self.peek() != Some(b'"') {
                    return self.fail_or_end(ErrorKind::Key);
                }
                if !seen.insert(self.string()?) {
                    self.at = start;
                    return self.fail(ErrorKind::Duplicate);
                }
                self.space();
                if self.peek() != Some(b':') {
                    return self.fail_or_end(ErrorKind::Colon);
                }
                self.at += 1;
                self.space();
            }
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => break,
                _ => return self.fail_or_end(ErrorKind::Comma),
            }
            self.space();
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), Error> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail(ErrorKind::Literal);
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.fail(ErrorKind::Number);
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let number: f64 = self.text[start..self.at].parse().unwrap();
        if number.is_infinite() {
            self.at = start;
            return self.fail(ErrorKind::Overflow);
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(character) = self
                .text
                .get(self.at..)
                .and_then(|rest| rest.chars().next())
            else {
                return self.fail(ErrorKind::End);
            };
            match character {
                '"' => {
                    self.at += 1;
                    return Ok(out);
                }
                '\\' => out.push(self.escape()?),
                '\0'..='\u{1f}' => return self.fail(ErrorKind::Control),
                other => {
                    out.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let meaning = match self.text.as_bytes().get(self.at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let Some(first) = self.unit(self.at) else {
                    return self.fail(ErrorKind::Escape);
                };
                let second = self.unit(self.at + 6);
                let units = [Some(first), second];
                let high = (0xd800..0xdc00).contains(&first);
                let read = char::decode_utf16(units.into_iter().flatten()).next();
                let Some(Ok(character)) = read else {
                    return self.fail(ErrorKind::Surrogate);
                };
                self.at += if high { 12 } else { 6 };
                return Ok(character);
            }
            Some(_) => return self.fail(ErrorKind::Escape),
            None => return self.fail(ErrorKind::End),
        };
        self.at += 2;
        Ok(meaning)
    }

    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        let hex = digits.iter().all(u8::is_ascii_hexdigit);
        u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| hex)?, 16).ok()
    }
}
