//! What a tool that only reads says of the state that an approved call changes.
//!
//! In: a result of that tool, and how the rule wants it read. Out: what a person is shown of it,
//! and a digest that two results share exactly if they show the same state. Pure. Must not do: call
//! the tool; the gateway does.

use super::canonical::sha256;
use super::preview::{MAX_PREVIEW, hide_all, misleading_escaped, written_in_order};
pub use crate::api::approval::Observed;
use crate::json;

/// How the result of an observation is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// A result with `isError` is the state, not a failure.
    pub shows_tool_errors: bool,
    /// JSON pointers to what is neither shown nor compared.
    pub ignore: Vec<String>,
    /// JSON pointers to what is compared and not shown.
    pub redact: Vec<String>,
}

/// The members of a `tools/call` result that say something, as raw JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToolResult<'a> {
    /// `content`.
    pub content: Option<&'a str>,
    /// `structuredContent`.
    pub structured: Option<&'a str>,
    /// `isError`.
    pub is_error: bool,
}

/// Why a result shows no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoState {
    /// The tool says that it failed.
    #[error("it answered with an error: {0}")]
    ToolError(String),
    /// There is nothing in it.
    #[error("its result is empty")]
    Empty,
    /// A person cannot be shown it.
    #[error("its result holds {0}, which a person cannot be shown")]
    NotText(String),
    /// It is not what MCP says.
    #[error("its result cannot be read: {0}")]
    Malformed(String),
}

/// Bytes of a tool's error that a message repeats.
const MAX_ERROR: usize = 200;

impl Reading {
    /// The state that a result of `tool` shows.
    ///
    /// # Errors
    /// [`NoState`]: then there is nothing to approve a change of.
    pub fn state(&self, tool: &str, result: ToolResult<'_>) -> Result<Observed, NoState> {
        let source = if result.is_error {
            let said = texts(result.content)?;
            if !self.shows_tool_errors {
                return Err(NoState::ToolError(beginning(&said.join(" "))));
            }
            format!(r#"{{"isError":{}}}"#, as_json(&said)?)
        } else {
            match result.structured.filter(|raw| *raw != "null") {
                Some(structured) => unwrapped(structured)?,
                None => as_json(&texts(result.content)?)?,
            }
        };
        let mut value = json::parse(source.as_bytes()).map_err(malformed)?;
        for pointer in &self.ignore {
            remove(&mut value, &steps(pointer));
        }
        let digest = hex::encode(sha256(json::canonical(&value).as_bytes()));
        hide_all(&mut value, &self.redact);
        Ok(Observed {
            tool: tool.to_owned(),
            preview: shortened(misleading_escaped(&written_in_order(&value))),
            digest: format!("sha256:{digest}"),
        })
    }
}

fn malformed(error: json::Error) -> NoState {
    NoState::Malformed(error.to_string())
}

/// The text of each block of content.
fn texts(content: Option<&str>) -> Result<Vec<String>, NoState> {
    let value = json::parse(content.unwrap_or("[]").as_bytes()).map_err(malformed)?;
    let blocks = value
        .as_array()
        .ok_or_else(|| NoState::Malformed("content is not a list".to_owned()))?;
    let text = |block: &json::Value<'_>| match block.get("type").and_then(json::Value::as_str) {
        Some("text") => block
            .get("text")
            .and_then(json::Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| NoState::Malformed("a text block has no text".to_owned())),
        Some(kind) => Err(NoState::NotText(format!(
            "a block of type {}",
            beginning(kind)
        ))),
        None => Err(NoState::Malformed("a block has no type".to_owned())),
    };
    blocks.iter().map(text).collect()
}

/// Texts as one JSON document: text that is itself a document stands for that document.
fn as_json(texts: &[String]) -> Result<String, NoState> {
    let one = |text: &String| match is_document(text) {
        true => text.clone(),
        false => json::quoted(text),
    };
    match texts {
        [] => Err(NoState::Empty),
        [only] => Ok(one(only)),
        several => {
            let all: Vec<String> = several.iter().map(one).collect();
            Ok(format!("[{}]", all.join(",")))
        }
    }
}

/// Whether a text is an object or a list, and nothing in it reads in two ways.
fn is_document(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
        && json::parse(text.as_bytes())
            .is_ok_and(|value| value.as_object().is_some() || value.as_array().is_some())
}

/// Structured content without what frameworks put around a value that is not an object:
/// `{"result": …}`, in which a document may stand as text.
fn unwrapped(structured: &str) -> Result<String, NoState> {
    let value = json::parse(structured.as_bytes()).map_err(malformed)?;
    let members = value
        .as_object()
        .ok_or_else(|| NoState::Malformed("structuredContent is not an object".to_owned()))?;
    let [(key, inner)] = members else {
        return Ok(structured.to_owned());
    };
    if key != "result" {
        return Ok(structured.to_owned());
    }
    Ok(match inner.as_str() {
        Some(text) if is_document(text) => text.to_owned(),
        _ => written_in_order(inner),
    })
}

fn steps(pointer: &str) -> Vec<String> {
    let steps = pointer.split('/').skip(1);
    steps
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect()
}

/// Takes out what a path leads to, by its very name: what is not found is compared.
fn remove(value: &mut json::Value<'_>, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match value {
        json::Value::Object(members) if rest.is_empty() => members.retain(|(key, _)| key != step),
        json::Value::Object(members) => {
            for (key, member) in members {
                if key == step {
                    remove(member, rest);
                }
            }
        }
        json::Value::Array(items) => {
            if let Some(item) = step.parse::<usize>().ok().and_then(|at| items.get_mut(at)) {
                if rest.is_empty() {
                    *item = json::Value::Null;
                } else {
                    remove(item, rest);
                }
            }
        }
        _ => {}
    }
}

