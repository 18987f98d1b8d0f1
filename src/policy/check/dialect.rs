//! Translates patterns from the syntax of RE2 and Go to that of the engine that runs them.
//!
//! In: the text of a pattern, and its origin. Out: a text that means the same here, or what to
//! write instead. `\d`, `\w`, `\s` and `\b` are ASCII: with all of Unicode, `^\d+$` would take `７`,
//! which `int()` of most languages takes for
//! 7. Sets in brackets (`&&`, `--`, `~~`, `[` inside) are not part of RE2 and have another meaning
//!    there: they are refused in patterns that are written for this product, and literal characters
//!    in imported patterns.

use regex_syntax::ast::{self, Ast, ClassPerlKind, ClassSetItem, Flag, Span};

/// Whose pattern it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Written for a policy or a server's spec: RE2, but for what this page's table in the docs
    /// says.
    Policy,
    /// In a tool's `inputSchema`: ECMA-262, as far as RE2 has it.
    Schema,
}

/// Groups in groups.
pub(super) const NESTED: u32 = 50;

/// The message for a pattern that a crate refuses.
pub(super) fn unusable(error: &impl ToString) -> String {
    // The last line of the crate's message says what is wrong; those before draw it.
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let last = last.trim_start_matches("error: ");
    let has = |part: &str| last.contains(part);
    let why = if has("unclosed character class") {
        "`[` has no closing `]`; write it, or `\\[` for the character itself"
    } else if has("unclosed group") {
        "`(` has no closing `)`; write it, or `\\(` for the character itself"
    } else if has("unopened group") {
        "`)` closes nothing; remove it, or write `\\)` for the character itself"
    } else if has("repetition operator missing") {
        "nothing stands before `*`, `+` or `?`; write `.*` for any characters, or `\\*` for the character itself"
    } else if has("repetition") || has("counted") {
        "the number of repetitions in braces is not valid; write for example `{2}` or `{1,5}`, or `\\{` for the character itself"
    } else if has("look-around") {
        "look-ahead and look-behind (`(?=…)`, `(?!…)`) are not supported; write a second condition, for example !x.matches('…')"
    } else if has("backreference") {
        "a reference to a group (`\\1`) is not supported; write the text again"
    } else if has("escape") || has("hexadecimal") {
        "it has an escape that does not exist; write the character without `\\`, or `\\\\` for a backslash"
    } else if has("character class range") || has("class") {
        "a range or class in `[…]` is not valid; write the smaller character first, as `[a-z]`, and `\\-` for a dash"
    } else if has("flag") {
        "its flags are not valid; write for example `(?i)` to ignore case"
    } else if has("capture group name") || has("duplicate") || has("group") {
        "a group is not valid; write `(…)`, or `(?:…)`"
    } else if has("size limit") || has("too big") || has("nest") {
        "it is too large; write a shorter one, with smaller numbers of repetitions"
    } else if has("Unicode property") || has("property") {
        "it names a kind of characters that does not exist; write for example `\\p{L}` or `[a-z]`"
    } else {
        "it is not a valid pattern (the syntax is that of RE2)"
    };
    format!("the pattern cannot be used: {why}")
}

/// The pattern for the engine, and how much work its character classes are.
pub(super) fn translate(text: &str, dialect: Dialect) -> Result<(String, u64), String> {
    let literal;
    let text = match dialect {
        Dialect::Policy => text,
        Dialect::Schema => {
            literal = literal_sets(text, Source::Ecma)?;
            &literal
        }
    };
    let tree = ast::parse::ParserBuilder::new()
        .nest_limit(NESTED)
        .build()
        .parse(text)
        .map_err(|error| unusable(&error))?;
    let found = ast::visit(&tree, Rewrite::of(dialect))?;
    let mut out = text.to_owned();
    let mut edits = found.edits;
    edits.sort_unstable_by_key(|(span, _)| std::cmp::Reverse(span.start.offset));
    for (span, with) in edits {
        out.replace_range(span.start.offset..span.end.offset, with);
    }
    Ok((out, found.count.work()))
}

/// How much work the classes of a pattern are: by property they are tables of hundreds of ranges,
/// and to fold the case of one, each of its characters is examined.
#[derive(Default)]
struct Count {
    /// The pattern ignores case somewhere.
    folds: bool,
    classes: u64,
    /// Characters of the classes that have case.
    characters: u64,
}

/// Characters of a class that take as long to fold as another class takes altogether.
const FOLDED: u64 = 2_048;

