//! Events, which `kubectl describe` shows.
//!
//! In: conditions before and now, violations. Out: events.k8s.io/v1 Events, each once, one after
//! the other. Must not do: report every violation; one for each rule and caller is enough to be
//! noticed, and the figures are in the status. Nor delay anything: no caller waits for an Event,
//! and they are not sent faster than the API server can take beside its other work.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::api::approval::McpApproval;
use crate::api::condition::{Condition, ConditionStatus, ConditionType, Reason};
use crate::controller::metrics::Kind;
use crate::controller::queues::Queues;
use crate::recent::RecentSet;
use crate::status::report::ReportedViolation;

/// A note must not be longer (events.k8s.io/v1).
const MAX_NOTE_CHARS: usize = 1_000;
/// The number of violations that are remembered as known.
const MAX_KNOWN_VIOLATIONS: usize = 10_000;
/// The number of Events that wait to be written; later ones are only logged.
const MAX_WAITING_EVENTS: usize = 20_000;
/// While more objects than that wait to be reconciled, there is a pause before each Event.
const BUSY_QUEUE_OBJECTS: usize = 16;
const BUSY_QUEUE_PAUSE: Duration = Duration::from_secs(1);

pub struct Events {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
    reported: Mutex<RecentSet<u64>>,
}

impl Events {
    /// Starts writing the Events that it gets, until it is dropped; while `queues` are long,
    /// slowly.
    pub fn start(client: Client, queues: Arc<Queues>, pod: &str) -> Self {
        let reporter = Reporter {
            controller: "portcullis.dev/operator".into(),
            instance: Some(pod.into()),
        };
        let (waiting, mut next) = mpsc::channel(MAX_WAITING_EVENTS);
        tokio::spawn(async move {
            while let Some((event, reference)) = next.recv().await {
                if queues.servers.depth() + queues.policies.depth() > BUSY_QUEUE_OBJECTS {
                    tokio::time::sleep(BUSY_QUEUE_PAUSE).await;
                }
                // A recorder takes events of one reason about one object for the same and keeps the
                // first one's note; ours differ in just that, and are published once.
                let recorder = Recorder::new(client.clone(), reporter.clone());
                if let Err(error) = recorder.publish(&event, &reference).await {
                    tracing::debug!(%error, "an Event could not be written");
                }
            }
        });
        Events {
            waiting,
            reported: Mutex::new(RecentSet::new(MAX_KNOWN_VIOLATIONS)),
        }
    }

    /// Tells when an object is accepted, or no longer, or for another reason.
    pub fn acceptance(&self, kind: Kind, of: &ObjectMeta, before: &[Condition], now: &[Condition]) {
        let accepted = |conditions: &[Condition]| {
            conditions
                .iter()
                .find(|condition| condition.type_ == ConditionType::Accepted.as_str())
                .cloned()
        };
        let (before, Some(now)) = (accepted(before), accepted(now)) else {
            return;
        };
        let same = before.is_some_and(|before| {
            before.status == now.status
                && before.reason == now.reason
                && before.message == now.message
        });
        if same {
            return;
        }
        let holds = now.status == ConditionStatus::True.as_str();
        self.publish(
            kind,
            of,
            if holds {
                EventType::Normal
            } else {
                EventType::Warning
            },
            &now.reason,
            if holds { "Accept" } else { "Reject" },
            &now.message,
        );
    }

