//! Carries out decisions: refuses, counts, holds for approval, or lets pass.
//!
//! In: a parsed request of a client. Out: a [`Permit`] for it, with the record of its outcome, or
//! the reason for a refusal. Must not do: read from or write to the network, but for what a rule
//! observes before a call; what approvals need of the Kubernetes API is theirs.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::gateway::Gateway;
use crate::gateway::counters::{Exhausted, SharedCounters};
use crate::gateway::fairness::offload::{is_small, offload};
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::Grant;
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::ApprovalState;
use crate::gateway::permit::{Envelope, Granted, Permit};
use crate::policy::decision::{Charge, RuleId};
use crate::policy::{self, Call, Decision};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::Request;
use crate::protocol::list::ListKind;
use crate::protocol::method::Method;

mod approval_wait;
pub mod calls;
pub mod held_calls;
mod in_flight;
mod named;
mod observation;
mod refusal;
pub mod request_ids;
mod unapproved;
mod uncredentialed;

use self::calls::Units;
use self::in_flight::Written;
pub use self::in_flight::{Decided, End, InFlight};
pub use self::named::{Named, NamedCall, NamedRefusal, named};
pub use self::refusal::Refusal;
use self::request_ids::{RequestIdGuard, SessionKey};
pub use self::uncredentialed::Uncredentialed;

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

/// What a client hears about a call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The McpApproval.
    pub approval: String,
    /// When it expires.
    pub until: Timestamp,
    /// The number of the decision on the call.
    pub decision: u64,
}

/// A request that may be sent.
pub struct Forward {
    /// The message.
    pub permit: Permit,
    /// Its ids; the request is under way until this is dropped.
    pub under_way: RequestIdGuard,
    /// The number of the decision that let it through, if its method needs one.
    pub decision: Option<u64>,
    /// Takes how the call ended.
    pub in_flight: Option<Box<InFlight>>,
    /// What the answer lists, if the request asks for a list.
    pub lists: Option<ListKind>,
}

/// The result of the decision on a call: it may be sent, and its units are reserved.
struct AdmittedCall {
    in_flight: InFlight,
    granted: Granted,
}

/// Units, and the first shadow limit that would have refused.
type Reserved = (Units, Option<Arc<RuleId>>);

/// What happens to a call.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every call is forwarded, and another box would cost each of them"
)]
pub enum Admission {
    /// Send it, and tell its [`InFlight`] how it ended.
    Forward(Forward),
    /// Answer it; with the number of the decision, if one was recorded.
    Refuse(Refusal, Option<u64>),
    /// It needs approval, as decided at that time: [`approved_call`] continues. Only where the
    /// client is to hear about the wait.
    Ask(Box<Decision>, Timestamp),
}

/// Decides a call and does everything that the decision requires before the call may be sent.
///
/// `envelope` is evaluated for each message to the upstream. The decision is made under the given
/// snapshot; a call that was held is decided again under the snapshot and the credentials in force
/// then. With `tells`, a call that needs approval is not held here, but given back.
pub async fn tool_call(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    call: &ToolCall<'_>,
    envelope: &(dyn Fn() -> Envelope + Sync),
    tells: bool,
) -> Admission {
    let now = Timestamp::now();
    let decide = || decide(gateway, snapshot, call, now);
    let decision = if is_small(call.arguments.len()) {
        decide()
    } else {
        Box::pin(offload(call.grant.share.as_ref(), decide)).await
    };
    if tells && decision.outcome == policy::Outcome::RequireApproval {
        return Admission::Ask(Box::new(decision), now);
    }
    let pending = PendingCall::new(gateway, snapshot, call, envelope, None);
    pending.admit(&decision, now).await
}

/// Continues with a call that needs approval, as [`tool_call`] has decided, and reports the wait.
pub async fn approved_call(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    call: &ToolCall<'_>,
    envelope: &(dyn Fn() -> Envelope + Sync),
    (decision, now): (&Decision, Timestamp),
    waiting: &watch::Sender<Option<Waiting>>,
) -> Admission {
    let pending = PendingCall::new(gateway, snapshot, call, envelope, Some(waiting));
    pending.admit(decision, now).await
}

/// Why a call that would pass cannot be recorded, if the spec requires a record.
fn unrecordable(gateway: &Gateway, snapshot: &Snapshot) -> Option<String> {
    if !snapshot.settings.must_record {
        return None;
    }
    gateway
        .observe
        .unwritten()
        .map(|unwritten| unwritten.to_string())
}

