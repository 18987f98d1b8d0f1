//! Statuses as whole values, and accounting under any order of reports.

use super::{
    accounting::{self, Ledger},
    policy,
    report::*,
    server::{self, Refusal, Replica},
};
use crate::api::{
    ViolationCounts, ViolationOutcome,
    condition::{Condition, Reason},
    policy::{McpPolicy, TargetCounts},
    server::{McpServer, McpServerStatus, ReplicaCounts},
};
use crate::policy::{
    bundle::{Bundle, BundlePolicy, BundleServer},
    diagnostic::{Diagnostic, Level},
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Lends for the rest of the test run, so that inputs can be changed by closures.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn server_with(extra: Value) -> McpServer {
    let mut object = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": { "name": "mlflow", "namespace": "ml", "generation": 3 },
        "spec": {
            "upstream": { "http": { "url": "http://a/mcp" } },
            "authentication": { "apiKeys": { "secretRef": { "name": "agents" } } }
        }
    });
    for (key, value) in extra.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn policy_with(rules: Value) -> McpPolicy {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": { "name": "base", "namespace": "ml", "generation": 1, "uid": "p1" },
        "spec": { "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "mlflow" }], "rules": rules }
    }))
    .unwrap()
}

fn bundle_of(server: &McpServer, policies: &[&McpPolicy]) -> Bundle {
    Bundle {
        format: 1,
        sequence: 1,
        revision: "r2".to_owned(),
        server: BundleServer {
            namespace: "ml".to_owned(),
            name: "mlflow".to_owned(),
            uid: "u".to_owned(),
            spec: server.spec.clone(),
        },
        policies: policies
            .iter()
            .map(|policy| BundlePolicy {
                namespace: "ml".to_owned(),
                name: policy.metadata.name.clone().unwrap(),
                uid: "p1".to_owned(),
                generation: 1,
                spec: policy.spec.clone(),
            })
            .collect(),
        blocked: Vec::new(),
        issuers: Vec::new(),
        report_token_sha256: None,
    }
}

fn tool(name: &str, visible: bool) -> ReportedTool {
    ReportedTool {
        name: name.to_owned(),
        digest: "sha256:0".to_owned(),
        visible,
        unclassified: name == "x",
        drifted: name == "y",
        withheld: None,
    }
}

fn counted(rule: &str, outcome: ViolationOutcome, count: u64, second: i64) -> ReportedCount {
    ReportedCount {
        namespace: "ml".to_owned(),
        policy: "base".to_owned(),
        policy_uid: "p1".to_owned(),
        rule: rule.to_owned(),
        outcome,
        count,
        last_time: at(second),
    }
}

fn violation(rule: &str, second: i64) -> ReportedViolation {
    ReportedViolation {
        time: at(second),
        tool: "delete_run".to_owned(),
        grant: "key:ci".to_owned(),
        namespace: "ml".to_owned(),
        policy: "base".to_owned(),
        rule: rule.to_owned(),
        outcome: ViolationOutcome::Hidden,
    }
}

fn report() -> Report {
    Report {
        instance: "i1".to_owned(),
        revision: Some("r2".to_owned()),
        calls: 9,
        violations: vec![counted("deletions", ViolationOutcome::Hidden, 2, 5)],
        recent: vec![violation("deletions", 5)],
        tools: vec![
            tool("a", true),
            tool("b", false),
            tool("x", true),
            tool("y", true),
        ],
        missing_secret_keys: Vec::new(),
        bundle_error: None,
        listing: Some(ReportedListing {
            time: at(1),
            error: None,
        }),
    }
}

