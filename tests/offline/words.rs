//! Phrases that read as translated do not come back into comments, messages and pages.

use std::fs;
use std::path::Path;

use regex::Regex;

/// A phrase, and what to write instead. Case does not matter, and a phrase may be broken over
/// lines.
const BANNED: &[(&str, &str)] = &[
    (
        r"\b(is|are|was|were) no \w+",
        "is not a …, does not have a …",
    ),
    (
        r"\bof (now|then|before|meanwhile)\b",
        "current, previous, in the meantime",
    ),
    (
        r"\bso (many|long|often|much)\b",
        "the number of …, how long, how often",
    ),
    (r"\bby and by\b", "eventually"),
    (
        r"\b(is|are|was|were|be|been|being) (told|said)\b",
        "is reported, the answer names",
    ),
    (r"\blooked at\b", "checked, read, examined, reconciled"),
    (r"\bbrought about\b", "applied, caused"),
    (r"\bput(s|ting)? right\b", "corrected, reverted"),
    (r"\banew\b", "again, from scratch"),
    (
        r"\b(nobody|somebody)\b",
        "no caller, another user, another writer",
    ),
    (r"\bwhoever\b", "a user who, any program that"),
    (r"\b(go|goes|going|went) on\b", "continues, keeps doing"),
    (r"\bto be had\b", "available, can be bound"),
    (r"\bwithout end\b", "indefinitely, unbounded"),
    (
        r"\bwhat (is there|was in force)\b",
        "the existing objects, the previous configuration",
    ),
    (r"\btaken for\b", "treated as, mistaken for"),
];

/// What the first pattern also finds and means something else.
const FINE: &[&str] = &[
    r"\bthere (is|are|was|were) no\b",
    r"\bno (longer|more|less|larger)\b",
];

/// The folders and pages that are read.
const ROOTS: &[&str] = &["src", "docs", "charts", "examples", "README.md"];
const KINDS: &[&str] = &["rs", "md", "yaml", "tpl", "txt", "json", "py", "sh"];