struct PendingCall<'a> {
    gateway: &'a Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    call: &'a ToolCall<'a>,
    /// What goes around a message to the upstream in the caller's session.
    envelope: &'a (dyn Fn() -> Envelope + Sync),
    /// Its approval, and where that stands; an empty name where none was asked for.
    approval: Option<(String, ApprovalState)>,
    /// The number under which the decision is recorded, if lines about it were written already.
    number: Cell<Option<u64>>,
    /// The number of the decision that was recorded last.
    decided: Cell<Option<u64>>,
    /// Why the decision that is recorded next refuses.
    reason: Cell<Option<Arc<str>>>,
    /// Tells the client that the call waits.
    waiting: Option<&'a watch::Sender<Option<Waiting>>>,
}

impl<'a> PendingCall<'a> {
    fn new(
        gateway: &'a Arc<Gateway>,
        snapshot: &Arc<Snapshot>,
        call: &'a ToolCall<'a>,
        envelope: &'a (dyn Fn() -> Envelope + Sync),
        waiting: Option<&'a watch::Sender<Option<Waiting>>>,
    ) -> Self {
        PendingCall {
            gateway,
            snapshot: Arc::clone(snapshot),
            call,
            envelope,
            approval: None,
            number: Cell::new(None),
            decided: Cell::new(None),
            reason: Cell::new(None),
            waiting,
        }
    }

    /// Does everything that the decision requires before the call may be sent.
    async fn admit(mut self, decision: &Decision, now: Timestamp) -> Admission {
        let passes = matches!(
            decision.outcome,
            policy::Outcome::Allow | policy::Outcome::RequireApproval
        );
        let admitted = match decision.outcome {
            // Before the call uses a unit or an approval.
            _ if passes && let Some(why) = unrecordable(self.gateway, &self.snapshot) => {
                self.record(Outcome::Unrecorded, &decision.by, now, None);
                Err(Refusal::Unrecorded(why))
            }
            policy::Outcome::RequireApproval => Box::pin(self.approve(decision, now)).await,
            _ => match self.shared(decision) {
                None => self.allow_here(decision, now),
                Some(_) => Box::pin(self.allow(decision, now)).await,
            },
        };
        let AdmittedCall { in_flight, granted } = match admitted {
            Ok(passed) => passed,
            Err(refusal) => return Admission::Refuse(refusal, self.decided.get()),
        };
        let mut in_flight = Box::new(in_flight);
        let decided = self.record(in_flight.outcome, &in_flight.by, now, None);
        in_flight.decision = Some(decided);
        let (gateway, call) = (self.gateway, self.call);
        let under_way = gateway.calls.start(call.session_key, &call.request.id);
        in_flight.watch(under_way.ambiguity());
        let params = call.request.params.as_ref();
        // Made while the record is written. A call is never run as a task, as no row has `task`:
        // the capability is not declared, and then the field must be ignored (2025-11-25, Tasks,
        // "Task Support Is Optional").
        let permit = Permit::decided(
            granted,
            call.row,
            (self.envelope)(),
            params,
            &under_way,
            Edits::new(),
        );
        if let Err(unwritten) = in_flight.written().await
            && self.snapshot.settings.must_record
        {
            in_flight.finish(End::Unrecorded);
            let refusal = Refusal::Unrecorded(unwritten.to_string());
            return Admission::Refuse(refusal, Some(decided.number));
        }
        // The client gave it up before it was sent, and the server has the cancellation already.
        if in_flight.provoked() {
            in_flight.give_back();
            in_flight.finish(End::Abandoned);
            return Admission::Refuse(Refusal::Cancelled, Some(decided.number));
        }
        Admission::Forward(Forward {
            permit,
            under_way,
            decision: Some(decided.number),
            in_flight: Some(in_flight),
            lists: None,
        })
    }
}