fn status_of(
    server: &McpServer,
    report: Option<&Report>,
    change: impl FnOnce(&mut server::Inputs<'static>),
) -> McpServerStatus {
    let server = keep(server.clone());
    let report = report.map(|report| keep(report.clone()));
    let policy = policy_with(json!([{ "name": "deletions", "tools": {}, "action": "Hide" }]));
    let mut ledger = Ledger::default();
    report.iter().for_each(|report| ledger.observe(report));
    let mut inputs = server::Inputs {
        server,
        refusal: None,
        bundle: Some(keep(bundle_of(server, &[&policy]))),
        url: Some("http://127.0.0.1:8080/mlflow/mcp"),
        desired: 1,
        replicas: keep([Replica {
            ready: true,
            report,
        }]),
        ledger: keep(ledger),
        previous: None,
        now: at(10),
    };
    change(&mut inputs);
    server::status(&inputs)
}

/// Conditions as `Type=Status Reason`.
fn short(conditions: &[Condition]) -> Vec<String> {
    conditions
        .iter()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
        .collect()
}

#[test]
fn a_healthy_server_is_ready_with_all_its_figures() {
    let status = status_of(&server_with(json!({})), Some(&report()), |_| {});
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({ "type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:10Z" })
    };
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
            "observedGeneration": 3,
            "conditions": [
                condition("Accepted", "Accepted", "The server is valid."),
                condition("UpstreamReady", "Listed", "The server lists 4 tools."),
                condition("Authenticated", "Configured", "Callers must present a credential."),
                condition("Enforced", "Enforcing", "Refusals are carried out."),
                condition("LimitsDurable", "NoLimits", "No rule has a limit."),
                condition("Programmed", "Programmed", "All ready replicas (1) run the revision."),
                condition("Ready", "Ready", "The gateway serves calls.")
            ],
            "url": "http://127.0.0.1:8080/mlflow/mcp",
            "revision": "r2",
            "replicas": { "desired": 1, "ready": 1, "programmed": 1, "summary": "1/1" },
            "policyCount": 1,
            "policies": [{ "namespace": "ml", "name": "base", "mode": "Enforce" }],
            "tools": { "discovered": 4, "visible": 3, "hidden": 1, "unclassified": 1, "drifted": 1, "summary": "3/4" },
            "violations": {
                "total": 2, "hidden": 2, "denied": 0, "limited": 0, "unapproved": 0, "audited": 0,
                "lastTime": "2026-01-01T00:00:05Z",
                "recent": [{ "time": "2026-01-01T00:00:05Z", "tool": "delete_run", "grant": "key:ci",
                    "policy": "ml/base", "rule": "deletions", "outcome": "Hidden" }]
            }
        })
    );
}

