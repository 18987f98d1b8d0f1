//! From a decision to what is done: refuse, count, hold for approval, or let pass.
//!
//! In: what a client asks for, read. Out: a [`Permit`] for it with the record of what became of it, or the reason for a
//! refusal. Must not do: read the wire or write to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::Gateway;
use super::counters::Exhausted;
use super::grants::Grant;
use super::permit::{Envelope, Granted, Permit};
use super::record::Outcome;
use super::request_ids::{SessionKey, UnderWay};
use super::snapshot::Snapshot;
use crate::policy::decision::{Charge, RuleId};
use crate::policy::{self, Call, Decision};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::Request;
use crate::protocol::method::Method;

mod held;
mod in_flight;
mod named;

use self::in_flight::Written;
pub use self::in_flight::{End, InFlight};
pub use self::named::{Named, NamedCall, NamedRefusal, named};

/// One tool call on its way through the gateway.
pub struct ToolCall<'a> {
    /// `tools/call`.
    pub row: &'static Method,
    /// The request, of which `tool` and `arguments` were read.
    pub request: &'a Request<'a>,
    /// The tool's name.
    pub tool: &'a str,
    /// The raw arguments, a slice of the request's body; empty if there are none.
    pub arguments: Bytes,
    /// Who calls.
    pub grant: &'a Grant,
    /// The session's id inside the gateway.
    pub session: &'a str,
    /// The same as a key.
    pub session_key: SessionKey,
    /// The W3C trace id, if the caller sent one.
    pub trace_id: Option<&'a str>,
}

/// Why a call is not forwarded, in the words of the answers table.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// Not in the inventory, or hidden: the two are one.
    Unknown,
    /// Denied by a rule, or because nothing allows it.
    Denied {
        /// The rule.
        by: Arc<RuleId>,
        /// What its author or the engine says.
        reason: Option<Arc<str>>,
    },
    /// The arguments are not as the schema says.
    BadArguments(Arc<str>),
    /// A counter is exhausted.
    Limited {
        /// The rule.
        by: Arc<RuleId>,
        /// Units allowed.
        max: u64,
        /// In any window of this length, as written.
        window: String,
        /// When the call would pass; None if it never can.
        retry_after: Option<Duration>,
    },
    /// There is no room for another counter.
    CounterCapacity {
        /// The rule.
        by: Arc<RuleId>,
    },
    /// Waits for a person.
    Pending {
        /// The McpApproval.
        name: String,
    },
    /// A person said no.
    ApprovalDenied {
        /// The McpApproval.
        name: String,
        /// What the person said.
        reason: Option<String>,
    },
    /// It ran out while the call was held, or another call used it.
    ApprovalGone {
        /// The McpApproval.
        name: String,
    },
    /// No request could be made.
    ApprovalRefused {
        /// The rule.
        by: Arc<RuleId>,
        /// Why.
        why: String,
    },
    /// The client cancelled the call while it was held: no answer is owed.
    Cancelled,
    /// The upstream has never been listed, so nothing can be decided.
    Unavailable,
}

/// A request that may be sent.
pub struct Forward {
    /// The message.
    pub permit: Permit,
    /// Its ids; the request is under way until this is dropped.
    pub under_way: UnderWay,
    /// To be told how a call ended.
    pub in_flight: Option<Box<InFlight>>,
}

/// What the decision on a call has come to: it may go, and its units are reserved.
struct Passed {
    in_flight: InFlight,
    granted: Granted,
}

/// Decides a call and does all that the decision asks for before the call may go.
///
/// `envelope` is asked for if it may. The decision is the snapshot's that the caller looked up; a call that
/// was held is decided again under the snapshot and the credentials of then.
///
/// # Errors
/// Why it may not go.
pub async fn tool_call(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    call: &ToolCall<'_>,
    envelope: impl FnOnce() -> Envelope,
) -> Result<Forward, Refusal> {
    let now = Timestamp::now();
    let mut pending = Pending {
        gateway,
        snapshot: Arc::clone(snapshot),
        call,
        approval: None,
    };
    let decision = pending.evaluate(now);
    let passed = match decision.outcome {
        policy::Outcome::RequireApproval => Box::pin(pending.approve(&decision, now)).await?,
        _ => pending.allow(&decision, now)?,
    };
    let mut in_flight = passed.in_flight;
    let under_way = gateway
        .request_ids
        .start(call.session_key, &call.request.id);
    in_flight.watch(under_way.dispute());
    let params = call.request.params.as_ref();
    // A call is never run as a task, as no row has `task`: the capability is not declared, and then the field is to be
    // ignored (2025-11-25, Tasks, "Task Support Is Optional").
    let permit = Permit::decided(
        passed.granted,
        call.row,
        envelope(),
        params,
        &under_way,
        Edits::new(),
    );
    Ok(Forward {
        permit,
        under_way,
        in_flight: Some(Box::new(in_flight)),
    })
}

