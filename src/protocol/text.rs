//! Making text of strangers safe to show.
//!
//! In: names that a client or an upstream chose. Out: the same, bounded in length and free of characters that could
//! forge lines or reorder what a person or a model reads. It must not be used for comparing.

/// At most `limit` characters; control, bidirectional and invisible formatting characters are written as `\u{…}`; what
/// was cut off is marked with `…`.
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

/// Whether a character changes how its neighbours are shown, or is not shown itself.
fn hidden(character: char) -> bool {
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
