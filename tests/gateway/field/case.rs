//! A file of the corpus, read: blocks of a line that begins with a keyword, and indented lines
//! below it.

use serde_json::Value;

const KEYWORDS: [&str; 7] = ["policy", "spec", "tools", "no", "server", "send", "answer"];

pub struct Case {
    pub blocks: Vec<Block>,
}

/// A keyword with its words, headers and body.
#[derive(Default)]
pub struct Block {
    pub line: usize,
    pub keyword: String,
    pub words: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What a line that begins with `|` says, instead of JSON.
    pub text: Option<String>,
}

impl Block {
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|error| format!("{error} in {}", self.body))
    }
}

impl Case {
    pub fn read(text: &str) -> Result<Case, String> {
        if !text.starts_with("# ") {
            return Err("the first line is no comment that says what the case is".to_owned());
        }
        let mut blocks: Vec<Block> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |why: String| format!("line {}: {why}", at + 1);
            if !line.starts_with(' ') {
                let mut words = line.split(' ').map(str::to_owned);
                let keyword = words.next().unwrap_or_default();
                if !KEYWORDS.contains(&keyword.as_str()) {
                    return Err(fault(format!("`{keyword}` is no keyword")));
                }
                blocks.push(Block {
                    line: at + 1,
                    keyword,
                    words: words.collect(),
                    ..Block::default()
                });
                continue;
            }
            let Some(block) = blocks.last_mut() else {
                return Err(fault("it stands below nothing".to_owned()));
            };
            let line = line.strip_prefix("    ").unwrap_or(line.trim_start());
            let starts_body = line.starts_with(['{', '[', '|', ':', '"']);
            if !block.body.is_empty() || starts_body {
                if let Some(text) = line.strip_prefix('|') {
                    let text = text.strip_prefix(' ').unwrap_or(text);
                    block.text = Some(text.to_owned());
                    block.body.push_str(text);
                } else {
                    block.body.push_str(line);
                }
                // Event streams are of lines; in JSON they do no harm.
                if block.keyword == "server" && block.text.is_some() {
                    block.body.push('\n');
                }
            } else if let Some((name, value)) = line.split_once(':') {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                block.headers.push((name, value));
            } else {
                return Err(fault(format!("`{line}` is neither a header nor a body")));
            }
        }
        let expects = |block: &Block| {
            block.keyword == "answer" || block.words.first().is_some_and(|word| word == "got")
        };
        match blocks.iter().any(expects) {
            true => Ok(Case { blocks }),
            false => Err("it expects nothing".to_owned()),
        }
    }
}
