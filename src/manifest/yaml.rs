//! Why a text is not valid YAML, in words.
//!
//! In: the text, the place that the parser names, and its message. Out: what is wrong there and
//! what to write instead. The parser's own words are for programmers, so they are only recognized
//! here. Must not do: print them.

use super::position::Position;

/// What is wrong at that place.
pub(super) fn words(text: &str, at: Position, parser: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let number = usize::try_from(at.line).unwrap_or(usize::MAX);
    let line = lines
        .get(number.wrapping_sub(1))
        .copied()
        .unwrap_or_default();
    let column = usize::try_from(at.column)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let here: String = line.chars().skip(column).collect();
    let has = |part: &str| parser.contains(part);
    if line.contains("{{") {
        return "this is a template that has not been filled in; render it first, for example with `helm template`".to_owned();
    }
    if let Some(key) = parser.strip_prefix("duplicate mapping key: ") {
        let key = key.split(',').next().unwrap_or_default().trim();
        return duplicate(&lines, number, column, key);
    }
    if has("tab") || (line.contains('\t') && line.trim_start_matches(' ').starts_with('\t')) {
        return "a tab cannot indent a line; write spaces".to_owned();
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return "this line has a control character; remove it, or write it as an escape in double quotes".to_owned();
    }
    if let Some(why) = missing_space(&lines, number) {
        return why;
    }
    if let Some((key, _)) = one_line(line)
        && line.contains(&format!("{key}: |")) | line.contains(&format!("{key}: >"))
    {
        return format!(
            "the text of a block begins on the line below; write {key}: | and the text below it, indented"
        );
    }
    if has("anchor") || has("alias") {
        if has("exceed") || has("limit") || has("more than") {
            return "there are too many anchors or aliases (`&name`, `*name`); write the values out".to_owned();
        }
        let value = star(line, column);
        return format!(
            "a value that begins with `*` needs quotes, as YAML takes it for a reference; write \"{value}\""
        );
    }
    if has("mapping values are not allowed") {
        return match one_line(line) {
            Some((key, value)) => format!(
                "a value with a colon and a space in it needs quotes; write {key}: {}",
                single_quoted(value)
            ),
            None => "a colon and a space are not possible here; put the text into quotes, or correct the indentation".to_owned(),
        };
    }
    if has("trailing content") {
        return match one_line(line) {
            Some((key, value)) => format!(
                "there is more text after the closing quote; put all of it into quotes: {key}: {}",
                single_quoted(value)
            ),
            None => "there is more text after the closing quote; put all of it into single quotes"
                .to_owned(),
        };
    }
    if let Some(first) = here.chars().next()
        && matches!(first, '@' | '`' | '%')
        && (has("unexpected character")
            || has("cannot start")
            || has("found character")
            || has("directive"))
    {
        return format!("a value cannot begin with `{first}`; put it into quotes");
    }
    if has("scalar") && (has("quoted") || has("quote")) {
        return "a quote is opened and not closed; write the closing quote on the same line"
            .to_owned();
    }
    if has("bracket")
        || has("flow")
        || has("',' or '}'")
        || has("',' or ']'")
        || has("EOF")
        || has("unexpected eof")
    {
        return bracket(&lines, number);
    }
    if has("expected string scalar") {
        return "a key must be text, and this is a list or a mapping; put a template or a text that begins with `{` or `[` into quotes"
            .to_owned();
    }
    if has("depth") || has("recursion") || has("nest") {
        return "the document is nested too deeply; write at most 64 levels".to_owned();
    }
    if has("exceed") || has("limit") || has("budget") || has("too many") {
        return "the file has more parts than are read; split it over several files".to_owned();
    }
    if has("finite") {
        return "a number must be finite; write a number, or put the text into quotes".to_owned();
    }
    if has("binary") {
        return "binary values are not used here; write the text in quotes".to_owned();
    }
    if has("invalid utf") || has("UTF-8") || has("control character") || has("not allowed in YAML")
    {
        return "this character is not allowed in YAML; remove it, or write it as an escape in double quotes".to_owned();
    }
    if here.starts_with('!') || line.contains(": !") {
        return "a value that begins with `!` needs quotes, as YAML takes it for a type; put it into single quotes".to_owned();
    }
    "the line does not fit what stands above it; compare its indentation with the lines around it, and put text with special \
     characters into quotes"
        .to_owned()
}

