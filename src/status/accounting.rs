//! Sums of violations over gateways that come and go.
//!
//! In: the cumulative counts of reports. Out: sums that neither lose nor double a reported
//! violation, even if a report is read several times or gateways restart. Must not do: count
//! anything that no gateway reported.

use super::{
    report::{Report, ReportedViolation},
    whole,
};

mod bounds;
pub use bounds::Kept;

use crate::api::{
    RecentViolation, ViolationCounts, ViolationOutcome,
    policy::{PolicyViolations, RuleViolations},
    server::ServerViolations,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const OUTCOMES: [ViolationOutcome; 5] = [
    ViolationOutcome::Hidden,
    ViolationOutcome::Denied,
    ViolationOutcome::Limited,
    ViolationOutcome::Unapproved,
    ViolationOutcome::Audited,
];

/// The number of recent violations in a status.
pub const RECENT: usize = 20;

/// The key of a count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// UID of the policy; empty if unknown.
    pub policy_uid: String,
    /// Name of the rule.
    pub rule: String,
    /// The outcome of the calls.
    pub outcome: ViolationOutcome,
}

/// A count, and the time of the last violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// The number of violations.
    pub count: u64,
    /// The time of the last one.
    pub last_time: Timestamp,
}

/// The violations of one run of one gateway, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Counts. A list in JSON, because its keys are not strings.
    #[serde(with = "as_list")]
    pub counts: BTreeMap<Key, Tally>,
    /// The newest ones, newest first.
    pub recent: Vec<ReportedViolation>,
}

impl Account {
    /// The account in a report.
    pub fn of(report: &Report) -> Self {
        let mut account = Account::default();
        for reported in &report.violations {
            let key = Key {
                namespace: reported.namespace.clone(),
                policy: reported.policy.clone(),
                policy_uid: reported.policy_uid.clone(),
                rule: reported.rule.clone(),
                outcome: reported.outcome,
            };
            account.add(
                key,
                Tally {
                    count: reported.count,
                    last_time: reported.last_time,
                },
            );
        }
        account.recent.clone_from(&report.recent);
        newest(&mut account.recent);
        account
    }

    fn add(&mut self, key: Key, tally: Tally) {
        let sum = self.counts.entry(key).or_insert(Tally {
            count: 0,
            last_time: tally.last_time,
        });
        sum.count = sum.count.saturating_add(tally.count);
        sum.last_time = sum.last_time.max(tally.last_time);
    }

    /// Adds another run's account.
    pub fn fold(&mut self, other: &Account) {
        for (key, tally) in &other.counts {
            self.add(key.clone(), *tally);
        }
        self.recent.extend(other.recent.iter().cloned());
        newest(&mut self.recent);
    }

    /// Takes another account of the same run. A run's counts only grow, so the account with more is
    /// the newer one and complete: a violation that it counts under a new key is not counted twice.
    /// An older account that arrives late changes nothing.
    fn advance(&mut self, other: Account) {
        let (before, after) = (self.totals(), other.totals());
        let late = before
            .iter()
            .zip(after)
            .any(|(before, after)| *before > after);
        if late {
            return;
        }
        if before != after {
            self.recent = other.recent;
        }
        let known = std::mem::replace(&mut self.counts, other.counts);
        for (key, tally) in &mut self.counts {
            // A new time alone does not count as a change: otherwise a clock that is ahead would
            // cause a write at each read.
            if let Some(before) = known.get(key)
                && before.count == tally.count
            {
                tally.last_time = before.last_time;
            }
        }
    }

    /// The number of violations by outcome.
    fn totals(&self) -> [u64; OUTCOMES.len()] {
        OUTCOMES.map(|outcome| {
            let of = self.counts.iter().filter(|(key, _)| key.outcome == outcome);
            of.fold(0, |sum, (_, tally)| tally.count.saturating_add(sum))
        })
    }

    /// The number of violations, audited ones included.
    pub fn total(&self) -> u64 {
        let sums = self.totals();
        sums.iter().fold(0, |all, sum| all.saturating_add(*sum))
    }
}

