//! What patterns may cost, compiled and run.

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
        r"^[\w.-]+@[\w.-]+\b$",
        r"(?i)^(prod|staging)-\d+\.\d+\.\d+$",
        "^s3://[^/]+/.*$",
        r"^\p{L}+$",
    ];
    let (result, spent) = all(&texts.map(str::to_owned));
    assert_eq!(result, Ok(()));
    assert!(spent.bytes < 300 * 1024, "{spent:?}");
    let mut patterns = Patterns::default();
    let version = patterns.compile(texts[0]).unwrap();
    assert!(
        version.search("v12", &Fuel::full()) == Ok(true)
            && version.search("v1x", &Fuel::full()) == Ok(false)
    );
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
    let large: Vec<String> = (0..30).map(|i| format!(r"\p{{L}}{{2}}{i}")).collect();
    let (result, spent) = all(&large);
    assert!(result.unwrap_err().contains("KiB of compiled patterns"));
    assert!(spent.bytes < POLICY.bytes + 2 * PATTERN_SIZE, "{spent:?}");
    let error = all(&[r"\p{L}{40}".to_owned()]).0.unwrap_err();
    assert!(error.contains("more than 128 KiB"), "{error}");
}

#[test]
fn a_pattern_that_takes_long_is_refused_before_it_does() {
    let slow = [
        format!("(?i)[{}]", r"\pL".repeat(1_300)),
        format!("(?i){}", "[ -\u{10ffff}]".repeat(400)),
        format!("(?i:{})", r"\p{any}".repeat(400)),
        r"[^\p{L}]".repeat(600),
        r"[^\w]".repeat(600),
    ];
    for text in slow {
        // Without the bound each is compiled, which takes up to seconds, optimized.
        let error = all(&[text]).0.unwrap_err();
        assert!(error.contains("large character classes"), "{error}");
    }
}

#[test]
fn a_search_costs_what_pattern_and_text_make_it_cost() {
    let text = |n: usize| -> String {
        let mut state = 1_u64;
        let mut bit = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if state >> 40 & 1 == 0 { 'a' } else { 'b' }
        };
        (0..n).map(|_| bit()).collect()
    };
    let mut patterns = Patterns::default();
    // Those that people write are tame, and take a search over much text.
    for tame in [
        "^v[0-9]+$",
        "^[a-z0-9-]{1,63}$",
        r"\bprod",
        "^(a|b|ab)*c$",
        r"^[\w.-]+@[\w.-]+$",
        "(?i)prod",
    ] {
        let pattern = patterns.compile(tame).unwrap();
        assert!(pattern.0.tame.is_some(), "{tame}");
        let fuel = Fuel::full();
        for _ in 0..16 {
            pattern.search(&text(64 * 1_024), &fuel).unwrap();
        }
    }
    let letters = patterns.compile(r"^\p{L}+$").unwrap();
    let text_of_letters = "aé\u{ff41}\u{10400}".repeat(6_000);
    assert_eq!(letters.search(&text_of_letters, &Fuel::full()), Ok(true));
    for wild in [
        "[ab]*a[ab]{100}c",
        "[ab]*a[ab]{1000}c",
        "([ab]{1,40}c?){1,20}z",
    ] {
        let pattern = patterns.compile(wild).unwrap();
        assert!(pattern.0.tame.is_none(), "{wild}");
        assert_eq!(pattern.search("ababab", &Fuel::full()), Ok(false));
        let left = |n: usize| {
            let fuel = Fuel::full();
            let found = pattern.search(&text(n), &fuel);
            (found, fuel.left())
        };
        let long = left(64 * 1_024);
        assert!(long.0.is_err() && long.1 == 0, "{wild} {long:?}");
        // The same each time.
        assert_eq!(left(40), left(40));
        assert!(left(40).1 > 500_000, "{:?}", left(40));
    }
}

#[test]
fn what_is_refused_costs_too() {
    let wrong: Vec<String> = (0..100)
        .map(|i| format!(r"\p{{L}}{{{}}}", 40 + i))
        .collect();
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
