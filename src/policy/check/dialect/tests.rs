//! The table of docs/policies.md, row by row; what Go says of these was read off Go's `regexp`.

use super::super::fuel::Fuel;
use super::super::pattern::Patterns;
use super::*;

fn matches(pattern: &str, text: &str) -> bool {
    Patterns::default()
        .compile(pattern)
        .unwrap()
        .search(text, &Fuel::full())
        .unwrap()
}

fn refused(pattern: &str) -> String {
    Patterns::default().compile(pattern).map(drop).unwrap_err()
}

#[test]
fn classes_and_word_boundaries_are_ascii_as_in_re2() {
    for (pattern, yes, no) in [
        (r"^\d+$", "07", "\u{ff17}"),
        (r"^\D+$", "\u{ff17}a", "a7"),
        (r"^\w+$", "aZ_9", "\u{e9}"),
        (r"^\W+$", "\u{e9}-", "-a"),
        (r"^\s+$", " \t\n\x0c\r", "\u{a0}"),
        (r"^\s+$", " ", "\x0b"),
        (r"^\S+$", "a\u{a0}\x0b", "a b"),
        (r"^[\d.]+$", "1.2", "\u{664}.2"),
        (r"^[^\d]+$", "\u{664}", "4"),
        (r"^[\W]+$", "\u{e9}", "e"),
        (r"^[^\W]+$", "e", "\u{e9}"),
        (r"prod\b", "prod\u{e9}", "prods"),
        (r"\bprod", "\u{e9}prod", "eprod"),
        (r"prod\B", "prods", "prod\u{e9}"),
        (r"^a\Bb$", "ab", "b"),
        (r"(?i)^\w$", "\u{212a}", "\u{e9}"),
        (r"(?i)^k$", "\u{212a}", "c"),
        (r"(?i)^s$", "\u{17f}", "z"),
        (r"(?i)^\u00e9$", "\u{c9}", "e"),
        (r"(?i)^stra\u00dfe$", "STRA\u{1e9e}E", "strasse"),
        (r"(?i)^[^k]$", "a", "\u{212a}"),
        (r"(?i)^\W$", "-", "\u{17f}"),
        (r"^[[:alpha:]]+$", "aZ", "\u{e9}"),
        (r"^.$", "\u{e9}", "\n"),
        (r"^a$", "a", "a\n"),
        (r"(?s)^.$", "\n", "ab"),
        (r"(?m)^a$", "b\na", "ba"),
    ] {
        assert!(matches(pattern, yes), "{pattern} {yes:?}");
        assert!(!matches(pattern, no), "{pattern} {no:?}");
    }
    // Inside a character of two bytes no insertion is possible.
    assert!(!matches(r"\B", "a\u{e9}b"));
    assert!(matches(r"\B", "\u{e9}"));
}

#[test]
fn what_means_something_else_to_whoever_knows_re2_is_refused() {
    for (pattern, part) in [
        ("^[^a&&b]+$", r"\&"),
        ("[a-z--m]", r"\-"),
        ("[a~~b]", r"\~"),
        ("[[a]", ""),
        ("[a[bc]]", r"\["),
        (r"[\w&&[^\d]]", r"\&"),
        (r"\<a", "RE2"),
        (r"a\>", "RE2"),
        (r"\b{start}a", "RE2"),
        ("(?x)a b", "flag `x`"),
        ("(?-u)a", "flag `u`"),
        ("(?R)a", "flag `R`"),
        ("(?u:a)", "flag `u`"),
        ("a{,5}", ""),
        (r"\Qa\E", ""),
        (r"\C", ""),
        ("(?=a)", ""),
        (r"(a)\1", ""),
        ("[^]", ""),
    ] {
        assert!(
            refused(pattern).contains(part),
            "{pattern}: {}",
            refused(pattern)
        );
    }
    // The same characters where they are not sets.
    for (pattern, text) in [
        ("^[a&b]+$", "a&b"),
        (r"^[a\&\&b]+$", "a&b"),
        ("^[a-]+$", "a-"),
        ("^[a~]+$", "a~"),
        (r"^[\[\]]+$", "[]"),
        ("^[]a]+$", "]a"),
        ("^a&&b$", "a&&b"),
    ] {
        assert!(matches(pattern, text), "{pattern}");
    }
}

#[test]
fn patterns_of_go_mean_here_what_they_mean_there() {
    for (go, yes, no) in [
        ("^[^a&&b]+$", "c", "b"),
        ("^[^a&&b]+$", "cd", "&"),
        ("^[a--z]$", "", "m"),
        ("^[+--]$", ",", "a"),
        ("^[--a]$", "A", "!"),
        ("^[a~~b]+$", "~", "c"),
        ("^[[a]+$", "[a", "b"),
        ("^[a[b]+$", "a[b", "]"),
        ("^[a[bc]]$", "[]", "a"),
        ("^[[:digit:][x]+$", "7[x", "y"),
        (r"^[\w&&\d]+$", "a&", "-"),
        (r"^[]&&]+$", "]&", "a"),
        (r"^[^]&&]+$", "a", "]"),
        (r"^\<a\>$", "<a>", "a"),
        (r"^[\<]$", "<", "a"),
        (r"^\Qa.b[\E+$", "a.b[[", "aXb["),
        (r"^\Qa.b", "a.b", "aXb"),
        ("^a{,2}$", "a{,2}", "aa"),
        ("^{id}$", "{id}", "id"),
        (r"^a\b{x}$", "a{x}", "ax"),
        (r"^a{2}$", "aa", "a"),
        (r"^\x{41}\p{Lu}\pL$", "AAa", "Aaa"),
    ] {
        let Ok(written) = from_go(go) else {
            assert_eq!(yes, "", "{go}");
            continue;
        };
        let compiled = Patterns::default().compile(&written);
        let Ok(compiled) = compiled else {
            // A range backwards: Go refuses it too.
            assert_eq!(yes, "", "{go} {written}");
            continue;
        };
        assert!(
            compiled.search(yes, &Fuel::full()).unwrap(),
            "{go} {written} {yes:?}"
        );
        assert!(
            !compiled.search(no, &Fuel::full()).unwrap(),
            "{go} {written} {no:?}"
        );
    }
}

#[test]
fn patterns_of_a_schema_are_those_of_javascript_or_refused() {
    let schema = |text: &str| Patterns::of_listing().compile_in(text, Dialect::Schema);
    for (pattern, yes, no) in [
        (r"^\d+$", "7", "\u{ff17}"),
        (r"^\s$", "\u{a0}", "\u{85}"),
        (r"^\s$", "\x0b", "a"),
        ("^.$", "a", "\u{2028}"),
        ("^[^a&&b]$", "c", "&"),
        ("^[[a]$", "[", "b"),
        (r"^\/\-$", "/-", "/"),
    ] {
        let compiled = schema(pattern).unwrap();
        assert!(
            compiled.search(yes, &Fuel::full()).unwrap(),
            "{pattern} {yes:?}"
        );
        assert!(
            !compiled.search(no, &Fuel::full()).unwrap(),
            "{pattern} {no:?}"
        );
    }
    for pattern in ["[]a]", "[^]", "[[:alpha:]]", "(?=a)", r"\ud83d\ude00", "[a"] {
        assert!(schema(pattern).is_err(), "{pattern}");
    }
}