fn newest(recent: &mut Vec<ReportedViolation>) {
    // By all other fields after the time, so that the order does not depend on which gateway was
    // read first.
    recent.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| rest(a).cmp(&rest(b))));
    recent.truncate(RECENT);
}

fn rest(v: &ReportedViolation) -> ([&str; 6], ViolationOutcome) {
    let names = [
        &v.tool,
        &v.grant,
        &v.namespace,
        &v.policy,
        &v.policy_uid,
        &v.rule,
    ];
    (names.map(String::as_str), v.outcome)
}

/// The number of ended runs that are kept separately, and for how long.
const ENDED: usize = 64;
const ENDED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A run that seems to have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// When the end was noticed.
    pub at: Timestamp,
    /// Its account.
    pub account: Account,
}

/// All violations at one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Runs that ended long ago, merged.
    pub retired: Account,
    /// Runs that ended recently. They are kept separately, because a run that was only unreachable
    /// may report again and must not be counted twice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<String, Ended>,
    /// Runs that may still count, by instance.
    pub running: BTreeMap<String, Account>,
}

impl Ledger {
    /// Takes a report. The same report twice, or an older one later, changes nothing.
    pub fn observe(&mut self, report: &Report) {
        self.take(&report.instance, Account::of(report));
    }

    /// Takes a run's account, likewise.
    pub fn take(&mut self, run: &str, account: Account) {
        match self.ended.get_mut(run) {
            Some(ended) => ended.account.advance(account),
            None => {
                let running = self.running.entry(run.to_owned()).or_default();
                running.advance(account);
            }
        }
    }

    /// The account of a run, if it is kept separately.
    pub fn run(&self, run: &str) -> Option<&Account> {
        let ended = || self.ended.get(run).map(|ended| &ended.account);
        self.running.get(run).or_else(ended)
    }

    /// Ends a run: its counts stay, and for a day they are still attributed to it.
    pub fn retire(&mut self, run: &str, now: Timestamp) {
        if let Some(account) = self.running.remove(run) {
            self.ended
                .insert(run.to_owned(), Ended { at: now, account });
        }
    }

    /// A run that had ended is back.
    pub fn resume(&mut self, run: &str) {
        if let Some(Ended { account, .. }) = self.ended.remove(run) {
            self.running.insert(run.to_owned(), account);
        }
    }

    /// Merges the runs that ended long ago, and the oldest if there are many, but none that may
    /// still be running.
    pub fn fold_ended(&mut self, now: Timestamp, may_be_there: impl Fn(&str) -> bool) {
        let mut runs: Vec<(Timestamp, String)> = self
            .ended
            .iter()
            .filter(|(run, _)| !may_be_there(run))
            .map(|(run, ended)| (ended.at, run.clone()))
            .collect();
        runs.sort();
        let many = runs.len().saturating_sub(ENDED);
        for (index, (at, run)) in runs.into_iter().enumerate() {
            if (index < many || now.duration_since(at) >= ENDED_FOR)
                && let Some(ended) = self.ended.remove(&run)
            {
                self.retired.fold(&ended.account);
            }
        }
    }

    /// The sum of all runs.
    pub fn sum(&self) -> Account {
        let mut sum = Account::default();
        for account in self.accounts() {
            sum.fold(account);
        }
        sum
    }

    fn accounts(&self) -> impl Iterator<Item = &Account> {
        let ended = self.ended.values().map(|ended| &ended.account);
        self.running.values().chain(ended).chain([&self.retired])
    }

    fn accounts_mut(&mut self) -> impl Iterator<Item = &mut Account> {
        let ended = self.ended.values_mut().map(|ended| &mut ended.account);
        let running = self.running.values_mut();
        running.chain(ended).chain([&mut self.retired])
    }
}

fn counted(counts: &mut ViolationCounts, outcome: ViolationOutcome, count: u64) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let field = match outcome {
        ViolationOutcome::Hidden => &mut counts.hidden,
        ViolationOutcome::Denied => &mut counts.denied,
        ViolationOutcome::Limited => &mut counts.limited,
        ViolationOutcome::Unapproved => &mut counts.unapproved,
        ViolationOutcome::Audited => &mut counts.audited,
    };
    *field = field.saturating_add(count);
    if outcome != ViolationOutcome::Audited {
        counts.total = counts.total.saturating_add(count);
    }
}