struct Pending<'a> {
    gateway: &'a Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    call: &'a ToolCall<'a>,
    approval: Option<String>,
}

impl Pending<'_> {
    fn evaluate(&self, now: Timestamp) -> Decision {
        let call = Call {
            tool: self.call.tool,
            arguments: &self.call.arguments,
            caller: &self.call.grant.caller,
            session: self.call.session,
        };
        let started = Instant::now();
        let decision = self.snapshot.bound.evaluate(&call, now);
        self.gateway
            .recorder
            .evaluation
            .observe(started.elapsed().as_secs_f64());
        decision
    }

    /// Lets a call pass that the decision allows, if its limits do.
    fn allow(&self, decision: &Decision, now: Timestamp) -> Result<Passed, Refusal> {
        let granted = Granted::allowed(decision).ok_or_else(|| self.refuse(decision, now))?;
        let in_flight = self.reserve(decision, now)?;
        Ok(Passed { in_flight, granted })
    }

    /// Answers that need nothing but the decision.
    fn refuse(&self, decision: &Decision, now: Timestamp) -> Refusal {
        let by = &decision.by;
        let reason = decision.reason.clone();
        match decision.outcome {
            policy::Outcome::Unknown if !self.snapshot.listed => {
                self.record(Outcome::Unavailable, by, now, None);
                Refusal::Unavailable
            }
            policy::Outcome::Unknown => {
                self.gateway.inventory.nudge();
                self.record(Outcome::Unknown, by, now, None);
                Refusal::Unknown
            }
            policy::Outcome::Hide => {
                self.record(Outcome::Hidden, by, now, None);
                Refusal::Unknown
            }
            policy::Outcome::BadArguments => {
                self.record(Outcome::BadArguments, by, now, None);
                Refusal::BadArguments(reason.unwrap_or_else(|| {
                    Arc::from("the arguments are not as the tool's schema says")
                }))
            }
            policy::Outcome::Deny(_)
            | policy::Outcome::Allow
            | policy::Outcome::RequireApproval => {
                self.record(Outcome::Denied, by, now, None);
                Refusal::Denied {
                    by: Arc::clone(by),
                    reason,
                }
            }
        }
    }

    /// Reserves the limits' units; the call may go when this succeeds.
    fn reserve(&self, decision: &Decision, now: Timestamp) -> Result<InFlight, Refusal> {
        let counters = &self.gateway.counters;
        let reservation = match counters.reserve(enforced(&decision.charges)) {
            Ok(reservation) => reservation,
            Err(exhausted) => return Err(self.limited(&exhausted, now)),
        };
        // Shadow limits never refuse; what they would have refused is counted.
        let shadow_limit = decision
            .charges
            .iter()
            .filter(|charge| !charge.enforced())
            .filter_map(|charge| counters.reserve(std::iter::once(charge)).err())
            .map(|exhausted| exhausted.by)
            .min();
        let audited = decision
            .shadow
            .as_ref()
            .filter(|shadow| shadow.outcome.is_violation())
            .map(|shadow| Arc::clone(&shadow.by))
            .or(shadow_limit);
        let (outcome, by) = match audited {
            Some(by) => (Outcome::Audited, by),
            None => (Outcome::Allowed, Arc::clone(&decision.by)),
        };
        Ok(InFlight {
            gateway: Arc::clone(self.gateway),
            snapshot: Arc::clone(&self.snapshot),
            reservation: Some(reservation),
            outcome,
            by,
            tool: self.call.tool.to_owned(),
            arguments: self.call.arguments.clone(),
            grant: self.call.grant.clone(),
            session: self.call.session.to_owned(),
            trace_id: self.call.trace_id.map(str::to_owned),
            approval: self.approval.clone(),
            decided: now,
            sent: Instant::now(),
            dispute: None,
            done: false,
        })
    }

    fn limited(&self, exhausted: &Exhausted, now: Timestamp) -> Refusal {
        self.record(Outcome::Limited, &exhausted.by, now, exhausted.retry_after);
        if exhausted.capacity {
            return Refusal::CounterCapacity {
                by: Arc::clone(&exhausted.by),
            };
        }
        Refusal::Limited {
            by: Arc::clone(&exhausted.by),
            max: exhausted.max,
            window: exhausted.window.clone(),
            retry_after: exhausted.retry_after,
        }
    }

    fn record(
        &self,
        outcome: Outcome,
        by: &Arc<RuleId>,
        now: Timestamp,
        retry_after: Option<Duration>,
    ) {
        let written = Written {
            snapshot: &self.snapshot,
            tool: self.call.tool,
            arguments: &self.call.arguments,
            grant: &self.call.grant.caller.grant,
            session: self.call.session,
            trace_id: self.call.trace_id,
            approval: self.approval.as_deref(),
        };
        written.record(self.gateway, outcome, by, now, retry_after, None);
    }
}

fn enforced(charges: &[Charge]) -> impl Iterator<Item = &Charge> + Clone {
    charges.iter().filter(|charge| charge.enforced())
}
