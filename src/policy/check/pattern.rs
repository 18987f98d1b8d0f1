//! Patterns of `matches`, compiled when a policy is and within bounds.
//!
//! In: literal texts. Out: compiled patterns, or what is wrong. Whoever may write a policy must not have the operator or a
//! gateway spend memory or time on it without end: a pattern of six characters takes a quarter of a megabyte, and one of four
//! kilobytes takes seconds. So the patterns of a policy, and of all policies of a server, have a budget.

use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use regex_syntax::ast::{self, Ast, ClassSetItem, Flag};
use std::collections::HashMap;
use std::convert::Infallible;

/// Memory that one pattern's automaton may take.
const PATTERN_SIZE: usize = 128 * 1024;
/// Memory of the states that one search keeps.
const SEARCH_SIZE: usize = 64 * 1024;
/// Groups in groups.
const NESTED: u32 = 50;
/// Characters of a class that take as long to fold as another class takes altogether.
const FOLDED: u64 = 2_048;

/// What patterns may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Different patterns.
    pub patterns: usize,
    /// Bytes of their texts.
    pub text: usize,
    /// Bytes that all of them take, compiled.
    pub bytes: usize,
    /// Character classes such as `\w`, in all of them. Where `(?i)` is used, large ones count more.
    pub classes: u64,
    /// Whose they are, for messages.
    pub whose: &'static str,
}

/// The bounds of one policy.
pub const POLICY: Bounds = Bounds {
    patterns: 64,
    text: 64 * 1024,
    bytes: 1024 * 1024,
    classes: 320,
    whose: "a policy",
};

/// The bounds of all policies of a server together.
pub const SERVER: Bounds = Bounds {
    patterns: 128,
    text: 128 * 1024,
    bytes: 2 * 1024 * 1024,
    classes: 640,
    whose: "the policies of a server together",
};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern(meta::Regex);

impl Pattern {
    /// Whether it is somewhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// How much longer than with the smallest pattern a search in a text takes, at worst: with the size of its automaton.
    pub fn weight(&self) -> usize {
        1 + self.0.memory_usage() / 2_048
    }
}

/// What some patterns cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    patterns: usize,
    text: usize,
    bytes: usize,
    classes: u64,
}

impl Spent {
    /// What both cost.
    pub fn and(self, other: Spent) -> Spent {
        Spent {
            patterns: self.patterns.saturating_add(other.patterns),
            text: self.text.saturating_add(other.text),
            bytes: self.bytes.saturating_add(other.bytes),
            classes: self.classes.saturating_add(other.classes),
        }
    }

    /// Whether this is within bounds, or which of them is exceeded.
    pub fn within(self, bounds: &Bounds) -> Result<(), String> {
        let (what, has, may) = if self.patterns > bounds.patterns {
            (
                "different patterns",
                self.patterns.to_string(),
                bounds.patterns.to_string(),
            )
        } else if self.text > bounds.text {
            (
                "bytes in different patterns",
                self.text.to_string(),
                bounds.text.to_string(),
            )
        } else if self.bytes > bounds.bytes {
            (
                "KiB of compiled patterns",
                (self.bytes / 1024).to_string(),
                (bounds.bytes / 1024).to_string(),
            )
        } else if self.classes > bounds.classes {
            (
                "large character classes in patterns",
                self.classes.to_string(),
                bounds.classes.to_string(),
            )
        } else {
            return Ok(());
        };
        Err(format!(
            "with this there are {has} {what}, and {} may have {may}; use fewer patterns, startsWith(), endsWith(), \
             contains() or in, lowerAscii() instead of (?i), and [0-9A-Za-z_] instead of \\w",
            bounds.whose
        ))
    }
}

/// The patterns of one policy. The same text is compiled once.
#[derive(Debug, Default)]
pub struct Patterns {
    known: HashMap<Box<str>, Pattern>,
    spent: Spent,
}

impl Patterns {
    /// What they cost so far; what was refused costs too, so that refusing has an end.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Compiles a pattern, unless there have been too many.
    ///
    /// # Errors
    /// What is wrong with the pattern, or with all of them.
    pub fn compile(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(pattern) = self.known.get(text) {
            return Ok(pattern.clone());
        }
        let mut cost = Spent {
            patterns: 1,
            text: text.len(),
            ..Spent::default()
        };
        // Before anything is done that takes time.
        self.spent.and(cost).within(&POLICY)?;
        let built = classes(text).and_then(|classes| {
            cost.classes = classes;
            self.spent.and(cost).within(&POLICY)?;
            build(text)
        });
        cost.bytes = built
            .as_ref()
            .map_or(PATTERN_SIZE, |pattern| pattern.0.memory_usage());
        self.spent = self.spent.and(cost);
        let pattern = built?;
        self.spent.within(&POLICY)?;
        self.known.insert(text.into(), pattern.clone());
        Ok(pattern)
    }
}

fn build(text: &str) -> Result<Pattern, String> {
    let config = meta::Config::new()
        .nfa_size_limit(Some(PATTERN_SIZE))
        .hybrid_cache_capacity(SEARCH_SIZE)
        .which_captures(WhichCaptures::None)
        .onepass(false)
        .backtrack(false);
    meta::Regex::builder()
        .configure(config)
        .syntax(syntax::Config::new().nest_limit(NESTED))
        .build(text)
        .map(Pattern)
        .map_err(|error| match (error.size_limit(), error.syntax_error()) {
            (Some(_), _) => format!(
                "the pattern takes more than {} KiB, compiled; repeat less, and write [0-9A-Za-z_] instead of \\w, or [0-9] \
                 instead of \\d",
                PATTERN_SIZE / 1024
            ),
            (None, Some(error)) => unusable(error),
            (None, None) => unusable(&error),
        })
}

