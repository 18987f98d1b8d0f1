//! Finds the lines of a decision in audit logs.
//!
//! In: files with lines of the audit log, as a gateway or a log collector wrote them, and a
//! decision id or its beginning. Out: the lines of that decision, each with its place, and the
//! places of lines that name it and cannot be used. Must not do: hold more than the lines that were
//! asked for, or take a line of the audit log out of the middle of other text: what a server prints
//! is in operational logs too, and could be a line of the audit log word for word.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::output::{Failure, visible, why};

/// The longest line that is read. The gateway writes none that is longer: it reads no request of
/// this size.
const MAX_LINE_BYTES: usize = 64 << 20;
/// The shortest beginning of an id that is looked for.
const MIN_PREFIX: usize = 6;
/// This many ids are listed where several begin alike.
const MAX_IDS: usize = 8;
/// This many lines are kept of one decision.
const MAX_LINES: usize = 64;
/// This many places are named of lines that cannot be used.
const MAX_PLACES: usize = 3;

/// A line of the audit log. docs/audit.schema.json describes the members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuditLine {
    pub v: u64,
    pub time: String,
    pub decision_id: String,
    pub event: String,
    pub server: String,
    pub grant: Option<String>,
    pub session: Option<String>,
    pub method: Option<String>,
    pub tool: Option<String>,
    pub outcome: Option<String>,
    pub policy: Option<String>,
    pub rule: Option<String>,
    pub reason: Option<String>,
    #[serde(default)]
    pub near: Vec<String>,
    pub enforced: Option<bool>,
    pub approval: Option<String>,
    pub approval_state: Option<String>,
    pub retry_after_ms: Option<u64>,
    pub arguments: Option<Box<RawValue>>,
    pub arguments_omitted: Option<u64>,
    pub revision: Option<String>,
    pub trace_id: Option<String>,
    pub upstream: Option<UpstreamEnd>,
    pub step: Option<String>,
    pub by: Option<String>,
    #[serde(default)]
    pub approvers: Vec<String>,
    pub status: Option<u16>,
    pub address: Option<String>,
    pub suppressed: Option<u64>,
    pub window_seconds: Option<u64>,
}

/// How a forwarded call ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamEnd {
    pub status: String,
    pub latency_ms: u64,
}

/// A line and its place.
#[derive(Debug, Serialize)]
pub(super) struct FoundLine {
    pub file: String,
    /// From 1.
    pub number: u64,
    /// What a log collector wrote before it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub behind: String,
    /// The line as it was written.
    pub record: Box<RawValue>,
    #[serde(skip)]
    pub line: AuditLine,
}

impl FoundLine {
    /// `FILE:NUMBER`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.number)
    }
}

/// Lines that name the decision and were not used.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    places: Vec<String>,
    count: u64,
}

impl Unusable {
    fn add(&mut self, file: &str, number: u64, why: &str) {
        self.count += 1;
        if self.places.len() < MAX_PLACES {
            self.places.push(format!("{file}:{number} ({why})"));
        }
    }

    /// One sentence about them, if there are some.
    pub fn note(&self) -> Option<String> {
        let more = match self.count.checked_sub(self.places.len() as u64) {
            None | Some(0) => String::new(),
            Some(more) => format!(", and {more} more"),
        };
        (self.count > 0).then(|| {
            format!(
                "these lines name it too and were not used: {}{more}",
                self.places.join(", ")
            )
        })
    }
}

/// The lines of one decision.
#[derive(Debug)]
pub(super) struct DecisionLines {
    /// Its whole id.
    pub id: String,
    /// In the order of the files.
    pub lines: Vec<FoundLine>,
    pub unusable: Unusable,
}

