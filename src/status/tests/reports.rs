//! Reports of compromised gateways.

use super::*;

fn read(report: Value) -> Result<Report, String> {
    serde_json::from_str(&report.to_string()).map_err(|error| error.to_string())
}

#[test]
fn a_report_that_says_too_much_is_refused() {
    let long = "x".repeat(5_000);
    let count = |rule: &str| json!({"namespace": "ml", "policy": "p", "policyUid": "u", "rule": rule, "outcome": "Denied", "count": 1, "lastTime": at(1)});
    let recent = |tool: &str| json!({"time": at(1), "tool": tool, "grant": "g", "namespace": "ml", "policy": "p", "rule": "r", "outcome": "Denied"});
    let tool = |name: &str| json!({"name": name, "digest": "d", "visible": true, "unclassified": true, "drifted": true});
    let good = json!({
        "instance": "i", "revision": "r", "bundleError": null, "violations": [count("r")], "recent": [recent("t")],
        "tools": [tool("t")], "missingSecretKeys": ["a/b"], "listing": {"time": at(1), "error": null},
    });
    read(good.clone()).unwrap();
    for (field, value) in [
        ("instance", json!(long)),
        ("revision", json!(long)),
        ("bundleError", json!(long)),
        ("violations", json!([count(&long)])),
        ("violations", json!(vec![count("r"); 3_000])),
        ("recent", json!([recent(&long)])),
        ("recent", json!(vec![recent("t"); 100])),
        ("tools", json!([tool(&long)])),
        ("tools", json!(vec![tool("t"); 10_001])),
        ("missingSecretKeys", json!([long])),
        ("missingSecretKeys", json!(vec![""; 2_000])),
        ("listing", json!({"time": at(1), "error": long})),
    ] {
        let mut report = good.clone();
        report[field] = value;
        let error = read(report).unwrap_err();
        assert!(error.contains("at most"), "{field}: {error}");
    }
}

#[test]
fn what_a_gateway_says_is_never_too_much() {
    let long = "é\"".repeat(9_000);
    let mut sent = report();
    sent.tools = vec![tool(&long, true); 10_000];
    sent.tools[0].withheld = Some(long.clone());
    sent.recent[0].tool.clone_from(&long);
    sent.recent[0].grant.clone_from(&long);
    sent.missing_secret_keys = vec!["a/b".to_owned(); 2_000];
    sent.bundle_error = Some(long.clone());
    sent.listing.as_mut().unwrap().error = Some(long);
    let mut fitting = sent.fit();
    let text = serde_json::to_string(&fitting).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), fitting);
    fitting.shorten();
    assert!(serde_json::to_string(&fitting).unwrap().len() < MAX_REPORT_BYTES);
    assert_eq!(fitting.tools.len(), 10_000);
}

#[test]
fn times_to_come_and_counts_that_cannot_be_are_not_taken() {
    let year_9999: Timestamp = "9999-12-30T00:00:00Z".parse().unwrap();
    let mut sent = report();
    sent.violations[0].last_time = year_9999;
    sent.recent[0].time = year_9999;
    sent.listing.as_mut().unwrap().time = year_9999;
    assert!(sent.is_plausible(Some(at(0)), at(60)));
    assert_eq!(
        [
            sent.violations[0].last_time,
            sent.recent[0].time,
            sent.listing.as_ref().unwrap().time
        ],
        [at(60); 3]
    );
    sent.violations[0].count = 1_000_000_000;
    assert!(!sent.is_plausible(Some(at(0)), at(60)));
    assert!(sent.is_plausible(Some(at(0)), at(86_400)));
    sent.violations[0].count = u64::MAX;
    sent.violations.push(sent.violations[0].clone());
    assert!(!sent.is_plausible(None, at(86_400)));
}