impl Count {
    fn work(&self) -> u64 {
        let folded = if self.folds {
            self.characters / FOLDED
        } else {
            0
        };
        self.classes.saturating_add(folded)
    }

    /// A class by property may be every character that there is; most are much smaller.
    fn property(&mut self) {
        self.classes += 1;
        self.characters += u64::from(u32::from(char::MAX)) / 2;
    }
}

struct Rewrite {
    dialect: Dialect,
    count: Count,
    edits: Vec<(Span, &'static str)>,
}

impl Rewrite {
    fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            count: Count::default(),
            edits: Vec::new(),
        }
    }

    fn perl(&mut self, class: &ast::ClassPerl) {
        self.count.classes += 1;
        self.edits.push((class.span, perl(class, self.dialect)));
    }

    fn flags(&mut self, flags: &ast::Flags) -> Result<(), String> {
        self.count.folds |= flags.flag_state(Flag::CaseInsensitive) == Some(true);
        let foreign = [
            (Flag::IgnoreWhitespace, 'x'),
            (Flag::Unicode, 'u'),
            (Flag::CRLF, 'R'),
        ];
        match foreign
            .into_iter()
            .find(|(flag, _)| flags.flag_state(*flag).is_some())
        {
            None => Ok(()),
            Some((_, name)) => Err(format!(
                "the pattern cannot be used: RE2 has no flag `{name}`; there are i, m, s and U"
            )),
        }
    }

    fn set(&self) -> String {
        "the pattern cannot be used: `&&`, `--`, `~~` and `[` inside brackets would be sets, which RE2 does not have; write `\\[`, \
         `\\&`, `\\-` or `\\~` for the characters themselves"
            .to_owned()
    }
}

/// The class in brackets, as it may stand by itself and inside others.
fn perl(class: &ast::ClassPerl, dialect: Dialect) -> &'static str {
    match (&class.kind, class.negated, dialect) {
        (ClassPerlKind::Digit, false, _) => "[0-9]",
        (ClassPerlKind::Digit, true, _) => "[^0-9]",
        (ClassPerlKind::Word, false, _) => "[0-9A-Za-z_]",
        (ClassPerlKind::Word, true, _) => "[^0-9A-Za-z_]",
        // RE2's has no vertical tab.
        (ClassPerlKind::Space, false, Dialect::Policy) => r"[\t\n\f\r ]",
        (ClassPerlKind::Space, true, Dialect::Policy) => r"[^\t\n\f\r ]",
        (ClassPerlKind::Space, false, Dialect::Schema) => {
            r"[\t\n\v\f\r \u{a0}\u{feff}\u{2028}\u{2029}\u{1680}\u{2000}-\u{200a}\u{202f}\u{205f}\u{3000}]"
        }
        (ClassPerlKind::Space, true, Dialect::Schema) => {
            r"[^\t\n\v\f\r \u{a0}\u{feff}\u{2028}\u{2029}\u{1680}\u{2000}-\u{200a}\u{202f}\u{205f}\u{3000}]"
        }
    }
}

impl ast::Visitor for Rewrite {
    type Output = Self;
    type Err = String;

