//! Lines in the audit log for what becomes of requests, each written by one gateway.
//!
//! In: decisions of people, the clock. Out: lines, after the object says that they are written: the
//! gateway whose write the API server took writes them, so that several replicas write none twice.
//! The gateway whose call asked does it at once; the others only if that one does not. Must not do:
//! decide, or touch a request that was used.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::PostParams;
use tokio::time::{sleep, timeout};

use super::super::expiries;
use super::super::steps::{record, record_decision};
use super::{ClusterApprovals, uid};
use crate::api::Time;
use crate::api::approval::{McpApproval, Phase};
use crate::api::loose::Loose;
use crate::gateway::cluster_api::describe;

/// The API server has this long to answer one request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Between two checks for lines that are due.
const SWEEP_WAITS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
/// Another writer may change the object at the same time.
const ATTEMPTS: usize = 5;

/// The lines of decisions that a write of the status claims.
#[derive(Clone, Copy)]
pub(super) struct ClaimedLines {
    from: usize,
}

impl ClusterApprovals {
    /// Says in the status that all decisions are in the audit log of this gateway, or soon will be.
    pub(super) fn claim_lines(&self, object: &mut McpApproval) -> ClaimedLines {
        let (all, unaudited) = (object.spec.decisions.len(), object.unaudited().len());
        let status = object.status.get_or_insert_default();
        if unaudited > 0 {
            status.audited_decisions = i64::try_from(all).ok();
        }
        status.audited_by = Some(self.instance.clone());
        ClaimedLines {
            from: all - unaudited,
        }
    }

    /// Writes the lines, now that the status says so.
    pub(super) fn write_lines(&self, lines: ClaimedLines, object: &McpApproval, now: Timestamp) {
        for decision in object.spec.decisions.iter().skip(lines.from) {
            record_decision(object, &self.records, decision, now);
        }
    }

    /// Whether the last write of lines was this gateway's.
    pub(super) fn has_claimed(&self, object: &McpApproval) -> bool {
        let by = object.status.as_ref();
        let by = by.and_then(|status| status.audited_by.as_deref());
        by == Some(self.instance.as_str())
    }
}

/// What a write claims.
#[derive(Clone, Copy)]
struct Claim {
    lines: ClaimedLines,
    expired: bool,
}

enum ClaimResult {
    /// It is written, or there is nothing to write.
    Done,
    /// Another write came first.
    Conflict,
    /// Whether it was written is unknown.
    Unanswered(Claim, String),
}

impl ClusterApprovals {
    /// Writes lines when they are due, for ever.
    pub async fn record_steps(self: Arc<Self>) {
        let changed = self.changed.subscribe();
        let sweep = |now| {
            let mut state = self.lock();
            state.client.as_ref()?;
            for (name, uid) in state.kept.due(now) {
                let this = Arc::clone(&self);
                tokio::spawn(async move {
                    if let Err(why) = this.record_due(&name, &uid).await {
                        tracing::warn!("McpApproval {name} cannot be marked as recorded: {why}");
                    }
                    this.lock().kept.wrote(&name, &uid, Timestamp::now());
                    this.notify();
                });
            }
            state.kept.next_due()
        };
        expiries::sweep(changed, SWEEP_WAITS, sweep).await;
    }

    async fn record_due(&self, name: &str, own_uid: &str) -> Result<(), String> {
        let mut unanswered = None;
        let mut trouble = "others write it all the time".to_owned();
        for _ in 0..ATTEMPTS {
            let client = self.lock().client.clone();
            let client = client.ok_or("the API cannot be used")?;
            // What is kept may be ahead of what the API server has.
            let Some(read) = self.read(&client, name).await? else {
                return Ok(());
            };
            self.took(&read, Timestamp::now());
            let Ok(object) = read.object() else {
                return Ok(());
            };
            let object = McpApproval::clone(object);
            if uid(&object) != own_uid {
                return Ok(());
            }
            if let Some(claim) = unanswered.take()
                && self.has_claimed(&object)
            {
                self.write_claimed(claim, &object, Timestamp::now());
            }
            // One that was used has its lines: they went with the write that used it.
            if object.phase_at(Timestamp::now()) == Phase::Consumed {
                return Ok(());
            }
            match self.claim_and_write(client, object).await {
                ClaimResult::Done => return Ok(()),
                ClaimResult::Conflict => {}
                ClaimResult::Unanswered(claim, why) => {
                    unanswered = Some(claim);
                    trouble = why;
                    sleep(PAUSE).await;
                }
            }
        }
        Err(trouble)
    }

    async fn claim_and_write(&self, client: Client, mut object: McpApproval) -> ClaimResult {
        let now = Timestamp::now();
        let status = object.status.as_ref();
        let expired = object.phase_at(now) == Phase::Expired
            && status.is_none_or(|status| status.expired_at.is_none());
        if object.unaudited().is_empty() && !expired {
            return ClaimResult::Done;
        }
        let lines = self.claim_lines(&mut object);
        if expired {
            let status = object.status.get_or_insert_default();
            status.expired_at = Some(Time(now));
            status.phase = Some(Phase::Expired);
        }
        let claim = Claim { lines, expired };
        let name = object.metadata.name.clone().unwrap_or_default();
        let (typed, post) = (self.typed(client), PostParams::default());
        let write = typed.replace_status(&name, &post, &object);
        match timeout(REQUEST_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                self.write_claimed(claim, &written, now);
                self.took(&Loose::from(written), now);
                ClaimResult::Done
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => ClaimResult::Conflict,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => ClaimResult::Done,
            Ok(Err(error)) => ClaimResult::Unanswered(claim, describe(&error)),
            Err(_) => ClaimResult::Unanswered(claim, "no answer".to_owned()),
        }
    }

    fn write_claimed(&self, claim: Claim, object: &McpApproval, now: Timestamp) {
        self.write_lines(claim.lines, object, now);
        if claim.expired {
            record(object, &self.records, "expired", None, now);
        }
    }

    /// The object was deleted: what people decided is recorded by the gateway whose call asked.
    pub(super) fn record_deleted(&self, object: &McpApproval, now: Timestamp) {
        if object.spec.server_ref.name == self.server && self.lock().kept.is_own(object) {
            for decision in object.unaudited() {
                record_decision(object, &self.records, decision, now);
            }
        }
    }
}
