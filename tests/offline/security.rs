//! docs/security.md: what it promises is shown by tests that are named beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/security.md";

/// Sections of which every item and paragraph is a promise.
const PROMISES: [&str; 4] = [
    "The agent as attacker",
    "The server as attacker",
    "One caller against the others",
    "Reading the log",
];

/// Paragraphs that promise nothing.
const PLAIN: [&str; 5] = [
    "Assume that",
    "- All users can read command lines",
    "- A stdio server of `serve` runs as your user",
    "Results of allowed calls",
    "Found a hole?",
];

/// A paragraph or an item of a list, with the tests that show it.
#[derive(Debug, Default)]
struct Promise {
    section: String,
    text: String,
    tests: Vec<String>,
}

fn promises(page: &str) -> Vec<Promise> {
    let mut found: Vec<Promise> = Vec::new();
    let (mut section, mut fresh, mut comment) = (String::new(), true, None::<String>);
    for line in page.lines() {
        let text = line.trim();
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
            fresh = true;
            continue;
        }
        if comment.is_some() || text.starts_with("<!-- shown by:") {
            let said = comment.get_or_insert_default();
            said.push_str(text);
            said.push(' ');
            if text.ends_with("-->") {
                let said = comment.take().unwrap();
                let names = said
                    .trim()
                    .trim_start_matches("<!-- shown by:")
                    .trim_end_matches("-->");
                let tests = names.split(',').map(|name| name.trim().to_owned());
                found.last_mut().unwrap().tests.extend(tests);
            }
            continue;
        }
        if text.is_empty() {
            fresh = true;
            continue;
        }
        if fresh || text.starts_with("- ") {
            found.push(Promise {
                section: section.clone(),
                ..Promise::default()
            });
        }
        fresh = false;
        let last = found.last_mut().unwrap();
        last.text.push_str(text);
        last.text.push(' ');
    }
    found
}

/// The names of all tests of a folder.
fn tests_of(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_of(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    test = true;
                } else if line.starts_with("#[ignore") {
                    test = false;
                }
                let function = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some(name) = function {
                    let end = name.find('(').unwrap_or(name.len());
                    if std::mem::take(&mut test) {
                        names.insert(name[..end].to_owned());
                    }
                }
            }
        }
    }
}

#[test]
fn every_promise_about_security_names_tests_that_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join(PAGE)).unwrap();
    let promises = promises(&page);
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests_of(&root.join(folder), &mut tests);
    }
    let mut wrong = Vec::new();
    for promise in &promises {
        for name in promise.tests.iter().filter(|name| !tests.contains(*name)) {
            wrong.push(format!("there is no test {name}: {}", promise.text));
        }
        let plain = PLAIN.iter().any(|start| promise.text.starts_with(start));
        if PROMISES.contains(&promise.section.as_str()) && promise.tests.is_empty() && !plain {
            wrong.push(format!(
                "write <!-- shown by: NAME_OF_A_TEST --> below it: {}",
                promise.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
    let sections: BTreeSet<&str> = promises.iter().map(|one| one.section.as_str()).collect();
    assert!(PROMISES.iter().all(|section| sections.contains(section)));
}

#[test]
fn promises_are_read_with_the_tests_below_them() {
    let page = "# T\n\n## The agent as attacker\n\nIntro\nmore.\n\n- One\n  goes on.\n  <!-- shown by: a_b, c_d,\n  e_f -->\n- Two\n";
    let found = promises(page);
    let texts: Vec<&str> = found.iter().map(|one| one.text.trim()).collect();
    assert_eq!(texts, ["# T", "Intro more.", "- One goes on.", "- Two"]);
    assert_eq!(found[2].tests, ["a_b", "c_d", "e_f"]);
    assert!(found[3].tests.is_empty());
}
