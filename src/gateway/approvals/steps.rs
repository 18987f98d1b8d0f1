//! One request for approval as it is kept in memory, who asks for it, and the steps that it goes
//! through.
//!
//! In: the request, and what happens to it. Out: where it stands, and a line in the audit log for
//! each step. Must not do: look at other requests.

use jiff::Timestamp;

use super::{ApprovalKey, ApprovalRequest, CallContext, Standing, standing};
use crate::api::Time;
use crate::api::approval::{Decision, McpApproval, McpApprovalSpec, Verdict};
use crate::gateway::observe::audit::{ApprovalStep, AuditLog, DecisionId};

/// No more sessions of those that ask are kept apart; with more than that, a request is not
/// withdrawn.
const MAX_ASKERS: usize = 16;

/// The sessions that ask for one approval.
#[derive(Debug)]
pub(super) struct AskingSessions {
    sessions: Vec<String>,
    /// More sessions than those have asked.
    more: bool,
}

impl AskingSessions {
    pub(super) fn first(session: &str) -> Self {
        AskingSessions {
            sessions: vec![session.to_owned()],
            more: false,
        }
    }

    /// Another call asks for it too.
    pub(super) fn asked_by(&mut self, session: &str) {
        if self.sessions.iter().any(|asker| asker == session) {
            return;
        }
        if self.sessions.len() < MAX_ASKERS {
            self.sessions.push(session.to_owned());
        } else {
            self.more = true;
        }
    }

    /// A session does not ask any more; returns whether no session does.
    pub(super) fn given_up_by(&mut self, session: &str) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|asker| asker != session);
        self.sessions.len() < before && self.sessions.is_empty() && !self.more
    }
}

pub(super) struct Entry {
    pub(super) object: McpApproval,
    pub(super) version: u64,
    /// Digest of where the call goes.
    pub(super) destination: String,
    pub(super) askers: AskingSessions,
    /// Its end by the clock is in the audit log.
    pub(super) expiry_recorded: bool,
    /// A call was answered that it has expired.
    pub(super) expiry_told: bool,
}

impl Entry {
    pub(super) fn new(
        key: &ApprovalKey,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
    ) -> Self {
        let spec = McpApprovalSpec {
            decisions: Vec::new(),
            decision_id: Some(context.decision.to_string()),
            ..wanted.spec.clone()
        };
        let mut object = McpApproval::new(&key.1, spec);
        object.metadata.namespace = Some(key.0.clone());
        object.metadata.creation_timestamp = Some(wanted.spec.requested_at.clone());
        Entry {
            object,
            version: 1,
            destination: wanted.destination.clone(),
            askers: AskingSessions::first(context.session),
            expiry_recorded: false,
            expiry_told: false,
        }
    }

    fn has(&self, of: fn(&crate::api::approval::McpApprovalStatus) -> &Option<Time>) -> bool {
        let status = self.object.status.as_ref();
        status.is_some_and(|status| of(status).is_some())
    }

    pub(super) fn consumed(&self) -> bool {
        self.has(|status| &status.consumed_at)
    }

    pub(super) fn stale(&self) -> bool {
        self.has(|status| &status.stale_at)
    }

    pub(super) fn withdrawn(&self) -> bool {
        self.has(|status| &status.withdrawn_at)
    }

    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.object.spec.expires_at.0 <= now
    }

    /// It cannot be used any more.
    pub(super) fn finished(&self, now: Timestamp) -> bool {
        standing::finished(&self.object, now)
    }

    pub(super) fn pending(&self, now: Timestamp) -> bool {
        standing::pending(&self.object, now)
    }

    pub(super) fn is_of(&self, namespace: &str, server: &str) -> bool {
        self.object.metadata.namespace.as_deref() == Some(namespace)
            && self.object.spec.server_ref.name == server
    }

    /// See [`standing::standing`].
    pub(super) fn standing(&self, key: &ApprovalKey, now: Timestamp) -> Standing {
        standing::standing(&self.object, key, || self.version.to_string(), now)
    }

    pub(super) fn withdraw(&mut self, now: Timestamp) {
        let status = self.object.status.get_or_insert_default();
        status.withdrawn_at = Some(Time(now));
        self.version += 1;
    }

    pub(super) fn mark_stale(&mut self, now: Timestamp) {
        self.object.status.get_or_insert_default().stale_at = Some(Time(now));
        self.version += 1;
    }

    pub(super) fn consume(&mut self, now: Timestamp) {
        let status = self.object.status.get_or_insert_default();
        status.consumed_at = Some(Time(now));
        self.version += 1;
    }

    /// A person has decided; see [`record_decision`].
    pub(super) fn record_decided(&self, log: Option<&AuditLog>, time: Timestamp) {
        if let Some(decision) = self.object.spec.decisions.last() {
            record_decision(&self.object, log, decision, time);
        }
    }

    pub(super) fn decide(&mut self, decision: Decision) {
        self.object.spec.decisions.push(decision);
        self.version += 1;
    }

    /// Records a step. `by` is the decision that it belongs to, if not that of the call that asked.
    pub(super) fn record(
        &self,
        log: Option<&AuditLog>,
        step: &'static str,
        by: Option<DecisionId<'_>>,
        time: Timestamp,
    ) {
        record(&self.object, log, step, by, time);
    }
}

/// Records what a person decided.
pub(super) fn record_decision(
    object: &McpApproval,
    log: Option<&AuditLog>,
    decision: &Decision,
    time: Timestamp,
) {
    let step = match decision.verdict {
        Verdict::Approved => "approved",
        Verdict::Denied => "denied",
    };
    write(object, log, (step, None), Some(decision), &[], time);
}

/// Records a step of a request. `by` is the decision that it belongs to, if not that on the call
/// that asked.
pub(super) fn record(
    object: &McpApproval,
    log: Option<&AuditLog>,
    step: &'static str,
    by: Option<DecisionId<'_>>,
    time: Timestamp,
) {
    let approvers: Vec<&str> = object.approved_by().collect();
    write(object, log, (step, by), object.ruling(), &approvers, time);
}

fn write(
    object: &McpApproval,
    log: Option<&AuditLog>,
    (step, by): (&'static str, Option<DecisionId<'_>>),
    decision: Option<&Decision>,
    approvers: &[&str],
    time: Timestamp,
) {
    let Some(log) = log else {
        return;
    };
    let spec = &object.spec;
    let namespace = object.metadata.namespace.as_deref();
    let asked = spec.decision_id.as_deref().and_then(DecisionId::parse);
    log.step(&ApprovalStep {
        time,
        decision_id: by.or(asked).unwrap_or(UNKNOWN),
        server: &format!("{}/{}", namespace.unwrap_or_default(), spec.server_ref.name),
        approval: object.metadata.name.as_deref().unwrap_or_default(),
        step,
        grant: &spec.grant,
        tool: &spec.tool,
        policy: &spec.policy,
        rule: &spec.rule,
        digest: &spec.arguments_digest,
        observed: spec
            .observed
            .as_ref()
            .map(|observed| observed.digest.as_str()),
        by: decision.map(|decision| decision.by.as_str()),
        reason: decision.and_then(|decision| decision.reason.as_deref()),
        approvers,
    });
}

/// For an object that does not say by which decision it was made.
const UNKNOWN: DecisionId<'static> = DecisionId {
    instance: "unknown",
    number: 0,
};
