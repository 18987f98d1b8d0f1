//! `portcullis catalog [TOOL]`: the built-in data about the tools of the known MLflow MCP servers.
//!
//! In: the name of a tool, or nothing. Out: a table, YAML or JSON; `docs/tools.md` comes from the
//! same data. Must not do: ask a server.

use crate::{
    api::policy::Rule,
    catalog::{self, Entry, Recommended, Server},
};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// Print the built-in risk classes of MLflow MCP tools, with the rule that is recommended for each.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// One tool; without it, all of them.
    pub tool: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For scripts.
    Yaml,
    /// For scripts.
    Json,
}

/// Why the command printed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No known server has a tool of that name.
    #[error(
        "no known MLflow MCP server has a tool `{name}`{hint}; `portcullis catalog` lists them all"
    )]
    UnknownTool {
        /// The requested name.
        name: String,
        /// The most similar name, if one is similar.
        hint: String,
    },
    /// The data could not be written in this form.
    #[error("cannot write the catalogue: {0}")]
    Format(String),
    /// The output could not be written to.
    #[error("cannot write the catalogue to the output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the catalogue, or one tool of it, to `out`.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let entries: Vec<&Entry> = match &args.tool {
        None => catalog::all().iter().collect(),
        Some(name) => catalog::lookup(name).collect(),
    };
    if let (Some(name), true) = (&args.tool, entries.is_empty()) {
        return Err(Error::UnknownTool {
            name: name.chars().take(80).collect(),
            hint: nearest(name),
        });
    }
    let text = match (args.output, &args.tool) {
        (Format::Json, _) => {
            serde_json::to_string_pretty(&rows(&entries))
                .map_err(|e| Error::Format(e.to_string()))?
                + "\n"
        }
        (Format::Yaml, _) => yaml(&rows(&entries))?,
        (Format::Table, None) => table(&entries),
        (Format::Table, Some(_)) => details(&entries)?,
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// An entry as scripts get it: with the recommended rule spelled out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    recommended_rule: Rule,
}

fn rows<'a>(entries: &[&'a Entry]) -> Vec<Row<'a>> {
    entries
        .iter()
        .map(|entry| Row {
            entry,
            recommended_rule: entry.recommended.rule(entry.name),
        })
        .collect()
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    // Through a value, so that keys come out sorted.
    let value = serde_json::to_value(value).map_err(|e| Error::Format(e.to_string()))?;
    serde_saphyr::to_string(&value).map_err(|e| Error::Format(e.to_string()))
}

