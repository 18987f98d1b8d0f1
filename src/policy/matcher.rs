//! Globs over tool names, grants, prompts and resource URIs.
//!
//! In: patterns from policies, names from calls. Out: yes or no, in time linear in the name. Must
//! not do: treat anything but `*` as special.

use std::borrow::Cow;

/// Bytes that a pattern may have.
const MAX_GLOB: usize = 1_024;

/// A pattern in which `*` matches any characters, also none, and nothing else is special.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    /// The text between the stars; one part is a literal.
    parts: Vec<Box<str>>,
}

impl TryFrom<&str> for Glob {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "an empty pattern matches nothing; write a name, or `*` for all".to_owned(),
            );
        }
        if text.len() > MAX_GLOB {
            return Err(format!(
                "the pattern has {} bytes and may have {MAX_GLOB}",
                text.len()
            ));
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return Err(format!(
                "the pattern {text:?} has control characters, or spaces around it; remove them"
            ));
        }
        Ok(Self {
            parts: text.split('*').map(Into::into).collect(),
        })
    }
}

impl Glob {
    /// Whether the pattern matches the whole text.
    ///
    /// Each part is looked for from where the one before ended; taking the first place is right, as
    /// `*` takes the rest.
    pub fn matches(&self, text: &str) -> bool {
        let (first, last, middle) = match self.parts.as_slice() {
            [] => return false,
            [literal] => return text == &**literal,
            [first, middle @ .., last] => (first, last, middle),
        };
        let Some(mut rest) = text.strip_prefix(&**first) else {
            return false;
        };
        for part in middle {
            match rest.find(&**part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(&**last)
    }

    /// Whether the pattern is `*`, or stars only.
    pub fn is_any(&self) -> bool {
        self.parts.len() > 1 && self.parts.iter().all(|part| part.is_empty())
    }

    /// A text that the pattern matches.
    pub fn sample(&self) -> String {
        self.parts.join("x")
    }

    /// Whether every text that the other pattern matches is matched by this one. May say no where
    /// it is so.
    pub fn covers(&self, other: &Glob) -> bool {
        // A star in the other pattern can stand for text that no literal part of this one contains.
        self.matches(&other.parts.join("\u{0}"))
    }
}

/// A list of patterns with exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs {
    /// None: everything.
    pub any_of: Vec<Glob>,
    /// What is left out.
    pub except: Vec<Glob>,
}

impl Globs {
    /// Whether the text is in the list and not excepted.
    pub fn matches(&self, text: &str) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(|glob| glob.matches(text)))
            && !self.except.iter().any(|glob| glob.matches(text))
    }

    /// Whether nothing can match, as all that is listed is excepted. May say no where it is so.
    pub fn is_never(&self) -> bool {
        if self.any_of.is_empty() {
            return self.except.iter().any(Glob::is_any);
        }
        self.any_of
            .iter()
            .all(|glob| self.except.iter().any(|except| except.covers(glob)))
    }
}

/// Patterns over URIs that have a query: what stands before it, and its pairs. Servers leave out
/// pairs that they do not know, take them in any order, and of two with one name the first or the
/// last.
#[derive(Debug, Default)]
pub struct QueryGlobs(Vec<(Glob, Vec<Glob>)>);

impl QueryGlobs {
    /// The patterns with a query among these, which are all valid.
    pub fn of(patterns: &[String]) -> Self {
        let with_query = |pattern: &String| {
            let (before, query) = pattern.split_once('?')?;
            let pairs = query
                .split('&')
                .map(Glob::try_from)
                .collect::<Result<_, _>>();
            Some((Glob::try_from(before).ok()?, pairs.ok()?))
        };
        QueryGlobs(patterns.iter().filter_map(with_query).collect())
    }

    /// Whether a URI that has all pairs of one of them, and perhaps others, may be what is meant.
    pub fn match_some(&self, before: &str, query: &str) -> bool {
        self.0.iter().any(|(glob, pairs)| {
            let has = |pair: &Glob| query.split('&').any(|found| pair.matches(found));
            glob.matches(before) && pairs.iter().all(has)
        })
    }
}

