//! Approvals as the gateway sees them: find or create the request for one call, wait for a person, use it once.
//!
//! In: what a call demands. Out: where its approval stands. The objects are the McpApprovals of the API; `serve` keeps them
//! in memory, a gateway that has no place for them refuses such calls. Must not do: decide; people do, through `decide`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::api::Time;
use crate::api::approval::{
    Decision, McpApproval, McpApprovalSpec, McpApprovalStatus, Phase, ServerRef, Verdict,
};
use crate::policy::approval::Subject;
use crate::policy::decision::RuleId;

/// At most this many open requests for one grant at one server.
pub const PENDING_PER_GRANT: usize = 20;
/// At most this many open requests for one server.
pub const PENDING_PER_SERVER: usize = 100;
/// Finished requests are kept this long, as `--approval-retention` says in a cluster.
const RETENTION: SignedDuration = SignedDuration::from_hours(168);
/// And no more than this many of them, the oldest leaving first.
const FINISHED: usize = 1_000;

/// What a call asks approval for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Namespace of the McpServer.
    pub namespace: String,
    /// `<server>-<20 hex of the digest>`; a number is added.
    pub name: String,
    /// Everything but the decision.
    pub spec: McpApprovalSpec,
}

impl Wanted {
    /// The request for one very call.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        namespace: &str,
        server: &str,
        subject: &Subject<'_>,
        by: &RuleId,
        digest: &str,
        preview: String,
        now: Timestamp,
        expires_after: Duration,
    ) -> Self {
        let expires = now.checked_add(expires_after).unwrap_or(Timestamp::MAX);
        Wanted {
            namespace: namespace.to_owned(),
            name: format!("{server}-{}", digest.get(..20).unwrap_or(digest)),
            spec: McpApprovalSpec {
                server_ref: ServerRef {
                    name: server.to_owned(),
                },
                grant: subject.grant.to_owned(),
                tool: subject.tool.to_owned(),
                arguments_digest: format!("sha256:{digest}"),
                arguments_preview: preview,
                policy: by.policy_label().into_owned(),
                rule: by.rule.clone(),
                requested_at: time(now),
                expires_at: time(expires),
                decision: None,
            },
        }
    }
}

/// One request among the others: namespace and name.
pub type Key = (String, String);

/// Where the approval of a call stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has decided yet.
    Pending(Key),
    /// Approved, not expired, not used; the number is the version that `consume` must still find.
    Approved(Key, u64),
    /// Denied, until it expires.
    Denied(Key, Decision),
}

/// Why there is no approval to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The grant has its share of open requests.
    #[error(
        "{PENDING_PER_GRANT} calls of this caller already wait for approval; repeat the call when some are decided"
    )]
    GrantFull,
    /// The server has its share of open requests.
    #[error(
        "{PENDING_PER_SERVER} calls already wait for approval at this server; repeat the call when some are decided"
    )]
    ServerFull,
    /// Requests cannot be kept here.
    #[error("approvals are not available here, so calls that need one are denied")]
    Unavailable,
}

/// Why a decision was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// No such request.
    #[error("there is no approval `{0}`; `portcullis approvals list` shows them")]
    NotFound(String),
    /// The name stands for requests in several namespaces.
    #[error("`{0}` is in several namespaces; write NAMESPACE/NAME")]
    Ambiguous(String),
    /// Decisions are set once.
    #[error("`{name}` was already decided ({verdict}, by {by}); a decision cannot be changed")]
    Decided {
        /// The request.
        name: String,
        /// What was decided.
        verdict: &'static str,
        /// By whom.
        by: String,
    },
    /// Too late.
    #[error("`{0}` has expired; the agent has to make the call again")]
    Expired(String),
}

/// The place where a gateway's approvals are.
#[derive(Clone)]
pub enum Approvals {
    /// In this process, shared by all gateways of `serve`.
    Memory(Arc<Memory>),
    /// Nowhere.
    Unavailable,
}

impl Approvals {
    /// Finds the open request for this call, or creates it.
    ///
    /// # Errors
    /// [`Refused`] when it may not be created.
    pub fn request(&self, wanted: &Wanted, now: Timestamp) -> Result<Standing, Refused> {
        match self {
            Approvals::Memory(memory) => memory.request(wanted, now),
            Approvals::Unavailable => Err(Refused::Unavailable),
        }
    }

