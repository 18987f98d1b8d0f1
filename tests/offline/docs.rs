//! The pages: what they name and link to exists, and each is part of the documentation's book.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

mod absent;
mod blocks;
#[path = "../docs/pages.rs"]
pub mod pages;
#[path = "../docs/run.rs"]
mod run;
mod versions;

/// Where paths in ARCHITECTURE.md begin.
const ROOTS: [&str; 4] = ["", "src", "src/gateway", "src/controller"];

/// Paths in backticks: those with a slash, and Rust files.
fn paths(page: &str) -> Vec<&str> {
    let is_path = |text: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        text.chars().all(plain) && (text.ends_with(".rs") || text.contains('/'))
    };
    page.split('`').skip(1).step_by(2).filter(is_path).collect()
}

#[test]
fn the_architecture_names_files_that_exist() {
    let root = pages::root();
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named = paths(&page);
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<&&str> = named
        .iter()
        .filter(|path| !ROOTS.iter().any(|base| root.join(base).join(path).exists()))
        // A method of the protocol and a media type have slashes too.
        .filter(|path| !path.starts_with("tools/"))
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md: there is no {missing:?}"
    );
}

/// A path without `.` and `..`; None where it leaves the repository.
fn resolved(folder: &Path, target: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    Some(path)
}

#[test]
fn every_link_of_every_page_leads_to_a_file_and_a_heading_that_exist() {
    let all = pages::all();
    let anchors: BTreeMap<&str, Vec<String>> = all
        .iter()
        .map(|page| (page.path.as_str(), page.anchors()))
        .collect();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in &all {
        for (line, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = match target {
                "" => Some(PathBuf::from(&page.path)),
                target => resolved(page.folder(), target),
            };
            let exists = |path: &PathBuf| pages::root().join(path).exists();
            let Some(path) = path.filter(exists) else {
                wrong.push(format!("{}:{line}: there is no file {link}", page.path));
                continue;
            };
            let path = path.to_str().unwrap();
            if anchor.is_empty() {
                continue;
            }
            let known = anchors
                .get(path)
                .is_some_and(|all| all.iter().any(|one| one == anchor));
            if !known {
                wrong.push(format!(
                    "{}:{line}: {path} has no heading #{anchor}",
                    page.path
                ));
            }
        }
    }
    assert!(checked > 100, "only {checked} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anchors_are_those_of_github() {
    for (heading, expected) in [
        ("`serve` as a service", "serve-as-a-service"),
        (
            "What it protects against, and what it does not",
            "what-it-protects-against-and-what-it-does-not",
        ),
        (
            "Who decides? [approvals](approvals.md)",
            "who-decides-approvals",
        ),
        ("JSON / YAML & `a_b`", "json--yaml--a_b"),
        ("Größe: 10⁹", "größe-10⁹"),
    ] {
        assert_eq!(pages::anchor(heading), expected, "{heading}");
    }
    let page = pages::Page {
        path: "docs/a.md".to_owned(),
        text: "# A\n\n```sh\n# not a heading\n```\n\n## B\n\n## B\n\n[x](a.md#b-1) `[y](z)` <!-- [z](z) -->\n".to_owned(),
    };
    assert_eq!(page.anchors(), ["a", "b", "b-1"]);
    assert_eq!(page.links(), [(11, "a.md#b-1".to_owned())]);
}

/// The pages that are no part of the book.
const NOT_IN_THE_BOOK: [&str; 1] = ["docs/SUMMARY.md"];

#[test]
fn every_page_under_docs_is_in_the_summary_once() {
    let summary = pages::page("docs/SUMMARY.md");
    let mut listed = Vec::new();
    for (line, link) in summary.links() {
        let path = resolved(summary.folder(), &link).unwrap();
        assert!(
            path.starts_with("docs"),
            "docs/SUMMARY.md:{line}: {link} is not under docs/"
        );
        listed.push(path.to_str().unwrap().to_owned());
    }
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(
        once.len(),
        listed.len(),
        "docs/SUMMARY.md lists a page twice"
    );
    let there: BTreeSet<String> = pages::all()
        .into_iter()
        .map(|page| page.path)
        .filter(|path| path.starts_with("docs/") && !NOT_IN_THE_BOOK.contains(&path.as_str()))
        .collect();
    let missing: Vec<_> = there.difference(&once).collect();
    assert!(missing.is_empty(), "add to docs/SUMMARY.md: {missing:?}");
}

#[test]
fn every_page_under_docs_begins_with_a_title_and_a_sentence() {
    let mut wrong = Vec::new();
    for page in pages::all() {
        if !page.path.starts_with("docs/") || NOT_IN_THE_BOOK.contains(&page.path.as_str()) {
            continue;
        }
        let mut lines = page.text.lines().filter(|line| !line.trim().is_empty());
        let title = lines.next().unwrap_or_default();
        let sentence = lines.next().unwrap_or_default();
        let is_text = !sentence.starts_with(['#', '-', '|', '`', '<', '>'])
            || sentence.starts_with('`') && !sentence.starts_with("```");
        if !title.starts_with("# ") || sentence.is_empty() || !is_text {
            wrong.push(page.path);
        }
    }
    assert!(
        wrong.is_empty(),
        "begin these with a title and then a sentence that says what the page answers: {wrong:?}"
    );
}
