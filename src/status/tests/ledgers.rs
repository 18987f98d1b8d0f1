//! What gateways report adds up, under any order of reports.

use super::*;

#[test]
fn audited_calls_are_apart_from_the_total() {
    let mut ledger = Ledger::default();
    ledger.observe(&Report {
        instance: "i".to_owned(),
        violations: vec![
            counted("a", ViolationOutcome::Hidden, 1, 1),
            counted("a", ViolationOutcome::Denied, 2, 2),
            counted("b", ViolationOutcome::Limited, 3, 3),
            counted("b", ViolationOutcome::Unapproved, 4, 4),
            counted("b", ViolationOutcome::Audited, 5, 5),
        ],
        ..Report::default()
    });
    let status = accounting::of_server(&ledger);
    assert_eq!(
        status.counts,
        ViolationCounts {
            total: 10,
            hidden: 1,
            denied: 2,
            limited: 3,
            unapproved: 4,
            audited: 5
        }
    );
    let by_rule: Vec<(String, i64)> = accounting::of_policy("ml", "base", Some("p1"), [&ledger])
        .by_rule
        .into_iter()
        .map(|r| (r.rule, r.count))
        .collect();
    assert_eq!(by_rule, [("a".to_owned(), 3), ("b".to_owned(), 12)]);
    assert_eq!(
        accounting::of_policy("ml", "base", Some("p2"), [&ledger]),
        Default::default(),
        "a namesake that came later"
    );
    assert_eq!(
        accounting::of_policy("ml", "other", None, [&ledger]),
        Default::default()
    );
}

#[test]
fn the_newest_twenty_are_shown_newest_first() {
    let mut ledger = Ledger::default();
    for gateway in 0..3 {
        ledger.observe(&Report {
            instance: format!("i{gateway}"),
            violations: vec![counted("a", ViolationOutcome::Hidden, 15, 50)],
            recent: (0..15).map(|i| violation("a", i * 3 + gateway)).collect(),
            ..Report::default()
        });
    }
    let seconds: Vec<i64> = accounting::of_server(&ledger)
        .recent
        .iter()
        .map(|v| v.time.0.as_second() - at(0).as_second())
        .collect();
    assert_eq!(seconds, (25..45).rev().collect::<Vec<_>>());
}

#[test]
fn reports_and_ledgers_survive_json() {
    let report = report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    let mut ledger = Ledger::default();
    ledger.observe(&report);
    ledger.retire("i1", at(0));
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    let newer = r#"{ "instance": "a", "something": { "new": 1 } }"#;
    assert_eq!(
        serde_json::from_str::<Report>(newer).unwrap(),
        Report {
            instance: "a".to_owned(),
            ..Report::default()
        }
    );
}

proptest! {
    /// For every order and repetition of reports, and whichever runs end: the sum is that of the
    /// last reports.
    #[test]
    fn nothing_reported_is_lost_or_doubled(
        runs in prop::collection::vec(prop::collection::vec((0u64..5, 0u64..5), 1..6), 1..5),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
        retired in any::<prop::sample::Index>(),
    ) {
        // Each run's reports are cumulative.
        let reports: Vec<Vec<Report>> = runs.iter().enumerate().map(|(run, steps)| {
            let mut sums = (0, 0);
            steps.iter().map(|(hidden, denied)| {
                sums = (sums.0 + hidden, sums.1 + denied);
                Report {
                    instance: format!("run{run}"),
                    violations: vec![
                        counted("a", ViolationOutcome::Hidden, sums.0, 1),
                        counted("b", ViolationOutcome::Denied, sums.1, 2),
                    ],
                    ..Report::default()
                }
            }).collect()
        }).collect();
        let mut ledger = Ledger::default();
        for (run, step) in &order {
            let run = run.get(&reports);
            ledger.observe(step.get(run));
        }
        // A graceful end is read last.
        for run in &reports {
            ledger.observe(run.last().unwrap());
        }
        ledger.retire(&retired.get(&reports)[0].instance, at(0));
        let total = |pick: fn(&(u64, u64)) -> u64| -> i64 {
            i64::try_from(runs.iter().flatten().map(pick).sum::<u64>()).unwrap()
        };
        let counts = accounting::of_server(&ledger).counts;
        prop_assert_eq!(counts.hidden, total(|s| s.0));
        prop_assert_eq!(counts.denied, total(|s| s.1));
        prop_assert_eq!(counts.total, counts.hidden + counts.denied);
    }
}

/// One step in the life of a policy that is deleted and made again under its name, and of the
/// gateways that enforce it.
#[derive(Clone, Debug)]
enum Life {
    /// A number of calls denied at a gateway, by the current policy, or without a rule while there
    /// is not a policy.
    Denied(usize, u64),
    /// Deleted, or made again under another UID.
    Turn,
    /// A gateway's report is read.
    Read(usize),
    /// An earlier report of it is read once more.
    Late(usize, prop::sample::Index),
    /// It restarts, once its report has been read.
    Restart(usize),
}

