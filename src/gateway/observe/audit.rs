//! The audit log: one JSON line for each decision, for the end of each call, for each step of an
//! approval, and for failed logins, on standard output or in a file.
//!
//! In: records. Out: whole lines, in the order in which they were made, and the answer to whether a
//! record has left this process. Callers only append to a buffer; a thread of its own writes (see
//! [`writer`]), so that a disk or a reader that is slow holds up no thread that serves requests. A
//! call goes upstream only once its line has been written ([`AuditLog::written`]): one `write`
//! covers all the calls that were decided while the one before it was under way. Must not do: call
//! `fsync`, drop a line silently, or forget that lines could not be written.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::value::RawValue;

mod arguments;
mod line;
mod sink;
mod writer;

use super::authentication_failure::AuthenticationFailure;
use crate::json;

pub use self::arguments::recorded;
use self::line::Line;
pub use self::sink::{Sink, look_again};
pub use self::writer::AuditWriter;
use self::writer::{LOST_POSITION, WriterQueue};

/// A line that has not been written after this long counts as one that cannot be.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for a longer line is not kept for the next.
const REUSED_LINE_BYTES: usize = 16 << 10;

thread_local! {
    static ASIDE: Cell<String> = const { Cell::new(String::new()) };
}

/// Names come from callers: no more bytes of one than this are recorded.
const MAX_NAME_BYTES: usize = 1_024;
/// No more names of arguments than this are recorded; of the others only the number is recorded.
const MAX_ARGUMENT_NAMES: usize = 256;

/// One decision as it is recorded. Times are RFC 3339 in UTC, durations milliseconds. Never holds a
/// credential.
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
    /// Why, in the words of the answer; of a refusal only.
    pub reason: Option<&'a str>,
    /// Of a refusal because no rule matched: the rules that would let the call pass, were it not
    /// for their condition.
    pub near: &'a [String],
    /// False for a shadow decision: recorded, not carried out.
    pub enforced: bool,
    /// The approval that the call asked for or used.
    pub approval: Option<&'a str>,
    /// Where that stands for the call, or why none was asked for.
    pub approval_state: Option<ApprovalState>,
    /// Milliseconds until the exhausted limit admits the call.
    pub retry_after_ms: Option<u64>,
    /// As `spec.audit.arguments` says: the argument names, or all of the redacted arguments.
    pub arguments: Option<Arguments<'a>>,
    /// The revision of the rules that decided.
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

impl<'a> DecisionId<'a> {
    /// Reads what [`Self::write`] wrote.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (instance, number) = text.rsplit_once('-')?;
        Some(DecisionId {
            instance,
            number: number.parse().ok()?,
        })
    }

    /// Appends it as it is written everywhere. Instances are made of letters, digits and hyphens.
    pub fn write(&self, out: &mut String) {
        out.push_str(self.instance);
        out.push('-');
        json::write_number(out, self.number);
    }

    /// The value of a header that holds it.
    pub fn to_header(&self) -> Option<HeaderValue> {
        // Bytes take a text over as it is if it fills its room.
        let digits = self.number.checked_ilog10().unwrap_or(0) as usize + 1;
        let mut text = String::with_capacity(self.instance.len() + 1 + digits);
        self.write(&mut text);
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
    }
}

impl fmt::Display for DecisionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.number)
    }
}

/// Where its approval stands for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// People have approved it.
    Approved,
    /// Not enough people have decided.
    Pending,
    /// A person denied it.
    Denied,
    /// It ran out.
    Expired,
    /// The call would go elsewhere, or the observed state has changed.
    Stale,
    /// No session asked for it any more.
    Withdrawn,
    /// Another call has used it.
    Used,
    /// Policy, tool or rights are others than when it was asked for.
    Void,
    /// The client gave up the call.
    Cancelled,
    /// Too many requests wait already.
    Full,
    /// The place where approvals are kept does not answer.
    Unavailable,
    /// The Kubernetes API refused the request.
    Rejected,
    /// The state to be observed could not be read.
    Unobserved,
    /// The arguments cannot be shown to people.
    Unshowable,
}

impl ApprovalState {
    /// The name in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApprovalState::Approved => "approved",
            ApprovalState::Pending => "pending",
            ApprovalState::Denied => "denied",
            ApprovalState::Expired => "expired",
            ApprovalState::Stale => "stale",
            ApprovalState::Withdrawn => "withdrawn",
            ApprovalState::Used => "used",
            ApprovalState::Void => "void",
            ApprovalState::Cancelled => "cancelled",
            ApprovalState::Full => "full",
            ApprovalState::Unavailable => "unavailable",
            ApprovalState::Rejected => "rejected",
            ApprovalState::Unobserved => "unobserved",
            ApprovalState::Unshowable => "unshowable",
        }
    }
}

/// How a call ended that was let through: the second line of its decision.
#[derive(Debug)]
pub struct Ended<'a> {
    /// When it ended.
    pub time: Timestamp,
    /// The decision that let it through.
    pub decision_id: DecisionId<'a>,
    /// `namespace/name` of the McpServer.
    pub server: &'a str,
    /// `result`, `toolError`, `error`, `timeout`, `unreachable`, `broken`, `abandoned` or
    /// `unrecorded`.
    pub status: &'static str,
    /// From sending the request to its answer.
    pub latency_ms: u64,
}

