//! The audit log: one JSON line for each decision, on standard output or in a file.
//!
//! Callers only append to a buffer; a thread of its own writes. When the reader of the log falls so far behind that the
//! buffer is full, new requests wait for room ([`AuditLog::room`]) before they are decided: a call that cannot be recorded is
//! not let through unrecorded. What is decided already is always taken, so that no thread is ever held up. Under load the
//! thread takes many lines at once: waking it for each would cost more than all the rest of recording.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::json;
use crate::protocol::text;

/// Beyond this many unwritten bytes requests wait for the writer.
const BUFFER: usize = 8 << 20;
/// Beyond this many the writer does not wait for more.
const PLENTY: usize = 64 << 10;
/// After a write the writer lets lines gather for this long.
const GATHER: Duration = Duration::from_millis(5);
/// A line is seldom longer.
const LINE: usize = 512;
/// At the end, the writer gets this long to write what is left.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Names come from callers: no more bytes of one than this are recorded.
const NAME: usize = 1_024;
/// No more names of arguments than this are recorded.
const KEYS: usize = 256;

/// One decision as it is recorded. Times are RFC 3339 in UTC, durations milliseconds. Never holds a credential.
#[derive(Debug)]
pub struct Record<'a> {
    /// When the decision was made.
    pub time: Timestamp,
    /// Names this decision; unique for this gateway.
    pub decision_id: DecisionId<'a>,
    /// `namespace/name` of the McpServer.
    pub server: &'a str,
    /// The caller's grant.
    pub grant: &'a str,
    /// The session's id inside the gateway (not the token that the client holds), if there is one.
    pub session: Option<&'a str>,
    /// The MCP method.
    pub method: &'a str,
    /// The tool, prompt or resource.
    pub tool: Option<&'a str>,
    /// What became of it.
    pub outcome: &'static str,
    /// The policy whose rule decided.
    pub policy: Option<&'a str>,
    /// The rule that decided.
    pub rule: Option<&'a str>,
    /// False for a shadow decision: recorded, not carried out.
    pub enforced: bool,
    /// The approval that the call asked for or used.
    pub approval: Option<&'a str>,
    /// Milliseconds until the exhausted limit admits the call.
    pub retry_after_ms: Option<u64>,
    /// As `spec.audit.arguments` says: the argument names, or all of the redacted arguments.
    pub arguments: Option<Arguments<'a>>,
    /// What the upstream made of it, if it was asked.
    pub upstream: Option<UpstreamOutcome>,
    /// The revision of the bundle that decided.
    pub revision: &'a str,
    /// The W3C trace id, when the caller sent one.
    pub trace_id: Option<&'a str>,
}

/// Names one decision: the run of the gateway that made it, and a number.
#[derive(Clone, Copy, Debug)]
pub struct DecisionId<'a> {
    /// Names the run.
    pub instance: &'a str,
    /// Counts within it.
    pub number: u64,
}

impl fmt::Display for DecisionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.number)
    }
}

/// The arguments of a recorded call.
#[derive(Debug)]
pub enum Arguments<'a> {
    /// Only their names.
    Keys(Vec<Cow<'a, str>>),
    /// The redacted whole, as JSON.
    Full(Box<RawValue>),
}

/// How the upstream's part of a call ended.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamOutcome {
    /// `result`, `toolError`, `error`, `timeout`, `unreachable`, `broken` or `abandoned`.
    pub status: &'static str,
    /// From sending the request to its answer.
    pub latency_ms: u64,
}

/// Where decisions are recorded. Clones share one writer.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
}

/// Writes what is left and ends the writer when dropped.
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    full: AtomicBool,
    room: Notify,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// The writer waits for the first line, or for plenty.
    wanted: Option<usize>,
    closed: bool,
}

impl AuditLog {
    /// Starts the writer. `sinks` get every line; one that fails is reported once on the log and left out from then on.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(sinks: Vec<Box<dyn Write + Send>>) -> std::io::Result<(AuditLog, AuditWriter)> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.write_to(sinks))?;
        let log = AuditLog {
            shared: Arc::clone(&shared),
        };
        Ok((
            log,
            AuditWriter {
                shared,
                thread: Some(thread),
            },
        ))
    }

    /// Records one decision.
    pub fn record(&self, record: &Record<'_>) {
        // Written aside, so that others wait for no more than a copy.
        let line = Line::of(record);
        let mut state = self.shared.lock();
        state.buffer.extend_from_slice(line.as_bytes());
        if state.buffer.len() > BUFFER {
            self.shared.full.store(true, Ordering::SeqCst);
        }
        if state
            .wanted
            .is_some_and(|bytes| state.buffer.len() >= bytes)
        {
            state.wanted = None;
            drop(state);
            self.shared.filled.notify_one();
        }
    }

    /// Waits while too much is unwritten.
    pub async fn room(&self) {
        while self.shared.full.load(Ordering::SeqCst) {
            let mut written = std::pin::pin!(self.shared.room.notified());
            // Listens from here on, so that what is written before the next look is not missed.
            written.as_mut().enable();
            if self.shared.full.load(Ordering::SeqCst) {
                written.await;
            }
        }
    }
}

