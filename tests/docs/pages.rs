//! The Markdown pages of the repository: their headings, links and fenced blocks.
//!
//! In: files of the repository. Out: what the tests of pages ask about them.
//! Must not do: run anything.

use std::fs;
use std::path::{Path, PathBuf};

/// Where pages are; folders are read with those in them.
const ROOTS: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs",
    "examples",
    "charts",
    "tests",
];

pub struct Page {
    /// From the top of the repository, with `/`.
    pub path: String,
    pub text: String,
}

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// What the HTML comment on the line before it says, if there is one.
    pub marker: Option<String>,
    /// Without the blanks before each line of a block in a list.
    pub text: String,
    pub indent: String,
    /// Where its text is in the page.
    pub at: std::ops::Range<usize>,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, ordered by path.
pub fn all() -> Vec<Page> {
    let mut waiting: Vec<PathBuf> = ROOTS.iter().map(|path| root().join(path)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let inside = fs::read_dir(&path).unwrap();
            waiting.extend(inside.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(page(path.strip_prefix(root()).unwrap().to_str().unwrap()));
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 40, "only {} pages", found.len());
    found
}

pub fn page(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    Page {
        path: path.to_owned(),
        text,
    }
}

impl Page {
    pub fn folder(&self) -> &Path {
        Path::new(&self.path).parent().unwrap()
    }

    /// The fenced blocks, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(Block, &str)> = None;
        let mut before = "";
        let mut at = 0;
        for (number, line) in self.text.split_inclusive('\n').enumerate() {
            let start = at;
            at += line.len();
            let words = line.trim();
            match &mut open {
                None if words.starts_with("```") => {
                    let fence = &words[..words.chars().take_while(|c| *c == '`').count()];
                    let marker = before
                        .trim()
                        .strip_prefix("<!--")
                        .and_then(|rest| rest.strip_suffix("-->"))
                        .map(|marker| marker.trim().to_owned());
                    let block = Block {
                        line: number + 1,
                        marker,
                        text: String::new(),
                        indent: line[..line.len() - line.trim_start().len()].to_owned(),
                        at: at..at,
                    };
                    open = Some((block, fence));
                }
                None => {}
                Some((block, fence)) if words == *fence => {
                    block.at.end = start;
                    block.text = self.text[block.at.clone()]
                        .split_inclusive('\n')
                        .map(|line| line.strip_prefix(block.indent.as_str()).unwrap_or(line))
                        .collect();
                    blocks.push(block.clone());
                    open = None;
                }
                Some(_) => {}
            }
            before = line;
        }
        let unclosed = open.map(|(block, _)| block.line);
        assert_eq!(unclosed, None, "{}: a fence that is not closed", self.path);
        blocks
    }

    /// The page without fenced blocks, inline code and comments, each replaced by blanks.
    pub fn prose(&self) -> String {
        let mut text = self.text.clone();
        let blank = |text: &mut String, from: usize, to: usize| {
            let kept: String = text[from..to]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' })
                .collect();
            text.replace_range(from..to, &kept);
        };
        // From the end, so that positions stay right: a letter of several bytes becomes one blank.
        for block in self.blocks().into_iter().rev() {
            blank(&mut text, block.at.start, block.at.end);
        }
        for (open, close) in [("<!--", "-->"), ("`", "`")] {
            let mut from = 0;
            while let Some(start) = text[from..].find(open).map(|at| at + from) {
                let inside = start + open.len();
                let paragraph = text[inside..].find("\n\n").unwrap_or(text.len() - inside);
                let bound = if open == "`" {
                    inside + paragraph
                } else {
                    text.len()
                };
                match text[inside..bound].find(close) {
                    Some(length) => {
                        blank(&mut text, start, inside + length + close.len());
                        from = start + 1;
                    }
                    None => from = inside,
                }
            }
        }
        text
    }

    /// The targets of its links, each with its line.
    pub fn links(&self) -> Vec<(usize, String)> {
        let prose = self.prose();
        let mut found = Vec::new();
        for (at, _) in prose.match_indices("](") {
            let rest = &prose[at + 2..];
            let line = prose[..at].matches('\n').count() + 1;
            let end = rest.find(')').unwrap_or(0);
            found.push((
                line,
                rest[..end]
                    .split_whitespace()
                    .next()
                    .unwrap_or("")
                    .to_owned(),
            ));
        }
        found
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let mut fenced = vec![false; self.text.lines().count() + 2];
        for block in self.blocks() {
            for line in &mut fenced[block.line..=block.line + block.text.matches('\n').count()] {
                *line = true;
            }
        }
        let mut anchors: Vec<String> = Vec::new();
        let lines = self.text.lines().enumerate();
        for (_, line) in lines.filter(|(number, _)| !fenced[number + 1]) {
            let level = line.chars().take_while(|c| *c == '#').count();
            if !(1..=6).contains(&level) || !line[level..].starts_with(' ') {
                continue;
            }
            let plain = anchor(&line[level + 1..]);
            let mut unique = plain.clone();
            let mut number = 0;
            while anchors.contains(&unique) {
                number += 1;
                unique = format!("{plain}-{number}");
            }
            anchors.push(unique);
        }
        anchors
    }
}

/// The anchor that GitHub makes of a heading.
pub fn anchor(heading: &str) -> String {
    let mut words = heading.trim().to_owned();
    // Of a link its text counts.
    while let Some(middle) = words.find("](") {
        let end = words[middle..].find(')').unwrap() + middle;
        words.replace_range(middle..=end, "");
    }
    words
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}
