//! Text of a CEL expression to tokens.
//!
//! In: at most [`MAX_SOURCE`](super::MAX_SOURCE) bytes. Out: tokens with the byte offset at which
//! each starts. The lexical grammar is that of the CEL language definition; features that policies
//! never need (bytes, escaped identifiers) are refused by name rather than read differently from
//! other implementations.

use super::Fault;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    Str(String),
    /// An operator, a bracket or another mark.
    Mark(&'static str),
    End,
}

/// Operators of other languages that begin like ours.
const FOREIGN: [(&str, &str); 9] = [
    ("===", "`===` is not an operator; compare with `==`"),
    ("!==", "`!==` is not an operator; write `!=`"),
    ("<>", "`<>` is not an operator; write `!=`"),
    (
        "=~",
        "`=~` is not an operator; compare with a pattern as args.name.matches('…')",
    ),
    (
        "!~",
        "`!~` is not an operator; write !args.name.matches('…')",
    ),
    ("=>", "`=>` is not an operator; write `>=`"),
    ("=<", "`=<` is not an operator; write `<=`"),
    ("++", "`++` is not an operator; write `+`"),
    (
        ";",
        "`;` ends nothing here: a condition is one expression; join two with `&&` or `||`",
    ),
];

/// Longest first, so that `<=` is not read as `<`.
const MARKS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")",
    "[", "]", "{", "}", ",", ".", ";",
];

