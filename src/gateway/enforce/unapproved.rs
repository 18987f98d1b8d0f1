//! What is asked of people, and what becomes of calls that they have not approved.
//!
//! In: a call that needs approval. Out: the request for it; or the refusal, with the line in the
//! audit log that says which of the many ways it went. Must not do: wait.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{PendingCall, Refusal};
use crate::gateway::approvals::{ApprovalRequest, NotRequested, RequestParts};
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::ApprovalState;
use crate::policy::Decision;
use crate::policy::approval::{self, Subject};
use crate::policy::decision::RuleId;

/// When a call may be repeated that found no Kubernetes API.
const API_RETRY_AFTER: Duration = Duration::from_secs(10);

impl PendingCall<'_> {
    /// Records a call that is not approved, or not any more, and returns its refusal.
    pub(super) fn unapproved(&mut self, refusal: Refusal, by: &Arc<RuleId>) -> Refusal {
        let told = match &refusal {
            Refusal::Pending { name, .. } => Some((name, ApprovalState::Pending)),
            Refusal::ApprovalDenied { name, .. } => Some((name, ApprovalState::Denied)),
            Refusal::ApprovalStale { name } => Some((name, ApprovalState::Stale)),
            Refusal::ApprovalWithdrawn { name } => Some((name, ApprovalState::Withdrawn)),
            Refusal::ApprovalExpired { name } => Some((name, ApprovalState::Expired)),
            Refusal::ApprovalUsed { name } => Some((name, ApprovalState::Used)),
            Refusal::ApprovalVoid { name } => Some((name, ApprovalState::Void)),
            _ => None,
        };
        self.approval = told.map(|(name, state)| (name.clone(), state));
        self.record(Outcome::Unapproved, by, Timestamp::now(), None);
        refusal
    }

    /// The request is not for this call, or not under the current policy.
    pub(super) fn void(&mut self, name: String, by: &Arc<RuleId>) -> Refusal {
        self.unapproved(Refusal::ApprovalVoid { name }, by)
    }

    /// The client gave up the call.
    pub(super) fn cancelled(&mut self, name: String, by: &Arc<RuleId>) -> Refusal {
        self.approval = Some((name, ApprovalState::Cancelled));
        self.record(Outcome::Unapproved, by, Timestamp::now(), None);
        Refusal::Cancelled
    }

    /// The call ends for that reason, whether there is a request or not.
    pub(super) fn without_approval(&mut self, state: ApprovalState) {
        let name = self.approval.take().map(|(name, _)| name);
        self.approval = Some((name.unwrap_or_default(), state));
    }

    pub(super) fn not_requested(
        &mut self,
        refused: &NotRequested,
        decision: &Decision,
        now: Timestamp,
    ) -> Refusal {
        let (outcome, state) = match refused {
            NotRequested::GrantFull | NotRequested::ServerFull => {
                (Outcome::Unapproved, ApprovalState::Full)
            }
            // No person was asked: a refusal of the fail-closed table.
            NotRequested::Unavailable => (Outcome::Denied, ApprovalState::Unavailable),
            NotRequested::Rejected => (Outcome::Denied, ApprovalState::Rejected),
        };
        self.without_approval(state);
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
        &mut self,
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
                self.without_approval(ApprovalState::Unshowable);
                self.record(Outcome::Unapproved, &decision.by, now, None);
                Err(Refusal::ApprovalRefused {
                    by: Arc::clone(&decision.by),
                    why: error.to_string(),
                })
            }
        }
    }
}