/// Finds the lines of the decision with that id, or whose id is the only one that begins so.
///
/// # Errors
/// When a file cannot be read, and when there is no such decision, or more than one.
pub(super) fn find(id: &str, files: &[PathBuf]) -> Result<DecisionLines, Failure> {
    // As an agent quotes it, at the end of a sentence.
    let id = id.trim().trim_end_matches('.');
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Failure::new(
            "--decision: an id has letters, digits and hyphens, such as 4cbdc2f09d42-31; copy it from the answer or from a line of the log",
        ));
    }
    if id.len() < MIN_PREFIX {
        return Err(Failure::new(format!(
            "--decision: `{id}` is too short; write at least the first {MIN_PREFIX} characters of the id"
        )));
    }
    let mut exact = Vec::new();
    let mut alike: BTreeMap<String, Vec<FoundLine>> = BTreeMap::new();
    let mut more = false;
    let mut unusable = Unusable::default();
    for_each(files, id, &mut unusable, |found| {
        if found.line.decision_id == id {
            keep(&mut exact, found);
        } else if found.line.decision_id.starts_with(id) {
            let room = alike.len() < MAX_IDS;
            match alike.get_mut(&found.line.decision_id) {
                Some(lines) => keep(lines, found),
                None if room => {
                    alike.insert(found.line.decision_id.clone(), vec![found]);
                }
                None => more = true,
            }
        }
    })?;
    let searched = || {
        let names: Vec<String> = files.iter().map(|file| name_of(file)).collect();
        names.join(", ")
    };
    let hint = unusable
        .note()
        .map_or_else(String::new, |note| format!("; {note}"));
    if exact.is_empty() {
        if alike.len() > 1 {
            let ids: Vec<&str> = alike.keys().map(String::as_str).collect();
            return Err(Failure {
                message: format!(
                    "several decisions begin with `{id}`: {}{}; write more of the id",
                    ids.join(", "),
                    if more { " and others" } else { "" }
                ),
                code: 1,
            });
        }
        if let Some((id, lines)) = alike.pop_first() {
            return Ok(DecisionLines {
                id,
                lines,
                unusable,
            });
        }
        return Err(Failure {
            message: format!(
                "no line of {} is of the decision `{id}`{hint}; name the log of every gateway of the server, and the rotated files \
                 too, each with --audit",
                searched()
            ),
            code: 1,
        });
    }
    Ok(DecisionLines {
        id: id.to_owned(),
        lines: exact,
        unusable,
    })
}

/// The steps of an approval, whichever decision they belong to.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn steps(approval: &str, files: &[PathBuf]) -> Result<Vec<FoundLine>, Failure> {
    let mut steps = Vec::new();
    for_each(files, approval, &mut Unusable::default(), |found| {
        if found.line.event == "approval" && found.line.approval.as_deref() == Some(approval) {
            keep(&mut steps, found);
        }
    })?;
    Ok(steps)
}

/// Keeps a line, once: a file may be given twice, and a collector may deliver twice.
fn keep(lines: &mut Vec<FoundLine>, found: FoundLine) {
    let known = lines
        .iter()
        .any(|line| line.record.get() == found.record.get());
    if lines.len() < MAX_LINES && !known {
        lines.push(found);
    }
}

fn name_of(file: &Path) -> String {
    match file.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => visible(&file.display().to_string()),
    }
}

/// Calls `each` for every line of the audit log that holds a text.
fn for_each(
    files: &[PathBuf],
    text: &str,
    unusable: &mut Unusable,
    mut each: impl FnMut(FoundLine),
) -> Result<(), Failure> {
    for file in files {
        let name = name_of(file);
        let failed =
            |error: std::io::Error| Failure::new(format!("{name} cannot be read: {}", why(&error)));
        let mut reader: Box<dyn BufRead> = if file.to_str() == Some("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(BufReader::with_capacity(
                1 << 20,
                std::fs::File::open(file).map_err(failed)?,
            ))
        };
        let begin = reader.fill_buf().map_err(failed)?;
        if begin.starts_with(&[0x1f, 0x8b]) || begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(Failure::new(format!(
                "{name} is compressed; decompress it on the way: `zcat FILE | portcullis explain --decision ID --audit -`, or zstdcat"
            )));
        }
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let limit = MAX_LINE_BYTES as u64;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
            if read.map_err(failed)? == 0 {
                break;
            }
            if line.len() == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                skip_line(&mut reader).map_err(failed)?;
                continue;
            }
            let Ok(whole) = std::str::from_utf8(&line) else {
                continue;
            };
            if !whole.contains(text) {
                continue;
            }
            match read_line(whole.trim()) {
                Ok(Some((behind, record, line))) => each(FoundLine {
                    file: name.clone(),
                    number,
                    behind,
                    record,
                    line,
                }),
                Ok(None) => {}
                Err(reason) => unusable.add(&name, number, reason),
            }
        }
    }
    Ok(())
}

