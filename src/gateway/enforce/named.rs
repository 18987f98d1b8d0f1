//! Decisions about prompts and resources.

use std::sync::Arc;

use jiff::Timestamp;

use super::Forward;
use super::request_ids::SessionKey;
use crate::gateway::Gateway;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::Grant;
use crate::gateway::observe::Outcome;
use crate::gateway::observe::audit::Record;
use crate::gateway::permit::{Envelope, Granted, Permit};
use crate::policy;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::Request;
use crate::protocol::method::Method;

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

/// One request that names a prompt or a resource.
pub struct NamedCall<'a> {
    /// Its row in the table of methods.
    pub row: &'static Method,
    /// The request, of which `named` was read.
    pub request: &'a Request<'a>,
    /// What it names.
    pub named: Named<'a>,
    /// Who asks.
    pub grant: &'a Grant,
    /// The session's id inside the gateway.
    pub session: &'a str,
    /// The same as a key.
    pub session_key: SessionKey,
    /// The W3C trace id, if the caller sent one.
    pub trace_id: Option<&'a str>,
}

/// Why it is not forwarded.
#[derive(Debug, PartialEq, Eq)]
pub enum NamedRefusal {
    /// It does not exist, or is refused: callers cannot tell the difference.
    Unknown,
    /// Its name cannot be decided on; the text says what to write.
    Malformed(Arc<str>),
    /// It would pass and cannot be recorded.
    Unrecorded(String),
}

/// Decides a request that names a prompt or a resource, and records it. `edits` are changes to its
/// `params`.
///
/// # Errors
/// [`NamedRefusal`], with the number of the decision.
pub async fn named(
    gateway: &Gateway,
    snapshot: &Snapshot,
    call: &NamedCall<'_>,
    envelope: impl FnOnce() -> Envelope,
    edits: Edits<'_>,
) -> Result<Forward, (NamedRefusal, u64)> {
    let (bound, caller) = (&snapshot.bound, &call.grant.caller);
    let (decision, name) = match call.named {
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
        (policy::Outcome::BadArguments, _) => (Outcome::BadArguments, &decision.by),
        _ => (Outcome::Denied, &decision.by),
    };
    let passes = matches!(outcome, Outcome::Allowed | Outcome::Audited);
    let refuses = snapshot.settings.must_record;
    let trouble = gateway.observe.unwritten().filter(|_| passes && refuses);
    let outcome = trouble.as_ref().map_or(outcome, |_| Outcome::Unrecorded);
    let label = by.policy_label();
    let decision_id = gateway.observe.decision_id();
    let refused = |why: NamedRefusal| (why, decision_id.number);
    let record = Record {
        time: Timestamp::now(),
        decision_id,
        server: gateway.observe.server(),
        grant: &caller.grant,
        session: Some(call.session),
        method: call.row.name,
        tool: Some(name),
        outcome: outcome.as_str(),
        policy: Some(&label),
        rule: Some(&by.rule),
        reason: decision.reason.as_deref().filter(|_| !passes),
        near: &[],
        enforced: outcome != Outcome::Audited,
        approval: None,
        approval_state: None,
        retry_after_ms: None,
        arguments: None,
        revision: &snapshot.rules_revision,
        trace_id: call.trace_id,
    };
    let position = gateway.observe.record(outcome, by, &record);
    if let Some(unwritten) = trouble {
        return Err(refused(NamedRefusal::Unrecorded(unwritten.to_string())));
    }
    let Some(granted) = Granted::allowed(&decision) else {
        return Err(refused(match (decision.outcome, decision.reason) {
            (policy::Outcome::BadArguments, Some(why)) => NamedRefusal::Malformed(why),
            _ => NamedRefusal::Unknown,
        }));
    };
    if let Err(unwritten) = gateway.observe.written(position).await
        && refuses
    {
        return Err(refused(NamedRefusal::Unrecorded(unwritten.to_string())));
    }
    let under_way = gateway.calls.start(call.session_key, &call.request.id);
    let params = call.request.params.as_ref();
    let permit = Permit::decided(granted, call.row, envelope(), params, &under_way, edits);
    Ok(Forward {
        permit,
        under_way,
        decision: Some(decision_id.number),
        in_flight: None,
        lists: None,
    })
}
