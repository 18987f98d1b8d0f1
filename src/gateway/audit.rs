//! The audit log: one JSON line for each decision, on standard output or in a file.
//!
//! Callers only append to a buffer; a thread of its own writes. When the reader of the log falls so far behind that the
//! buffer is full, callers wait: a call that cannot be recorded is not let through unrecorded. Under load the thread takes
//! many lines at once: waking it for each would cost more than all the rest of recording.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

/// Beyond this many unwritten bytes callers wait for the writer.
const BUFFER: usize = 8 << 20;
/// Beyond this many the writer does not wait for more.
const PLENTY: usize = 64 << 10;
/// After a write the writer lets lines gather for this long.
const GATHER: Duration = Duration::from_millis(5);
/// A line is seldom longer.
const LINE: usize = 512;

/// One decision as it is recorded. Times are RFC 3339 in UTC, durations milliseconds. Never holds a credential.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    /// When the decision was made.
    pub time: Timestamp,
    /// Names this decision; unique for this gateway.
    pub decision_id: &'a str,
    /// `namespace/name` of the McpServer.
    pub server: &'a str,
    /// The caller's grant.
    pub grant: &'a str,
    /// The session's id inside the gateway (not the token that the client holds), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// The MCP method.
    pub method: &'a str,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<&'a str>,
    /// What became of it.
    pub outcome: &'static str,
    /// The policy whose rule decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// False for a shadow decision: recorded, not carried out.
    pub enforced: bool,
    /// The approval that the call asked for or used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<&'a str>,
    /// Milliseconds until the exhausted limit admits the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// As `spec.audit.arguments` says: the argument names, or all of the redacted arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments<'a>>,
    /// What the upstream made of it, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamOutcome>,
    /// The revision of the bundle that decided.
    pub revision: &'a str,
    /// The W3C trace id, when the caller sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
}

/// The arguments of a recorded call.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Arguments<'a> {
    /// Only their names.
    Keys(Vec<&'a str>),
    /// The redacted whole.
    Full(&'a RawValue),
}

/// How the upstream's part of a call ended.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
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
    drained: Condvar,
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
        let mut line = Vec::with_capacity(LINE);
        if let Err(error) = serde_json::to_writer(&mut line, record) {
            tracing::error!(%error, decision = record.decision_id, "a decision could not be recorded");
            return;
        }
        line.push(b'\n');
        let mut state = self.shared.lock();
        while state.buffer.len() > BUFFER && !state.closed {
            state = self
                .shared
                .drained
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.buffer.extend_from_slice(&line);
        if state
            .wanted
            .is_some_and(|bytes| state.buffer.len() >= bytes)
        {
            state.wanted = None;
            drop(state);
            self.shared.filled.notify_one();
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
            drop(state);
            self.drained.notify_all();
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
        self.shared.drained.notify_all();
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

    #[test]
    fn every_record_is_one_line_of_json_in_the_order_made() {
        let sink = Sink::default();
        let (log, writer) = AuditLog::start(vec![Box::new(sink.clone())]).unwrap();
        for id in ["a", "b\n", "c"] {
            log.record(&Record {
                time: Timestamp::UNIX_EPOCH,
                decision_id: id,
                server: "ml/mlflow",
                grant: "anonymous",
                session: None,
                method: "tools/call",
                tool: Some("get_run"),
                outcome: "allowed",
                policy: None,
                rule: None,
                enforced: true,
                approval: None,
                retry_after_ms: None,
                arguments: Some(Arguments::Keys(vec!["run_id"])),
                upstream: Some(UpstreamOutcome {
                    status: "result",
                    latency_ms: 3,
                }),
                revision: "r",
                trace_id: None,
            });
        }
        drop(writer);
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let ids: Vec<String> = written
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["decisionId"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(ids, ["a", "b\n", "c"]);
        let first: serde_json::Value =
            serde_json::from_str(written.lines().next().unwrap()).unwrap();
        assert_eq!(
            first,
            serde_json::json!({
                "time": "1970-01-01T00:00:00Z", "decisionId": "a", "server": "ml/mlflow", "grant": "anonymous",
                "method": "tools/call", "tool": "get_run", "outcome": "allowed", "enforced": true,
                "arguments": ["run_id"], "upstream": {"status": "result", "latencyMs": 3}, "revision": "r",
            })
        );
    }
}
