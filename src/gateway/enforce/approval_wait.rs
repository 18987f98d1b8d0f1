//! Calls that need approval: finds or creates the approval, holds the call, and consumes the
//! approval for one call.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout_at;

use super::held_calls::HeldCall;
use super::{AdmittedCall, Granted, PendingCall, Refusal, Waiting, decide, unrecordable};
use crate::gateway::approvals::{
    ApprovalKey, ApprovalRequest, CallContext, NotConsumed, NotRequested, Standing,
};
use crate::gateway::fairness::offload::aside;
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::ApprovalState;
use crate::policy::observed::Observed;
use crate::policy::{self, Decision};

/// What was observed has this long until the call is forwarded, or it is read once more.
const FRESH: Duration = Duration::from_secs(1);

/// A call that people have approved, and the approval.
pub(super) struct ApprovedCall<'a> {
    wanted: &'a ApprovalRequest,
    key: ApprovalKey,
    version: &'a str,
    observed: Option<&'a Observed>,
}

/// What policy says of an approved call.
enum DecidedAgain {
    /// It does not ask any more.
    Admitted(Box<AdmittedCall>),
    /// It asks for this approval.
    Asks(Decision),
}

impl PendingCall<'_> {
    /// Finds or creates the approval, holds the call while a person decides, and consumes the
    /// approval.
    pub(super) async fn approve(
        &mut self,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<AdmittedCall, Refusal> {
        if let Err(exhausted) = self.look(decision).await {
            return Err(self.limited(&exhausted, now));
        }
        let (Some(mut wanted), Some(demand)) = (
            self.approval_request(decision, now)?,
            decision.approval.as_deref(),
        ) else {
            return Err(self.refuse(decision, now));
        };
        // The lines about the approval and the one about this call name the same decision.
        let number = self.gateway.observe.decision_id().number;
        self.number.set(Some(number));
        let approvals = self.gateway.calls.approvals();
        let hold = self
            .gateway
            .calls
            .hold(self.call.session, &self.call.request.id.to_json());
        approvals.started().await;
        // Subscribed before the first look, so that no change is missed in between.
        let mut changes = approvals.changes();
        let found = match &demand.observe {
            None => None,
            Some(observation) => {
                let found = approvals
                    .find(&wanted, self.context(number), now)
                    .map_err(|refused| self.not_requested(&refused, decision, now))?;
                if found.is_none() {
                    wanted.observed(self.observe(observation, &decision.by, &hold).await?);
                }
                found
            }
        };
        let mut standing = match found {
            Some(found) => found,
            None => approvals
                .request(&wanted, self.context(number), now)
                .await
                .map_err(|refused| self.not_requested(&refused, decision, now))?,
        };
        let deadline = tokio::time::Instant::now() + demand.wait_up_to;
        loop {
            let now = Timestamp::now();
            match standing {
                Standing::Approved((_, name), version, observed) => {
                    self.approval = Some((name.clone(), ApprovalState::Approved));
                    // Cancelled, or its session ended, at the moment at which it was approved.
                    if hold.is_cancelled() || self.gateway.sessions.has_ended(self.call.session) {
                        return Err(self.cancelled(name, &decision.by));
                    }
                    let key = (wanted.namespace.clone(), name);
                    let approved = ApprovedCall {
                        wanted: &wanted,
                        key,
                        version: &version,
                        observed: observed.as_deref(),
                    };
                    let mut admitted = self.use_approval(approved, &hold).await?;
                    // Or while the approval was used up: then it is used up for nothing.
                    if !hold.release() || self.gateway.sessions.has_ended(self.call.session) {
                        admitted.in_flight.give_back();
                        admitted.in_flight.done = true;
                        let name = self.approval.take().map(|(name, _)| name);
                        return Err(self.cancelled(name.unwrap_or_default(), &decision.by));
                    }
                    return Ok(admitted);
                }
                Standing::Denied((_, name), decided) => {
                    let reason = decided.reason;
                    let refusal = Refusal::ApprovalDenied { name, reason };
                    return Err(self.unapproved(refusal, &decision.by));
                }
                Standing::Stale((_, name)) => {
                    return Err(self.unapproved(Refusal::ApprovalStale { name }, &decision.by));
                }
                Standing::Withdrawn((_, name)) => {
                    return Err(self.unapproved(Refusal::ApprovalWithdrawn { name }, &decision.by));
                }
                Standing::Expired((_, name)) => {
                    return Err(self.unapproved(Refusal::ApprovalExpired { name }, &decision.by));
                }
                Standing::Used((_, name)) => {
                    return Err(self.unapproved(Refusal::ApprovalUsed { name }, &decision.by));
                }
                Standing::Pending(key, open_until) => {
                    self.tell(&key.1, open_until, number);
                    let changed = async { changes.changed().await.is_ok() };
                    let expiry =
                        Duration::try_from(open_until.duration_since(now)).unwrap_or_default();
                    let until = deadline.min(tokio::time::Instant::now() + expiry);
                    let woken = tokio::select! {
                        biased;
                        () = hold.cancelled() => {
                            approvals.withdraw(&key, self.call.session, Timestamp::now());
                            return Err(self.cancelled(key.1, &decision.by));
                        }
                        woken = timeout_at(until, changed) => woken,
                    };
                    let now = Timestamp::now();
                    match approvals.look(&wanted, &key, now) {
                        Some(Standing::Pending(..)) if !matches!(woken, Ok(true)) => {
                            let (name, until) = (key.1, open_until);
                            return Err(
                                self.unapproved(Refusal::Pending { name, until }, &decision.by)
                            );
                        }
                        Some(found) => standing = found,
                        None => return Err(self.void(key.1, &decision.by)),
                    }
                }
            }
        }
    }

    /// Tells the client that the call waits, and for what.
    fn tell(&self, approval: &str, until: Timestamp, decision: u64) {
        let Some(waiting) = self.waiting else {
            return;
        };
        waiting.send_if_modified(|told| {
            let news = told
                .as_ref()
                .is_none_or(|told| told.approval != approval || told.until != until);
            if news {
                *told = Some(Waiting {
                    approval: approval.to_owned(),
                    until,
                    decision,
                });
            }
            news
        });
    }

    /// Decides again under the current bundle and credentials, looks whether what was observed is
    /// still so, reserves, and takes the approval; at most one call gets it.
    pub(super) async fn use_approval(
        &mut self,
        approved: ApprovedCall<'_>,
        hold: &HeldCall,
    ) -> Result<AdmittedCall, Refusal> {
        let ApprovedCall {
            wanted,
            key,
            version,
            observed,
        } = &approved;
        let mut decision = match Box::pin(self.decide_again(&approved)).await? {
            DecidedAgain::Admitted(admitted) => return Ok(*admitted),
            DecidedAgain::Asks(decision) => decision,
        };
        let mut read_at = None;
        if let Some(observed) = observed {
            self.still_so(&approved, observed, &decision, hold).await?;
            read_at = Some(Instant::now());
            // The read took its time.
            decision = match Box::pin(self.decide_again(&approved)).await? {
                DecidedAgain::Admitted(admitted) => return Ok(*admitted),
                DecidedAgain::Asks(decision) => decision,
            };
        }
        let now = Timestamp::now();
        // The approval is good for one call: it is not used up for one that cannot be recorded.
        if let Some(why) = unrecordable(self.gateway, &self.snapshot) {
            self.record(Outcome::Unrecorded, &decision.by, now, None);
            return Err(Refusal::Unrecorded(why));
        }
        let mut in_flight = Box::pin(self.reserve(&decision, now)).await?;
        // Recorded later under this number, when everything else is done.
        let number = self.number.get().unwrap_or_default();
        let context = self.context(number);
        let consumed = self
            .gateway
            .calls
            .approvals()
            .consume(wanted, key, version, context, now)
            .await;
        // Or the write took its time: then it is read once more, and may be used up for nothing.
        let slow = read_at.is_some_and(|read_at| read_at.elapsed() > FRESH);
        let refusal = match (consumed, observed) {
            (Ok(consumed), observed) => {
                let fresh = match observed.filter(|_| slow) {
                    Some(observed) => self.still_so(&approved, observed, &decision, hold).await,
                    None => Ok(()),
                };
                match (fresh, Granted::approved(&decision, consumed)) {
                    (Ok(()), Some(granted)) => return Ok(AdmittedCall { in_flight, granted }),
                    (Err(refusal), _) => refusal,
                    (Ok(()), None) => self.void(key.1.clone(), &decision.by),
                }
            }
            (Err(NotConsumed::Lost), _) => {
                let approvals = self.gateway.calls.approvals();
                let name = key.1.clone();
                let refusal = match approvals.look(wanted, key, Timestamp::now()) {
                    Some(Standing::Used(_)) => Refusal::ApprovalUsed { name },
                    Some(Standing::Expired(_)) => Refusal::ApprovalExpired { name },
                    Some(Standing::Stale(_)) => Refusal::ApprovalStale { name },
                    _ => Refusal::ApprovalVoid { name },
                };
                self.unapproved(refusal, &decision.by)
            }
            (Err(NotConsumed::Unavailable), _) => {
                self.not_requested(&NotRequested::Unavailable, &decision, now)
            }
        };
        in_flight.give_back();
        in_flight.done = true;
        Err(refusal)
    }

    /// The current decision on an approved call: policy may have stopped asking.
    async fn decide_again(&mut self, approved: &ApprovedCall<'_>) -> Result<DecidedAgain, Refusal> {
        let ApprovedCall { wanted, key, .. } = approved;
        let now = Timestamp::now();
        if let Some(snapshot) = self.gateway.snapshot() {
            self.snapshot = snapshot;
        }
        let decision = aside(self.call.arguments.len(), || {
            decide(self.gateway, &self.snapshot, self.call, now)
        });
        let server = &self.snapshot.server;
        let destination = &self.snapshot.destination.digest;
        // This call would go to the upstream from before the change, which the policies are no
        // longer for.
        if *destination != wanted.destination {
            let approvals = self.gateway.calls.approvals();
            approvals.destination_changed(&server.namespace, &server.name, destination, now);
            let name = key.1.clone();
            return Err(self.unapproved(Refusal::ApprovalStale { name }, &decision.by));
        }
        if !self.snapshot.grants.still_holds(self.call.grant) {
            return Err(self.void(key.1.clone(), &decision.by));
        }
        match decision.outcome {
            policy::Outcome::RequireApproval => {}
            policy::Outcome::Allow => {
                let admitted = self.allow(&decision, now).await?;
                return Ok(DecidedAgain::Admitted(Box::new(admitted)));
            }
            _ => return Err(self.refuse(&decision, now)),
        }
        // Another definition of the tool, other rules or another preview make it another call.
        match self.approval_request(&decision, now)? {
            Some(again) if again.is_same_call(wanted) => Ok(DecidedAgain::Asks(decision)),
            _ => Err(self.void(key.1.clone(), &decision.by)),
        }
    }

    /// Reads again what was observed: if it has changed, people approved a change of something
    /// else.
    async fn still_so(
        &mut self,
        approved: &ApprovedCall<'_>,
        observed: &Observed,
        decision: &Decision,
        hold: &HeldCall,
    ) -> Result<(), Refusal> {
        let demand = decision.approval.as_deref();
        let Some(observation) = demand.and_then(|demand| demand.observe.as_ref()) else {
            return Err(self.void(approved.key.1.clone(), &decision.by));
        };
        let current = self.observe(observation, &decision.by, hold).await?;
        if current == *observed {
            return Ok(());
        }
        let (key, now) = (&approved.key, Timestamp::now());
        let approvals = self.gateway.calls.approvals();
        approvals.state_changed(key, approved.version, now);
        let name = key.1.clone();
        Err(self.unapproved(Refusal::ApprovalStale { name }, &decision.by))
    }

    fn context(&self, number: u64) -> CallContext<'_> {
        CallContext {
            session: self.call.session,
            decision: self.gateway.observe.id(number),
        }
    }
}
