//! From a decision to what is done: refuse, count, hold for approval, or let pass.
//!
//! This is the only place that makes a [`Permit`], and without one nothing reaches the upstream. Must not do: read the wire
//! or write to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use tokio::time::timeout_at;

use super::Gateway;
use super::approvals::{Refused, Standing, Wanted};
use super::audit::{Record, UpstreamOutcome};
use super::counters::{Exhausted, Reservation};
use super::grants::Grant;
use super::hold::Hold;
use super::in_use::Dispute;
use super::record::Outcome;
use super::snapshot::Snapshot;
use super::upstream::Envelope;
use crate::policy::approval::{self, Subject};
use crate::policy::decision::{Charge, RuleId};
use crate::policy::{self, Call, Decision};

/// The right to send one request upstream.
pub struct Permit {
    method: Method,
    envelope: Envelope,
    body: Bytes,
}

impl Permit {
    /// For what needs no decision: the handshake, lists that are filtered on their way back, and streams.
    pub(super) fn undecided(method: Method, envelope: Envelope, body: Bytes) -> Self {
        Permit {
            method,
            envelope,
            body,
        }
    }

    pub(super) fn into_parts(self) -> (Method, Envelope, Bytes) {
        (self.method, self.envelope, self.body)
    }
}

/// One tool call on its way through the gateway.
pub struct ToolCall<'a> {
    /// The tool's name.
    pub tool: &'a str,
    /// The raw arguments, a slice of the request's body; empty if there are none.
    pub arguments: Bytes,
    /// Who calls.
    pub grant: &'a Grant,
    /// The session's id inside the gateway.
    pub session: &'a str,
    /// The request's id as JSON, to find a hold that is cancelled.
    pub id: &'a str,
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

/// What becomes of a call.
pub enum Admission {
    /// Send it, and tell the [`InFlight`] how it ended.
    Forward(Permit, Box<InFlight>),
    /// Answer it.
    Refuse(Refusal),
}