fn life() -> impl Strategy<Value = Vec<Life>> {
    let gateway = 0..2_usize;
    let one = prop_oneof![
        (gateway.clone(), 0..4_u64).prop_map(|(gateway, count)| Life::Denied(gateway, count)),
        Just(Life::Turn),
        gateway.clone().prop_map(Life::Read),
        (gateway.clone(), any::<prop::sample::Index>())
            .prop_map(|(gateway, which)| Life::Late(gateway, which)),
        gateway.prop_map(Life::Restart),
    ];
    prop::collection::vec(one, 0..50)
}

proptest! {
    /// Each violation stays with the policy that decided it, and is in the server's total once.
    #[test]
    fn a_policy_that_is_made_again_neither_doubles_nor_inherits_violations(steps in life()) {
        let mut ledger = Ledger::default();
        let mut uids: Vec<Option<String>> = vec![Some("u0".to_owned())];
        // The run, and what it has counted, of each gateway; and each report of that run that was
        // ever read.
        let mut gateways = vec![(0_u32, Vec::<ReportedCount>::new(), Vec::<Report>::new()); 2];
        let mut answered = std::collections::BTreeMap::<String, i64>::new();
        let read = |ledger: &mut Ledger, which: usize, gateway: &mut (u32, Vec<ReportedCount>, Vec<Report>)| {
            let report = Report {
                instance: format!("g{which}-{}", gateway.0),
                violations: gateway.1.clone(),
                ..Report::default()
            };
            ledger.observe(&report);
            gateway.2.push(report);
        };
        for step in steps {
            match step {
                Life::Denied(which, count) if count > 0 => {
                    let uid = uids.last().unwrap().clone();
                    *answered.entry(uid.clone().unwrap_or_default()).or_default() += i64::try_from(count).unwrap();
                    let by = ReportedCount {
                        policy: if uid.is_some() { "base" } else { "(none)" }.to_owned(),
                        namespace: if uid.is_some() { "ml" } else { "" }.to_owned(),
                        policy_uid: uid.unwrap_or_default(),
                        ..counted("r", ViolationOutcome::Denied, count, 1)
                    };
                    let counts = &mut gateways[which].1;
                    match counts.iter_mut().find(|known| known.policy_uid == by.policy_uid) {
                        Some(known) => known.count += count,
                        None => counts.push(by),
                    }
                }
                Life::Denied(..) => {}
                Life::Turn if uids.last().unwrap().is_some() => uids.push(None),
                Life::Turn => uids.push(Some(format!("u{}", uids.len()))),
                Life::Read(which) => read(&mut ledger, which, &mut gateways[which]),
                Life::Late(which, index) => {
                    let earlier = &gateways[which].2;
                    if !earlier.is_empty() {
                        ledger.observe(index.get(earlier));
                    }
                }
                Life::Restart(which) => {
                    read(&mut ledger, which, &mut gateways[which]);
                    ledger.retire(&format!("g{which}-{}", gateways[which].0), at(0));
                    gateways[which] = (gateways[which].0 + 1, Vec::new(), Vec::new());
                }
            }
        }
        for (which, gateway) in gateways.iter_mut().enumerate() {
            read(&mut ledger, which, gateway);
        }
        prop_assert_eq!(accounting::of_server(&ledger).counts.total, answered.values().sum::<i64>());
        for uid in uids.iter().flatten() {
            let counts = accounting::of_policy("ml", "base", Some(uid), [&ledger]).counts;
            prop_assert_eq!(counts.total, answered.get(uid).copied().unwrap_or_default());
        }
    }
}

/// Gateways of the previous release reported the policy that currently has the name.
#[test]
fn a_report_that_moves_counts_to_another_uid_does_not_double_them() {
    let mut ledger = Ledger::default();
    for uid in ["p1", "", "p2"] {
        ledger.observe(&Report {
            instance: "i".to_owned(),
            violations: vec![ReportedCount {
                policy_uid: uid.to_owned(),
                ..counted("a", ViolationOutcome::Denied, 3, 1)
            }],
            ..Report::default()
        });
        assert_eq!(accounting::of_server(&ledger).counts.total, 3, "{uid}");
    }
}

#[test]
fn recent_violations_of_a_namesake_are_not_shown() {
    let mut ledger = Ledger::default();
    ledger.observe(&report());
    let recent = |uid| {
        accounting::of_policy("ml", "base", Some(uid), [&ledger])
            .recent
            .len()
    };
    assert_eq!((recent("p1"), recent("p2")), (1, 0));
}
