//! The audit log: one JSON line for each decision, on standard output or in a file.
//!
//! Callers only append to a buffer; a thread of its own writes. When the reader of the log falls so far behind that the
//! buffer is full, new requests wait for room ([`AuditLog::room`]) before they are decided: a call that cannot be recorded is
//! not let through unrecorded. What is decided already is always taken, so that no thread is ever held up. Under load the
//! thread takes many lines at once: waking it for each would cost more than all the rest of recording.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio::sync::Notify;

mod line;

use self::line::Line;

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
mod tests;
