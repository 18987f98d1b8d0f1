//! Makes untrusted text safe to show.
//!
//! In: names that a client or an upstream chose. Out: the same, bounded in length and free of
//! characters that could forge lines or reorder what a person or a model reads. It must not be used
//! for comparing.

use std::borrow::Cow;

/// At most `limit` characters; control, bidirectional and invisible formatting characters are
/// written as `\u{…}`; what was cut off is marked with `…`.
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    let mut characters = text.chars();
    for character in characters.by_ref().take(limit) {
        if hidden(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    if characters.next().is_some() {
        out.push('…');
    }
    out
}

/// JSON with the same meaning and none of those characters in its strings, for logs and terminals.
/// Line feeds stay: in JSON they stand only between its tokens.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    let masked = |character: char| character != '\n' && hidden(character);
    if !json.contains(masked) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if masked(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// At most `limit` bytes of a text, whole characters only.
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Whether a character changes how its neighbours are shown, or is not shown itself.
pub fn hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_without_characters_that_a_terminal_acts_on() {
        let text = "{\n  \"a\": \"x\u{9b}31m\u{202e}\u{e0041}é\"\n}";
        let plain = plain_json(text);
        assert_eq!(
            plain,
            "{\n  \"a\": \"x\\u009b31m\\u202e\\udb40\\udc41é\"\n}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&plain), value(text));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((cut("aé", 2), cut("aé", 3), cut("", 0)), ("a", "aé", ""));
    }

    #[test]
    fn hidden_characters_are_spelt_out_and_long_text_is_cut() {
        assert_eq!(printable("get_run", 64), "get_run");
        assert_eq!(
            printable("a\nb\u{202e}c\u{0}", 64),
            "a\\u{a}b\\u{202e}c\\u{0}"
        );
        assert_eq!(printable("ééééé", 3), "ééé…");
        assert_eq!(printable("ééé", 3), "ééé");
    }
}