fn shown(violation: &ReportedViolation) -> RecentViolation {
    let policy = if violation.namespace.is_empty() {
        violation.policy.clone()
    } else {
        format!("{}/{}", violation.namespace, violation.policy)
    };
    RecentViolation {
        time: whole(violation.time),
        tool: violation.tool.clone(),
        grant: violation.grant.clone(),
        policy,
        rule: violation.rule.clone(),
        outcome: violation.outcome,
    }
}

/// The violations of a server's status.
pub fn of_server(ledger: &Ledger) -> ServerViolations {
    let sum = ledger.sum();
    let mut status = ServerViolations::default();
    let mut last: Option<Timestamp> = None;
    for (key, tally) in &sum.counts {
        counted(&mut status.counts, key.outcome, tally.count);
        last = last.max(Some(tally.last_time));
    }
    status.last_time = last.map(whole);
    status.recent = sum.recent.iter().map(shown).collect();
    status
}

/// The violations of a policy's status, over the ledgers of its targets. An earlier policy of the
/// same name had a different UID and does not count.
pub fn of_policy<'a>(
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    ledgers: impl IntoIterator<Item = &'a Ledger>,
) -> PolicyViolations {
    let mut all = Account::default();
    for ledger in ledgers {
        all.fold(&ledger.sum_of(namespace, name, uid));
    }
    let mut status = PolicyViolations::default();
    let mut last: Option<Timestamp> = None;
    let mut rules: BTreeMap<&str, Tally> = BTreeMap::new();
    for (key, tally) in &all.counts {
        counted(&mut status.counts, key.outcome, tally.count);
        last = last.max(Some(tally.last_time));
        let rule = rules.entry(&key.rule).or_insert(Tally {
            count: 0,
            last_time: tally.last_time,
        });
        rule.count = rule.count.saturating_add(tally.count);
        rule.last_time = rule.last_time.max(tally.last_time);
    }
    status.last_time = last.map(whole);
    status.by_rule = rules
        .into_iter()
        .map(|(rule, tally)| RuleViolations {
            rule: rule.to_owned(),
            count: i64::try_from(tally.count).unwrap_or(i64::MAX),
            last_time: Some(whole(tally.last_time)),
        })
        .collect();
    status.recent = all.recent.iter().map(shown).collect();
    status
}

impl Ledger {
    /// The violations of one policy. Selected before the list of recent ones is cut, so that
    /// another policy's violations do not displace this one's.
    fn sum_of(&self, namespace: &str, name: &str, uid: Option<&str>) -> Account {
        let is_it = |of: &str, policy: &str, policy_uid: &str| {
            of == namespace && policy == name && uid.is_none_or(|uid| uid == policy_uid)
        };
        let mut sum = Account::default();
        for account in self.accounts() {
            let own = Account {
                counts: account
                    .counts
                    .iter()
                    .filter(|(key, _)| is_it(&key.namespace, &key.policy, &key.policy_uid))
                    .map(|(key, tally)| (key.clone(), *tally))
                    .collect(),
                recent: account
                    .recent
                    .iter()
                    .filter(|v| is_it(&v.namespace, &v.policy, &v.policy_uid))
                    .cloned()
                    .collect(),
            };
            sum.fold(&own);
        }
        sum
    }
}

/// A map whose keys are structs, as a list of entries.
mod as_list {
    use super::{BTreeMap, Key, Tally};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        #[serde(flatten)]
        key: Key,
        #[serde(flatten)]
        tally: Tally,
    }

    pub(super) fn serialize<S: Serializer>(
        counts: &BTreeMap<Key, Tally>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(counts.iter().map(|(key, tally)| Entry {
            key: key.clone(),
            tally: *tally,
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, Tally>, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.key, entry.tally))
            .collect())
    }
}