/// A value that YAML would read with a type of its own, dropping what stands behind the `!`: the
/// place and what to write.
pub(super) fn tagged(text: &str) -> Option<(Position, String)> {
    let mut block: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some(parent) = block {
            if line.trim().is_empty() || indent > parent {
                continue;
            }
            block = None;
        }
        let plain = outside_of_quotes(line);
        if plain.trim_end().ends_with(['|', '>', '-', '+'])
            && let Some(at) = plain.rfind(['|', '>'])
            && plain[at..].len() <= 3
        {
            block = Some(indent);
        }
        if let Some(at) = tag(&plain) {
            let place = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1);
            let value = line.get(at..).unwrap_or_default();
            let write = match one_line(line) {
                Some((key, value)) if value.starts_with('!') => {
                    format!("{key}: {}", single_quoted(value))
                }
                _ => single_quoted(value.split([',', ']', '}']).next().unwrap_or(value).trim()),
            };
            let at = Position {
                line: place(number),
                column: place(line.get(..at).unwrap_or_default().chars().count()),
            };
            return Some((
                at,
                format!(
                    "a value that begins with `!` needs quotes, as YAML takes it for a type; write {write}"
                ),
            ));
        }
    }
    None
}

/// The place of a value that begins with a single `!`. (`!!str` and the like are YAML's own.)
fn tag(line: &str) -> Option<usize> {
    line.match_indices('!').map(|(at, _)| at).find(|at| {
        let before = &line[..*at];
        let opens =
            before.trim_end().ends_with([':', '-', '[', ',', '{', '?']) || before.trim().is_empty();
        let apart = before.is_empty() || before.ends_with([' ', '\t', '[', '{']);
        opens && apart && !line[*at..].starts_with("!!")
    })
}

/// The line with blanks for what is in quotes or a comment, of the same length.
fn outside_of_quotes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut quote: Option<char> = None;
    let mut before = ' ';
    for c in line.chars() {
        let hidden = match quote {
            Some(open) => {
                if c == open && !(open == '"' && before == '\\') {
                    quote = None;
                }
                true
            }
            None if matches!(c, '"' | '\'')
                && matches!(before, ' ' | '[' | '{' | ',' | ':' | '-' | '(') =>
            {
                quote = Some(c);
                true
            }
            None if c == '#' && matches!(before, ' ' | '\t') => break,
            None => false,
        };
        before = c;
        match hidden {
            true => (0..c.len_utf8()).for_each(|_| out.push('x')),
            false => out.push(c),
        }
    }
    out
}

/// A dash or a key without the space that YAML wants, in the line or in the one above it.
fn missing_space(lines: &[&str], number: usize) -> Option<String> {
    let at = number.checked_sub(1)?;
    let above = lines
        .iter()
        .take(at)
        .rposition(|line| !line.trim().is_empty());
    [Some(at), above].into_iter().flatten().find_map(|at| {
        let line = lines.get(at)?.trim();
        let place = at + 1;
        let rest = line
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
        if let Some(rest) = rest.filter(|rest| rest.contains(':')) {
            return Some(format!(
                "line {place} lacks a space after its dash; write - {rest}"
            ));
        }
        let (key, value) = line.trim_start_matches("- ").split_once(':')?;
        let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
        let joined = value.starts_with(|c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '[' | '{' | '"' | '\'')
        });
        (plain && joined && !value.contains(": "))
            .then(|| format!("line {place} lacks a space after its colon; write {key}: {value}"))
    })
}