#[test]
fn what_is_wrong_with_a_server_shows_in_its_conditions() {
    let quiet = server_with(json!({}));
    let healthy = [
        "Accepted=True Accepted",
        "UpstreamReady=True Listed",
        "Authenticated=True Configured",
        "Enforced=True Enforcing",
        "LimitsDurable=True NoLimits",
        "Programmed=True Programmed",
        "Ready=True Ready",
    ];
    let differs = |status: McpServerStatus| -> Vec<String> {
        short(&status.conditions)
            .into_iter()
            .filter(|c| !healthy.contains(&c.as_str()))
            .collect()
    };

    assert_eq!(differs(status_of(&quiet, Some(&report()), |_| {})), [""; 0]);
    assert_eq!(
        differs(status_of(&quiet, None, |_| {})),
        [
            "UpstreamReady=Unknown Pending",
            "Programmed=False Delivering",
            "Ready=False Delivering",
            "Reconciling=True Delivering"
        ]
    );
    assert_eq!(
        differs(status_of(&quiet, Some(&report()), |inputs| inputs
            .replicas =
            &[])),
        [
            "UpstreamReady=Unknown Pending",
            "Programmed=False NoReadyReplica",
            "Ready=False NoReadyReplica",
            "Reconciling=True NoReadyReplica"
        ]
    );
    let old = Report {
        revision: Some("r1".to_owned()),
        ..report()
    };
    assert_eq!(
        differs(status_of(&quiet, Some(&old), |_| {})),
        [
            "Programmed=False Delivering",
            "Ready=False Delivering",
            "Reconciling=True Delivering"
        ]
    );
    let refused = Report {
        bundle_error: Some("format 9".to_owned()),
        ..old
    };
    let status = status_of(&quiet, Some(&refused), |_| {});
    assert_eq!(
        status.conditions[5].message,
        "A gateway refused the bundle and keeps the one before: format 9"
    );
    assert_eq!(
        differs(status),
        [
            "Programmed=False BundleRejected",
            "Ready=False BundleRejected",
            "Stalled=True BundleRejected"
        ]
    );

    let down = Report {
        listing: Some(ReportedListing {
            time: at(9),
            error: Some("connection refused".to_owned()),
        }),
        ..report()
    };
    let status = status_of(&quiet, Some(&down), |_| {});
    assert_eq!(
        status.tools.as_ref().unwrap().summary,
        "3/4",
        "the last known tools are still shown"
    );
    assert_eq!(
        differs(status),
        ["UpstreamReady=False Unreachable", "Ready=False Unreachable"]
    );

    let missing = Report {
        missing_secret_keys: vec!["agents/ci".to_owned(), "agents/ci".to_owned()],
        ..report()
    };
    let status = status_of(&quiet, Some(&missing), |_| {});
    assert_eq!(
        status.conditions[6].message,
        "The gateway does not find agents/ci; create what is missing."
    );
    assert_eq!(differs(status), ["Ready=False SecretMissing"]);

    let refusal = Refusal {
        reason: Reason::Unsupported,
        message: "jwt is not supported yet".to_owned(),
    };
    assert_eq!(
        differs(status_of(&quiet, Some(&report()), |inputs| inputs
            .refusal =
            Some(keep(refusal)))),
        [
            "Accepted=False Unsupported",
            "Ready=False Unsupported",
            "Stalled=True Unsupported"
        ]
    );
}

#[test]
fn what_a_server_is_told_to_do_shows_in_its_conditions() {
    let third = |extra: Value, index: usize| {
        short(&status_of(&server_with(extra), Some(&report()), |_| {}).conditions)[index].clone()
    };
    assert_eq!(
        third(json!({ "authentication": null }), 2),
        "Authenticated=False NoAuthentication"
    );
    assert_eq!(
        third(json!({ "authentication": {} }), 2),
        "Authenticated=False NoAuthentication"
    );
    assert_eq!(
        third(json!({ "authentication": { "anonymous": "Allow" } }), 2),
        "Authenticated=False Anonymous"
    );
    assert_eq!(
        third(
            json!({ "authentication": { "anonymous": "Allow", "apiKeys": { "secretRef": { "name": "a" } } } }),
            2
        ),
        "Authenticated=False Anonymous"
    );
    assert_eq!(
        third(json!({ "authentication": { "serviceAccounts": {} } }), 2),
        "Authenticated=True Configured"
    );
    assert_eq!(
        third(json!({ "enforcement": "Audit" }), 3),
        "Enforced=False AuditMode"
    );

    let limits = policy_with(json!([{ "name": "w", "tools": {}, "action": "Allow",
        "limits": [{ "counter": "c", "max": 1, "window": "1m" }] }]));
    for (counters, expected) in [
        (json!(null), "LimitsDurable=False LocalCounters"),
        (
            json!({ "redis": { "urlSecretRef": { "name": "a", "key": "b" } } }),
            "LimitsDurable=True Shared",
        ),
    ] {
        let server = server_with(json!({ "counters": counters }));
        let bundle = bundle_of(&server, &[&limits]);
        let status = status_of(&server, Some(&report()), |inputs| {
            inputs.bundle = Some(keep(bundle))
        });
        assert_eq!(short(&status.conditions)[4], expected);
    }
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let server = server_with(json!({}));
    let first = status_of(&server, Some(&report()), |_| {});
    let down = Report {
        listing: Some(ReportedListing {
            time: at(9),
            error: Some("gone".to_owned()),
        }),
        ..report()
    };
    let second = status_of(&server, Some(&down), |inputs| {
        inputs.previous = Some(keep(first));
        inputs.now = at(60);
    });
    let times = |status: &McpServerStatus| -> Vec<(String, Timestamp)> {
        status
            .conditions
            .iter()
            .map(|c| (c.type_.clone(), c.last_transition_time.0))
            .collect()
    };
    let changed: Vec<String> = times(&second)
        .into_iter()
        .filter(|(_, time)| *time == at(60))
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(changed, ["UpstreamReady", "Ready"]);
    let third = status_of(&server, Some(&down), |inputs| {
        inputs.previous = Some(keep(second.clone()));
        inputs.now = at(90);
    });
    assert_eq!(
        third, second,
        "nothing changed, so there is nothing to write"
    );
}