    /// Looks again; None when it has expired or was used meanwhile.
    pub fn look(&self, wanted: &Wanted, key: &Key, now: Timestamp) -> Option<Standing> {
        match self {
            Approvals::Memory(memory) => memory.look(wanted, key, now),
            Approvals::Unavailable => None,
        }
    }

    /// Uses it up: true for exactly one caller, and only while it is what `look` or `request` said.
    #[must_use]
    pub fn consume(&self, key: &Key, version: u64, now: Timestamp) -> bool {
        match self {
            Approvals::Memory(memory) => memory.consume(key, version, now),
            Approvals::Unavailable => false,
        }
    }

    /// Tells of changes to any request.
    pub fn changes(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Approvals::Memory(memory) => Some(memory.changed.subscribe()),
            Approvals::Unavailable => None,
        }
    }
}

/// McpApprovals in this process's memory.
pub struct Memory {
    entries: Mutex<BTreeMap<Key, Entry>>,
    changed: watch::Sender<u64>,
}

struct Entry {
    object: McpApproval,
    version: u64,
}

impl Entry {
    fn consumed(&self) -> bool {
        self.object
            .status
            .as_ref()
            .is_some_and(|status| status.consumed_at.is_some())
    }

    fn finished(&self, now: Timestamp) -> bool {
        self.consumed() || self.object.spec.expires_at.0 <= now
    }

    fn pending(&self, now: Timestamp) -> bool {
        !self.finished(now) && self.object.spec.decision.is_none()
    }

    fn standing(&self, key: &Key) -> Standing {
        match &self.object.spec.decision {
            None => Standing::Pending(key.clone()),
            Some(decision) => match decision.verdict {
                Verdict::Approved => Standing::Approved(key.clone(), self.version),
                Verdict::Denied => Standing::Denied(key.clone(), decision.clone()),
            },
        }
    }

    fn phase(&self, now: Timestamp) -> Phase {
        if self.consumed() {
            return Phase::Consumed;
        }
        match self
            .object
            .spec
            .decision
            .as_ref()
            .map(|decision| decision.verdict)
        {
            Some(Verdict::Denied) => Phase::Denied,
            _ if self.object.spec.expires_at.0 <= now => Phase::Expired,
            Some(Verdict::Approved) => Phase::Approved,
            None => Phase::Pending,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            entries: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, wanted: &Wanted, now: Timestamp) -> Result<Standing, Refused> {
        let mut entries = self.lock();
        let mut number = 0_u64;
        let key = loop {
            let key = (
                wanted.namespace.clone(),
                format!("{}-{number}", wanted.name),
            );
            match entries.get(&key) {
                None => break key,
                Some(entry)
                    if !entry.finished(now) && same_call(&entry.object.spec, &wanted.spec) =>
                {
                    return Ok(entry.standing(&key));
                }
                Some(_) => number += 1,
            }
        };
        let open = |entry: &&Entry| {
            entry.pending(now)
                && entry.object.metadata.namespace.as_deref() == Some(&*wanted.namespace)
                && entry.object.spec.server_ref == wanted.spec.server_ref
        };
        if entries
            .values()
            .filter(open)
            .filter(|entry| entry.object.spec.grant == wanted.spec.grant)
            .count()
            >= PENDING_PER_GRANT
        {
            return Err(Refused::GrantFull);
        }
        if entries.values().filter(open).count() >= PENDING_PER_SERVER {
            return Err(Refused::ServerFull);
        }
        prune(&mut entries, now);
        let mut object = McpApproval::new(
            &key.1,
            McpApprovalSpec {
                decision: None,
                ..wanted.spec.clone()
            },
        );
        object.metadata.namespace = Some(key.0.clone());
        object.metadata.creation_timestamp = Some(wanted.spec.requested_at.clone());
        entries.insert(key.clone(), Entry { object, version: 1 });
        drop(entries);
        self.tell();
        Ok(Standing::Pending(key))
    }

    fn look(&self, wanted: &Wanted, key: &Key, now: Timestamp) -> Option<Standing> {
        let entries = self.lock();
        let entry = entries.get(key)?;
        (!entry.finished(now) && same_call(&entry.object.spec, &wanted.spec))
            .then(|| entry.standing(key))
    }

    fn consume(&self, key: &Key, version: u64, now: Timestamp) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let approved =
            matches!(entry.standing(key), Standing::Approved(_, found) if found == version);
        if !approved || entry.finished(now) {
            return false;
        }
        entry.object.status = Some(McpApprovalStatus {
            phase: None,
            consumed_at: Some(time(now)),
        });
        entry.version += 1;
        drop(entries);
        self.tell();
        true
    }