fn unusable(error: &impl ToString) -> String {
    // The last line of the crate's message says what is wrong; those before draw it.
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!(
        "the pattern cannot be used: {}",
        last.trim_start_matches("error: ")
    )
}

/// How much work the classes of a pattern are: they are tables of hundreds of ranges, and to fold the case of one, each of its
/// characters is looked at.
fn classes(text: &str) -> Result<u64, String> {
    let ast = ast::parse::ParserBuilder::new()
        .nest_limit(NESTED)
        .build()
        .parse(text)
        .map_err(|error| unusable(&error))?;
    let counted = match ast::visit(&ast, Count::default()) {
        Ok(counted) => counted,
        Err(never) => match never {},
    };
    let folded = if counted.folds {
        counted.characters / FOLDED
    } else {
        0
    };
    Ok(counted.classes.saturating_add(folded))
}

#[derive(Default)]
struct Count {
    /// The pattern ignores case somewhere.
    folds: bool,
    classes: u64,
    /// Characters of the classes that have case.
    characters: u64,
}

impl Count {
    fn flags(&mut self, flags: &ast::Flags) {
        self.folds |= flags.flag_state(Flag::CaseInsensitive) == Some(true);
    }

    /// A class by property may be every character that there is; most are much smaller.
    fn property(&mut self) {
        self.classes += 1;
        self.characters += u64::from(u32::from(char::MAX)) / 2;
    }
}

impl ast::Visitor for Count {
    type Output = Self;
    type Err = Infallible;

    fn finish(self) -> Result<Self, Infallible> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Infallible> {
        match ast {
            Ast::Flags(set) => self.flags(&set.flags),
            Ast::Group(group) => {
                if let Some(flags) = group.flags() {
                    self.flags(flags);
                }
            }
            Ast::ClassPerl(_) => self.classes += 1,
            Ast::ClassUnicode(_) => self.property(),
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Infallible> {
        match item {
            ClassSetItem::Perl(_) | ClassSetItem::Bracketed(_) => self.classes += 1,
            ClassSetItem::Unicode(_) => self.property(),
            ClassSetItem::Range(range) => {
                let (first, last) = (u32::from(range.start.c), u32::from(range.end.c));
                self.characters += u64::from(last.saturating_sub(first));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[String]) -> (Result<(), String>, Spent) {
        let mut patterns = Patterns::default();
        let result = texts
            .iter()
            .try_for_each(|text| patterns.compile(text).map(drop));
        (result, patterns.spent())
    }

    #[test]
    fn what_policies_need_is_far_within_the_bounds() {
        let texts = [
            "^v[0-9]+$",
            "^[a-z0-9-]{1,63}$",
            r"^\d{4}-\d{2}-\d{2}$",
            r"^[\w.-]+@[\w.-]+$",
            r"(?i)^(prod|staging)-\d+\.\d+\.\d+$",
            "^s3://[^/]+/.*$",
            r"^\p{L}+$",
        ];
        let (result, spent) = all(&texts.map(str::to_owned));
        assert_eq!(result, Ok(()));
        assert!(spent.bytes < 300 * 1024, "{spent:?}");
        let mut patterns = Patterns::default();
        let version = patterns.compile(texts[0]).unwrap();
        assert!(version.is_match("v12") && !version.is_match("v1x"));
    }

    #[test]
    fn each_bound_ends_what_would_have_no_end() {
        let many: Vec<String> = (0..=POLICY.patterns).map(|i| format!("^a{i}$")).collect();
        let error = all(&many).0.unwrap_err();
        assert!(
            error.contains("65 different patterns") && error.contains("64"),
            "{error}"
        );
        assert_eq!(all(&many[1..]).0, Ok(()));
        // The same text costs once.
        assert_eq!(all(&vec!["^a$".to_owned(); 1_000]).1.patterns, 1);
        let large: Vec<String> = (0..30).map(|i| format!(r"\w{i}")).collect();
        let (result, spent) = all(&large);
        assert!(result.unwrap_err().contains("KiB of compiled patterns"));
        assert!(spent.bytes < POLICY.bytes + 2 * PATTERN_SIZE, "{spent:?}");
        let error = all(&[r"\w{40}".to_owned()]).0.unwrap_err();
        assert!(error.contains("more than 128 KiB"), "{error}");
    }

    #[test]
    fn a_pattern_that_takes_long_is_refused_before_it_does() {
        let slow = [
            format!("(?i)[{}]", r"\pL".repeat(1_300)),
            format!("(?i){}", "[ -\u{10ffff}]".repeat(400)),
            format!("(?i:{})", r"\p{any}".repeat(400)),
            format!("[{}]", r"[^\w]".repeat(600)),
            "[^\\w]".repeat(600),
        ];
        for text in slow {
            let started = std::time::Instant::now();
            let error = all(&[text]).0.unwrap_err();
            assert!(error.contains("large character classes"), "{error}");
            // Without the bound it is up to seconds, optimized.
            assert!(
                started.elapsed().as_millis() < 200,
                "{:?}",
                started.elapsed()
            );
        }
    }

    #[test]
    fn what_is_refused_costs_too() {
        let wrong: Vec<String> = (0..100).map(|i| format!(r"\w{{{}}}", 40 + i)).collect();
        let mut patterns = Patterns::default();
        let errors: Vec<String> = wrong
            .iter()
            .filter_map(|text| patterns.compile(text).err())
            .collect();
        assert_eq!(errors.len(), 100);
        let tried = errors
            .iter()
            .filter(|error| error.contains("more than 128 KiB"));
        assert_eq!(tried.count(), POLICY.bytes / PATTERN_SIZE + 1);
    }
}
