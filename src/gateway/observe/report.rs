//! The report that the operator and `portcullis status` read.

use super::outcome::Outcome;
use super::recorder::Recent;
use crate::gateway::Gateway;
use crate::status::report::{
    self, Report, ReportedCount, ReportedListing, ReportedViolation, ViolationOutcome,
};

impl Gateway {
    /// Brings `portcullis_limit_used_ratio` up to date.
    pub fn show_limits(&self) {
        self.observe.limits(self.calls.limit_ratios());
        self.observe.show_audit();
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