#[test]
fn replicas_count_as_programmed_only_when_ready_and_current() {
    let server = server_with(json!({}));
    let current = keep(report());
    let old = keep(Report {
        revision: Some("r1".to_owned()),
        instance: "i2".to_owned(),
        ..report()
    });
    let replica = |ready, report| Replica {
        ready,
        report: Some(report),
    };
    let replicas = keep([
        replica(true, current),
        replica(true, old),
        replica(false, current),
    ]);
    let status = status_of(&server, None, |inputs| {
        inputs.replicas = replicas;
        inputs.desired = 3;
    });
    assert_eq!(
        status.replicas,
        Some(ReplicaCounts {
            desired: 3,
            ready: 2,
            programmed: 1,
            summary: "1/3".to_owned()
        })
    );
    assert_eq!(
        status.conditions[5].message,
        "1 of 2 ready replicas run the revision; the others have not reported it yet."
    );
}

/// A policy's status with one healthy target.
fn policy_status(
    change: impl FnOnce(&mut policy::Inputs<'static>),
) -> crate::api::policy::McpPolicyStatus {
    let policy = keep(policy_with(
        json!([{ "name": "deletions", "tools": {}, "action": "Hide" }]),
    ));
    let server = server_with(json!({}));
    let mut ledger = Ledger::default();
    ledger.observe(&report());
    let target = policy::Target {
        namespace: "ml",
        name: "mlflow",
        bundle: Some(keep(bundle_of(&server, &[policy]))),
        status: keep(status_of(&server, Some(&report()), |_| {})),
        ledger: keep(ledger),
    };
    let mut inputs = policy::Inputs {
        policy,
        findings: &[],
        missing: &[],
        targets: keep([target]),
        previous: None,
        now: at(10),
    };
    change(&mut inputs);
    policy::status(&inputs)
}

#[test]
fn a_policy_in_force_is_ready_and_shows_what_it_refused() {
    let status = policy_status(|_| {});
    assert_eq!(
        short(&status.conditions),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "Ready=True Ready"
        ]
    );
    assert_eq!(
        status.targets,
        Some(TargetCounts {
            matched: 1,
            programmed: 1,
            summary: "1/1".to_owned()
        })
    );
    assert_eq!(status.ancestors.len(), 1);
    assert_eq!(
        short(&status.ancestors[0].conditions),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );
    assert_eq!(
        serde_json::to_value(status.violations).unwrap(),
        json!({
            "total": 2, "hidden": 2, "denied": 0, "limited": 0, "unapproved": 0, "audited": 0,
            "lastTime": "2026-01-01T00:00:05Z",
            "byRule": [{ "rule": "deletions", "count": 2, "lastTime": "2026-01-01T00:00:05Z" }],
            "recent": [{ "time": "2026-01-01T00:00:05Z", "tool": "delete_run", "grant": "key:ci",
                "policy": "ml/base", "rule": "deletions", "outcome": "Hidden" }]
        })
    );
}

