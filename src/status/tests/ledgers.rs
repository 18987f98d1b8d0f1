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
    ledger.retire("i1");
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
    /// Whatever the order in which reports arrive, however often, and whichever runs end: the sum is what was last reported.
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
        ledger.retire(&retired.get(&reports)[0].instance);
        let total = |pick: fn(&(u64, u64)) -> u64| -> i64 {
            i64::try_from(runs.iter().flatten().map(pick).sum::<u64>()).unwrap()
        };
        let counts = accounting::of_server(&ledger).counts;
        prop_assert_eq!(counts.hidden, total(|s| s.0));
        prop_assert_eq!(counts.denied, total(|s| s.1));
        prop_assert_eq!(counts.total, counts.hidden + counts.denied);
    }
}