/// Nor does what a gateway says of policies that it was not given hurt them.
#[test]
fn only_policies_and_rules_of_the_bundle_are_counted_apart() {
    let policy =
        policy_with(json!([{ "name": "deletions", "tools": {"names": ["*"]}, "action": "Hide" }]));
    let bundle = bundle_of(&server_with(json!({})), &[&policy]);
    let kept = accounting::Kept::of(&bundle);
    let of = |namespace: &str, name: &str, uid: &str, rule: &str, count| ReportedCount {
        namespace: namespace.to_owned(),
        policy: name.to_owned(),
        policy_uid: uid.to_owned(),
        ..counted(rule, ViolationOutcome::Denied, count, 1)
    };
    let mut sent = report();
    sent.violations = vec![
        of("ml", "base", "p1", "deletions", 1),
        of("ml", "base", "p1", "(default)", 2),
        of("ml", "base", "p1", "renamed", 4),
        of("ml", "base", "p0", "deletions", 8),
        of("portcullis-system", "guard", "g1", "all", 16),
        of("", "(none)", "", "(inventory)", 32),
        of("", "(none)", "", "(other)", 64),
    ];
    let mut ledger = Ledger::default();
    ledger.take("run", accounting::Account::of(&sent).placed(&kept));
    let counts: Vec<(String, u64)> = ledger
        .sum()
        .counts
        .iter()
        .map(|(key, tally)| (format!("{}/{}", key.policy, key.rule), tally.count))
        .collect();
    let expected = [
        ("(former)/(former)", 24),
        ("(none)/(inventory)", 32),
        ("(none)/(other)", 64),
        ("base/(default)", 2),
        ("base/(other)", 4),
        ("base/deletions", 1),
    ];
    assert_eq!(
        counts,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
    let of_base = accounting::of_policy("ml", "base", Some("p1"), [&ledger]);
    assert_eq!(of_base.counts.total, 7);
    let of_guard = accounting::of_policy("portcullis-system", "guard", Some("g1"), [&ledger]);
    assert_eq!(of_guard.counts.total, 0);
    assert_eq!(accounting::of_server(&ledger).counts.total, 127);
    // Told once more, and after the policy is gone: nothing is lost or doubled.
    let empty = bundle_of(&server_with(json!({})), &[]);
    ledger.take(
        "run",
        accounting::Account::of(&sent).placed(&accounting::Kept::of(&empty)),
    );
    ledger.place(&accounting::Kept::of(&empty));
    assert_eq!(accounting::of_server(&ledger).counts.total, 127);
    assert_eq!(ledger.sum().counts.len(), 3);
}

#[test]
fn a_ledger_fits_into_its_object_whatever_is_reported() {
    let rule = |index: usize| ReportedCount {
        rule: format!("{index:0>60}\"\n"),
        ..counted(
            "",
            ViolationOutcome::Hidden,
            u64::try_from(index).unwrap(),
            1,
        )
    };
    let mut sent = report();
    sent.violations = (1..2_000).map(rule).collect();
    sent.recent = (0..20).map(|i| violation(&"\n".repeat(500), i)).collect();
    let mut ledger = Ledger::default();
    for run in 0..20 {
        ledger.take(&format!("run{run}"), accounting::Account::of(&sent));
    }
    ledger.fit();
    let text = serde_json::to_string(&ledger).unwrap();
    assert!(text.len() <= 900 << 10, "{}", text.len());
    assert_eq!(
        accounting::of_server(&ledger).counts.hidden,
        20 * (1..2_000_i64).sum::<i64>()
    );
    // The same reports again lead to the same: nothing is written at rest.
    let stored = ledger.clone();
    for run in 0..20 {
        ledger.take(&format!("run{run}"), accounting::Account::of(&sent));
    }
    ledger.fit();
    assert_eq!(ledger, stored);
}

/// A whole status after the worst that passes.
#[test]
fn the_status_of_a_server_whose_gateway_lies_stays_small() {
    let server = server_with(json!({}));
    let policy =
        policy_with(json!([{ "name": "deletions", "tools": {"names": ["*"]}, "action": "Hide" }]));
    let bundle = bundle_of(&server, &[&policy]);
    let mut sent = report();
    sent.violations = (0..2_048)
        .map(|index| counted(&format!("invented-{index}"), ViolationOutcome::Denied, 1, 1))
        .collect();
    sent.recent = vec![violation(&"r".repeat(512), 1); 64];
    sent.recent
        .iter_mut()
        .for_each(|one| one.tool = "t".repeat(1_024));
    sent.missing_secret_keys = vec!["k".repeat(1_000); 1_000];
    let read: Report = serde_json::from_str(&serde_json::to_string(&sent).unwrap()).unwrap();
    let mut ledger = Ledger::default();
    let account = accounting::Account::of(&read);
    ledger.take("run", account.placed(&accounting::Kept::of(&bundle)));
    let (ledger, server_ledger) = (keep(ledger.clone()), ledger);
    let status = status_of(&server, Some(&read), |inputs| inputs.ledger = ledger);
    assert!(serde_json::to_string(&status).unwrap().len() < 100_000);
    let of_policy = accounting::of_policy("ml", "base", Some("p1"), [&server_ledger]);
    assert_eq!(
        (of_policy.counts.total, of_policy.by_rule.len()),
        (2_048, 1)
    );
}