/// The beginning of a tool's own words, on one line.
fn beginning(text: &str) -> String {
    let one_line: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    let escaped = misleading_escaped(&one_line);
    match cut(&escaped, MAX_ERROR) {
        whole if whole.len() == escaped.len() => escaped,
        part => format!("{part}…"),
    }
}

/// A preview that fits, with what is missing from it.
fn shortened(text: String) -> String {
    if text.len() <= MAX_PREVIEW {
        return text;
    }
    let rest = format!(
        "… ({} bytes in all; the digest is of all of it)",
        text.len()
    );
    format!("{}{rest}", cut(&text, MAX_PREVIEW - rest.len()))
}

fn cut(text: &str, most: usize) -> &str {
    let mut at = most.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.get(..at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structured(raw: &str) -> ToolResult<'_> {
        ToolResult {
            structured: Some(raw),
            ..ToolResult::default()
        }
    }

    fn content(raw: &str) -> ToolResult<'_> {
        ToolResult {
            content: Some(raw),
            ..ToolResult::default()
        }
    }

    fn state(result: ToolResult<'_>) -> Observed {
        Reading::default().state("t", result).unwrap()
    }

    #[test]
    fn one_state_has_one_digest_however_a_server_writes_it() {
        let first = state(structured(r#"{"version":"6","name":"churn"}"#));
        assert_eq!(first.preview, r#"{"version":"6","name":"churn"}"#);
        for same in [
            structured(r#"{ "name" : "churn", "version":"\u0036" }"#),
            structured(r#"{"result":{"name":"churn","version":"6"}}"#),
            structured(r#"{"result":"{\"name\":\"churn\",\"version\":\"6\"}"}"#),
            content(r#"[{"type":"text","text":"{\n \"name\": \"churn\", \"version\": \"6\"}"}]"#),
            ToolResult {
                content: Some(r#"[{"type":"text","text":"for people"}]"#),
                ..structured(r#"{"name":"churn","version":"6"}"#)
            },
        ] {
            assert_eq!(state(same).digest, first.digest, "{same:?}");
        }
        for other in [
            structured(r#"{"name":"churn","version":"7"}"#),
            structured(r#"{"name":"churn","version":6}"#),
            structured(r#"{"name":"churn"}"#),
            structured(r#"{"name":"churn","version":"6","x":null}"#),
            structured(r#"{"result":{"name":"churn","version":"6"},"more":1}"#),
            content(r#"[{"type":"text","text":"6"}]"#),
        ] {
            assert_ne!(state(other).digest, first.digest, "{other:?}");
        }
    }

    #[test]
    fn what_shows_no_state_is_an_error_in_words() {
        let reading = Reading::default();
        let why = |result| reading.state("t", result).unwrap_err().to_string();
        let failed = ToolResult {
            is_error: true,
            ..content(r#"[{"type":"text","text":"alias\nchampion \u202enot found"}]"#)
        };
        assert_eq!(
            why(failed),
            "it answered with an error: alias champion \\u202enot found"
        );
        assert_eq!(why(ToolResult::default()), "its result is empty");
        assert_eq!(why(content("[]")), "its result is empty");
        assert_eq!(
            why(content(r#"[{"type":"image","data":"AAAA"}]"#)),
            "its result holds a block of type image, which a person cannot be shown"
        );
        for malformed in [
            content("{}"),
            content(r#"[{"text":"x"}]"#),
            content(r#"[{"type":"text"}]"#),
            structured("[1]"),
            structured(r#"{"a":1,"a":2}"#),
        ] {
            assert!(
                why(malformed).starts_with("its result cannot be read: "),
                "{malformed:?}"
            );
        }
        // A rule may take the error for the state, and it differs from a result of the same words.
        let shows = Reading {
            shows_tool_errors: true,
            ..Reading::default()
        };
        let shown = shows.state("t", failed).unwrap();
        assert_eq!(
            shown.preview,
            r#"{"isError":"alias\nchampion \u202enot found"}"#
        );
        let plain = ToolResult {
            is_error: false,
            ..failed
        };
        assert_ne!(shows.state("t", plain).unwrap().digest, shown.digest);
    }

    #[test]
    fn ignored_members_are_not_compared_and_redacted_ones_are_compared_and_not_shown() {
        let reading = Reading {
            shows_tool_errors: false,
            ignore: vec![
                "/at".to_owned(),
                "/list/0/seen".to_owned(),
                "/none".to_owned(),
            ],
            redact: vec!["/token".to_owned()],
        };
        let at = |at: &str, seen: u8, token: &str| {
            let raw =
                format!(r#"{{"at":"{at}","list":[{{"seen":{seen},"v":1}}],"token":"{token}"}}"#);
            reading.state("t", structured(&raw)).unwrap()
        };
        let first = at("now", 1, "hush");
        assert_eq!(first.preview, r#"{"list":[{"v":1}],"token":"[redacted]"}"#);
        assert_eq!(first, at("later", 2, "hush"));
        assert_ne!(first.digest, at("now", 1, "other").digest);
    }

    #[test]
    fn a_long_result_is_shown_by_its_beginning_and_compared_whole() {
        let long = |end: &str| {
            let raw = format!(r#"{{"a":"{}{end}"}}"#, "é".repeat(5_000));
            state(structured(&raw))
        };
        let (one, other) = (long("x"), long("y"));
        assert!(one.preview.len() <= MAX_PREVIEW && one.preview.len() > MAX_PREVIEW - 4);
        assert!(
            one.preview
                .ends_with("… (10009 bytes in all; the digest is of all of it)")
        );
        assert_eq!(one.preview, other.preview);
        assert_ne!(one.digest, other.digest);
    }
}