/// The forms that names of grants have.
const GRANTS: [&str; 4] = ["serviceaccount:", "jwt:", "key:", "anonymous"];

/// A pattern over names of grants; a pattern that no grant could ever match is refused, because the
/// rule would silently apply to no caller.
pub fn grant_glob(text: &str) -> Result<Glob, String> {
    let glob = Glob::try_from(text)?;
    let start = text.split('*').next().unwrap_or_default();
    let possible = if text.contains('*') {
        GRANTS
            .iter()
            .any(|form| form.starts_with(start) || (form.ends_with(':') && start.starts_with(form)))
    } else {
        text == "anonymous"
            || GRANTS.iter().any(|form| {
                let rest = text.strip_prefix(form).filter(|_| form.ends_with(':'));
                // Names of service accounts and of tokens have two parts.
                rest.is_some_and(|rest| !rest.is_empty() && (*form == "key:" || rest.contains('/')))
            })
    };
    if possible {
        Ok(glob)
    } else {
        Err(format!(
            "no caller is named {text:?}; names are serviceaccount:<namespace>/<name>, jwt:<provider>/<claim>, key:<name> \
             and anonymous"
        ))
    }
}

/// One form of a name for finding those that differ only in case: Unicode simple folding, by way of
/// upper case, so that characters such as the long s and the Kelvin sign fold too.
pub fn fold_case(text: &str) -> Cow<'_, str> {
    if text
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(text: &str) -> Glob {
        Glob::try_from(text).unwrap()
    }

    #[test]
    fn a_star_matches_any_characters_and_nothing_else_is_special() {
        assert!(glob("set_*_tag").matches("set_run_tag"));
        assert!(glob("set_*_tag").matches("set_a_b_tag"));
        assert!(!glob("set_*_tag").matches("set_tag"));
        assert!(glob("*").matches(""));
        assert!(glob("a.c").matches("a.c"));
        assert!(!glob("a.c").matches("abc"));
        assert!(!glob("a?c").matches("abc"));
        assert!(!glob("[ab]").matches("a"));
        assert!(glob("a*a").matches("aa"));
        assert!(!glob("a*a").matches("a"));
        assert!(glob("*ab*ab*").matches("abab"));
        assert!(!glob("*ab*ab*").matches("ab"));
    }

    #[test]
    fn a_pattern_that_can_match_no_caller_is_refused() {
        for good in [
            "*",
            "key:*",
            "key:ci-*",
            "serviceaccount:ml/*",
            "anonymous",
            "s*",
            "anon*",
            "jwt:corp/a@b",
        ] {
            assert!(grant_glob(good).is_ok(), "{good}");
        }
        for bad in [
            "admin",
            "",
            "keys:*",
            "key",
            "key:",
            " key:a",
            "ServiceAccount:ml/*",
        ] {
            assert!(grant_glob(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn case_variants_fold_to_one_form() {
        for (a, b) in [
            ("Alias", "alias"),
            ("\u{212a}ey", "key"),
            ("\u{17f}tage", "stage"),
            ("ÀB", "àb"),
        ] {
            assert_eq!(fold_case(a), fold_case(b));
        }
        assert_ne!(fold_case("alias"), fold_case("alia"));
    }

    proptest! {
        #[test]
        fn a_glob_agrees_with_the_same_pattern_as_a_regular_expression(pattern in "[ab*.]{1,8}", text in "[ab.]{0,10}") {
            let source = format!("^{}$", pattern.split('*').map(regex::escape).collect::<Vec<_>>().join(".*"));
            prop_assert_eq!(glob(&pattern).matches(&text), regex::Regex::new(&source).unwrap().is_match(&text));
        }

        #[test]
        fn what_a_covered_pattern_matches_the_covering_one_matches(a in "[ab*]{1,6}", b in "[ab*]{1,6}", text in "[ab]{0,8}") {
            if glob(&a).covers(&glob(&b)) && glob(&b).matches(&text) {
                prop_assert!(glob(&a).matches(&text));
            }
        }
    }
}
