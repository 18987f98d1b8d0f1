//! Limits the separate counts of an account, so that a ledger always fits into the object that
//! stores it.
//!
//! In: accounts of the gateways' reports, and the bundle that the gateways have. Out: accounts with
//! the same totals under fewer keys. Must not do: change the number of violations of an outcome.

use super::{Account, Key, Ledger};
use crate::{
    api::ViolationOutcome,
    policy::{
        bundle::Bundle,
        decision::{BLOCKED_RULE, CREDENTIALS_RULE, DEFAULT_RULE, INVENTORY_RULE, NO_POLICY},
    },
    status::report::{FORMER, OTHER, ReportedViolation},
};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Bytes of a stored ledger: a ConfigMap takes a mebibyte, metadata included.
pub const MAX_LEDGER_BYTES: usize = 900 << 10;

/// The numbers of keys and recent violations of each run that a larger ledger keeps: the first step
/// that makes it small enough applies.
const STEPS: [(usize, usize); 5] = [(500, 10), (100, 5), (25, 2), (5, 1), (0, 0)];

/// The policies and rules of a bundle.
#[derive(Debug)]
pub struct Kept<'b> {
    rules: HashMap<[&'b str; 3], HashSet<&'b str>>,
}

impl<'b> Kept<'b> {
    /// The policies and rules that a gateway with that bundle can report.
    pub fn of(bundle: &'b Bundle) -> Self {
        let blocked = bundle.blocked.iter().map(|blocked| {
            let policy = &blocked.policy;
            let (namespace, name) = policy.split_once('/').unwrap_or(("", policy));
            ([namespace, name, &blocked.uid], HashSet::new())
        });
        let accepted = bundle.policies.iter().map(|policy| {
            let spec = &policy.spec;
            let rules = spec.rules.iter().map(|rule| rule.name.as_str());
            let prompts = spec.prompts.iter().map(|rule| rule.name.as_str());
            let resources = spec.resources.iter().map(|rule| rule.name.as_str());
            (
                [&*policy.namespace, &policy.name, &policy.uid],
                rules.chain(prompts).chain(resources).collect(),
            )
        });
        Kept {
            rules: blocked.chain(accepted).collect(),
        }
    }

    /// The key under which violations that were reported under that key are counted.
    fn place(&self, key: &Key) -> Key {
        let policy = [&*key.namespace, &key.policy, &key.policy_uid];
        let own = [DEFAULT_RULE, BLOCKED_RULE, INVENTORY_RULE, CREDENTIALS_RULE]
            .contains(&key.rule.as_str());
        if policy == ["", NO_POLICY, ""] {
            return if own { key.clone() } else { other(key) };
        }
        match self.rules.get(&policy) {
            Some(rules) if own || rules.contains(key.rule.as_str()) => key.clone(),
            Some(_) => other(key),
            None => former(key.outcome),
        }
    }
}

fn other(key: &Key) -> Key {
    Key {
        rule: OTHER.to_owned(),
        ..key.clone()
    }
}

fn former(outcome: ViolationOutcome) -> Key {
    Key {
        namespace: String::new(),
        policy: FORMER.to_owned(),
        policy_uid: String::new(),
        rule: FORMER.to_owned(),
        outcome,
    }
}

impl Account {
    /// The same account with the kept keys, and the rest under one key.
    #[must_use]
    pub fn placed(self, kept: &Kept<'_>) -> Self {
        let mut placed = Account {
            recent: self.recent,
            ..Account::default()
        };
        for (key, tally) in &self.counts {
            placed.add(kept.place(key), *tally);
        }
        placed
    }

    /// Keeps that many keys, the largest, and that many recent violations.
    fn coarsen(&mut self, keys: usize, recent: usize) {
        self.recent.truncate(recent);
        if self.counts.len() <= keys {
            return;
        }
        let mut by_count: Vec<(u64, Key)> = self
            .counts
            .iter()
            .map(|(key, tally)| (tally.count, key.clone()))
            .collect();
        by_count.sort_by(|(a, a_key), (b, b_key)| b.cmp(a).then_with(|| a_key.cmp(b_key)));
        let kept: BTreeSet<Key> = by_count
            .into_iter()
            .take(keys)
            .map(|(_, key)| key)
            .collect();
        for (key, tally) in std::mem::take(&mut self.counts) {
            let key = if kept.contains(&key) {
                key
            } else {
                former(key.outcome)
            };
            self.add(key, tally);
        }
    }

    /// An upper estimate of its size in JSON, in bytes.
    fn size(&self) -> usize {
        let counts = self
            .counts
            .keys()
            .map(|key| 200 + quoted(&[&key.namespace, &key.policy, &key.policy_uid, &key.rule]));
        let recent = self.recent.iter().map(|one: &ReportedViolation| {
            let who = quoted(&[&one.tool, &one.grant, &one.policy_uid]);
            200 + who + quoted(&[&one.namespace, &one.policy, &one.rule])
        });
        64 + counts.chain(recent).sum::<usize>()
    }
}

/// Bytes of texts in JSON.
fn quoted(texts: &[&str]) -> usize {
    let bytes = texts.iter().flat_map(|text| text.bytes());
    bytes
        .map(|byte| match byte {
            0..0x20 => 6,
            b'"' | b'\\' => 2,
            _ => 1,
        })
        .sum()
}

impl Ledger {
    /// Merges the counts of keys that are not kept.
    pub fn place(&mut self, kept: &Kept<'_>) {
        for account in self.accounts_mut() {
            *account = std::mem::take(account).placed(kept);
        }
    }

    /// Shrinks it until it can be stored.
    pub fn fit(&mut self) {
        for (keys, recent) in STEPS {
            if self.size() <= MAX_LEDGER_BYTES {
                return;
            }
            for account in self.accounts_mut() {
                account.coarsen(keys, recent);
            }
        }
    }

    /// The number of violations that are counted without their policy or rule.
    pub fn together(&self) -> u64 {
        let counts = self.accounts().flat_map(|account| &account.counts);
        counts
            .filter(|(key, _)| key.rule == FORMER || key.rule == OTHER)
            .fold(0, |sum, (_, tally)| tally.count.saturating_add(sum))
    }

    fn size(&self) -> usize {
        let names = self.running.keys().chain(self.ended.keys());
        let names: usize = names.map(|name| 100 + quoted(&[name])).sum();
        names + self.accounts().map(Account::size).sum::<usize>()
    }
}
