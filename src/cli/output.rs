//! How commands print: tables for people, YAML and JSON for programs. Nothing is coloured.

use serde::Serialize;
use serde_json::Value;

use crate::protocol::text::hidden;

/// `-o` of most commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns.
    #[default]
    Table,
    /// More columns, where the command has them.
    Wide,
    /// Complete, as YAML.
    Yaml,
    /// Complete, as JSON.
    Json,
}

/// A command's failure: what went wrong, what to do next, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// Shown after `error: `.
    pub message: String,
    /// 1: the answer is no; 2: the command could not do its work.
    pub code: u8,
}

impl Failure {
    /// The command could not do its work (exit code 2).
    pub fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            code: 2,
        }
    }
}

/// Prints a value as YAML or JSON on standard output; each command prints its own tables.
///
/// # Errors
/// When it cannot be written.
pub fn print_data<T: Serialize>(value: &T, output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(value)
                .map_err(|error| Failure::new(error.to_string()))?;
            crate::protocol::text::plain_json(&text).into_owned() + "\n"
        }
        _ => {
            // Through JSON, so that both have the same keys in the same order.
            let value =
                serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))?;
            yaml(value, serde_saphyr::to_string)?
        }
    };
    print(&text)
}

/// Prints a manifest as YAML or JSON, with its keys in the order in which people write them.
///
/// # Errors
/// When it cannot be written.
pub fn print_manifest<T: Serialize>(value: &T, output: Output) -> Result<(), Failure> {
    print(&manifest(value, output)?)
}

/// A part of a manifest as YAML or JSON, with its keys in the order in which people write them.
///
/// # Errors
/// When it cannot be written.
pub fn manifest<T: Serialize>(value: &T, output: Output) -> Result<String, Failure> {
    let failed = |error: serde_json::Error| Failure::new(error.to_string());
    let value = serde_json::to_value(value).map_err(failed)?;
    let text = match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&AsWritten(&value)).map_err(failed)?;
            crate::protocol::text::plain_json(&text).into_owned() + "\n"
        }
        _ => yaml(value, |value| serde_saphyr::to_string(&AsWritten(value)))?,
    };
    Ok(text)
}

/// A value whose objects have the keys of manifests first, as people write them; others follow by
/// the alphabet.
struct AsWritten<'v>(&'v Value);

/// Keys of manifests, in the order in which people write them.
const WRITTEN: [&str; 32] = [
    "apiVersion",
    "group",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "targetRefs",
    "targetSelector",
    "mode",
    "defaultAction",
    "rules",
    "prompts",
    "resources",
    "tools",
    "names",
    "exceptNames",
    "uris",
    "exceptUris",
    "risks",
    "minSeverity",
    "callers",
    "exceptCallers",
    "when",
    "action",
    "limits",
    "counter",
    "max",
    "window",
    "scope",
    "approval",
    "reason",
];

impl Serialize for AsWritten<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => {
                let mut members: Vec<(&String, &Value)> = members.iter().collect();
                let place = |key: &str| {
                    WRITTEN
                        .iter()
                        .position(|known| *known == key)
                        .unwrap_or(WRITTEN.len())
                };
                members.sort_by_key(|(key, _)| (place(key), *key));
                serializer.collect_map(
                    members
                        .into_iter()
                        .map(|(key, value)| (key, AsWritten(value))),
                )
            }
            Value::Array(values) => serializer.collect_seq(values.iter().map(AsWritten)),
            value => value.serialize(serializer),
        }
    }
}

/// A value as YAML in which characters that a terminal interprets or does not show are escaped.
fn yaml(
    mut value: Value,
    write: impl Fn(&Value) -> Result<String, serde_saphyr::ser::Error>,
) -> Result<String, Failure> {
    let mut set_aside = SetAside {
        // Random, so that no author of the text can know it.
        mark: uuid::Uuid::new_v4().simple().to_string(),
        texts: Vec::new(),
    };
    set_aside.take(&mut value);
    let text = write(&value).map_err(|error| Failure::new(error.to_string()))?;
    Ok(set_aside.put_back(text))
}

/// Texts that only a double-quoted scalar can hold, while the rest is written as YAML.
struct SetAside {
    mark: String,
    texts: Vec<String>,
}

impl SetAside {
    fn take(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => self.take_text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.take(value)),
            Value::Object(members) => {
                for (mut key, mut value) in std::mem::take(members) {
                    self.take_text(&mut key);
                    self.take(&mut value);
                    members.insert(key, value);
                }
            }
            _ => {}
        }
    }

    fn take_text(&mut self, text: &mut String) {
        if text.chars().any(|c| c != '\n' && hidden(c)) {
            // A letter first and last: it is a plain scalar, and never a prefix of another text's
            // marker.
            let mark = format!("x{}n{}x", self.mark, self.texts.len());
            self.texts.push(std::mem::replace(text, mark));
        }
    }

    fn put_back(&self, mut yaml: String) -> String {
        for (number, text) in self.texts.iter().enumerate() {
            let mark = format!("x{}n{number}x", self.mark);
            yaml = yaml.replace(&mark, &double_quoted(text));
        }
        yaml
    }
}