/// A record as it is written: by hand, because every call pays for it.
struct Line {
    text: String,
    /// Holds characters that a terminal would act on.
    strange: bool,
}

impl Line {
    fn of(record: &Record<'_>) -> String {
        let mut line = Line {
            text: String::with_capacity(LINE),
            strange: false,
        };
        // Neither times nor numbers need escapes, and writing to a string cannot fail.
        let _ = write!(line.text, "{{\"time\":\"{}\",\"decisionId\":", record.time);
        let DecisionId { instance, number } = record.decision_id;
        line.string(instance);
        line.text.pop();
        let _ = write!(line.text, "-{number}\"");
        line.member("server", record.server);
        line.member("grant", record.grant);
        line.optional("session", record.session);
        line.member("method", record.method);
        line.optional("tool", record.tool.map(|tool| text::cut(tool, NAME)));
        line.member("outcome", record.outcome);
        line.optional("policy", record.policy);
        line.optional("rule", record.rule);
        line.text.push_str(if record.enforced {
            ",\"enforced\":true"
        } else {
            ",\"enforced\":false"
        });
        line.optional("approval", record.approval);
        if let Some(after) = record.retry_after_ms {
            let _ = write!(line.text, ",\"retryAfterMs\":{after}");
        }
        match &record.arguments {
            None => {}
            Some(Arguments::Keys(keys)) => {
                line.text.push_str(",\"arguments\":[");
                for (index, key) in keys.iter().take(KEYS).enumerate() {
                    if index > 0 {
                        line.text.push(',');
                    }
                    line.string(text::cut(key, NAME));
                }
                line.text.push(']');
            }
            Some(Arguments::Full(json)) => {
                line.text.push_str(",\"arguments\":");
                line.text.push_str(json.get());
                line.strange = true;
            }
        }
        if let Some(upstream) = &record.upstream {
            let UpstreamOutcome { status, latency_ms } = upstream;
            let _ = write!(
                line.text,
                ",\"upstream\":{{\"status\":\"{status}\",\"latencyMs\":{latency_ms}}}"
            );
        }
        line.member("revision", record.revision);
        line.optional("traceId", record.trace_id);
        line.text.push('}');
        if line.strange
            && let Cow::Owned(plain) = text::plain_json(&line.text)
        {
            line.text = plain;
        }
        line.text.push('\n');
        line.text
    }

