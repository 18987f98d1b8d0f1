//! Statuses of policies.

use super::*;

/// A policy's status with one healthy target.
fn policy_status(
    change: impl FnOnce(&mut policy::Inputs<'static>),
) -> crate::api::policy::McpPolicyStatus {
    let policy = keep(policy_with(
        json!([{ "name": "deletions", "tools": {"names": ["*"]}, "action": "Hide" }]),
    ));
    let server = server_with(json!({}));
    let mut ledger = Ledger::default();
    ledger.observe(&report());
    let target = policy::Target {
        namespace: "ml",
        name: "mlflow",
        bundle: Some(keep(bundle_of(&server, &[policy]))),
        warnings: &[],
        status: keep(status_of(&server, Some(&report()), |_| {})),
        ledger: keep(ledger),
    };
    let mut inputs = policy::Inputs {
        policy,
        findings: &[],
        warnings: &[],
        missing: &[],
        targets: keep([target]),
        previous: None,
        now: at(10),
    };
    change(&mut inputs);
    policy::status(&inputs)
}

/// The condition `Doubtful` of a policy with that rule.
fn doubtful(rule: serde_json::Value) -> Option<String> {
    let policy = keep(policy_with(json!([rule])));
    let server = server_with(json!({}));
    let bundle = keep(bundle_of(&server, &[policy]));
    let at_server = keep(crate::policy::lint::lint(bundle));
    let own = keep(crate::policy::compile::diagnose_policy(
        "ml",
        "careful",
        "ml",
        &policy.spec,
    ));
    let status = policy_status(|inputs| {
        let mut target = inputs.targets[0];
        target.bundle = Some(bundle);
        target.warnings = at_server;
        // The same server twice, which warns of the same.
        inputs.targets = keep([target, target]);
        inputs.policy = policy;
        inputs.warnings = own;
    });
    assert_eq!(short(&status.conditions)[2], "Ready=True Ready");
    let found = status.conditions.iter().find(|one| one.type_ == "Doubtful");
    found.map(|one| format!("{} {}: {}", one.status, one.reason, one.message))
}

#[test]
fn a_rule_that_does_not_do_what_its_author_means_is_shown_in_the_status() {
    let rule = |names: &str| json!({"name": "no", "tools": {"names": [names]}, "action": "Hide"});
    for (names, says) in [
        ("delete_.*", "`.*` included"),
        ("delete_experiments", "did you mean \"delete_experiment\""),
        ("nothing_*", "selects none of the"),
    ] {
        let found = doubtful(rule(names)).unwrap();
        assert!(
            found.starts_with("True RulesDoubtful") && found.contains(says),
            "{found}"
        );
    }
    // The same finding of two servers is one.
    let allow = json!({"name": "some", "tools": {"names": ["get_*"]}, "action": "Allow"});
    assert_eq!(doubtful(allow), None);
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
            warnings: &[],
            status: if name == "s19" { &bad } else { &good },
            ledger: &ledger,
        })
        .collect();
    let status = policy::status(&policy::Inputs {
        policy: &policy,
        findings: &[],
        warnings: &[],
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
        "2 of 20 targets do not enforce the policy, first ml/s18: The server's bundle does not contain this generation of the policy yet."
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
