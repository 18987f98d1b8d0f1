//! Rules in as few policies as their bounds allow.
//!
//! In: the rules of one document. Out: policies that are each within the bounds of a policy, and
//! together within those of a server. Rules that share a counter stay together, as counters belong
//! to a policy. Must not do: leave a rule out.

use crate::api::GROUP;
use crate::api::policy::{DefaultAction, McpPolicySpec, Rule, TargetRef};
use crate::policy::check::{POLICY, SERVER, Spent};
use crate::policy::compile::{diagnose_policy, spent};
use crate::policy::diagnostic::Level;
use std::collections::BTreeSet;

/// Rules that a policy may have.
const MAX_RULES: usize = 256;
/// Bytes of JSON that a policy may have, with room for what is not a rule.
const MAX_JSON: usize = 250 * 1_024;

/// Rules that must be in one policy.
struct Group {
    rules: Vec<Rule>,
    counters: BTreeSet<String>,
}

pub(super) fn policies(
    rules: Vec<Rule>,
    default: DefaultAction,
    server: &str,
) -> Result<Vec<McpPolicySpec>, String> {
    let spec = |rules: Vec<Rule>| McpPolicySpec {
        target_refs: vec![TargetRef {
            group: GROUP.to_owned(),
            kind: "McpServer".to_owned(),
            name: server.to_owned(),
            unknown: Default::default(),
        }],
        target_selector: None,
        namespace_selector: None,
        mode: None,
        // Each states it, as one that is applied without the others must not leave it open.
        default_action: Some(default),
        rules,
        prompts: Vec::new(),
        resources: Vec::new(),
    };
    let mut parts: Vec<(Vec<Rule>, Spent, usize)> = vec![(Vec::new(), Spent::default(), 0)];
    let mut all = Spent::default();
    for group in groups(rules) {
        let size: usize = group.rules.iter().map(size).sum();
        let group = spec(group.rules);
        // Its errors are reported before its size counts.
        if let Some(error) = diagnose_policy("default", "imported", "default", &group)
            .into_iter()
            .find(|found| found.level == Level::Error)
        {
            return Err(format!("the document cannot be imported: {error}"));
        }
        let cost = spent(&group);
        all = all.and(cost);
        let fits = parts.iter_mut().find(|(rules, before, bytes)| {
            rules.len() + group.rules.len() <= MAX_RULES
                && before.and(cost).within(&POLICY).is_ok()
                && *bytes + size <= MAX_JSON
        });
        match fits {
            Some((rules, before, bytes)) => {
                rules.extend(group.rules);
                *before = before.and(cost);
                *bytes += size;
            }
            None => parts.push((group.rules, cost, size)),
        }
    }
    if let Err(why) = all.within(&SERVER) {
        return Err(format!(
            "{why}, and the document is for one server: join its regular expressions, or write them as `in` or `contains`"
        ));
    }
    Ok(parts.into_iter().map(|(rules, ..)| spec(rules)).collect())
}

fn size(rule: &Rule) -> usize {
    serde_json::to_vec(rule).map_or(usize::MAX / 1_024, |text| text.len() + 1)
}

fn groups(rules: Vec<Rule>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for rule in rules {
        let counters: BTreeSet<String> = rule
            .limits
            .iter()
            .map(|limit| limit.counter.clone())
            .collect();
        // A rule has one limit, so it joins at most one group.
        let joined = groups
            .iter_mut()
            .find(|group| !group.counters.is_disjoint(&counters));
        match joined {
            Some(group) => {
                group.rules.push(rule);
                group.counters.extend(counters);
            }
            None => groups.push(Group {
                rules: vec![rule],
                counters,
            }),
        }
    }
    groups
}