    /// Reports violations by rules and callers that have not been reported yet.
    pub fn violations<'a>(
        &self,
        of: &ObjectMeta,
        recent: impl IntoIterator<Item = &'a ReportedViolation>,
    ) {
        let new: Vec<&ReportedViolation> = {
            let mut reported = self.reported.lock();
            recent
                .into_iter()
                .filter(|violation| reported.insert(identity(of, violation)))
                .collect()
        };
        for violation in new {
            let note = format!(
                "{} called {}: {} by policy {}/{}, rule {}. Further ones are counted in the status.",
                violation.grant,
                violation.tool,
                format!("{:?}", violation.outcome).to_lowercase(),
                violation.namespace,
                violation.policy,
                violation.rule
            );
            self.publish(
                Kind::McpServer,
                of,
                EventType::Warning,
                "Violation",
                "Enforce",
                &note,
            );
        }
    }

    /// Tells that a call waits for people: at the request, where `kubectl describe` shows it.
    pub fn approval_requested(&self, approval: &McpApproval) {
        let spec = &approval.spec;
        let note = format!(
            "{} asks to call {} {}. To decide: kubectl portcullis approvals show {} -n {}",
            spec.grant,
            spec.tool,
            spec.circumstances(),
            approval.metadata.name.as_deref().unwrap_or_default(),
            approval.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let (kind, normal) = (Kind::McpApproval, EventType::Normal);
        let of = &approval.metadata;
        self.publish(kind, of, normal, "ApprovalRequested", "Approve", &note);
    }

    /// Reports that another writer changed what the operator owns of a server.
    pub fn tampering(&self, of: &ObjectMeta, note: &str) {
        let warning = EventType::Warning;
        tracing::warn!(
            namespace = of.namespace,
            server = of.name,
            "security: {note}"
        );
        self.publish(Kind::McpServer, of, warning, "Tampered", "Restore", note);
    }

    /// Tells when a server begins to refuse every call, does so for another reason, or no longer.
    pub fn closing(&self, of: &ObjectMeta, before: &[Condition], now: &[Condition]) {
        let closed = |conditions: &[Condition]| {
            let mut all = conditions.iter();
            let ready = all.find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
            let closes = [Reason::Closed, Reason::NothingAllowed];
            let closed = closes.iter().any(|reason| reason.as_str() == ready.reason);
            closed.then(|| (ready.reason.clone(), ready.message.clone()))
        };
        match (closed(before), closed(now)) {
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                let (reason, note) = now;
                self.publish(
                    Kind::McpServer,
                    of,
                    EventType::Warning,
                    &reason,
                    "Refuse",
                    &note,
                );
            }
            (Some(_), None) => self.publish(
                Kind::McpServer,
                of,
                EventType::Normal,
                "Opened",
                "Serve",
                "The server no longer refuses every call.",
            ),
            _ => {}
        }
    }

    /// Tells that what was stored of a server's violations could not be read.
    pub fn ledger_unreadable(&self, of: &ObjectMeta, note: &str) {
        let warning = EventType::Warning;
        let (reason, action) = ("LedgerUnreadable", "Account");
        self.publish(Kind::McpServer, of, warning, reason, action, note);
    }

    /// Violations that a status shows already were reported by the operator that wrote it.
    pub fn known<'a>(
        &self,
        of: &ObjectMeta,
        recent: impl IntoIterator<Item = &'a ReportedViolation>,
    ) {
        let mut reported = self.reported.lock();
        for violation in recent {
            reported.insert(identity(of, violation));
        }
    }

    fn publish(
        &self,
        kind: Kind,
        of: &ObjectMeta,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(MAX_NOTE_CHARS).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(crate::api::API_VERSION.to_owned()),
            kind: Some(kind.as_str().to_owned()),
            namespace: of.namespace.clone(),
            name: of.name.clone(),
            uid: of.uid.clone(),
            ..ObjectReference::default()
        };
        if self.waiting.try_send((event, reference)).is_err() {
            let (namespace, name) = (of.namespace.as_deref(), of.name.as_deref());
            tracing::warn!(
                kind = kind.as_str(),
                namespace,
                name,
                reason,
                "too many Events wait to be written; this one is left out"
            );
        }
    }
}

/// What makes two violations the same one to a reader of Events.
fn identity(of: &ObjectMeta, violation: &ReportedViolation) -> u64 {
    let mut hasher = DefaultHasher::new();
    let violation = (
        &of.uid,
        &violation.namespace,
        &violation.policy,
        &violation.rule,
        &violation.grant,
    );
    violation.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
