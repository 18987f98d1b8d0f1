//! Calls that need approval: finds or creates the approval, holds the call, and consumes the
//! approval for one call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout_at;

use super::held_calls::HeldCall;
use super::{AdmittedCall, Granted, PendingCall, Refusal, decide, unrecordable};
use crate::gateway::approvals::{
    ApprovalKey, ApprovalRequest, CallContext, NotConsumed, NotRequested, RequestParts, Standing,
};
use crate::gateway::fairness::offload::aside;
use crate::gateway::observe::Outcome;
use crate::policy::approval::{self, Subject};
use crate::policy::decision::RuleId;
use crate::policy::observed::Observed;
use crate::policy::{self, Decision};

/// When a call may be repeated that found no Kubernetes API.
const API_RETRY_AFTER: Duration = Duration::from_secs(10);

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
                    self.approval = Some(name.clone());
                    // Cancelled, or its session ended, at the moment at which it was approved.
                    if hold.is_cancelled() || self.gateway.sessions.has_ended(self.call.session) {
                        self.record(Outcome::Unapproved, &decision.by, now, None);
                        return Err(Refusal::Cancelled);
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
                        self.record(Outcome::Unapproved, &decision.by, now, None);
                        return Err(Refusal::Cancelled);
                    }
                    return Ok(admitted);
                }
                Standing::Denied((_, name), decided) => {
                    self.approval = Some(name.clone());
                    self.record(Outcome::Unapproved, &decision.by, now, None);
                    return Err(Refusal::ApprovalDenied {
                        name,
                        reason: decided.reason,
                    });
                }
                Standing::Stale((_, name)) => {
                    self.approval = Some(name.clone());
                    self.record(Outcome::Unapproved, &decision.by, now, None);
                    return Err(Refusal::ApprovalStale { name });
                }
                Standing::Withdrawn((_, name)) => {
                    self.approval = Some(name.clone());
                    self.record(Outcome::Unapproved, &decision.by, now, None);
                    return Err(Refusal::ApprovalWithdrawn { name });
                }
                Standing::Pending(key, open_until) => {
                    self.approval = Some(key.1.clone());
                    let changed = async { changes.changed().await.is_ok() };
                    let expiry =
                        Duration::try_from(open_until.duration_since(now)).unwrap_or_default();
                    let until = deadline.min(tokio::time::Instant::now() + expiry);
                    let woken = tokio::select! {
                        biased;
                        () = hold.cancelled() => {
                            let (session, now) = (self.call.session, Timestamp::now());
                            approvals.withdraw(&key, session, now);
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::Cancelled);
                        }
                        woken = timeout_at(until, changed) => woken,
                    };
                    let now = Timestamp::now();
                    match approvals.look(&wanted, &key, now) {
                        Some(Standing::Pending(..)) if !matches!(woken, Ok(true)) => {
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::Pending {
                                name: key.1,
                                until: open_until,
                            });
                        }
                        Some(found) => standing = found,
                        None => {
                            self.record(Outcome::Unapproved, &decision.by, now, None);
                            return Err(Refusal::ApprovalGone { name: key.1 });
                        }
                    }
                }
            }
        }
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
                    (Ok(()), None) => self.gone(&approved, &decision.by, now),
                }
            }
            (Err(NotConsumed::Lost), _) => self.gone(&approved, &decision.by, now),
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
            self.record(Outcome::Unapproved, &decision.by, now, None);
            return Err(Refusal::ApprovalStale {
                name: key.1.clone(),
            });
        }
        if !self.snapshot.grants.still_holds(self.call.grant) {
            return Err(self.gone(approved, &decision.by, now));
        }
        match decision.outcome {
            policy::Outcome::RequireApproval => {}
            policy::Outcome::Allow => {
                let admitted = match self.shared(&decision) {
                    None => self.allow_here(&decision, now)?,
                    Some(counters) => self.allow_shared(counters, &decision, now).await?,
                };
                return Ok(DecidedAgain::Admitted(Box::new(admitted)));
            }
            _ => return Err(self.refuse(&decision, now)),
        }
        // Another definition of the tool, other rules or another preview make it another call.
        match self.approval_request(&decision, now)? {
            Some(again) if again.is_same_call(wanted) => Ok(DecidedAgain::Asks(decision)),
            _ => Err(self.gone(approved, &decision.by, now)),
        }
    }

    /// Reads again what was observed: if it has changed, people approved a change of something else.
    async fn still_so(
        &mut self,
        approved: &ApprovedCall<'_>,
        observed: &Observed,
        decision: &Decision,
        hold: &HeldCall,
    ) -> Result<(), Refusal> {
        let demand = decision.approval.as_deref();
        let Some(observation) = demand.and_then(|demand| demand.observe.as_ref()) else {
            return Err(self.gone(approved, &decision.by, Timestamp::now()));
        };
        let current = self.observe(observation, &decision.by, hold).await?;
        if current == *observed {
            return Ok(());
        }
        let (key, now) = (&approved.key, Timestamp::now());
        let approvals = self.gateway.calls.approvals();
        approvals.state_changed(key, approved.version, now);
        self.record(Outcome::Unapproved, &decision.by, now, None);
        Err(Refusal::ApprovalStale {
            name: key.1.clone(),
        })
    }

    fn gone(&self, approved: &ApprovedCall<'_>, by: &Arc<RuleId>, now: Timestamp) -> Refusal {
        self.record(Outcome::Unapproved, by, now, None);
        Refusal::ApprovalGone {
            name: approved.key.1.clone(),
        }
    }

    fn context(&self, number: u64) -> CallContext<'_> {
        CallContext {
            session: self.call.session,
            decision: self.gateway.observe.id(number),
        }
    }

    pub(super) fn not_requested(
        &self,
        refused: &NotRequested,
        decision: &Decision,
        now: Timestamp,
    ) -> Refusal {
        let outcome = match refused {
            NotRequested::GrantFull | NotRequested::ServerFull => Outcome::Unapproved,
            // No person was asked: a refusal of the fail-closed table.
            NotRequested::Unavailable | NotRequested::Rejected => Outcome::Denied,
        };
        let retry_after = (*refused == NotRequested::Unavailable).then_some(API_RETRY_AFTER);
        self.record(outcome, &decision.by, now, retry_after);
        let by = Arc::clone(&decision.by);
        match retry_after {
            Some(retry_after) => Refusal::ApprovalUnavailable { by, retry_after },
            None => Refusal::ApprovalRefused {
                by,
                why: refused.to_string(),
            },
        }
    }

    /// The request for approval of exactly this call, or the refusal if it cannot be shown to a
    /// person.
    pub(super) fn approval_request(
        &self,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<Option<ApprovalRequest>, Refusal> {
        let Some(demand) = decision.approval.as_deref() else {
            return Ok(None);
        };
        let Some(tool) = self.snapshot.bound.tool(self.call.tool) else {
            return Ok(None);
        };
        let subject = Subject {
            grant: &self.call.grant.caller.grant,
            server_uid: &self.snapshot.server.uid,
            destination: &self.snapshot.destination.digest,
            tool: self.call.tool,
            definition_digest: &tool.digest,
            rules: &demand.rules,
            observe: demand.observe.as_ref(),
            arguments: &self.call.arguments,
        };
        let bound = approval::digest(&subject)
            .map_err(Into::into)
            .and_then(|digest| {
                Ok((
                    digest,
                    approval::preview(&self.call.arguments, &demand.hidden(&tool.redact))?,
                ))
            });
        match bound {
            Ok((digest, preview)) => {
                let parts = RequestParts {
                    namespace: &self.snapshot.server.namespace,
                    server: &self.snapshot.server.name,
                    by: &decision.by,
                    digest: &digest,
                    names: &self.snapshot.sealer.names(&digest),
                    preview,
                    destination: self.snapshot.destination_of(&self.call.grant.caller.grant),
                    expires_after: demand.expires_after,
                    approvers: demand.approvers,
                };
                Ok(Some(ApprovalRequest::new(&subject, parts, now)))
            }
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
}
