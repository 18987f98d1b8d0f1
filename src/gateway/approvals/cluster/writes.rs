//! What a gateway writes: a request, that it was used, that it is not asked for any more.
//!
//! In: one request. Out: whether the API server took it. Each write of a status carries the version
//! of the object that it is based on. Must not do: write over a state that was not read.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use super::super::standing::{finished, pending, standing};
use super::super::steps::record;
use super::super::{
    ApprovalKey, ApprovalRequest, CallContext, NotConsumed, NotRequested, Standing,
};
use super::recording::{ClaimedLines, PAUSE, REQUEST_TIMEOUT};
use super::{ClusterApprovals, uid, version};
use crate::api::Time;
use crate::api::approval::{McpApproval, McpApprovalSpec, Phase};
use crate::api::contract::SERVER_LABEL;
use crate::api::loose::Loose;
use crate::gateway::cluster_api::describe;

/// A call waits this long for its approval to be used up, over several attempts.
const CONSUME_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the gateway tries to write that no call waits any more.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Names that are tried for one request; each taken one is remembered, so that the next call
/// continues from there.
const NAMES: u64 = 32;
/// The number of decisions that are remembered whose request may have been created.
pub(super) const MAX_UNANSWERED: usize = 64;

impl ClusterApprovals {
    pub(super) fn typed(&self, client: Client) -> Api<McpApproval> {
        Api::namespaced(client, &self.namespace)
    }

    /// Creates the request under the lowest free name. Whatever the number of replicas that try at
    /// the same time, one of them does, and the others find its object.
    pub(super) async fn create(
        &self,
        client: Client,
        wanted: &ApprovalRequest,
        first: u64,
        context: CallContext<'_>,
        now: Timestamp,
    ) -> Result<Standing, NotRequested> {
        let (typed, post) = (self.typed(client.clone()), PostParams::default());
        let base = wanted.names.first().map(String::as_str).unwrap_or_default();
        for number in first..first + NAMES {
            let name = format!("{base}-{number}");
            let object = self.new_object(&name, wanted, context);
            let created = timeout(REQUEST_TIMEOUT, typed.create(&post, &object));
            match created.await {
                Ok(Ok(created)) => {
                    // Something on the way may have changed it.
                    let key = self.key(&name);
                    let standing = Self::open(&created, wanted, &key, now)
                        .filter(|_| created.spec.observed == wanted.spec.observed);
                    let Some(standing) = standing else {
                        tracing::error!(
                            "McpApproval {name} was stored as another request than was sent; look for an admission webhook that changes McpApprovals"
                        );
                        return Err(NotRequested::Rejected);
                    };
                    self.own(created, wanted, context, now);
                    return Ok(standing);
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    let found = self.read(&client, &name).await.map_err(|why| {
                        tracing::warn!("McpApproval {name} cannot be read: {why}");
                        NotRequested::Unavailable
                    })?;
                    let Some(found) = found else {
                        // Removed meanwhile; the next number is as good.
                        continue;
                    };
                    self.took(&found, now);
                    let key = self.key(&name);
                    let open = found.object().ok().and_then(|object| {
                        let standing = Self::open(object, wanted, &key, now)
                            .or_else(|| used_meanwhile(object, wanted, &key, now))?;
                        Some((object, standing))
                    });
                    if let Some((object, standing)) = open {
                        let mut state = self.lock();
                        self.ask(&mut state, &name, uid(object), wanted, context);
                        return Ok(standing);
                    }
                }
                Ok(Err(error)) => {
                    self.unanswered(context);
                    return Err(self.refused(&name, &error));
                }
                Err(_) => {
                    self.unanswered(context);
                    tracing::warn!("McpApproval {name} cannot be created: no answer");
                    return Err(NotRequested::Unavailable);
                }
            }
        }
        tracing::error!(
            "{NAMES} McpApprovals from {base}-{first} on are finished or not of this gateway; the next call tries further names"
        );
        Err(NotRequested::Unavailable)
    }

    /// The request may have been created all the same: the watch shows that, and then its line is
    /// written.
    fn unanswered(&self, context: CallContext<'_>) {
        let decision = context.decision.to_string();
        self.lock().unanswered.insert(decision);
    }

    fn new_object(
        &self,
        name: &str,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
    ) -> McpApproval {
        let spec = McpApprovalSpec {
            decisions: Vec::new(),
            decision_id: Some(context.decision.to_string()),
            ..wanted.spec.clone()
        };
        let mut object = McpApproval::new(name, spec);
        let labels = [(SERVER_LABEL.to_owned(), self.server.clone())];
        object.metadata.labels = Some(labels.into());
        object
    }