/// What became of a request for approval: a line of its own for each step.
#[derive(Debug)]
pub struct ApprovalStep<'a> {
    /// When.
    pub time: Timestamp,
    /// The decision on the call that asked; for `consumed`, on the call that used the approval.
    pub decision_id: DecisionId<'a>,
    /// `namespace/name` of the McpServer.
    pub server: &'a str,
    /// The McpApproval.
    pub approval: &'a str,
    /// `requested`, `approved`, `denied`, `expired`, `stale`, `withdrawn` or `consumed`.
    pub step: &'static str,
    /// The caller whose call it is.
    pub grant: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// The policy that asks.
    pub policy: &'a str,
    /// The rule that asks.
    pub rule: &'a str,
    /// What the approval is bound to.
    pub digest: &'a str,
    /// Digest of the state when it was asked for, if the rule observes one.
    pub observed: Option<&'a str>,
    /// Who decided.
    pub by: Option<&'a str>,
    /// Why.
    pub reason: Option<&'a str>,
    /// Everyone who has approved, where the step is not itself a decision.
    pub approvers: &'a [&'a str],
}

/// A request that was refused before its caller was known, or how many of them have no line.
#[derive(Debug)]
pub struct FailedLogin<'a> {
    /// When.
    pub time: Timestamp,
    /// Names the line.
    pub decision_id: DecisionId<'a>,
    /// `namespace/name` of the McpServer.
    pub server: &'a str,
    /// Where the connection came from.
    pub address: Option<IpAddr>,
    /// Which of the two.
    pub detail: FailedLoginDetail,
}

/// What a line about failed logins says.
#[derive(Debug)]
pub enum FailedLoginDetail {
    /// One request.
    Refused(AuthenticationFailure),
    /// Several that have no line of their own.
    Suppressed {
        /// How many.
        count: u64,
        /// In which time.
        seconds: u64,
    },
}

/// The arguments of a recorded call.
#[derive(Debug)]
pub enum Arguments<'a> {
    /// Only their names.
    Keys(Vec<Cow<'a, str>>),
    /// The redacted whole, as JSON.
    Full(Box<RawValue>),
}

/// The position of a record in the log: it and all earlier ones are written once the log has been
/// written up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u64);

/// The audit log cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written ({0})")]
pub struct Unwritten(pub String);

/// Where decisions are recorded. Clones share one writer.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<WriterQueue>,
}

impl AuditLog {
    /// Starts the writer; every sink gets every line.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(sinks: Vec<Box<dyn Write + Send>>) -> std::io::Result<(AuditLog, AuditWriter)> {
        Self::to(sinks.into_iter().map(Sink::of).collect())
    }

    /// [`Self::start`] with sinks that are known by name.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to(sinks: Vec<Sink>) -> std::io::Result<(AuditLog, AuditWriter)> {
        let shared = Arc::new(WriterQueue::default());
        let writer = AuditWriter::start(&shared, sinks)?;
        Ok((AuditLog { shared }, writer))
    }

    /// Records one decision. `awaited` says that a caller waits for it to be written.
    pub fn record(&self, record: &Record<'_>, awaited: bool) -> Position {
        Position(self.append(|text| Line::of(record, text), awaited))
    }

    /// Records the end of a call. No caller waits for it.
    pub fn ended(&self, end: &Ended<'_>) {
        self.append(|text| Line::of_end(end, text), false);
    }

    /// Lines are formatted outside the lock, so that others wait only for a copy, and always in the
    /// same buffer, so that no call allocates another one.
    fn append(&self, write: impl FnOnce(String) -> String, awaited: bool) -> u64 {
        let mut line = write(ASIDE.take());
        let position = self.shared.append(line.as_bytes(), awaited);
        line.clear();
        if line.capacity() <= REUSED_LINE_BYTES {
            ASIDE.set(line);
        }
        position
    }

    /// Records a step of an approval. No caller waits for it: the call that uses the approval waits
    /// for a later line.
    pub fn step(&self, step: &ApprovalStep<'_>) {
        self.append(|text| Line::of_step(step, text), false);
    }

    /// Records a failed login. No caller waits for it.
    pub fn failed_login(&self, failed: &FailedLogin<'_>) {
        self.append(|text| Line::of_failed_login(failed, text), false);
    }

    /// Waits until a record has been handed to the system.
    ///
    /// # Errors
    /// [`Unwritten`] when that fails or takes too long.
    pub async fn written(&self, position: Position) -> Result<(), Unwritten> {
        let until = tokio::time::Instant::now() + STALL_TIMEOUT;
        while self.shared.written.load(Ordering::Acquire) < position.0 {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            // Listens from here on, so that what is written before the next look is not missed.
            progress.as_mut().enable();
            if self.shared.written.load(Ordering::Acquire) >= position.0 {
                break;
            }
            if let Some(trouble) = self.trouble() {
                return Err(trouble);
            }
            if position.0 == LOST_POSITION {
                return Err(Unwritten("too much is unwritten already".to_owned()));
            }
            if tokio::time::timeout_at(until, progress).await.is_err() {
                self.shared.stalled();
            }
        }
        Ok(())
    }

    /// Why lines cannot be written now; None while they can.
    pub fn trouble(&self) -> Option<Unwritten> {
        self.shared.trouble()
    }

    /// Lines that were dropped since the start, as there was no room to keep them until they could
    /// be written.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Waits while too much is unwritten, unless nothing can be written at all.
    pub async fn room(&self) {
        if !self.shared.full.load(Ordering::SeqCst) {
            return;
        }
        let until = tokio::time::Instant::now() + STALL_TIMEOUT;
        while self.shared.full.load(Ordering::SeqCst) && self.trouble().is_none() {
            let mut written = std::pin::pin!(self.shared.progress.notified());
            written.as_mut().enable();
            if self.shared.full.load(Ordering::SeqCst)
                && tokio::time::timeout_at(until, written).await.is_err()
            {
                self.shared.stalled();
            }
        }
    }
}

#[cfg(test)]
mod tests;
