//! Decisions about prompts and resources.

use jiff::Timestamp;

use crate::gateway::Gateway;
use crate::gateway::audit::{Record, Unwritten};
use crate::gateway::grants::Grant;
use crate::gateway::record::Outcome;
use crate::gateway::snapshot::Snapshot;
use crate::policy;

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
///
/// # Errors
/// [`Unwritten`] when it would pass and cannot be recorded.
pub async fn named(
    gateway: &Gateway,
    snapshot: &Snapshot,
    grant: &Grant,
    session: &str,
    method: &'static str,
    named: Named<'_>,
    trace_id: Option<&str>,
) -> Result<bool, Unwritten> {
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
    let passes = matches!(outcome, Outcome::Allowed | Outcome::Audited);
    let refuses = snapshot.settings.must_record;
    let trouble = gateway.recorder.unwritten().filter(|_| passes && refuses);
    let outcome = trouble.as_ref().map_or(outcome, |_| Outcome::Unrecorded);
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
        revision: &snapshot.revision,
        trace_id,
    };
    let position = gateway.recorder.record(outcome, by, &record);
    match trouble {
        Some(unwritten) => Err(unwritten),
        None if passes => match gateway.recorder.written(position).await {
            Err(unwritten) if refuses => Err(unwritten),
            _ => Ok(true),
        },
        None => Ok(false),
    }
}