/// Reads past the end of a line.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, done) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if done {
            return Ok(());
        }
    }
}

type ReadLine = (String, Box<RawValue>, AuditLine);

/// Reads a line of the audit log, also in the forms in which log collectors keep it: behind a time
/// or the name of a pod, or as a text in a JSON object. None for another line; the error says why a
/// line that may be one cannot be used.
fn read_line(whole: &str) -> Result<Option<ReadLine>, &'static str> {
    if whole.starts_with('{') {
        if let Some((record, line)) = parse(whole) {
            return Ok(Some((String::new(), record, line)));
        }
        return wrapped(whole);
    }
    let Some(at) = whole.find("{\"v\":") else {
        // An operational log that names the decision.
        return Ok(None);
    };
    let (behind, text) = whole.split_at(at);
    if !by_collector(behind.trim()) {
        return Err("there is other text before the record");
    }
    match parse(text) {
        Some((record, line)) => Ok(Some((behind.trim().to_owned(), record, line))),
        None => Err("the record is cut or was changed"),
    }
}

fn parse(text: &str) -> Option<(Box<RawValue>, AuditLine)> {
    // No two readers may see two lines in it.
    crate::json::check(text.as_bytes()).ok()?;
    let line = serde_json::from_str(text).ok()?;
    Some((RawValue::from_string(text.to_owned()).ok()?, line))
}

/// A line as a text in the JSON object of a container runtime, of journald or of a collector.
fn wrapped(whole: &str) -> Result<Option<ReadLine>, &'static str> {
    let Ok(value) = crate::json::parse(whole.as_bytes()) else {
        return Err("it is not whole JSON");
    };
    if value.get("stream").and_then(|stream| stream.as_str()) == Some("stderr") {
        return Ok(None);
    }
    for key in ["log", "message", "MESSAGE", "msg"] {
        let Some(text) = value.get(key).and_then(|text| text.as_str()) else {
            continue;
        };
        if let Some((record, line)) = parse(text.trim()) {
            return Ok(Some((String::new(), record, line)));
        }
    }
    Err("it is not a line of the audit log")
}

/// Whether a text is all that a log collector writes before a line: the prefix of `kubectl logs
/// --prefix` or `--timestamps`, of a container runtime, of syslog or journald.
fn by_collector(behind: &str) -> bool {
    let mut words: Vec<&str> = behind.split_whitespace().collect();
    if words
        .first()
        .is_some_and(|first| first.starts_with("[pod/") && first.ends_with(']'))
    {
        words.remove(0);
    }
    let is_time = |word: &str| word.parse::<Timestamp>().is_ok();
    let is_program = |word: &str| {
        let name = word
            .strip_suffix("]:")
            .and_then(|word| word.split_once('['));
        name.is_some_and(|(name, id)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            name.bytes().all(plain) && id.bytes().all(|b| b.is_ascii_digit())
        })
    };
    match words[..] {
        [] => true,
        [time] => is_time(time),
        [time, "stdout", "F"] => is_time(time),
        [time, _host, program] => is_time(time) && is_program(program),
        [month, day, clock, _host, program] => {
            month.len() == 3
                && month.bytes().all(|b| b.is_ascii_alphabetic())
                && day.parse::<u8>().is_ok()
                && clock.len() == 8
                && clock.bytes().all(|b| b.is_ascii_digit() || b == b':')
                && is_program(program)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
