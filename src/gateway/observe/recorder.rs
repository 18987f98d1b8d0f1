//! What became of each call: counted for the report, counted for metrics, written to the audit log.
//!
//! The violations of api.md are disjoint: a call adds to one of hidden, denied, limited and
//! unapproved, or, when it was forwarded although the shadow decision refuses it, to audited.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::audit::{
    AuditLog, DecisionId, Ended, FailedLogin, FailedLoginDetail, Position, Record, Unwritten,
};
use super::authentication_failure::AuthenticationFailure;
use super::failed_logins::{FAILED_LOGIN_WINDOW, FailedLogins};
use super::metrics::{
    AuthenticationFailureLabels, BundleLabels, DecisionLabels, LimitLabels, Metrics, ServerLabels,
};
use super::outcome::Outcome;
use crate::policy::decision::{NO_POLICY, RuleId};
use crate::status::report::{FORMER, OTHER};

/// One of the newest violations.
#[derive(Clone, Debug, PartialEq)]
pub struct Recent {
    /// When.
    pub time: Timestamp,
    /// The tool, prompt or resource.
    pub tool: String,
    /// Who.
    pub grant: String,
    /// By which rule.
    pub by: Arc<RuleId>,
    /// As what.
    pub outcome: Outcome,
}

/// Names come from callers: no more bytes of one than this are kept.
const MAX_NAME_BYTES: usize = 128;

/// Policies come and go: no more counters than this are cached.
const MAX_CACHED_COUNTERS: usize = 4_096;

/// This many rules and outcomes are counted separately; the report has a bounded size however often
/// policies change.
const MAX_COUNTED_RULES: usize = 1_024;

/// How many recent violations are kept.
pub const MAX_RECENT: usize = 20;

/// Cumulative since start: by rule and outcome, and when last.
pub type Counts = HashMap<(Arc<RuleId>, Outcome), (u64, Timestamp)>;

/// One run of the program. Its gateways, which may write one audit log, number their decisions
/// together: an id is given once.
#[derive(Clone, Debug)]
pub struct ProgramRun {
    name: String,
    decisions: Arc<AtomicU64>,
}

impl ProgramRun {
    /// A run of that name.
    pub fn named(name: impl Into<String>) -> Self {
        ProgramRun {
            name: name.into(),
            decisions: Arc::default(),
        }
    }

    /// Its name, which no other run has.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Records for one server.
pub struct Recorder {
    server: String,
    audit: AuditLog,
    metrics: Metrics,
    /// Families with this server's labels, looked up once.
    pub request_duration: Histogram,
    /// The engine alone.
    pub evaluation: Histogram,
    /// The upstream's part.
    pub upstream_duration: Histogram,
    /// Streams open to clients.
    pub streams: Gauge,
    calls: AtomicU64,
    run: ProgramRun,
    /// The rule for violations that are not counted separately.
    other: Arc<RuleId>,
    state: Mutex<RecorderState>,
    failed_logins: Mutex<FailedLogins>,
}

#[derive(Default)]
struct RecorderState {
    counts: Counts,
    /// The counters of rules, by their addresses.
    counters: HashMap<(usize, Outcome), (Arc<RuleId>, Counter), foldhash::fast::RandomState>,
    recent: VecDeque<Recent>,
    revision: String,
    limits: Vec<LimitLabels>,
}

impl Recorder {
    /// `server` is `namespace/name`.
    pub fn new(server: String, run: ProgramRun, audit: AuditLog, metrics: Metrics) -> Self {
        let labels = ServerLabels {
            server: server.clone(),
        };
        let request_duration = metrics.request_duration.get_or_create(&labels).clone();
        let evaluation = metrics.evaluation.get_or_create(&labels).clone();
        let upstream_duration = metrics.upstream_duration.get_or_create(&labels).clone();
        // An alert on its increase would miss the first one if it were not there before.
        drop(metrics.bundle_errors.get_or_create(&labels));
        for reason in AuthenticationFailure::ALL {
            let server = server.clone();
            let labels = AuthenticationFailureLabels { server, reason };
            drop(metrics.authentication_failures.get_or_create(&labels));
        }
        let streams = metrics.active_streams.get_or_create(&labels).clone();
        Recorder {
            request_duration,
            evaluation,
            upstream_duration,
            streams,
            server,
            audit,
            metrics,
            calls: AtomicU64::new(0),
            run,
            other: together(NO_POLICY, OTHER),
            state: Mutex::default(),
            failed_logins: Mutex::default(),
        }
    }