pub(super) fn tokens(source: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let mut lexer = Lexer { source, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.space();
        let start = lexer.at;
        let token = lexer.token()?;
        let end = token == Token::End;
        out.push((start, token));
        if end {
            return Ok(out);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn fault(&self, at: usize, message: impl Into<String>) -> Fault {
        Fault::new(at, message)
    }

    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn token(&mut self) -> Result<Token, Fault> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if first == '"' || first == '\'' {
            return self.string(false);
        }
        if first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let length = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            if after.starts_with(['"', '\'']) {
                return match word {
                    "r" | "R" => {
                        self.at += 1;
                        self.string(true)
                    }
                    "b" | "B" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB" => Err(self
                        .fault(
                            self.at,
                            "text of bytes is not supported; write it without the b",
                        )),
                    _ => Err(self.fault(
                        self.at + length,
                        "a text cannot follow a name; write an operator between them, such as `==`",
                    )),
                };
            }
            self.at += length;
            return Ok(Token::Ident(word.to_owned()));
        }
        if rest.starts_with("?.") && rest[2..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.fault(
                self.at,
                "`?.` is not supported; test with has(args.name) first",
            ));
        }
        for (foreign, message) in FOREIGN {
            if rest.starts_with(foreign) {
                return Err(self.fault(self.at, message));
            }
        }
        for mark in MARKS {
            if rest.starts_with(mark) {
                self.at += mark.len();
                return Ok(Token::Mark(mark));
            }
        }
        Err(self.fault(
            self.at,
            match first {
                '`' => "escaped identifiers are not supported; write args[\"name\"]".to_owned(),
                '=' => "`=` is not an operator; compare with `==`".to_owned(),
                '&' => "`&` is not an operator; write `&&`".to_owned(),
                '|' => "`|` is not an operator; write `||`".to_owned(),
                '#' => "`#` begins no comment here; remove the comment, or write it as one of YAML above the field".to_owned(),
                '$' => "`$` is not used here; an argument of the call is written args.name".to_owned(),
                '~' => "`~` is not an operator; compare with a pattern as args.name.matches('…')".to_owned(),
                '“' | '”' | '„' | '‘' | '’' | '«' | '»' => {
                    format!("{first} does not quote; write straight quotes, 'text' or \"text\"")
                }
                other => format!("the character {other:?} has no meaning here; remove it, or put text into quotes"),
            },
        ))
    }

    fn number(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let digits = |from: usize| {
            bytes
                .iter()
                .skip(from)
                .take_while(|b| b.is_ascii_digit())
                .count()
        };
        if rest.starts_with("0x") || rest.starts_with("0X") {
            let length = bytes
                .iter()
                .skip(2)
                .take_while(|b| b.is_ascii_hexdigit())
                .count();
            self.at += 2 + length;
            let value = u64::from_str_radix(&rest[2..2 + length], 16).map_err(|_| {
                self.fault(
                    start,
                    "this is not a hexadecimal number of at most 64 bits; write for example 0x1f",
                )
            })?;
            return self.integer(value, start);
        }
        let mut length = digits(0);
        let mut double = false;
        if bytes.get(length) == Some(&b'.') && digits(length + 1) > 0 {
            length += 1 + digits(length + 1);
            double = true;
        }
        if let Some(b'e' | b'E') = bytes.get(length) {
            let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
            let exponent = digits(length + 1 + sign);
            if exponent > 0 {
                length += 1 + sign + exponent;
                double = true;
            }
        }
        let text = &rest[..length];
        self.at += length;
        if double {
            self.boundary(start)?;
            return match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Token::Double(value)),
                _ => Err(self.fault(start, "this number is too large; write a smaller one")),
            };
        }
        let value = text.parse::<u64>().map_err(|_| {
            self.fault(
                start,
                "this number is too large; write at most 18446744073709551615u",
            )
        })?;
        self.integer(value, start)
    }

    fn integer(&mut self, value: u64, start: usize) -> Result<Token, Fault> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            self.boundary(start)?;
            return Ok(Token::Uint(value));
        }
        self.boundary(start)?;
        Ok(Token::Int(value))
    }

    /// A number must not run into a name.
    fn boundary(&self, start: usize) -> Result<(), Fault> {
        match self.rest().chars().next() {
            Some(c) if c.is_ascii_alphanumeric() || c == '_' => Err(self.fault(
                start,
                "this is neither a number nor a name; put text into quotes",
            )),
            _ => Ok(()),
        }
    }

    fn string(&mut self, raw: bool) -> Result<Token, Fault> {
        let start = self.at;
        let rest = self.rest();
        let quote = match rest.as_bytes().first() {
            Some(b'"') => '"',
            _ => '\'',
        };
        let triple = if quote == '"' { "\"\"\"" } else { "'''" };
        let long = rest.starts_with(triple);
        self.at += if long { 3 } else { 1 };
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return Err(self.fault(start, "this text has no closing quote; write it (in YAML, ` #` begins a comment where the whole expression is not in quotes)"));
            };
            if long && rest.starts_with(triple) {
                self.at += 3;
                return Ok(Token::Str(text));
            }
            if !long && c == quote {
                self.at += 1;
                return Ok(Token::Str(text));
            }
            if !long && (c == '\n' || c == '\r') {
                return Err(self.fault(start, "this text has no closing quote on its line; write it, or write \\n for a line break"));
            }
            if c == '\\' && !raw {
                text.push(self.escape()?);
            } else {
                text.push(c);
                self.at += c.len_utf8();
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.at;
        let rest = self.rest();
        let simple = match rest.chars().nth(1) {
            Some('a') => Some('\u{7}'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\u{b}'),
            Some(c @ ('\\' | '?' | '"' | '\'' | '`')) => Some(c),
            _ => None,
        };
        if let Some(c) = simple {
            self.at += 2;
            return Ok(c);
        }
        let (skip, length, radix) = match rest.chars().nth(1) {
            Some('x' | 'X') => (2, 2, 16),
            Some('u') => (2, 4, 16),
            Some('U') => (2, 8, 16),
            Some('0'..='3') => (1, 3, 8),
            _ => {
                return Err(self.fault(
                    start,
                    "unknown escape in a string; write `\\\\` for a backslash, or r\"…\"",
                ));
            }
        };
        let value = rest
            .get(skip..skip + length)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, radix).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| {
                self.fault(
                    start,
                    "this escape is not a character; write for example \\u00e9",
                )
            })?;
        self.at += skip + length;
        Ok(value)
    }
}
