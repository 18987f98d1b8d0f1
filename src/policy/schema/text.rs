//! Text that a server may decode once more.
//!
//! In: a string. Out: whether some common decoder reads it as null, an array or an object, as a
//! number, or as a boolean. Each question is answered for the laxest decoder, so a yes may be wrong
//! and a no never is: Python's `json.loads` (FastMCP calls it on strings), pydantic's lax mode,
//! JavaScript's `Number` (zod's `coerce`), Go's `strconv`, Rust's `FromStr`.

/// Whether `json.loads`, or a laxer reader, takes the text for null, an array or an object. Numbers
/// may be `NaN`, `Infinity` or `-Infinity`, strings may hold lone surrogates and control
/// characters, keys may repeat, and there is no bound on depth.
pub(super) fn is_structure(text: &str) -> bool {
    let text = trim(text);
    match text.as_bytes().first() {
        Some(b'n') => text == "null",
        Some(b'[' | b'{') => Walk { rest: text }.whole(),
        _ => false,
    }
}

/// White space of any reader, and what some drop at the start.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| is_space(c) || c == '\u{feff}')
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

struct Walk<'t> {
    rest: &'t str,
}

impl Walk<'_> {
    /// Whether one array or object is all there is. Without recursion, as depth is the sender's
    /// choice.
    fn whole(&mut self) -> bool {
        // For each open bracket, whether it is an object's.
        let mut open: Vec<bool> = Vec::new();
        loop {
            // A value, or the end of what is open: readers that take a trailing comma are not worth
            // telling apart.
            self.space();
            let is_object = open.last() == Some(&true);
            let ended = match self.peek() {
                Some(']') if open.last() == Some(&false) => true,
                Some('}') if is_object => true,
                _ => false,
            };
            if !ended {
                if is_object {
                    if !self.string() {
                        return false;
                    }
                    self.space();
                    if !self.take(':') {
                        return false;
                    }
                    self.space();
                }
                match self.peek() {
                    Some('[') => {
                        self.step();
                        open.push(false);
                        continue;
                    }
                    Some('{') => {
                        self.step();
                        open.push(true);
                        continue;
                    }
                    Some('"') => {
                        if !self.string() {
                            return false;
                        }
                    }
                    _ => {
                        if !self.word() {
                            return false;
                        }
                    }
                }
            }
            // What follows a value: a comma, or the ends of what is open.
            loop {
                self.space();
                match self.peek() {
                    Some(',') => {
                        self.step();
                        break;
                    }
                    Some(']') if open.last() == Some(&false) => {
                        self.step();
                        open.pop();
                    }
                    Some('}') if open.last() == Some(&true) => {
                        self.step();
                        open.pop();
                    }
                    _ => return false,
                }
                if open.is_empty() {
                    self.space();
                    return self.rest.is_empty();
                }
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn step(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.step();
        }
        found
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }

    /// A string: up to the next quote that no backslash stands before.
    fn string(&mut self) -> bool {
        if !self.take('"') {
            return false;
        }
        let mut chars = self.rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    chars.next();
                }
                '"' => {
                    self.rest = chars.as_str();
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// A literal or a number.
    fn word(&mut self) -> bool {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        matches!(word, "null" | "true" | "false") || is_number(word)
    }
}

/// Whether some decoder takes the text for a number.
pub(super) fn is_number(text: &str) -> bool {
    let text = trim(text);
    // JavaScript: Number("") is 0.
    if text.is_empty() {
        return true;
    }
    let text = text.strip_prefix(['+', '-', '\u{2212}']).unwrap_or(text);
    if ["inf", "infinity", "nan"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
    {
        return true;
    }
    if let Some(digits) = ["0x", "0X", "0o", "0O", "0b", "0B"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
    {
        return !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit() || c == '_');
    }
    // Python's int() and float() read the digits of every script, with `_` between them.
    let digits = |text: &str| text.chars().all(|c| c.is_numeric() || c == '_');
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && mantissa.chars().any(char::is_numeric)
        && exponent.is_none_or(|exponent| {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent)
        })
}

/// Whether some decoder takes the text for a boolean.
pub(super) fn is_boolean(text: &str) -> bool {
    let text = trim(text);
    [
        "true", "false", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0", "enabled",
        "disabled",
    ]
    .iter()
    .any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_laxest_reader_decodes_is_found() {
        for text in [
            "null",
            " null\n",
            "\u{feff}null",
            "[]",
            "{}",
            "[1]",
            " {\"a\": 1} ",
            "[NaN]",
            "[-Infinity, Infinity]",
            "[\"\\ud800\"]",
            "{\"a\":1,\"a\":2}",
            "[[[]]]",
            "{\"a\":[{\"b\":null}]}",
            "[1,]",
            "[\"a\\\"]\"]",
            "\u{a0}[]",
            "[1e999]",
            "[\"\n\"]",
        ] {
            assert!(is_structure(text), "{text:?}");
        }
        assert!(is_structure(
            &"[".repeat(100_000)
                .chars()
                .chain("]".repeat(100_000).chars())
                .collect::<String>()
        ));
        for text in [
            "",
            "nul",
            "Null",
            "NULL",
            "none",
            "[WIP] churn",
            "[a]",
            "{id}",
            "[1] and more",
            "[",
            "[}",
            "{\"a\"}",
            "\"null\"",
            "7",
            "true",
            "NaN",
            "tags.x = 'y'",
            "{a:1}",
        ] {
            assert!(!is_structure(text), "{text:?}");
        }
    }

    #[test]
    fn what_some_decoder_takes_for_a_number_or_a_boolean_is_found() {
        for text in [
            "7", " 7", "07", "0_7", "\u{ff17}", "+7", "-7", "7.0", ".5", "7.", "7e3", "7E-3",
            "0x1F", "0b1", "0o7", "", " ", "NaN", "Infinity", "-inf", "\u{664}",
        ] {
            assert!(is_number(text), "{text:?}");
        }
        for text in [
            "7a",
            "v7",
            "2026-11-21",
            "1.2.3",
            "e3",
            ".",
            "0x",
            "infinite",
            "-",
            "seven",
        ] {
            assert!(!is_number(text), "{text:?}");
        }
        for text in ["true", "False", " YES ", "on", "1", "0", "n", "t"] {
            assert!(is_boolean(text), "{text:?}");
        }
        for text in ["truth", "", "10", "nope"] {
            assert!(!is_boolean(text), "{text:?}");
        }
    }
}
