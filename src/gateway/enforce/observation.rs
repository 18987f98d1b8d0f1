//! Reads the current state, before a person is asked about a call and again before it is forwarded.
//!
//! In: what the rules observe for one call. Out: the state, or why it could not be read. The read
//! is a call of the caller's own: in its session, by its credentials, and only if policy lets the
//! caller make it without approval. It uses no limit, as the caller gets nothing of its result.
//! Must not do: call a tool that does more than read, or wait longer than a few seconds.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::held_calls::HeldCall;
use super::{Granted, PendingCall, Refusal};
use crate::gateway::body::message::read_answer;
use crate::gateway::fairness::offload::aside;
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::ApprovalState;
use crate::gateway::permit::Permit;
use crate::gateway::upstream::UpstreamError;
use crate::policy::decision::{Observation, RuleId};
use crate::policy::observed::{NoState, Observed, Reading, ToolResult};
use crate::policy::{self, Call};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Message, Outcome as Answered};

/// How long the server may take to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that its answer may have.
const MAX_ANSWER: usize = 1 << 20;

/// Why the current state is not known. Callers are not told which tool reads: it may be hidden from
/// them.
#[derive(Debug, thiserror::Error)]
enum NotObserved {
    #[error("the server does not list the tool that reads it")]
    NotListed,
    #[error("the tool that reads it is withheld from everybody")]
    Withheld,
    #[error("the tool that reads it may do more than read")]
    NotRead,
    #[error("policy does not let this caller read it without approval")]
    NotAllowed,
    #[error("the gateway has no credential of this caller for the server")]
    NoCredential,
    #[error("the server did not answer in {} s", READ_TIMEOUT.as_secs())]
    Timeout,
    #[error("the server cannot be asked: {0}")]
    Upstream(String),
    #[error("the server refused to say: error {0}")]
    Refused(i64),
    #[error(transparent)]
    NoState(#[from] NoState),
}

impl PendingCall<'_> {
    /// The current state.
    ///
    /// # Errors
    /// The refusal of the call: without it no person can approve the call.
    pub(super) async fn observe(
        &mut self,
        observation: &Observation,
        by: &Arc<RuleId>,
        hold: &HeldCall,
    ) -> Result<Observed, Refusal> {
        let read = async {
            let read = Box::pin(self.read(observation));
            let read = tokio::time::timeout(READ_TIMEOUT, read).await;
            read.unwrap_or(Err(NotObserved::Timeout))
        };
        let read = tokio::select! {
            biased;
            () = hold.cancelled() => None,
            read = read => Some(read),
        };
        let now = Timestamp::now();
        match read {
            Some(Ok(observed)) => Ok(observed),
            Some(Err(why)) => {
                tracing::warn!(
                    server = self.gateway.observe.server(),
                    policy = %by.policy_label(),
                    rule = by.rule,
                    tool = observation.tool,
                    "what a rule observes could not be read, so the call was denied: {why}"
                );
                self.without_approval(ApprovalState::Unobserved);
                self.record(Outcome::Denied, by, now, None);
                Err(Refusal::Unobserved {
                    by: Arc::clone(by),
                    why: why.to_string(),
                })
            }
            None => {
                self.without_approval(ApprovalState::Cancelled);
                self.record(Outcome::Unapproved, by, now, None);
                Err(Refusal::Cancelled)
            }
        }
    }

    async fn read(&mut self, observation: &Observation) -> Result<Observed, NotObserved> {
        let granted = self.may_read(observation)?;
        let grant = self.call.grant;
        let reached = self.snapshot.upstreams.of(&grant.caller.grant);
        // The session is one credential's: with another one it would be another caller's.
        let reached = reached
            .ok()
            .filter(|reached| reached.binding == grant.binding)
            .ok_or(NotObserved::NoCredential)?;
        let under_way = self
            .gateway
            .calls
            .start(self.call.session_key, &self.call.request.id);
        let edits = Edits::new()
            .set_string("name", &observation.tool)
            .set("arguments", observation.arguments.as_str());
        let permit = Permit::decided(
            granted,
            self.call.row,
            (self.envelope)(),
            None,
            &under_way,
            edits,
        );
        let id = under_way.upstream();
        let response = reached
            .upstream
            .call(permit, READ_TIMEOUT)
            .await
            .map_err(|error| match error {
                UpstreamError::Timeout(_) => NotObserved::Timeout,
                other => NotObserved::Upstream(other.to_string()),
            })?;
        let answer = read_answer(response, &id, MAX_ANSWER)
            .await
            .map_err(NotObserved::Upstream)?;
        let (tool, reading) = (observation.tool.as_str(), &observation.reading);
        aside(answer.body.len(), || state(&answer.body, tool, reading))
    }

    /// Whether the caller may be read this to, by the current policy.
    fn may_read(&self, observation: &Observation) -> Result<Granted, NotObserved> {
        let bound = &self.snapshot.bound;
        let tool = bound
            .tool(&observation.tool)
            .ok_or(NotObserved::NotListed)?;
        if tool.withheld.is_some() {
            return Err(NotObserved::Withheld);
        }
        if !tool.only_reads() {
            return Err(NotObserved::NotRead);
        }
        let call = Call {
            tool: &observation.tool,
            arguments: observation.arguments.as_bytes(),
            caller: &self.call.grant.caller,
            session: self.call.session,
        };
        let decision = bound.evaluate(&call, Timestamp::now());
        match decision.outcome {
            policy::Outcome::Allow => Granted::allowed(&decision).ok_or(NotObserved::NotAllowed),
            _ => Err(NotObserved::NotAllowed),
        }
    }
}

/// What an answer says is there.
fn state(body: &[u8], tool: &str, reading: &Reading) -> Result<Observed, NotObserved> {
    let malformed = |why: String| NotObserved::NoState(NoState::Malformed(why));
    let message = envelope::parse(body).map_err(|refusal| malformed(refusal.to_string()))?;
    let Message::Response(response) = &message else {
        return Err(malformed("it is not a response".to_owned()));
    };
    let result = match &response.outcome {
        Answered::Error(error) => return Err(NotObserved::Refused(error.code)),
        Answered::Result(result) => result,
    };
    let raw = |key| result.get(key).map(|member| member.raw);
    let is_error = match raw("isError") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(malformed("isError is neither true nor false".to_owned())),
    };
    let result = ToolResult {
        content: raw("content"),
        structured: raw("structuredContent"),
        is_error,
    };
    Ok(reading.state(tool, result)?)
}
