//! The pages for people who work on Portcullis name files that exist.

use std::fs;
use std::path::PathBuf;

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
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
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

#[test]
fn every_page_of_the_documentation_links_to_files_that_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ];
    let mut pages: Vec<PathBuf> = pages.iter().map(|page| root.join(page)).collect();
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        pages.push(entry.unwrap().path());
    }
    let mut missing = Vec::new();
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            if !page.parent().unwrap().join(target).exists() {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "links to nowhere: {missing:#?}");
}
