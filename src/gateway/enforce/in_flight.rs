//! A forwarded call until its end: returns units where necessary, and records the outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::calls::Units;
use super::request_ids::Ambiguity;
use crate::gateway::Gateway;
use crate::gateway::fairness::offload::aside;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::{self, ApprovalState, Position, Record, Unwritten};
use crate::policy::Caller;
use crate::policy::decision::{DEFAULT_RULE, RuleId};

/// A forwarded call. Call [`InFlight::finish`] at its end; if it is dropped before, it counts as
/// abandoned and keeps its units.
pub struct InFlight {
    pub(super) gateway: Arc<Gateway>,
    pub(super) reservation: Option<Units>,
    pub(super) outcome: Outcome,
    pub(super) by: Arc<RuleId>,
    /// The number of its decision, once that is recorded.
    pub(super) decision: Option<Decided>,
    pub(super) session: String,
    pub(super) sent: Instant,
    pub(super) ambiguity: Option<Ambiguity>,
    /// It was sent to a second session: its units are kept, whatever the server says of it.
    pub(super) again: bool,
    pub(super) done: bool,
}

/// How the upstream's part of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A result.
    Result,
    /// A result that says `isError`: the tool ran, so units are kept.
    ToolError,
    /// A JSON-RPC error of the upstream itself that says that the call was not run: units go back,
    /// unless the call may have taken effect (see `Ambiguity`).
    Refused,
    /// Another JSON-RPC error: servers report failures after the effect that way.
    Error,
    /// No byte was written: units go back.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The answer broke off or was not acceptable.
    Broken,
    /// The client went away.
    Abandoned,
    /// It was not sent, because the audit log could not be written: units go back.
    Unrecorded,
}

/// A decision that was recorded: its number, and where it stands in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    /// Counts within this run of the gateway.
    pub number: u64,
    pub(super) position: Position,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            End::Result => "result",
            End::ToolError => "toolError",
            End::Refused => "refused",
            End::Error => "error",
            End::Unreachable => "unreachable",
            End::Timeout => "timeout",
            End::Broken => "broken",
            End::Abandoned => "abandoned",
            End::Unrecorded => "unrecorded",
        }
    }

    const fn returns_units(self) -> bool {
        matches!(self, End::Refused | End::Unreachable | End::Unrecorded)
    }
}

impl InFlight {
    /// Ends the call: returns its units where decisions.md says so, and records it.
    pub fn finish(mut self, end: End) {
        self.end(end);
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if end.returns_units() && !self.again && (end != End::Refused || !self.provoked()) {
            self.give_back();
        }
        let latency = self.sent.elapsed();
        self.gateway
            .observe
            .upstream_duration
            .observe(latency.as_secs_f64());
        if let Some(decided) = self.decision {
            let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
            let recorder = &self.gateway.observe;
            recorder.ended(decided.number, end.as_str(), latency_ms);
        }
    }

    /// Waits until the decision is in the audit log: before that the call must not go.
    pub(super) async fn written(&self) -> Result<(), Unwritten> {
        match self.decision {
            Some(decided) => self.gateway.observe.written(decided.position).await,
            None => Err(Unwritten("it was not recorded".to_owned())),
        }
    }

    /// Sets the mark that shows whether the call may have taken effect despite an error.
    pub(in crate::gateway) fn watch(&mut self, ambiguity: Ambiguity) {
        self.ambiguity = Some(ambiguity);
    }

    /// The request is sent to another session, as the first has not taken it.
    pub(in crate::gateway) fn sent_again(&mut self) {
        self.again = true;
    }

    /// Whether the client may have caused the upstream's error, by a cancellation or by ending the
    /// session, or the upstream mentioned the call before: then the call may have taken effect.
    pub(super) fn provoked(&self) -> bool {
        self.ambiguity.as_ref().is_some_and(Ambiguity::is_marked)
            || self.gateway.sessions.has_ended(&self.session)
    }

    pub(super) fn give_back(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.gateway.calls.give_back(reservation);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}

/// What the records of refused and forwarded calls have in common.
pub(super) struct Written<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) tool: &'a str,
    pub(super) arguments: &'a [u8],
    pub(super) grant: &'a str,
    pub(super) session: &'a str,
    pub(super) trace_id: Option<&'a str>,
    pub(super) approval: Option<(&'a str, ApprovalState)>,
    /// The decision's number, if it has one already.
    pub(super) number: Option<u64>,
    /// Why the call is refused, if it is.
    pub(super) reason: Option<&'a str>,
    /// Who calls; for the rules that came near.
    pub(super) caller: Option<&'a Caller>,
}

impl Written<'_> {
    pub(super) fn record(
        &self,
        gateway: &Gateway,
        outcome: Outcome,
        by: &Arc<RuleId>,
        time: Timestamp,
        retry_after: Option<Duration>,
    ) -> Decided {
        let label = by.policy_label();
        let decision_id = match self.number {
            Some(number) => gateway.observe.id(number),
            None => gateway.observe.decision_id(),
        };
        let refused = !matches!(outcome, Outcome::Allowed | Outcome::Audited);
        let near = match self.caller {
            Some(caller) if refused && *by.rule == *DEFAULT_RULE => {
                self.snapshot.bound.near(self.tool, caller)
            }
            _ => Vec::new(),
        };
        let record = Record {
            time,
            decision_id,
            server: gateway.observe.server(),
            grant: self.grant,
            session: (!self.session.is_empty()).then_some(self.session),
            method: "tools/call",
            tool: Some(self.tool),
            outcome: outcome.as_str(),
            policy: Some(&label),
            rule: Some(&by.rule),
            reason: self.reason.filter(|_| refused),
            near: &near,
            enforced: outcome != Outcome::Audited,
            approval: self
                .approval
                .map(|(name, _)| name)
                .filter(|name| !name.is_empty()),
            approval_state: self.approval.map(|(_, state)| state),
            retry_after_ms: retry_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            arguments: aside(self.arguments.len(), || {
                let (settings, bound) = (&self.snapshot.settings, &self.snapshot.bound);
                audit::recorded(settings.audit, bound, self.tool, self.arguments)
            }),
            revision: &self.snapshot.rules_revision,
            trace_id: self.trace_id,
        };
        Decided {
            number: decision_id.number,
            position: gateway.observe.record(outcome, by, &record),
        }
    }
}