/// A key that is there twice, with both places.
fn duplicate(lines: &[&str], number: usize, column: usize, key: &str) -> String {
    let begins = |line: &str, at: usize| -> bool {
        let rest: String = line.chars().skip(at).collect();
        let rest = rest.trim_start_matches(['"', '\'']);
        rest.strip_prefix(key)
            .map(|rest| rest.trim_start_matches(['"', '\'']))
            .is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let indent = |line: &str| {
        let dashed = line.replacen("- ", "  ", 1);
        dashed.len() - dashed.trim_start().len()
    };
    let mut first = None;
    // In braces it is on the same line.
    let line = lines
        .get(number.wrapping_sub(1))
        .copied()
        .unwrap_or_default();
    if let Some(at) = (0..column)
        .rev()
        .find(|at| begins(line, *at) && *at < column)
    {
        first = Some((number, at + 1));
    }
    for (above, line) in lines
        .iter()
        .enumerate()
        .take(number.saturating_sub(1))
        .rev()
    {
        if first.is_some() || line.starts_with("---") {
            break;
        }
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if indent(line) == column && begins(line, column) {
            first = Some((above + 1, column + 1));
        } else if indent(line) < column {
            break;
        }
    }
    let place = first.map_or_else(
        || "it is already there above".to_owned(),
        |(line, column)| format!("it is already in line {line}, column {column}"),
    );
    let apart = match (column, key) {
        (0, "apiVersion" | "kind" | "metadata" | "spec") => {
            "remove one, or write a line `---` before it if another document begins here"
        }
        _ => "remove one of the two",
    };
    format!("the key `{key}` is there twice: {place}; {apart}")
}

/// The value with a star at a place of a line.
fn star(line: &str, column: usize) -> String {
    let from: String = line.chars().skip(column).collect();
    let from = match from.find('*') {
        Some(at) => from[at..].to_owned(),
        None => line
            .find('*')
            .map_or_else(String::new, |at| line[at..].to_owned()),
    };
    let value: String = from
        .chars()
        .take_while(|c| !matches!(c, ',' | ']' | '}' | ' '))
        .collect();
    if value.is_empty() {
        "*".to_owned()
    } else {
        value
    }
}

/// Key and value of a line `key: value` or `- key: value`.
fn one_line(line: &str) -> Option<(&str, &str)> {
    let line = line.trim().trim_start_matches("- ").trim_start();
    let (key, value) = line.split_once(": ")?;
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    (plain && !value.trim().is_empty()).then_some((key, value.trim()))
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A bracket that is not closed, or not by its like.
fn bracket(lines: &[&str], number: usize) -> String {
    let mut open: Vec<(char, usize, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate().take(number) {
        for (column, c) in outside_of_quotes(line).chars().enumerate() {
            match c {
                '[' | '{' => open.push((c, at + 1, column + 1)),
                ']' | '}' => match open.pop() {
                    Some((opening, ..)) if closes(opening) == c => {}
                    Some((opening, line, column)) => {
                        return format!(
                            "`{opening}` in line {line}, column {column} is closed by `{c}`; write `{}` first",
                            closes(opening)
                        );
                    }
                    None => return format!("`{c}` closes nothing; remove it"),
                },
                _ => {}
            }
        }
    }
    match open.last() {
        Some((opening, line, column)) => format!(
            "`{opening}` in line {line}, column {column} is not closed; write `{}` after its last entry",
            closes(*opening)
        ),
        None => "the list or mapping in brackets is not complete; write its entries with single commas between them".to_owned(),
    }
}

fn closes(opening: char) -> char {
    if opening == '[' { ']' } else { '}' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_in_place_of_a_value_is_found_and_text_is_not() {
        for (text, column) in [
            ("when: !has(args.a)\n", 7),
            ("a:\n  - !x y\n", 5),
            ("a: [!x y]\n", 5),
            ("a: { b: !x }\n", 9),
            ("!x\n", 1),
        ] {
            let (at, _) = tagged(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(at.column, column, "{text}");
        }
        for text in [
            "when: '!has(args.a)'\n",
            "when: \"!has(args.a)\"\n",
            "when: has(args.a) && !has(args.b)\n",
            "when: |\n  !has(args.a)\n  && x\nother: 1\n",
            "when: >-\n  !has(args.a)\n",
            "a: !!str 1\n",
            "# !x\n",
            "a: b # : !x\n",
            "reason: it's not! really\n",
        ] {
            assert_eq!(tagged(text), None, "{text}");
        }
    }
}