impl PendingCall<'_> {
    /// Lets an allowed call pass, if its limits have units left here.
    fn allow_here(&self, decision: &Decision, now: Timestamp) -> Result<AdmittedCall, Refusal> {
        let granted = Granted::allowed(decision).ok_or_else(|| self.refuse(decision, now))?;
        let reserved = self.reserve_here(&decision.charges);
        let in_flight = self.reserved(reserved, decision, now)?;
        Ok(AdmittedCall { in_flight, granted })
    }

    /// Lets an allowed call pass, if its limits have units left, wherever they are counted.
    async fn allow(
        &mut self,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<AdmittedCall, Refusal> {
        let granted = Granted::allowed(decision).ok_or_else(|| self.refuse(decision, now))?;
        let in_flight = self.reserve(decision, now).await?;
        Ok(AdmittedCall { in_flight, granted })
    }

    /// Refusals that follow from the decision alone.
    fn refuse(&self, decision: &Decision, now: Timestamp) -> Refusal {
        let by = &decision.by;
        let reason = decision.reason.clone();
        self.reason.set(reason.clone());
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
    async fn reserve(&mut self, decision: &Decision, now: Timestamp) -> Result<InFlight, Refusal> {
        let reserved = match self.shared(decision) {
            None => self.reserve_here(&decision.charges),
            Some(counters) => {
                let grant = &*self.call.grant.caller.grant;
                reserve_shared(counters, grant, &decision.charges).await
            }
        };
        self.reserved(reserved, decision, now)
    }

    /// The call with its units, or the limit that refuses it.
    fn reserved(
        &self,
        reserved: Result<Reserved, Exhausted>,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<InFlight, Refusal> {
        let (units, shadow_limit) = match reserved {
            Ok(reserved) => reserved,
            Err(exhausted) => return Err(self.limited(&exhausted, now)),
        };
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
            reservation: Some(units),
            outcome,
            by,
            decision: None,
            session: self.call.session.to_owned(),
            sent: Instant::now(),
            ambiguity: None,
            again: false,
            done: false,
        })
    }

    /// Where the call is counted, if that is outside this process.
    fn shared(&self, decision: &Decision) -> Option<Arc<SharedCounters>> {
        let counters = self.snapshot.counters.clone();
        counters.filter(|_| !decision.charges.is_empty())
    }

    /// Shadow limits never refuse; what they would have refused is counted.
    fn reserve_here(&self, charges: &[Charge]) -> Result<Reserved, Exhausted> {
        let (counters, grant) = (
            self.gateway.calls.counters(),
            &*self.call.grant.caller.grant,
        );
        let reservation = counters.reserve(grant, enforced(charges))?;
        let shadow_limit = charges
            .iter()
            .filter(|charge| !charge.enforced())
            .filter_map(|charge| counters.reserve(grant, std::iter::once(charge)).err())
            .map(|exhausted| exhausted.by)
            .min();
        Ok((Units::Local(reservation), shadow_limit))
    }

    /// Whether the limits have units left.
    async fn look(&mut self, decision: &Decision) -> Result<(), Exhausted> {
        let grant = &*self.call.grant.caller.grant;
        match self.shared(decision) {
            Some(counters) => counters.look(grant, &decision.charges).await,
            None => {
                let counters = self.gateway.calls.counters();
                counters.look(grant, enforced(&decision.charges))
            }
        }
    }

    fn limited(&self, exhausted: &Exhausted, now: Timestamp) -> Refusal {
        let retry_after = exhausted.retry_after();
        let why = match (exhausted.uncounted(), &exhausted.reason) {
            (Some(why), _) => why.to_owned(),
            (None, None) => format!("{} per {} reached", exhausted.max, exhausted.window),
            (None, Some(reason)) => {
                let (max, window) = (exhausted.max, &exhausted.window);
                format!("{max} per {window} reached: {reason}")
            }
        };
        self.reason.set(Some(why.into()));
        self.record(Outcome::Limited, &exhausted.by, now, retry_after);
        if let Some(why) = exhausted.uncounted() {
            return Refusal::Uncounted {
                by: Arc::clone(&exhausted.by),
                why,
                retry_after: retry_after.unwrap_or_default(),
            };
        }
        Refusal::Limited {
            by: Arc::clone(&exhausted.by),
            reason: exhausted.reason.clone(),
            max: exhausted.max,
            window: exhausted.window.clone(),
            retry_after,
        }
    }

    fn record(
        &self,
        outcome: Outcome,
        by: &Arc<RuleId>,
        now: Timestamp,
        retry_after: Option<Duration>,
    ) -> Decided {
        let reason = self.reason.take();
        let written = Written {
            reason: reason.as_deref(),
            caller: Some(&self.call.grant.caller),
            snapshot: &self.snapshot,
            tool: self.call.tool,
            arguments: &self.call.arguments,
            grant: &self.call.grant.caller.grant,
            session: self.call.session,
            trace_id: self.call.trace_id,
            approval: self
                .approval
                .as_ref()
                .map(|(name, state)| (name.as_str(), *state)),
            number: self.number.take(),
        };
        let decided = written.record(self.gateway, outcome, by, now, retry_after);
        self.decided.set(Some(decided.number));
        decided
    }
}

async fn reserve_shared(
    counters: Arc<SharedCounters>,
    grant: &str,
    charges: &[Charge],
) -> Result<Reserved, Exhausted> {
    let (taken, shadow_limit) = counters.reserve(grant, charges).await?;
    Ok((Units::Shared(counters, taken), shadow_limit))
}

/// Evaluates the policy.
fn decide(gateway: &Gateway, snapshot: &Snapshot, call: &ToolCall<'_>, now: Timestamp) -> Decision {
    let call = Call {
        tool: call.tool,
        arguments: &call.arguments,
        caller: &call.grant.caller,
        session: call.session,
    };
    let started = Instant::now();
    let decision = snapshot.bound.evaluate(&call, now);
    let taken = started.elapsed().as_secs_f64();
    gateway.observe.evaluation.observe(taken);
    decision
}

fn enforced(charges: &[Charge]) -> impl Iterator<Item = &Charge> + Clone {
    charges.iter().filter(|charge| charge.enforced())
}