    /// `namespace/name` of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Names this run of the program.
    pub fn instance(&self) -> &str {
        self.run.name()
    }

    /// A new decision's id.
    pub fn decision_id(&self) -> DecisionId<'_> {
        self.id(self.run.decisions.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of the decision of this number.
    pub fn id(&self, number: u64) -> DecisionId<'_> {
        DecisionId {
            instance: self.run.name(),
            number,
        }
    }

    /// Counts and records a decision. `by` is the rule that decided. An allowed call must not be
    /// sent before [`Self::written`] returns.
    pub fn record(&self, outcome: Outcome, by: &Arc<RuleId>, record: &Record<'_>) -> Position {
        self.calls.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = self.lock();
            self.count(&mut state, outcome, by);
            let counted = outcome.is_violation() || outcome == Outcome::Audited;
            if counted {
                let mut key = (Arc::clone(by), outcome);
                if state.counts.len() >= MAX_COUNTED_RULES && !state.counts.contains_key(&key) {
                    key.0 = Arc::clone(&self.other);
                }
                let entry = state.counts.entry(key).or_insert((0, record.time));
                entry.0 += 1;
                entry.1 = record.time;
                if state.recent.len() == MAX_RECENT {
                    state.recent.pop_front();
                }
                state.recent.push_back(Recent {
                    time: record.time,
                    tool: record
                        .tool
                        .unwrap_or(record.method)
                        .chars()
                        .take(MAX_NAME_BYTES)
                        .collect(),
                    grant: record.grant.to_owned(),
                    by: Arc::clone(by),
                    outcome,
                });
            }
        }
        let passes = matches!(outcome, Outcome::Allowed | Outcome::Audited);
        self.audit.record(record, passes)
    }

    /// Records how a forwarded call ended.
    pub fn ended(&self, number: u64, status: &'static str, latency_ms: u64) {
        self.audit.ended(&Ended {
            time: Timestamp::now(),
            decision_id: self.id(number),
            server: &self.server,
            status,
            latency_ms,
        });
    }

    /// Counts a failed login, and records it unless there were too many of late. Returns whether it
    /// is the first of a window, which [`Self::end_failed_logins`] has to end.
    pub fn failed_login(&self, failure: AuthenticationFailure, address: Option<IpAddr>) -> bool {
        let labels = AuthenticationFailureLabels {
            server: self.server.clone(),
            reason: failure,
        };
        let failures = &self.metrics.authentication_failures;
        failures.get_or_create(&labels).inc();
        let noted = self.failed_logins.lock().note(address);
        if noted.written {
            self.write_failed_login(address, FailedLoginDetail::Refused(failure));
        }
        noted.opens_window
    }

    /// Ends a window of failed logins: records how many of them have no line. `last` says that no
    /// other follows.
    pub fn end_failed_logins(&self, last: bool) {
        let suppressed = self.failed_logins.lock().end_window(last);
        for one in suppressed {
            let detail = FailedLoginDetail::Suppressed {
                count: one.count,
                seconds: FAILED_LOGIN_WINDOW.as_secs(),
            };
            self.write_failed_login(one.address, detail);
        }
    }

    fn write_failed_login(&self, address: Option<IpAddr>, detail: FailedLoginDetail) {
        self.audit.failed_login(&FailedLogin {
            time: Timestamp::now(),
            decision_id: self.decision_id(),
            server: &self.server,
            address,
            detail,
        });
    }

    /// Waits until a decision has been written.
    ///
    /// # Errors
    /// [`Unwritten`] when it cannot be.
    pub async fn written(&self, position: Position) -> Result<(), Unwritten> {
        self.audit.written(position).await
    }

    /// Why nothing can be written now.
    pub fn unwritten(&self) -> Option<Unwritten> {
        self.audit.trouble()
    }

    /// Brings the metrics of the audit log up to date.
    pub fn show_audit(&self) {
        let failing = i64::from(self.unwritten().is_some());
        self.metrics.audit_failing.set(failing);
        let lost = self.metrics.audit_lost.inner();
        lost.store(self.audit.lost(), Ordering::Relaxed);
    }