    /// Every request, with the phase that it has now.
    pub fn list(&self, now: Timestamp) -> Vec<McpApproval> {
        self.lock()
            .values()
            .map(|entry| {
                let mut object = entry.object.clone();
                object.status.get_or_insert_default().phase = Some(entry.phase(now));
                object
            })
            .collect()
    }

    /// A person's decision. `name` is the request's name, or NAMESPACE/NAME.
    ///
    /// # Errors
    /// [`DecideError`] when there is nothing left to decide.
    pub fn decide(
        &self,
        name: &str,
        verdict: Verdict,
        by: &str,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<McpApproval, DecideError> {
        let mut entries = self.lock();
        let mut matching = entries
            .keys()
            .filter(|(namespace, own)| match name.split_once('/') {
                Some((wanted, name)) => wanted == namespace && name == own,
                None => name == own,
            });
        let key = matching
            .next()
            .cloned()
            .ok_or_else(|| DecideError::NotFound(name.to_owned()))?;
        if matching.next().is_some() {
            return Err(DecideError::Ambiguous(name.to_owned()));
        }
        let Some(entry) = entries.get_mut(&key) else {
            return Err(DecideError::NotFound(name.to_owned()));
        };
        if let Some(decision) = &entry.object.spec.decision {
            let verdict = match decision.verdict {
                Verdict::Approved => "Approved",
                Verdict::Denied => "Denied",
            };
            return Err(DecideError::Decided {
                name: key.1,
                verdict,
                by: decision.by.clone(),
            });
        }
        if entry.finished(now) {
            return Err(DecideError::Expired(key.1));
        }
        entry.object.spec.decision = Some(Decision {
            verdict,
            by: by.to_owned(),
            reason,
            at: Some(time(now)),
        });
        entry.version += 1;
        let mut object = entry.object.clone();
        object.status.get_or_insert_default().phase = Some(entry.phase(now));
        drop(entries);
        self.tell();
        Ok(object)
    }

    fn tell(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Whether an object asks for the very call; only the times may differ.
fn same_call(found: &McpApprovalSpec, wanted: &McpApprovalSpec) -> bool {
    let McpApprovalSpec {
        server_ref: ServerRef { name },
        grant,
        tool,
        arguments_digest,
        arguments_preview,
        policy,
        rule,
        requested_at: _,
        expires_at: _,
        decision: _,
    } = found;
    *name == wanted.server_ref.name
        && *grant == wanted.grant
        && *tool == wanted.tool
        && *arguments_digest == wanted.arguments_digest
        && *arguments_preview == wanted.arguments_preview
        && *policy == wanted.policy
        && *rule == wanted.rule
}

/// Drops finished requests that are old or too many. What an agent could still be told about stays.
fn prune(entries: &mut BTreeMap<Key, Entry>, now: Timestamp) {
    let mut finished: Vec<(Timestamp, Key)> = entries
        .iter()
        .filter(|(_, entry)| entry.finished(now))
        .map(|(key, entry)| (entry.object.spec.expires_at.0, key.clone()))
        .collect();
    finished.sort();
    let over = finished.len().saturating_sub(FINISHED);
    for (at, (expired, key)) in finished.into_iter().enumerate() {
        if at < over || now.duration_since(expired) > RETENTION {
            entries.remove(&key);
        }
    }
}

fn time(at: Timestamp) -> Time {
    Time(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wanted(grant: &str, digest: &str, now: i64) -> Wanted {
        Wanted {
            namespace: "ml".to_owned(),
            name: format!("mlflow-{digest}"),
            spec: McpApprovalSpec {
                server_ref: ServerRef {
                    name: "mlflow".to_owned(),
                },
                grant: grant.to_owned(),
                tool: "set_model_alias".to_owned(),
                arguments_digest: format!("sha256:{digest}"),
                arguments_preview: "{}".to_owned(),
                policy: "mlflow-default".to_owned(),
                rule: "promote".to_owned(),
                requested_at: time(at(now)),
                expires_at: time(at(now + 100)),
                decision: None,
            },
        }
    }

    fn key(name: &str) -> Key {
        ("ml".to_owned(), name.to_owned())
    }

    #[test]
    fn the_same_call_finds_its_request_and_an_approval_is_used_once() {
        let memory = Memory::default();
        let call = wanted("key:a", "d1", 0);
        assert_eq!(
            memory.request(&call, at(0)),
            Ok(Standing::Pending(key("mlflow-d1-0")))
        );
        assert_eq!(
            memory.request(&wanted("key:a", "d1", 5), at(5)),
            Ok(Standing::Pending(key("mlflow-d1-0")))
        );
        memory
            .decide("mlflow-d1-0", Verdict::Approved, "alice", None, at(6))
            .unwrap();
        let Ok(Standing::Approved(found, version)) = memory.request(&call, at(7)) else {
            panic!("not approved")
        };
        assert!(!memory.consume(&found, version + 1, at(7)));
        assert!(memory.consume(&found, version, at(7)));
        assert!(!memory.consume(&found, version, at(7)));
        assert_eq!(
            memory.request(&call, at(8)),
            Ok(Standing::Pending(key("mlflow-d1-1")))
        );
    }

    #[test]
    fn an_expired_approval_is_not_used_and_a_denial_stands_until_it_expires() {
        let memory = Memory::default();
        let call = wanted("key:a", "d1", 0);
        memory.request(&call, at(0)).unwrap();
        memory
            .decide("ml/mlflow-d1-0", Verdict::Approved, "alice", None, at(1))
            .unwrap();
        let Ok(Standing::Approved(found, version)) = memory.request(&call, at(99)) else {
            panic!("not approved")
        };
        assert!(!memory.consume(&found, version, at(100)));
        let again = wanted("key:a", "d1", 100);
        assert_eq!(
            memory.request(&again, at(100)),
            Ok(Standing::Pending(key("mlflow-d1-1")))
        );
        memory
            .decide(
                "mlflow-d1-1",
                Verdict::Denied,
                "bob",
                Some("no".to_owned()),
                at(101),
            )
            .unwrap();
        assert!(matches!(
            memory.request(&again, at(199)),
            Ok(Standing::Denied(..))
        ));
        assert!(matches!(
            memory.request(&wanted("key:a", "d1", 200), at(200)),
            Ok(Standing::Pending(_))
        ));
    }

    #[test]
    fn a_decision_is_set_once_and_in_time() {
        let memory = Memory::default();
        memory.request(&wanted("key:a", "d1", 0), at(0)).unwrap();
        memory
            .decide("mlflow-d1-0", Verdict::Denied, "alice", None, at(1))
            .unwrap();
        assert!(matches!(
            memory.decide("mlflow-d1-0", Verdict::Approved, "eve", None, at(2)),
            Err(DecideError::Decided { .. })
        ));
        memory.request(&wanted("key:a", "d2", 0), at(0)).unwrap();
        assert!(matches!(
            memory.decide("mlflow-d2-0", Verdict::Approved, "alice", None, at(100)),
            Err(DecideError::Expired(_))
        ));
        assert!(matches!(
            memory.decide("nothing", Verdict::Approved, "alice", None, at(1)),
            Err(DecideError::NotFound(_))
        ));
    }

    #[test]
    fn a_caller_that_floods_is_capped_and_keeps_nobody_else_out() {
        let memory = Memory::default();
        for n in 0..PENDING_PER_GRANT {
            memory
                .request(&wanted("key:flood", &format!("f{n}"), 0), at(0))
                .unwrap();
        }
        assert_eq!(
            memory.request(&wanted("key:flood", "more", 0), at(0)),
            Err(Refused::GrantFull)
        );
        assert!(memory.request(&wanted("key:flood", "f0", 1), at(1)).is_ok());
        assert!(memory.request(&wanted("key:other", "o", 0), at(0)).is_ok());
        for n in 0..PENDING_PER_SERVER - PENDING_PER_GRANT - 1 {
            memory
                .request(&wanted(&format!("key:{n}"), &format!("s{n}"), 0), at(0))
                .unwrap();
        }
        assert_eq!(
            memory.request(&wanted("key:last", "l", 0), at(0)),
            Err(Refused::ServerFull)
        );
    }
}