/// A text as YAML's double-quoted scalar (YAML 1.2, section 5.7).
fn double_quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if hidden(c) && u32::from(c) > 0xffff => {
                out.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c if hidden(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A message without the numbers of the system's errors, which say nothing that its words do not.
pub fn without_numbers(mut message: String) -> String {
    while let Some(at) = message.find(" (os error ") {
        let end = message[at..]
            .find(')')
            .map_or(message.len(), |end| at + end + 1);
        message.replace_range(at..end, "");
    }
    message
}

/// Why a file or folder cannot be used, in words.
pub fn why(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        ErrorKind::PermissionDenied => {
            "this user may not use it; change its owner or its mode".to_owned()
        }
        ErrorKind::IsADirectory => "it is a folder; name a file in it".to_owned(),
        ErrorKind::NotADirectory => "a part of its path is a file and not a folder".to_owned(),
        ErrorKind::InvalidData => "it is not text in UTF-8".to_owned(),
        ErrorKind::AddrInUse => "another program listens there".to_owned(),
        ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        ErrorKind::StorageFull => "the disk is full".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        _ => without_numbers(error.to_string()),
    }
}

/// Writes to standard output. A reader that stops early, as `head` does, ends the program quietly.
///
/// # Errors
/// Any other failure.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(format!(
            "standard output cannot be written: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

/// Rows under headings, as kubectl prints them: no lines, at least two spaces between columns.
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| cut(&visible(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect();
    if rows.is_empty() {
        text.clear();
    }
    text
}

/// The maximum width of a cell; `-o yaml` has the complete text.
const CELL: usize = 120;

fn cut(cell: &str) -> String {
    match cell.char_indices().nth(CELL) {
        Some((at, _)) => format!("{}…", &cell[..at]),
        None => cell.to_owned(),
    }
}

/// A text from outside, made safe for a terminal: without control characters, invisible characters
/// and characters that change the text's direction.
pub fn visible(text: &str) -> String {
    let shown = |c| if hidden(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// [`visible`] for text of several lines.
pub fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// `1 server`, `2 servers`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A duration as `kubectl get` prints ages: `45s`, `12m`, `5h3m`, `3d`.
pub fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let shown: Vec<_> = [
            0, 119, 120, 125, 600, 10_799, 10_800, 10_860, 28_800, 172_800, 176_400, 900_000,
        ]
        .into_iter()
        .map(age)
        .collect();
        assert_eq!(
            shown,
            [
                "0s", "119s", "2m", "2m5s", "10m", "179m", "3h", "3h1m", "8h", "2d", "2d1h", "10d"
            ]
        );
    }

    #[test]
    fn yaml_says_the_same_and_shows_every_character() {
        let odd = [
            "a\u{202e}b",
            "\u{200b}",
            "x\u{1b}[2J",
            "tab\there",
            "\u{e0041}",
            "q\"\\\u{feff}\n two",
            "\r\n",
            "\u{ad}: x",
            "plain",
            "two\nlines\n",
            "- x: y",
            "",
            "é — 漢",
        ];
        let mut value = serde_json::json!({ "list": odd });
        for text in odd {
            value[text] = serde_json::json!([{ "value": text, "number": 1 }]);
        }
        let text = yaml(value.clone(), serde_saphyr::to_string).unwrap();
        let shown = |c: char| c == '\n' || !hidden(c);
        assert!(text.chars().all(shown), "{text}");
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
    }

    #[test]
    fn the_keys_of_a_manifest_come_in_the_order_in_which_people_write_them() {
        let policy = serde_json::json!({
            "spec": { "rules": [{ "action": "Deny", "when": "x", "tools": { "names": ["a"] }, "name": "r" }], "defaultAction": "Deny" },
            "metadata": { "name": "p" }, "kind": "McpPolicy", "apiVersion": "v", "other": 1
        });
        let text = serde_saphyr::to_string(&AsWritten(&policy)).unwrap();
        let keys: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim_start_matches([' ', '-']).split_once(':'))
            .map(|(key, _)| key)
            .collect();
        let expected = [
            "apiVersion",
            "kind",
            "metadata",
            "name",
            "spec",
            "defaultAction",
            "rules",
            "name",
            "tools",
            "names",
            "when",
            "action",
            "other",
        ];
        assert_eq!(keys, expected, "{text}");
    }

    #[test]
    fn a_long_cell_is_cut() {
        let rows = [vec!["é".repeat(1_000), "b".to_owned()]];
        let text = columns(&["Name", "Why"], &rows);
        assert!(
            text.ends_with("…  b\n") && text.chars().count() < 300,
            "{text}"
        );
    }

    #[test]
    fn a_table_has_no_lines_and_no_control_characters() {
        let text = columns(
            &["Name", "Why"],
            &[vec!["a".to_owned(), "x\u{1b}[31m".to_owned()]],
        );
        assert_eq!(text, "NAME  WHY\na     x\u{fffd}[31m\n");
    }
}