    fn count(&self, state: &mut RecorderState, outcome: Outcome, by: &Arc<RuleId>) {
        // Rules are identified by their address: reading and hashing their names would slow every
        // call. Each is kept here, so that no other rule gets the same address.
        let key = (Arc::as_ptr(by).addr(), outcome);
        if let Some((_, counter)) = state.counters.get(&key) {
            counter.inc();
            return;
        }
        if state.counters.len() >= MAX_CACHED_COUNTERS {
            state.counters.clear();
        }
        let policy = if by.namespace.is_empty() {
            by.policy.clone()
        } else {
            format!("{}/{}", by.namespace, by.policy)
        };
        let labels = DecisionLabels {
            server: self.server.clone(),
            outcome,
            policy,
            rule: by.rule.clone(),
        };
        let counter = self.metrics.decisions.get_or_create(&labels).clone();
        counter.inc();
        state.counters.insert(key, (Arc::clone(by), counter));
    }

    /// Merges the counts of policies that do not apply any more, once there are many.
    pub fn settle(&self, applies: impl Fn(&RuleId) -> bool) {
        let mut state = self.lock();
        if state.counts.len() < MAX_COUNTED_RULES / 2 {
            return;
        }
        let former = together(FORMER, FORMER);
        for ((by, outcome), (count, last)) in std::mem::take(&mut state.counts) {
            let by = if by.namespace.is_empty() || applies(&by) {
                by
            } else {
                Arc::clone(&former)
            };
            let sum = state.counts.entry((by, outcome)).or_insert((0, last));
            sum.0 += count;
            sum.1 = sum.1.max(last);
        }
    }

    /// Waits until there is room to record the next decision.
    pub async fn room(&self) {
        self.audit.room().await;
    }

    /// Calls since start.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Violations since start and the newest of them, oldest first.
    pub fn violations(&self) -> (Counts, Vec<Recent>) {
        let state = self.lock();
        (state.counts.clone(), state.recent.iter().cloned().collect())
    }

    /// Violations since start, audited ones included.
    pub fn violation_count(&self) -> u64 {
        let state = self.lock();
        state.counts.values().map(|(count, _)| count).sum()
    }

    /// Shows the revision in force.
    pub fn in_force(&self, revision: &str) {
        let mut state = self.lock();
        let labels = |revision: &str| BundleLabels {
            server: self.server.clone(),
            revision: revision.to_owned(),
        };
        if state.revision != revision {
            self.metrics.bundle_info.remove(&labels(&state.revision));
            state.revision = revision.to_owned();
        }
        self.metrics
            .bundle_info
            .get_or_create(&labels(revision))
            .set(1);
    }

    /// Shows how many requests for approval wait, and since when the oldest does.
    pub fn approvals(&self, pending: usize, oldest: Option<Timestamp>, now: Timestamp) {
        let labels = ServerLabels {
            server: self.server.clone(),
        };
        let pending = i64::try_from(pending).unwrap_or(i64::MAX);
        self.metrics
            .approvals_pending
            .get_or_create(&labels)
            .set(pending);
        let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
        let shown = self.metrics.approvals_oldest.get_or_create(&labels);
        shown.set(age.max(0.0));
    }

    /// Shows the use of the fullest key of each counter, by policy and counter.
    pub fn limits(&self, ratios: HashMap<(String, String), f64>) {
        let mut state = self.lock();
        let shown: Vec<LimitLabels> = ratios
            .iter()
            .map(|((policy, counter), ratio)| {
                let labels = LimitLabels {
                    server: self.server.clone(),
                    policy: policy.clone(),
                    counter: counter.clone(),
                };
                self.metrics.limit_used.get_or_create(&labels).set(*ratio);
                labels
            })
            .collect();
        // A counter that is not used any more is not shown with its last figure.
        for gone in state.limits.iter().filter(|labels| !shown.contains(labels)) {
            self.metrics.limit_used.remove(gone);
        }
        state.limits = shown;
    }

    /// Counts a bundle that was refused.
    pub fn bundle_refused(&self) {
        self.metrics
            .bundle_errors
            .get_or_create(&ServerLabels {
                server: self.server.clone(),
            })
            .inc();
    }

    fn lock(&self) -> MutexGuard<'_, RecorderState> {
        self.state.lock()
    }
}

fn together(policy: &str, rule: &str) -> Arc<RuleId> {
    Arc::new(RuleId {
        namespace: String::new(),
        policy: policy.to_owned(),
        rule: rule.to_owned(),
        qualified: false,
        uid: Arc::from(""),
    })
}

#[cfg(test)]
mod tests;
