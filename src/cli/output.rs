//! How commands print: tables for people, YAML and JSON for programs. Nothing is coloured.

use serde::Serialize;

/// `-o` of most commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns.
    #[default]
    Table,
    /// More columns, where the command has them.
    Wide,
    /// The whole, as YAML.
    Yaml,
    /// The whole, as JSON.
    Json,
}

/// A command's failure: what went wrong and what to do, and the exit code.
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

/// Prints a value as YAML or JSON on standard output; tables are the command's own.
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
            // By way of JSON, so that both have the same keys in the same order.
            let value =
                serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))?;
            serde_saphyr::to_string(&value).map_err(|error| Failure::new(error.to_string()))?
        }
    };
    print(&text)
}

/// Writes to standard output. A reader that has gone, as `head` does, ends the program quietly.
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

/// Rows under headings, in kubectl's manner: no lines, two spaces at least between columns.
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
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

/// A text that came from elsewhere, as a terminal may show it: no control characters, none that change direction.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                '\u{fffd}'
            }
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
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
    fn a_table_has_no_lines_and_no_control_characters() {
        let text = columns(
            &["Name", "Why"],
            &[vec!["a".to_owned(), "x\u{1b}[31m".to_owned()]],
        );
        assert_eq!(text, "NAME  WHY\na     x\u{fffd}[31m\n");
    }
}