fn table(entries: &[&Entry]) -> String {
    let headings = ["TOOL", "SERVER", "RISK", "SEVERITY", "RECOMMENDED"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(headings)
        .chain(entries.iter().map(|entry| {
            [
                entry.name.to_owned(),
                entry.server.to_string(),
                entry.risk.to_string(),
                entry.severity.to_string(),
                entry.recommended.to_string(),
            ]
        }))
        .collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn details(entries: &[&Entry]) -> Result<String, Error> {
    let mut text = String::new();
    for entry in entries {
        let inputs = if entry.properties.is_empty() {
            "none".to_owned()
        } else {
            entry.properties.join(", ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} ({})", entry.name, entry.server.release());
        let _ = writeln!(
            text,
            "  Risk:         {}, severity {}",
            entry.risk, entry.severity
        );
        let _ = writeln!(text, "  Why:          {}", entry.why);
        let _ = writeln!(text, "  Inputs:       {inputs}");
        let _ = writeln!(text, "  Recommended:  {}", entry.recommended);
        text.push_str("  As a rule of an McpPolicy:\n");
        for line in yaml(&[entry.recommended.rule(entry.name)])?.lines() {
            let _ = writeln!(text, "    {line}");
        }
        text.push('\n');
    }
    text.pop();
    Ok(text)
}

/// ` (did you mean …?)` if a name is at most a third of its letters away.
fn nearest(name: &str) -> String {
    if name.len() > 80 {
        return String::new();
    }
    catalog::all()
        .iter()
        .map(|entry| (strsim::levenshtein(name, entry.name), entry.name))
        .min()
        .filter(|(distance, known)| distance * 3 <= known.len())
        .map_or_else(String::new, |(_, known)| {
            format!(" (did you mean `{known}`?)")
        })
}

/// `docs/tools.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Tools of the MLflow MCP servers\n\n\
         Generated from the built-in catalogue; `portcullis catalog` prints the same, and `portcullis catalog TOOL` also the\n\
         recommended rule as YAML. An McpServer's `tools` override a class, `catalog: None` switches the catalogue off.\n\n\
         A tool that is not in the catalogue is *Unclassified*: rules that hide, deny or ask for approval by risk or severity\n\
         match it, rules that allow do not. A tool whose inputs differ from those here is reported as drifted. What a server\n\
         says about its own tools (`readOnlyHint` and the like) is never used to lower a class.\n",
    );
    for server in Server::ALL {
        let entries: Vec<&Entry> = catalog::all()
            .iter()
            .filter(|e| e.server == server)
            .collect();
        let count = |wanted: &dyn Fn(Recommended) -> bool| {
            entries.iter().filter(|e| wanted(e.recommended)).count()
        };
        let hidden = count(&|r| r == Recommended::Hide);
        let _ = write!(
            text,
            "\n## `{}`\n\n{} tools, read off {}. Under the recommended policy {} are visible and {} hidden; of the visible ones\n\
             {} are free and {} limited, {} of those held for approval.\n\n\
             | tool | risk | severity | why | recommended |\n|---|---|---|---|---|\n",
            server.as_str(),
            entries.len(),
            server.release(),
            entries.len() - hidden,
            hidden,
            count(&|r| r == Recommended::Allow),
            count(&|r| r.counter().is_some()),
            count(&|r| r == Recommended::Approve),
        );
        for entry in entries {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                entry.name, entry.risk, entry.severity, entry.why, entry.recommended
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(tool: Option<&str>, output: Format) -> Result<String, Error> {
        let mut out = Vec::new();
        run(
            &Args {
                tool: tool.map(str::to_owned),
                output,
            },
            &mut out,
        )?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn all_tools_are_rows_of_a_table() {
        let text = printed(None, Format::Table).unwrap();
        assert_eq!(text.lines().count(), 1 + 85);
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["TOOL", "SERVER", "RISK", "SEVERITY", "RECOMMENDED"]
        );
        assert!(text.lines().any(|line| {
            line.split_whitespace().collect::<Vec<_>>().join(" ")
                == "set_experiment_tag mlflow-mcp Write Medium Allow, 30 per 1m (tags)"
        }));
    }

    #[test]
    fn one_tool_is_explained_with_its_rule() {
        let text = printed(Some("set_model_alias"), Format::Table).unwrap();
        for part in [
            "set_model_alias (mlflow-mcp 0.4.1)",
            "Write, severity High",
            "alias, name, version",
            "action: RequireApproval",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_name_of_both_servers_shows_both_forms() {
        let json: serde_json::Value =
            serde_json::from_str(&printed(Some("delete_run"), Format::Json).unwrap()).unwrap();
        let servers: Vec<&str> = json
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["server"].as_str().unwrap())
            .collect();
        assert_eq!(servers, ["mlflow-mcp", "mlflow mcp run"]);
        let yaml: serde_json::Value =
            serde_saphyr::from_str(&printed(Some("delete_run"), Format::Yaml).unwrap()).unwrap();
        assert_eq!(yaml, json);
    }

    #[test]
    fn an_unknown_tool_is_an_error_that_names_the_nearest() {
        let error = printed(Some("get_run_metic"), Format::Table)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no known MLflow MCP server has a tool `get_run_metic` (did you mean `get_run_metric`?); `portcullis catalog` lists them all"
        );
        let error = printed(Some("send_email"), Format::Json)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no known MLflow MCP server has a tool `send_email`; `portcullis catalog` lists them all"
        );
    }
}
