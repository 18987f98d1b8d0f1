//! Statuses of servers.

use super::*;
use crate::api::condition::ConditionType;

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
fn in_a_cluster_what_does_not_run_names_the_command_that_shows_why() {
    let look = "kubectl -n ml describe deployments,pods -l portcullis.dev/server=mlflow";
    let message = |status: &McpServerStatus, kind: ConditionType| {
        let mut all = status.conditions.iter();
        let found = all.find(|condition| condition.type_ == kind.as_str());
        found.unwrap().message.clone()
    };
    let none = status_of(&server_with(json!({})), None, |inputs| {
        (inputs.replicas, inputs.look) = (&[], Some(look));
    });
    assert!(message(&none, ConditionType::Programmed).ends_with(look));
    assert!(message(&none, ConditionType::Ready).ends_with(look));
    let listing = Some(ReportedListing {
        time: at(1),
        error: Some("connection refused".to_owned()),
    });
    let failed = Report {
        listing,
        ..report()
    };
    let own = json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } });
    for (spec, ours) in [(own, true), (json!({}), false)] {
        let status = status_of(&server_with(spec), Some(&failed), |inputs| {
            inputs.look = Some(look);
        });
        let told = message(&status, ConditionType::UpstreamReady);
        assert_eq!(told.ends_with(look), ours, "{told}");
    }
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

    let unrecorded = Report {
        audit_error: Some("the audit log cannot be written (disk full)".to_owned()),
        ..report()
    };
    let status = status_of(&quiet, Some(&unrecorded), |_| {});
    let message = &status.conditions[6].message;
    assert!(
        message.contains("disk full") && message.contains("spec.audit.onFailure"),
        "{message}"
    );
    assert_eq!(differs(status), ["Ready=False AuditFailing"]);

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

    let limits = policy_with(
        json!([{ "name": "w", "tools": {"names": ["*"]}, "action": "Allow",
        "limits": [{ "counter": "c", "max": 1, "window": "1m" }] }]),
    );
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
    let server = server_with(json!({}));
    let bundle = bundle_of(&server, &[&limits]);
    let two = status_of(&server, Some(&report()), |inputs| {
        inputs.bundle = Some(keep(bundle));
        inputs.replicas = keep([inputs.replicas[0], inputs.replicas[0]]);
    });
    assert!(two.conditions[4].message.starts_with("2 gateways run"));
}

#[test]
fn a_bundle_of_somebody_elses_is_never_programmed() {
    let status = status_of(&server_with(json!({})), Some(&report()), |inputs| {
        inputs.overwritten = true;
    });
    let conditions = short(&status.conditions);
    assert!(conditions.contains(&"Programmed=False Delivering".to_owned()));
    assert!(conditions.contains(&"Ready=False Delivering".to_owned()));
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