/// Decides a call and does all that the decision asks for before the call may go.
///
/// `sent` makes what is sent if it may. The decision is the snapshot's that the caller looked up; a call that
/// was held is decided again under the snapshot and the credentials of then.
pub async fn tool_call(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    call: &ToolCall<'_>,
    sent: impl FnOnce() -> (Envelope, Bytes),
) -> Admission {
    let now = Timestamp::now();
    let mut pending = Pending {
        gateway,
        snapshot: Arc::clone(snapshot),
        call,
        approval: None,
    };
    let decision = pending.evaluate(now);
    let admitted = match decision.outcome {
        policy::Outcome::Allow => pending.reserve(&decision, now),
        policy::Outcome::RequireApproval => Box::pin(pending.approve(&decision, now)).await,
        _ => Err(pending.refuse(&decision, now)),
    };
    match admitted {
        Err(refusal) => Admission::Refuse(refusal),
        Ok(in_flight) => {
            let (envelope, body) = sent();
            let permit = Permit {
                method: Method::POST,
                envelope,
                body,
            };
            Admission::Forward(permit, Box::new(in_flight))
        }
    }
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

    /// Finds or makes the approval, holds the call while a person may decide, and uses the approval up.
    async fn approve(&mut self, decision: &Decision, now: Timestamp) -> Result<InFlight, Refusal> {
        if let Err(exhausted) = self.gateway.counters.look(enforced(&decision.charges)) {
            return Err(self.limited(&exhausted, now));
        }
        let (Some(wanted), Some(demand)) =
            (self.wanted(decision, now)?, decision.approval.as_deref())
        else {
            return Err(self.refuse(decision, now));
        };
        let hold = Hold::start(&self.gateway.holds, self.call.session, self.call.id);
        let deadline = tokio::time::Instant::now() + demand.wait_up_to;
        // Subscribed before the first look, so that no change is missed in between.
        let mut changes = self.gateway.approvals.changes();
        let mut standing = self
            .gateway
            .approvals
            .request(&wanted, now)
            .map_err(|refused| self.unmade(&refused, decision, now))?;
        loop {
            let now = Timestamp::now();
            match standing {
                Standing::Approved((_, name), version) => {
                    self.approval = Some(name.clone());
                    // Cancelled, or its session ended, at the moment at which it was approved.
                    if !hold.release() || self.gateway.ended.contains(self.call.session) {
                        self.record(Outcome::Unapproved, &decision.by, now, None);
                        return Err(Refusal::Cancelled);
                    }
                    return self.use_up(&wanted, (wanted.namespace.clone(), name), version, now);
                }
                Standing::Denied((_, name), decided) => {
                    self.approval = Some(name.clone());
                    self.record(Outcome::Unapproved, &decision.by, now, None);
                    return Err(Refusal::ApprovalDenied {
                        name,
                        reason: decided.reason,
                    });
                }
                Standing::Pending(key) => {
                    self.approval = Some(key.1.clone());
                    let changed = async {
                        match &mut changes {
                            Some(changes) => changes.changed().await.is_ok(),
                            None => std::future::pending().await,
                        }
                    };
                    let expiry = Duration::try_from(wanted.spec.expires_at.0.duration_since(now))
                        .unwrap_or_default();
                    let until = deadline.min(tokio::time::Instant::now() + expiry);
                    let woken = tokio::select! {
                        biased;
                        () = hold.cancelled() => {
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::Cancelled);
                        }
                        woken = timeout_at(until, changed) => woken,
                    };
                    let now = Timestamp::now();
                    match self.gateway.approvals.look(&wanted, &key, now) {
                        Some(found @ (Standing::Approved(..) | Standing::Denied(..))) => {
                            standing = found
                        }
                        Some(found) if matches!(woken, Ok(true)) => standing = found,
                        Some(_) => {
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::Pending { name: key.1 });
                        }
                        None => {
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::ApprovalGone { name: key.1 });
                        }
                    }
                }
            }
        }
    }

    /// Decides again under the bundle and the credential of now, reserves, and takes the approval; at most one call gets it.
    fn use_up(
        &mut self,
        wanted: &Wanted,
        key: super::approvals::Key,
        version: u64,
        now: Timestamp,
    ) -> Result<InFlight, Refusal> {
        let gone = |this: &Self, by: &Arc<RuleId>| {
            this.record(Outcome::Unapproved, by, now, None);
            Refusal::ApprovalGone {
                name: key.1.clone(),
            }
        };
        if let Some(snapshot) = self.gateway.snapshot() {
            self.snapshot = snapshot;
        }
        let decision = self.evaluate(now);
        if !self.snapshot.grants.still_holds(self.call.grant) {
            return Err(gone(self, &decision.by));
        }
        match decision.outcome {
            policy::Outcome::RequireApproval => {}
            policy::Outcome::Allow => return self.reserve(&decision, now),
            _ => return Err(self.refuse(&decision, now)),
        }
        // Another definition of the tool, other rules or another preview make it another call.
        match self.wanted(&decision, now)? {
            Some(again) if again.name == wanted.name && same(&again, wanted) => {}
            _ => return Err(gone(self, &decision.by)),
        }
        let mut in_flight = self.reserve(&decision, now)?;
        if !self.gateway.approvals.consume(&key, version, now) {
            in_flight.give_back();
            in_flight.done = true;
            return Err(gone(self, &decision.by));
        }
        Ok(in_flight)
    }

    fn unmade(&self, refused: &Refused, decision: &Decision, now: Timestamp) -> Refusal {
        self.record(Outcome::Unapproved, &decision.by, now, None);
        Refusal::ApprovalRefused {
            by: Arc::clone(&decision.by),
            why: refused.to_string(),
        }
    }

    /// The request for approval of this very call, or the refusal if it cannot be put before a person.
    fn wanted(&self, decision: &Decision, now: Timestamp) -> Result<Option<Wanted>, Refusal> {
        let Some(demand) = decision.approval.as_deref() else {
            return Ok(None);
        };
        let Some(tool) = self.snapshot.bound.tool(self.call.tool) else {
            return Ok(None);
        };
        let subject = Subject {
            grant: &self.call.grant.caller.grant,
            server_uid: &self.snapshot.server.uid,
            tool: self.call.tool,
            definition_digest: &tool.digest,
            rules: &demand.rules,
            arguments: &self.call.arguments,
        };
        let bound = approval::digest(&subject)
            .map_err(Into::into)
            .and_then(|digest| {
                Ok((
                    digest,
                    approval::preview(&self.call.arguments, &tool.redact)?,
                ))
            });
        match bound {
            Ok((digest, preview)) => Ok(Some(Wanted::new(
                &self.snapshot.server.namespace,
                &self.snapshot.server.name,
                &subject,
                &decision.by,
                &digest,
                preview,
                now,
                demand.expires_after,
            ))),
            Err(error) => {
                let error: approval::PreviewError = error;
                self.record(Outcome::Unapproved, &decision.by, now, None);
                Err(Refusal::ApprovalRefused {
                    by: Arc::clone(&decision.by),
                    why: error.to_string(),
                })
            }
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

fn same(a: &Wanted, b: &Wanted) -> bool {
    a.spec.arguments_digest == b.spec.arguments_digest
        && a.spec.arguments_preview == b.spec.arguments_preview
        && a.spec.grant == b.spec.grant
        && a.spec.policy == b.spec.policy
        && a.spec.rule == b.spec.rule
}

/// A call that was let through. Tell it how it ended; dropped without, it counts as abandoned and keeps its units.
pub struct InFlight {
    gateway: Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    reservation: Option<Reservation>,
    outcome: Outcome,
    by: Arc<RuleId>,
    tool: String,
    arguments: Bytes,
    grant: Grant,
    session: String,
    trace_id: Option<String>,
    approval: Option<String>,
    decided: Timestamp,
    sent: Instant,
    dispute: Option<Dispute>,
    done: bool,
}

/// A prompt, a resource, or a template.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By name.
    Prompt(&'a str),
    /// By URI.
    Resource(&'a str),
    /// By URI or URI template, as completions name it.
    Template(&'a str),
}

/// Decides what names a prompt or a resource, and records it: whether it passes. If not it is answered as unknown.
pub fn named(
    gateway: &Gateway,
    snapshot: &Snapshot,
    grant: &Grant,
    session: &str,
    method: &'static str,
    named: Named<'_>,
    trace_id: Option<&str>,
) -> bool {
    let (bound, caller) = (&snapshot.bound, &grant.caller);
    let (decision, name) = match named {
        Named::Prompt(name) => (bound.prompt(name, caller), name),
        Named::Resource(uri) => (bound.resource(uri, caller), uri),
        Named::Template(uri) => (bound.template(uri, caller), uri),
    };
    let audited = decision
        .shadow
        .as_ref()
        .filter(|shadow| shadow.outcome.is_violation());
    let (outcome, by) = match (decision.outcome, audited) {
        (policy::Outcome::Allow, None) => (Outcome::Allowed, &decision.by),
        (policy::Outcome::Allow, Some(shadow)) => (Outcome::Audited, &shadow.by),
        (policy::Outcome::Hide, _) => (Outcome::Hidden, &decision.by),
        (policy::Outcome::Unknown, _) => (Outcome::Unknown, &decision.by),
        _ => (Outcome::Denied, &decision.by),
    };
    let label = by.policy_label();
    let record = Record {
        time: Timestamp::now(),
        decision_id: gateway.recorder.decision_id(),
        server: gateway.recorder.server(),
        grant: &caller.grant,
        session: Some(session),
        method,
        tool: Some(name),
        outcome: outcome.as_str(),
        policy: Some(&label),
        rule: Some(&by.rule),
        enforced: outcome != Outcome::Audited,
        approval: None,
        retry_after_ms: None,
        arguments: None,
        upstream: None,
        revision: &snapshot.revision,
        trace_id,
    };
    gateway.recorder.record(outcome, by, &record);
    matches!(outcome, Outcome::Allowed | Outcome::Audited)
}

/// How the upstream's part of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A result.
    Result,
    /// A result that says `isError`: the tool ran, so units are kept.
    ToolError,
    /// A JSON-RPC error of the upstream itself: units go back.
    Error,
    /// No byte was written: units go back.
    Unreachable,
    /// Nothing in time.
    Timeout,
    /// The answer broke off or was not acceptable.
    Broken,
    /// The client went away.
    Abandoned,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            End::Result => "result",
            End::ToolError => "toolError",
            End::Error => "error",
            End::Unreachable => "unreachable",
            End::Timeout => "timeout",
            End::Broken => "broken",
            End::Abandoned => "abandoned",
        }
    }

    const fn returns_units(self) -> bool {
        matches!(self, End::Error | End::Unreachable)
    }
}

impl InFlight {
    /// Ends the call: returns its units where decisions.md says so, and records it.
    pub fn finish(mut self: Box<Self>, end: End) {
        self.end(end);
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if end.returns_units() && (end == End::Unreachable || !self.provoked()) {
            self.give_back();
        }
        let latency = self.sent.elapsed();
        self.gateway
            .recorder
            .upstream_duration
            .observe(latency.as_secs_f64());
        let upstream = UpstreamOutcome {
            status: end.as_str(),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
        };
        let written = Written {
            snapshot: &self.snapshot,
            tool: &self.tool,
            arguments: &self.arguments,
            grant: &self.grant.caller.grant,
            session: &self.session,
            trace_id: self.trace_id.as_deref(),
            approval: self.approval.as_deref(),
        };
        written.record(
            &self.gateway,
            self.outcome,
            &self.by,
            self.decided,
            None,
            Some(upstream),
        );
    }

    /// Takes note of what else uses the call's id.
    pub(super) fn watch(&mut self, dispute: Dispute) {
        self.dispute = Some(dispute);
    }

    /// Whether the client may have brought the upstream's error about, by a cancellation, by another request under the same
    /// id, or by ending the session: then the call may have been made all the same.
    fn provoked(&self) -> bool {
        self.dispute.as_ref().is_some_and(Dispute::is_open)
            || self.gateway.ended.contains(&self.session)
    }

    fn give_back(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.gateway.counters.give_back(reservation);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}

/// What the records of refused and forwarded calls have in common.
struct Written<'a> {
    snapshot: &'a Snapshot,
    tool: &'a str,
    arguments: &'a [u8],
    grant: &'a str,
    session: &'a str,
    trace_id: Option<&'a str>,
    approval: Option<&'a str>,
}

impl Written<'_> {
    fn record(
        &self,
        gateway: &Gateway,
        outcome: Outcome,
        by: &Arc<RuleId>,
        time: Timestamp,
        retry_after: Option<Duration>,
        upstream: Option<UpstreamOutcome>,
    ) {
        let label = by.policy_label();
        let record = Record {
            time,
            decision_id: gateway.recorder.decision_id(),
            server: gateway.recorder.server(),
            grant: self.grant,
            session: (!self.session.is_empty()).then_some(self.session),
            method: "tools/call",
            tool: Some(self.tool),
            outcome: outcome.as_str(),
            policy: Some(&label),
            rule: Some(&by.rule),
            enforced: outcome != Outcome::Audited,
            approval: self.approval,
            retry_after_ms: retry_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            arguments: self.snapshot.audited_arguments(self.tool, self.arguments),
            upstream,
            revision: &self.snapshot.revision,
            trace_id: self.trace_id,
        };
        gateway.recorder.record(outcome, by, &record);
    }
}