#[test]
fn a_policy_that_cannot_be_compiled_is_stalled_and_in_force_nowhere() {
    let finding = |level, message: &str| Diagnostic {
        level,
        policy: Some("ml/base".to_owned()),
        rule: Some("deletions".to_owned()),
        path: "spec.rules[0].when".to_owned(),
        position: None,
        message: message.to_owned(),
    };
    let findings = [
        finding(Level::Warning, "hm"),
        finding(Level::Error, "no such variable"),
        finding(Level::Error, "x"),
    ];
    let status = policy_status(|inputs| inputs.findings = keep(findings.clone()));
    assert_eq!(
        short(&status.conditions),
        [
            "Accepted=False Invalid",
            "Programmed=False Invalid",
            "Ready=False Invalid",
            "Stalled=True Invalid"
        ]
    );
    assert_eq!(
        status.conditions[0].message,
        "policy ml/base, rule deletions, spec.rules[0].when: no such variable (and 1 more)"
    );
    assert_eq!(status.targets.unwrap().summary, "0/1");
    let status = policy_status(|inputs| inputs.findings = keep(findings[..1].to_vec()));
    assert_eq!(
        short(&status.conditions)[0],
        "Accepted=True Accepted",
        "warnings do not count"
    );
}

#[test]
fn a_missing_target_is_named_and_the_others_enforce() {
    let missing = ["mlflwo".to_owned()];
    let status = policy_status(|inputs| inputs.missing = keep(missing));
    assert_eq!(
        short(&status.conditions)[..2],
        [
            "Accepted=False TargetNotFound",
            "Programmed=True Programmed"
        ]
    );
    assert!(status.conditions[0].message.contains("mlflwo"));
    assert_eq!(
        short(&status.ancestors[0].conditions),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );

    let status = policy_status(|inputs| inputs.targets = &[]);
    assert_eq!(
        short(&status.conditions),
        [
            "Accepted=True Accepted",
            "Programmed=False TargetNotFound",
            "Ready=False TargetNotFound",
            "Reconciling=True TargetNotFound"
        ]
    );
}

#[test]
fn failing_targets_come_first_and_sixteen_are_shown() {
    let policy = policy_with(json!([]));
    let server = server_with(json!({}));
    let bundle = bundle_of(&server, &[&policy]);
    let good = status_of(&server, Some(&report()), |_| {});
    let bad = status_of(&server, None, |_| {});
    let ledger = Ledger::default();
    let names: Vec<String> = (0..20).map(|i| format!("s{i:02}")).collect();
    let targets: Vec<policy::Target<'_>> = names
        .iter()
        .map(|name| policy::Target {
            namespace: "ml",
            name,
            bundle: (name != "s18").then_some(&bundle),
            status: if name == "s19" { &bad } else { &good },
            ledger: &ledger,
        })
        .collect();
    let status = policy::status(&policy::Inputs {
        policy: &policy,
        findings: &[],
        missing: &[],
        targets: &targets,
        previous: None,
        now: at(0),
    });
    let shown: Vec<&str> = status
        .ancestors
        .iter()
        .map(|a| a.ancestor_ref.name.as_str())
        .collect();
    assert_eq!(
        (shown.len(), &shown[..4]),
        (16, &["s18", "s19", "s00", "s01"][..])
    );
    assert_eq!(status.targets.unwrap().summary, "18/20");
    assert_eq!(
        status.conditions[1].message,
        "2 of 20 targets do not enforce the policy, first ml/s18: The server's bundle does not hold this generation of the policy yet."
    );
}

#[test]
fn a_policy_that_changed_is_not_programmed_until_its_new_form_is_delivered() {
    let old = policy_with(json!([]));
    let server = server_with(json!({}));
    let bundle = bundle_of(&server, &[&old]);
    let status = policy_status(|inputs| {
        let target = policy::Target {
            bundle: Some(keep(bundle)),
            ..inputs.targets[0]
        };
        inputs.targets = keep([target]);
    });
    assert_eq!(short(&status.conditions)[1], "Programmed=False Delivering");
}

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
