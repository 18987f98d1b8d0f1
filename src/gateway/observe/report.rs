//! The report that the operator and `portcullis status` read.

use jiff::Timestamp;

use super::outcome::Outcome;
use super::recorder::Recent;
use crate::gateway::Gateway;
use crate::protocol::text;
use crate::status::report::{
    self, Report, ReportedCount, ReportedListing, ReportedViolation, ViolationOutcome,
};

/// No more characters of one line for `/readyz` are shown: an upstream's words are in some.
const MAX_UNWELL_CHARS: usize = 500;

impl Gateway {
    /// Brings the metrics up to date that are not counted as things happen.
    pub fn show_gauges(&self) {
        let now = Timestamp::now();
        if let Some((namespace, server)) = self.served().name.split_once('/') {
            let waiting = self.calls.approvals().waiting(namespace, server, now);
            let oldest = waiting.iter().min().copied();
            self.observe.approvals(waiting.len(), oldest, now);
        }
        let shared = self.snapshot().and_then(|now| now.counters.clone());
        self.observe.limits(match shared {
            Some(shared) => shared.ratios(),
            None => self.calls.limit_ratios(),
        });
        self.observe.show_audit();
    }

    /// What is not well although requests are taken, for people who look at `/readyz`: one line
    /// each, without secrets.
    pub fn unwell(&self) -> Vec<String> {
        let Some(snapshot) = self.snapshot() else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        if let Some(error) = self.inventory.latest().error {
            lines.push(format!("the upstream's tools cannot be listed: {error}"));
        }
        let program = snapshot.bound.program();
        if !program.is_audit() {
            let counts = snapshot.bound.counts();
            if let Some(why) = program.closed() {
                lines.push(format!("every call is refused: {why}"));
            } else if counts.discovered > 0 && counts.visible == 0 && !program.allows_others() {
                lines.push(format!(
                    "no caller can list any of the {} tools of the upstream",
                    counts.discovered
                ));
            }
        }
        if self.last_error().is_some() {
            lines.push(
                "the newest bundle was refused, and the previous one is in force; the log says why"
                    .to_owned(),
            );
        }
        let missing = self.missing_secrets();
        if !missing.is_empty() {
            lines.push(format!("Secrets are missing: {}", missing.join(", ")));
        }
        let grants = &snapshot.grants;
        if !grants.refused().is_empty() || !grants.equal().is_empty() {
            lines.push("API keys are refused, as they are too short or equal; the condition Authenticated names them".to_owned());
        }
        if !grants.issuer_faults().is_empty() {
            lines.push(
                "tokens of an issuer cannot be verified; the condition Authenticated says why"
                    .to_owned(),
            );
        }
        if let Some(why) = self.uncounted() {
            lines.push(format!("limits cannot be counted: {why}"));
        }
        if let Some(why) = self.observe.unwritten() {
            lines.push(format!("{why}; calls are forwarded without a record"));
        }
        if !self.notices.faults().is_empty() {
            lines.push(
                "approvers are not notified; the condition NotifyFailing says why".to_owned(),
            );
        }
        lines
            .iter()
            .map(|line| text::printable(line, MAX_UNWELL_CHARS))
            .collect()
    }

    /// The current report. Counts are cumulative since the gateway started.
    pub fn report(&self) -> Report {
        let (counts, recent) = self.observe.violations();
        let mut violations: Vec<ReportedCount> = counts
            .into_iter()
            .filter_map(|((by, outcome), (count, last_time))| {
                Some(ReportedCount {
                    namespace: by.namespace.clone(),
                    policy: by.policy.clone(),
                    policy_uid: by.uid.to_string(),
                    rule: by.rule.clone(),
                    outcome: violation(outcome)?,
                    count,
                    last_time,
                })
            })
            .collect();
        violations.sort();
        let snapshot = self.snapshot();
        let listing = self.inventory.latest();
        let report = Report {
            instance: self.observe.instance().to_owned(),
            revision: snapshot.as_ref().map(|snapshot| snapshot.revision.clone()),
            sequence: self.in_force().map(|(sequence, _)| sequence),
            calls: self.observe.calls(),
            violations,
            recent: recent.iter().filter_map(reported).collect(),
            tools: snapshot
                .as_ref()
                .map_or_else(Vec::new, |snapshot| report::tools(&snapshot.bound)),
            missing_secret_keys: self.missing_secrets(),
            refused_keys: snapshot
                .as_ref()
                .map_or_else(Vec::new, |snapshot| snapshot.grants.refused().to_vec()),
            equal_keys: snapshot
                .as_ref()
                .map_or_else(Vec::new, |snapshot| snapshot.grants.equal().to_vec()),
            issuer_faults: snapshot
                .as_ref()
                .map_or_else(Vec::new, |snapshot| snapshot.grants.issuer_faults()),
            bundle_error: self.last_error(),
            listing: listing.time.map(|time| ReportedListing {
                time,
                error: listing.error,
            }),
            upstream_note: self.inventory.note().map(str::to_owned),
            audit_error: self.unrecordable(),
            counters_error: self.uncounted(),
            webhook_faults: self.notices.faults(),
        };
        report.fit()
    }
}

fn violation(outcome: Outcome) -> Option<ViolationOutcome> {
    Some(match outcome {
        Outcome::Hidden => ViolationOutcome::Hidden,
        Outcome::Denied => ViolationOutcome::Denied,
        Outcome::Limited => ViolationOutcome::Limited,
        Outcome::Unapproved => ViolationOutcome::Unapproved,
        Outcome::Audited => ViolationOutcome::Audited,
        Outcome::Allowed
        | Outcome::BadArguments
        | Outcome::Unknown
        | Outcome::Unavailable
        | Outcome::Unrecorded => return None,
    })
}

fn reported(recent: &Recent) -> Option<ReportedViolation> {
    Some(ReportedViolation {
        time: recent.time,
        tool: recent.tool.clone(),
        grant: recent.grant.clone(),
        namespace: recent.by.namespace.clone(),
        policy: recent.by.policy.clone(),
        policy_uid: recent.by.uid.to_string(),
        rule: recent.by.rule.clone(),
        outcome: violation(recent.outcome)?,
    })
}