#[test]
fn comments_messages_and_pages_are_in_plain_english() {
    let rules = rules();
    let mut wrong = Vec::new();
    for (path, text) in files() {
        for (line, phrase, better) in found(&rules, &path, &text) {
            wrong.push(format!("{path}:{line}: “{phrase}”: write {better}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn comments_wrap_at_100_columns() {
    let mut too_long = Vec::new();
    for (path, text) in files() {
        for (at, line) in text.lines().enumerate() {
            let comment = path.ends_with(".rs") && line.trim_start().starts_with("//");
            // An address cannot be broken.
            if comment && line.chars().count() > 100 && !line.contains("://") {
                too_long.push(format!("{path}:{}: {line}", at + 1));
            }
        }
    }
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}

#[test]
fn the_check_reads_comments_and_messages_across_lines_and_leaves_code_and_names_alone() {
    let rules = rules();
    let phrases = |path: &str, text: &str| -> Vec<(usize, String)> {
        found(&rules, path, text)
            .into_iter()
            .map(|(line, phrase, _)| (line, phrase))
            .collect()
    };
    let source = "
/// It waits so
/// long, as there is no limit and it is no
/// longer used.
fn told(nobody: u8) -> &'static str {
    let quote = '\"';
    let name = \"nobody\"; // of now
    \"this is \\
     no time\"
}
";
    assert_eq!(
        phrases("src/a.rs", source),
        [
            (2, "so long".to_owned()),
            (7, "of now".to_owned()),
            (8, "is no time".to_owned())
        ]
    );
    let page = "The file\nis no\npolicy. Nobody\n\n```\nreads\n```\n";
    assert_eq!(
        phrases("docs/a.md", page),
        [(2, "is no policy".to_owned()), (3, "Nobody".to_owned())]
    );
}

struct Rules {
    banned: Vec<(Regex, &'static str)>,
    fine: Vec<Regex>,
}

fn rules() -> Rules {
    let compile = |text: &str| Regex::new(&format!("(?i){text}")).unwrap();
    Rules {
        banned: BANNED
            .iter()
            .map(|(text, better)| (compile(text), *better))
            .collect(),
        fine: FINE.iter().map(|text| compile(text)).collect(),
    }
}

/// The phrases of a file: line, words, and what to write instead.
fn found(rules: &Rules, path: &str, text: &str) -> Vec<(usize, String, &'static str)> {
    let mut all = Vec::new();
    let prose = if path.ends_with(".rs") {
        prose(text)
    } else {
        page(text)
    };
    for paragraph in prose {
        let (line_of, text) = joined(&paragraph);
        let fine: Vec<_> = rules
            .fine
            .iter()
            .flat_map(|fine| fine.find_iter(&text))
            .collect();
        for (banned, better) in &rules.banned {
            for hit in banned.find_iter(&text) {
                if !fine
                    .iter()
                    .any(|fine| fine.start() < hit.end() && hit.start() < fine.end())
                {
                    all.push((line_of(hit.start()), hit.as_str().to_owned(), *better));
                }
            }
        }
    }
    all.sort();
    all
}

/// Lines of one comment, message or paragraph, each with its number.
type Paragraph = Vec<(usize, String)>;

/// A paragraph on one line, and the line of each of its bytes.
fn joined(paragraph: &Paragraph) -> (impl Fn(usize) -> usize, String) {
    let mut text = String::new();
    let mut starts = Vec::new();
    for (line, words) in paragraph {
        starts.push((text.len(), *line));
        text.push_str(words.trim());
        text.push(' ');
    }
    let line_of = move |at: usize| {
        starts
            .iter()
            .rev()
            .find(|(start, _)| *start <= at)
            .map_or(0, |(_, line)| *line)
    };
    (line_of, text)
}

/// The paragraphs of a page or of a file with comments after `#`.
fn page(text: &str) -> Vec<Paragraph> {
    let mut all: Vec<Paragraph> = vec![Vec::new()];
    for (at, line) in text.lines().enumerate() {
        let words = line.trim().trim_start_matches(['#', '>', '-', '*', ' ']);
        if words.is_empty() {
            all.push(Vec::new());
        } else if let Some(paragraph) = all.last_mut() {
            paragraph.push((at + 1, words.to_owned()));
        }
    }
    all
}

/// The comments of a Rust file, and its strings of more than one word.
fn prose(text: &str) -> Vec<Paragraph> {
    let mut all: Vec<Paragraph> = Vec::new();
    let (mut line, mut comment_before) = (1, 0);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            let words = rest[..end].trim_start_matches(['/', '!']).to_owned();
            match all.last_mut() {
                Some(paragraph) if comment_before + 1 == line && !words.trim().is_empty() => {
                    paragraph.push((line, words));
                }
                _ => all.push(vec![(line, words)]),
            }
            comment_before = line;
            end
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if let Some((open, close)) = opening(rest) {
            let inside = &rest[open..];
            let end = if close == "\"" {
                closing(inside)
            } else {
                inside.find(close).unwrap_or(inside.len())
            };
            let string: Paragraph = inside[..end]
                .lines()
                .enumerate()
                .map(|(at, words)| (line + at, words.trim_end_matches('\\').to_owned()))
                .collect();
            if inside[..end].trim().contains(' ') {
                all.push(string);
            }
            (open + end + close.len()).min(rest.len())
        } else {
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    all
}

/// The length of a string's opening, and what closes it.
fn opening(rest: &str) -> Option<(usize, &'static str)> {
    if rest.starts_with('"') {
        Some((1, "\""))
    } else if rest.starts_with("r#\"") {
        Some((3, "\"#"))
    } else if rest.starts_with("r\"") {
        Some((2, "\""))
    } else {
        None
    }
}

/// Where a string ends.
fn closing(inside: &str) -> usize {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    inside.len()
}

fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<_> = ROOTS.iter().map(|path| root.join(path)).collect();
    let mut all = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path
            .extension()
            .is_some_and(|kind| KINDS.iter().any(|one| kind == *one))
        {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            all.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(all.len() > 400, "the files were not found");
    all
}
