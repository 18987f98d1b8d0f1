//! The thread that writes the audit log.
//!
//! In: lines in a buffer. Out: writes, each of as many lines as have gathered; and for callers that
//! wait, how far it has come. A sink that fails is tried again until it works. Must not do: give
//! up, or write the lines of one sink twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Unwritten;
use super::sink::Sink;

/// Beyond this many unwritten bytes requests wait for the writer.
const BACKPRESSURE_BYTES: usize = 4 << 20;
/// Beyond this many, lines are dropped and counted: the writer has stood still while decided calls
/// ended.
const MAX_BUFFER_BYTES: usize = 2 * BACKPRESSURE_BYTES;
/// Beyond this many the writer does not wait for more.
const ENOUGH_BYTES: usize = 64 << 10;
/// After a write the writer lets lines gather for this long, unless a caller waits for one.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// A sink that failed is tried again after this long.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// At the end, how long the writer may take to write the rest.
pub(super) const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// The position of a line that was dropped: never written.
pub(super) const LOST_POSITION: u64 = u64::MAX;

/// Writes what is left and ends the writer when dropped.
pub struct AuditWriter {
    shared: Arc<WriterQueue>,
    thread: Option<JoinHandle<()>>,
}

/// What callers and the writer share.
#[derive(Default)]
pub(super) struct WriterQueue {
    state: Mutex<WriterState>,
    /// The writer, which parks while it has nothing to do: to wake it costs less than a condition
    /// variable.
    writer: OnceLock<Thread>,
    pub(super) full: AtomicBool,
    /// Bytes that every sink has taken.
    pub(super) written: AtomicU64,
    /// Notified after every write, and when one fails.
    pub(super) progress: Notify,
    pub(super) lost: AtomicU64,
    failing: AtomicBool,
    why: Mutex<String>,
}

#[derive(Default)]
struct WriterState {
    buffer: Vec<u8>,
    /// Bytes that were ever put into the buffer.
    appended: u64,
    /// A caller waits for a line in the buffer.
    awaited: bool,
    writer: Writer,
    closed: bool,
}

/// What the writer does.
#[derive(Default, PartialEq)]
enum Writer {
    /// It will check the buffer by itself.
    #[default]
    Busy,
    /// It lets lines gather; one that is awaited, or plenty, wakes it.
    Gathers,
    /// Any line wakes it.
    Sleeps,
}

impl WriterQueue {
    fn lock(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock()
    }

    /// Puts a line into the buffer; returns up to where the log must be written for it to be.
    pub(super) fn append(&self, line: &[u8], awaited: bool) -> u64 {
        let mut state = self.lock();
        if state.buffer.len() + line.len() > MAX_BUFFER_BYTES {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return LOST_POSITION;
        }
        state.buffer.extend_from_slice(line);
        state.appended += line.len() as u64;
        state.awaited |= awaited;
        let position = state.appended;
        if state.buffer.len() > BACKPRESSURE_BYTES {
            self.full.store(true, Ordering::SeqCst);
        }
        let wakes = match state.writer {
            Writer::Busy => false,
            Writer::Gathers => awaited || state.buffer.len() >= ENOUGH_BYTES,
            Writer::Sleeps => true,
        };
        if wakes {
            state.writer = Writer::Busy;
            drop(state);
            self.wake();
        }
        position
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    pub(super) fn trouble(&self) -> Option<Unwritten> {
        if !self.failing.load(Ordering::Acquire) {
            return None;
        }
        let why = self.why.lock();
        Some(Unwritten(why.clone()))
    }

    /// A line has waited for too long.
    pub(super) fn stalled(&self) {
        self.fails("its reader or its disk does not respond".to_owned());
    }

    fn fails(&self, why: String) {
        *self.why.lock() = why.clone();
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "the audit log cannot be written ({why}): calls are refused, unless spec.audit.onFailure of their server is Continue; it is tried again until it works"
            );
        }
        self.progress.notify_waiters();
    }

    fn works(&self, appended: u64) {
        self.written.store(appended, Ordering::Release);
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::warn!("the audit log is written again");
        }
        self.progress.notify_waiters();
    }

    /// Waits for lines and takes them; true for the last ones. While a sink fails it is only waited
    /// until it is tried again.
    fn take(&self, taken: &mut Vec<u8>, retry: bool) -> (u64, bool) {
        let gather = |state: &WriterState| {
            !state.closed && (retry || !state.awaited && state.buffer.len() < ENOUGH_BYTES)
        };
        let mut state = self.lock();
        let until =
            gather(&state).then(|| Instant::now() + if retry { RETRY_DELAY } else { GATHER_TIME });
        while gather(&state)
            && let Some(left) = until.and_then(|until| until.checked_duration_since(Instant::now()))
        {
            if !retry {
                state.writer = Writer::Gathers;
            }
            MutexGuard::unlocked(&mut state, || std::thread::park_timeout(left));
        }
        while !retry && state.buffer.is_empty() && !state.closed {
            state.writer = Writer::Sleeps;
            MutexGuard::unlocked(&mut state, std::thread::park);
        }
        state.writer = Writer::Busy;
        state.awaited = false;
        std::mem::swap(taken, &mut state.buffer);
        self.full.store(false, Ordering::SeqCst);
        (state.appended, state.closed)
    }

    fn write_to(&self, mut sinks: Vec<Sink>) {
        // Set before the first line is taken: until then the state says that the writer is busy.
        let _ = self.writer.set(std::thread::current());
        let mut taken = Vec::new();
        let mut retry = false;
        loop {
            let (appended, closed) = self.take(&mut taken, retry);
            let mut failed = None;
            for sink in &mut sinks {
                let (lost, result) = sink.put(&taken);
                self.lost.fetch_add(lost, Ordering::Relaxed);
                if let Err(why) = result {
                    failed = Some(why);
                }
            }
            taken.clear();
            retry = failed.is_some();
            match failed {
                None => self.works(appended),
                Some(why) => self.fails(why),
            }
            if closed && self.lock().buffer.is_empty() {
                if retry {
                    tracing::error!("the last records of the audit log are lost");
                }
                return;
            }
        }
    }
}

impl AuditWriter {
    pub(super) fn start(shared: &Arc<WriterQueue>, sinks: Vec<Sink>) -> std::io::Result<Self> {
        let writer = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.write_to(sinks))?;
        Ok(AuditWriter {
            shared: Arc::clone(shared),
            thread: Some(thread),
        })
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake();
        let until = Instant::now() + FINAL_WRITE_TIMEOUT;
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            if Instant::now() > until {
                tracing::error!("no reader drains the audit log; its last records are lost");
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