    fn finish(self) -> Result<Self, String> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        use ast::AssertionKind as Kind;
        match ast {
            Ast::Flags(set) => self.flags(&set.flags)?,
            Ast::Group(group) => {
                if let Some(flags) = group.flags() {
                    self.flags(flags)?;
                }
            }
            Ast::ClassPerl(class) => self.perl(class),
            Ast::ClassUnicode(_) => self.count.property(),
            Ast::Dot(span) if self.dialect == Dialect::Schema => {
                self.edits.push((**span, r"[^\n\r\u{2028}\u{2029}]"));
            }
            Ast::Assertion(assertion) => match assertion.kind {
                Kind::WordBoundary => self.edits.push((assertion.span, r"(?-u:\b)")),
                Kind::NotWordBoundary => self.edits.push((assertion.span, r"(?-u:\B)")),
                Kind::StartLine | Kind::EndLine | Kind::StartText | Kind::EndText => {}
                _ => {
                    return Err(
                        "the pattern cannot be used: RE2 has no `\\<`, `\\>`, `\\b{start}` and the like; write `\\b`, or `<` and `>` \
                         for the characters themselves"
                            .to_owned(),
                    );
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Perl(class) => self.perl(class),
            ClassSetItem::Bracketed(_) => return Err(self.set()),
            ClassSetItem::Unicode(_) => self.count.property(),
            ClassSetItem::Range(range) => {
                let (first, last) = (u32::from(range.start.c), u32::from(range.end.c));
                self.count.characters += u64::from(last.saturating_sub(first));
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), String> {
        Err(self.set())
    }
}

/// Where a pattern comes from that is not written for this product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Go,
    Ecma,
}

/// A pattern of Go's `regexp` as this product writes it: what would be a set or another kind of
/// word boundary here is written as the literal characters that it is there.
pub fn from_go(text: &str) -> Result<String, String> {
    literal_sets(text, Source::Go)
}

fn literal_sets(text: &str, source: Source) -> Result<String, String> {
    let mut walk = Walk {
        rest: text,
        out: String::with_capacity(text.len() + 8),
        source,
    };
    walk.whole()?;
    Ok(walk.out)
}

struct Walk<'t> {
    rest: &'t str,
    out: String,
    source: Source,
}

impl<'t> Walk<'t> {
    fn whole(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            match c {
                '[' => self.class()?,
                '{' if !self.is_repetition() => self.out.push_str("\\{"),
                '\\' => self.escape(),
                _ => self.out.push(c),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Whether a number of times follows the brace that was read; any other brace is a character
    /// there.
    fn is_repetition(&self) -> bool {
        let Some((inside, _)) = self.rest.split_once('}') else {
            return false;
        };
        let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        !least.is_empty() && digits(least) && digits(most)
    }

    /// Outside of brackets.
    fn escape(&mut self) {
        match self.next() {
            // To Go and JavaScript these are the characters, to the engine the start and the end of
            // a word.
            Some(c @ ('<' | '>')) => self.out.push(c),
            Some('Q') if self.source == Source::Go => {
                let (literal, rest) = match self.rest.split_once("\\E") {
                    Some((literal, rest)) => (literal, rest),
                    None => (self.rest, ""),
                };
                self.out.push_str(&regex_syntax::escape(literal));
                self.rest = rest;
            }
            Some(c @ ('b' | 'B')) => {
                self.out.extend(['\\', c]);
                // `\b{start}` is one thing to the engine only.
                if self.rest.starts_with('{') && !self.rest.get(1..).is_some_and(is_digit_first) {
                    self.rest = self.rest.get(1..).unwrap_or_default();
                    self.out.push_str("\\{");
                }
            }
            Some(c) => {
                self.out.extend(['\\', c]);
                self.braces(c);
            }
            None => self.out.push('\\'),
        }
    }

    /// What stands in braces after an escape belongs to it.
    fn braces(&mut self, escape: char) {
        if matches!(escape, 'p' | 'P' | 'x' | 'u' | 'U')
            && self.rest.starts_with('{')
            && let Some(end) = self.rest.find('}')
        {
            let (inside, rest) = self.rest.split_at(end + 1);
            self.out.push_str(inside);
            self.rest = rest;
        }
    }

    fn class(&mut self) -> Result<(), String> {
        let unclosed = || "the pattern cannot be used: a bracket is not closed".to_owned();
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if !first && self.take("]") {
                self.out.push(']');
                return Ok(());
            }
            if first && self.source == Source::Ecma && self.rest.starts_with(']') {
                return Err(
                    "the pattern cannot be used: `[]` is read as an empty class or as a bracket"
                        .to_owned(),
                );
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some((name, rest)) =
                    self.rest.get(2..).and_then(|rest| rest.split_once(":]"))
            {
                if self.source == Source::Ecma {
                    return Err(
                        "the pattern cannot be used: `[:` in brackets is read as a class or as characters".to_owned(),
                    );
                }
                self.out.extend(["[:", name, ":]"]);
                self.rest = rest;
                continue;
            }
            let is_class = self.item().ok_or_else(unclosed)?;
            let range = !is_class
                && self.rest.starts_with('-')
                && !self.rest.get(1..).is_some_and(|rest| rest.starts_with(']'));
            if range && self.take("-") {
                self.out.push('-');
                self.item().ok_or_else(unclosed)?;
            }
        }
    }

    /// One character or class in brackets; whether it is a class.
    fn item(&mut self) -> Option<bool> {
        let c = self.next()?;
        if c != '\\' {
            if matches!(c, '[' | ']' | '&' | '~' | '-' | '^') {
                self.out.push('\\');
            }
            self.out.push(c);
            return Some(false);
        }
        let c = self.next()?;
        if matches!(c, '<' | '>') {
            self.out.push(c);
            return Some(false);
        }
        self.out.extend(['\\', c]);
        self.braces(c);
        Some(matches!(c, 'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'p' | 'P'))
    }
}

fn is_digit_first(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests;