    fn refused(&self, name: &str, error: &kube::Error) -> NotRequested {
        let hint = match error {
            kube::Error::Api(status) => match status.code {
                403 => {
                    "; the gateway's Role must grant create on mcpapprovals, and no admission policy may refuse its account"
                }
                404 => "; are the definitions of Portcullis installed?",
                _ => "",
            },
            _ => "",
        };
        tracing::error!(
            "McpApproval {name} cannot be created: {}{hint}",
            describe(error)
        );
        match error {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 413 | 422) => {
                NotRequested::Rejected
            }
            _ => NotRequested::Unavailable,
        }
    }

    /// Keeps an object of this gateway without waiting for the watch.
    fn own(
        &self,
        object: McpApproval,
        wanted: &ApprovalRequest,
        context: CallContext<'_>,
        now: Timestamp,
    ) {
        record(&object, &self.records, "requested", None, now);
        let (name, uid) = (
            object.metadata.name.clone().unwrap_or_default(),
            uid(&object),
        );
        {
            let mut state = self.lock();
            self.ask(&mut state, &name, uid, wanted, context);
        }
        self.took(&Loose::from(object), now);
    }

    pub(super) async fn read(
        &self,
        client: &Client,
        name: &str,
    ) -> Result<Option<Loose<McpApproval>>, String> {
        let api = self.loose(client.clone());
        match timeout(REQUEST_TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// Uses an approval up for one call: `consumedAt` is written over exactly the state that was
    /// found approved. When the answer to the write is lost, `consumedBy` says whose it was.
    pub(in crate::gateway::approvals) async fn consume(
        &self,
        wanted: &ApprovalRequest,
        key: &ApprovalKey,
        found: &str,
        context: CallContext<'_>,
    ) -> Result<(), NotConsumed> {
        let name = key.1.as_str();
        let client = self.lock().client.clone();
        let client = client.ok_or(NotConsumed::Unavailable)?;
        let (typed, post) = (self.typed(client.clone()), PostParams::default());
        let token = context.decision.to_string();
        let uid_of = |version: &str| version.split('/').next().map(str::to_owned);
        let own_uid = uid_of(found);
        let until = Instant::now() + CONSUME_TIMEOUT;
        let kept = self.lock().kept.get(name).cloned();
        let mut object = kept.filter(|kept| version(kept) == found);
        let mut claimed = None;
        loop {
            let now = Timestamp::now();
            let current = match object.take() {
                Some(object) => object,
                None => match self.read(&client, name).await {
                    Ok(Some(read)) => {
                        self.took(&read, now);
                        let read = read.object().map_err(|_| NotConsumed::Lost)?;
                        McpApproval::clone(read)
                    }
                    Ok(None) => return Err(NotConsumed::Lost),
                    Err(why) => {
                        tracing::warn!("McpApproval {name} cannot be read: {why}");
                        if Instant::now() >= until {
                            return Err(NotConsumed::Unavailable);
                        }
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            if Some(uid(&current)) != own_uid {
                return Err(NotConsumed::Lost);
            }
            let status = current.status.as_ref();
            let by = status.and_then(|status| status.consumed_by.as_deref());
            if by == Some(token.as_str()) {
                return self.used(current, claimed, context);
            }
            // All of it again: nothing that was changed since is believed.
            let approved = Self::is_believed(&current, wanted, now)
                && matches!(
                    standing(&current, key, String::new, now),
                    Standing::Approved(..)
                );
            if !approved {
                return Err(NotConsumed::Lost);
            }
            let mut consumed = current;
            let lines = self.claim_lines(&mut consumed);
            claimed = Some(lines);
            let status = consumed.status.get_or_insert_default();
            status.consumed_at = Some(Time(now));
            status.consumed_by = Some(token.clone());
            status.phase = Some(Phase::Consumed);
            let write = typed.replace_status(name, &post, &consumed);
            match timeout(REQUEST_TIMEOUT, write).await {
                Ok(Ok(written)) => return self.used(written, Some(lines), context),
                // The operator wrote the phase meanwhile, or another call used it.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404 | 422) => {
                    tracing::error!(
                        "McpApproval {name} cannot be used up: HTTP {}: {}",
                        status.code,
                        status.message
                    );
                    return Err(NotConsumed::Unavailable);
                }
                Ok(Err(error)) => {
                    tracing::warn!("McpApproval {name} cannot be used up: {}", describe(&error));
                    sleep(PAUSE).await;
                }
                Err(_) => tracing::warn!("McpApproval {name} cannot be used up: no answer"),
            }
            if Instant::now() >= until {
                return Err(NotConsumed::Unavailable);
            }
        }
    }

    /// It is used up, and by this call. A gateway that was paused meanwhile may be too late.
    fn used(
        &self,
        written: McpApproval,
        lines: Option<ClaimedLines>,
        context: CallContext<'_>,
    ) -> Result<(), NotConsumed> {
        let now = Timestamp::now();
        let in_time = now < written.spec.expires_at.0;
        if let Some(lines) = lines {
            self.write_lines(lines, &written, now);
        }
        let by = Some(context.decision);
        record(&written, &self.records, "consumed", by, now);
        self.took(&Loose::from(written), now);
        if in_time {
            Ok(())
        } else {
            Err(NotConsumed::Lost)
        }
    }

    /// No call waits for a request any more, or it is for nothing: no call at this gateway gets it
    /// from now on, and the object says so as soon as it can be written.
    pub(super) fn end_later(
        self: &Arc<Self>,
        name: String,
        uid: String,
        phase: Phase,
        now: Timestamp,
    ) {
        let ended = {
            let mut state = self.lock();
            state.asked.remove(&name);
            let foresee = |object: &mut McpApproval| end(object, phase, now);
            state.kept.foresee(&name, &uid, foresee)
        };
        self.notify();
        if ended.is_some() {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.end(&name, &uid, phase).await });
        }
    }

    async fn end(&self, name: &str, own_uid: &str, phase: Phase) {
        let until = Instant::now() + END_TIMEOUT;
        let mut unanswered = None;
        while Instant::now() < until {
            let client = self.lock().client.clone();
            if let Some(client) = client {
                let now = Timestamp::now();
                match self.read(&client, name).await {
                    Ok(None) => return,
                    Ok(Some(read)) => {
                        let Ok(object) = read.object() else {
                            return;
                        };
                        let open = match phase {
                            Phase::Withdrawn => pending(object, now),
                            _ => !finished(object, now),
                        };
                        if uid(object) == own_uid
                            && object.phase_at(now) == phase
                            && let Some(lines) = unanswered.take()
                            && self.has_claimed(object)
                        {
                            self.write_lines(lines, object, now);
                            record(object, &self.records, step(phase), None, now);
                        }
                        if uid(object) != own_uid || !open {
                            // Decided or used meanwhile: then that stands.
                            self.took(&read, now);
                            return;
                        }
                        let mut object = McpApproval::clone(object);
                        end(&mut object, phase, now);
                        let lines = self.claim_lines(&mut object);
                        let (typed, post) = (self.typed(client), PostParams::default());
                        let write = typed.replace_status(name, &post, &object);
                        match timeout(REQUEST_TIMEOUT, write).await {
                            Ok(Ok(written)) => {
                                self.write_lines(lines, &written, now);
                                record(&written, &self.records, step(phase), None, now);
                                self.took(&Loose::from(written), now);
                                return;
                            }
                            Ok(Err(kube::Error::Api(_))) => {}
                            Ok(Err(_)) | Err(_) => unanswered = Some(lines),
                        }
                    }
                    Err(_) => {}
                }
            }
            sleep(10 * PAUSE).await;
        }
        tracing::warn!(
            "McpApproval {name} could not be marked {phase:?}; it stays until it expires"
        );
    }
}

/// Another call used it while this one was on its way: a repetition that ran beside the call that
/// was approved does not need another request. The next look at it finds it used.
fn used_meanwhile(
    object: &McpApproval,
    wanted: &ApprovalRequest,
    key: &ApprovalKey,
    asked: Timestamp,
) -> Option<Standing> {
    let used = object.status.as_ref()?.consumed_at.as_ref()?;
    (used.0 >= asked && wanted.is_asked_by(&object.spec))
        .then(|| Standing::Pending(key.clone(), object.spec.expires_at.0))
}

fn end(object: &mut McpApproval, phase: Phase, now: Timestamp) {
    let status = object.status.get_or_insert_default();
    match phase {
        Phase::Withdrawn => status.withdrawn_at = Some(Time(now)),
        _ => status.stale_at = Some(Time(now)),
    }
    status.phase = Some(phase);
}

fn step(phase: Phase) -> &'static str {
    match phase {
        Phase::Withdrawn => "withdrawn",
        _ => "stale",
    }
}