    fn member(&mut self, key: &str, value: &str) {
        self.text.push_str(",\"");
        self.text.push_str(key);
        self.text.push_str("\":");
        self.string(value);
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.member(key, value);
        }
    }

    fn string(&mut self, value: &str) {
        // No branch for each byte: this is a few wide instructions.
        let strange = value.bytes().fold(false, |strange, byte| {
            strange | !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\')
        });
        if strange {
            self.strange = true;
            json::write_string(&mut self.text, value);
        } else {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut sinks: Vec<Box<dyn Write + Send>>) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            while state.buffer.is_empty() && !state.closed {
                state.wanted = Some(1);
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let closed = state.closed;
            std::mem::swap(&mut taken, &mut state.buffer);
            self.full.store(false, Ordering::SeqCst);
            drop(state);
            self.room.notify_waiters();
            sinks.retain_mut(|sink| match sink.write_all(&taken).and_then(|()| sink.flush()) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(%error, "the audit log cannot be written; records are lost until it is restarted");
                    false
                }
            });
            taken.clear();
            let mut state = self.lock();
            if closed && state.buffer.is_empty() {
                return;
            }
            if !state.closed && state.buffer.len() < PLENTY {
                state.wanted = Some(PLENTY);
                let gathered = self.filled.wait_timeout(state, GATHER);
                gathered.unwrap_or_else(PoisonError::into_inner).0.wanted = None;
            }
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        let until = Instant::now() + LAST_WORDS;
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            if Instant::now() > until {
                tracing::error!("nobody reads the audit log; its last records are lost");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn id(number: u64) -> DecisionId<'static> {
        DecisionId {
            instance: "i",
            number,
        }
    }

    fn written(records: &[Record<'_>]) -> String {
        let sink = Sink::default();
        let (log, writer) = AuditLog::start(vec![Box::new(sink.clone())]).unwrap();
        for record in records {
            log.record(record);
        }
        drop(writer);
        let written = sink.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn every_record_is_one_line_of_json_in_the_order_made() {
        let full = Record {
            session: Some("s"),
            policy: Some("p"),
            rule: Some("r"),
            enforced: false,
            approval: Some("a"),
            retry_after_ms: Some(1_500),
            arguments: Some(Arguments::Full(
                RawValue::from_string(r#"{"a":"\u202e"}"#.to_owned()).unwrap(),
            )),
            trace_id: Some("t"),
            decision_id: id(u64::MAX),
            ..named("x")
        };
        let keys = Record {
            arguments: Some(Arguments::Keys(vec!["run_id".into(), "a\n\"b".into()])),
            upstream: Some(UpstreamOutcome {
                status: "result",
                latency_ms: 3,
            }),
            ..named("get_run")
        };
        let written = written(&[keys, full]);
        let lines: Vec<serde_json::Value> = written
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                serde_json::json!({
                    "time": "1970-01-01T00:00:00Z", "decisionId": "i-7", "server": "ml/mlflow", "grant": "anonymous",
                    "method": "tools/call", "tool": "get_run", "outcome": "unknown", "enforced": true,
                    "arguments": ["run_id", "a\n\"b"], "upstream": {"status": "result", "latencyMs": 3}, "revision": "r",
                }),
                serde_json::json!({
                    "time": "1970-01-01T00:00:00Z", "decisionId": "i-18446744073709551615", "server": "ml/mlflow",
                    "grant": "anonymous", "session": "s", "method": "tools/call", "tool": "x", "outcome": "unknown",
                    "policy": "p", "rule": "r", "enforced": false, "approval": "a", "retryAfterMs": 1_500,
                    "arguments": {"a": "\u{202e}"}, "revision": "r", "traceId": "t",
                })
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_callers_call_things_comes_back_from_the_log_and_is_plain(tool in ".*", key in ".*", instance in ".*") {
            let record = Record {
                decision_id: DecisionId { instance: &instance, number: 1 },
                arguments: Some(Arguments::Keys(vec![key.as_str().into()])),
                ..named(&tool)
            };
            let written = written(&[record]);
            proptest::prop_assert!(!written.trim_end_matches('\n').contains(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&written).unwrap();
            proptest::prop_assert_eq!(read["tool"].as_str(), Some(text::cut(&tool, NAME)));
            proptest::prop_assert_eq!(read["arguments"][0].as_str(), Some(text::cut(&key, NAME)));
            let id = format!("{instance}-1");
            proptest::prop_assert_eq!(read["decisionId"].as_str(), Some(id.as_str()));
        }
    }

    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn named(tool: &str) -> Record<'_> {
        Record {
            time: Timestamp::UNIX_EPOCH,
            decision_id: id(7),
            server: "ml/mlflow",
            grant: "anonymous",
            session: None,
            method: "tools/call",
            tool: Some(tool),
            outcome: "unknown",
            policy: None,
            rule: None,
            enforced: true,
            approval: None,
            retry_after_ms: None,
            arguments: None,
            upstream: None,
            revision: "r",
            trace_id: None,
        }
    }

    #[tokio::test]
    async fn a_log_that_nobody_reads_makes_requests_wait_and_holds_up_no_thread() {
        let (log, writer) = AuditLog::start(vec![Box::new(Stuck)]).unwrap();
        let name = "x".repeat(NAME);
        while !log.shared.full.load(Ordering::SeqCst) {
            log.record(&named(&name));
        }
        log.record(&named(&name));
        let room = tokio::time::timeout(Duration::from_millis(50), log.room());
        assert!(room.await.is_err());
        let started = Instant::now();
        drop(writer);
        assert!(started.elapsed() < LAST_WORDS * 2);
    }

    #[tokio::test]
    async fn requests_go_on_once_the_log_has_been_read() {
        let sink = Sink::default();
        let held = sink.0.lock().unwrap();
        let (log, _writer) = AuditLog::start(vec![Box::new(sink.clone())]).unwrap();
        while !log.shared.full.load(Ordering::SeqCst) {
            log.record(&named("x"));
        }
        drop(held);
        let room = tokio::time::timeout(Duration::from_secs(20), log.room());
        assert!(room.await.is_ok());
    }

    #[test]
    fn a_callers_text_is_cut_and_cannot_move_a_terminals_cursor() {
        let name = format!("a\u{9b}2J\u{202e}{}", "é".repeat(5_000));
        let written = written(&[named(&name)]);
        assert!(written.contains(r#""tool":"a\u009b2J\u202e"#), "{written}");
        let tool = serde_json::from_str::<serde_json::Value>(&written).unwrap()["tool"].clone();
        assert_eq!(tool, text::cut(&name, NAME));
    }
}
