//! Statuses of servers.

use super::*;
use crate::api::condition::ConditionType;

#[test]
fn a_healthy_server_is_ready_with_all_its_figures() {
    let status = status_of(&server_with(json!({})), Some(&report()), |_| {});
    // Of the rules, not of the document `r2` that the replicas report.
    let revision = status.revision.clone().unwrap();
    assert_eq!(revision.len(), 64, "{revision}");
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
                condition("Enforced", "Enforcing", "Refusals are enforced."),
                condition("LimitsDurable", "NoLimits", "No rule has a limit."),
                condition("Programmed", "Programmed", "All ready replicas (1) run the revision."),
                condition("Ready", "Ready", "The gateway serves calls."),
                condition("PoliciesAccepted", "Accepted", "Every policy is accepted.")
            ],
            "url": "http://127.0.0.1:8080/mlflow/mcp",
            "revision": revision,
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
fn tools_that_nobody_gets_are_named_with_the_reason() {
    let mut report = report();
    let withheld = |name: &str| ReportedTool {
        withheld: Some("the server lists this name more than once".to_owned()),
        ..tool(name, false)
    };
    report.tools = vec![tool("a", true), withheld("b\u{202e}\n")];
    let message = |report: &Report| {
        let status = status_of(&server_with(json!({})), Some(report), |_| {});
        let mut all = status.conditions.into_iter();
        let found = all.find(|condition| condition.type_ == "UpstreamReady");
        found.unwrap().message
    };
    assert_eq!(
        message(&report),
        r"The server lists 2 tools. `b\u{202e}\n` is hidden from all callers: the server lists this name more than once."
    );
    report.tools.extend(["c", "d", "e", "f"].map(withheld));
    let more = message(&report);
    assert!(
        more.contains("`d` is hidden") && !more.contains("`e`"),
        "{more}"
    );
    assert!(more.ends_with(" So are 2 more."), "{more}");
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
        let shown = message(&status, ConditionType::UpstreamReady);
        assert_eq!(shown.ends_with(look), ours, "{shown}");
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
        "PoliciesAccepted=True Accepted",
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
        "A gateway refused the bundle and keeps the previous one: format 9"
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
        "The gateway does not find agents/ci; create it."
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
        reason: Reason::Invalid,
        message: "jwt is not supported yet".to_owned(),
    };
    assert_eq!(
        differs(status_of(&quiet, Some(&report()), |inputs| inputs
            .refusal =
            Some(keep(refusal)))),
        [
            "Accepted=False Invalid",
            "Ready=False Invalid",
            "Stalled=True Invalid"
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
        (json!(null), "LimitsDurable=False PodLocal"),
        (json!({ "local": {} }), "LimitsDurable=False PodLocal"),
        (
            json!({ "local": { "persistentVolumeClaim": { "claimName": "c" } } }),
            "LimitsDurable=True Journal",
        ),
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
    let mut full = report();
    full.counters_error = Some("cannot write /x: disk full".to_owned());
    for (counters, expected) in [
        (
            json!(null),
            "Calls with limits are refused: cannot write /x: disk full; all others are served.",
        ),
        (
            json!({ "redis": { "urlSecretRef": { "name": "a", "key": "b" }, "onUnavailable": "Allow" } }),
            "Calls with limits are forwarded uncounted: cannot write /x: disk full.",
        ),
    ] {
        let server = server_with(json!({ "counters": counters }));
        let bundle = bundle_of(&server, &[&limits]);
        let status = status_of(&server, Some(&full), |inputs| {
            inputs.bundle = Some(keep(bundle))
        });
        assert_eq!(
            short(&status.conditions)[4],
            "LimitsDurable=False CountersUnavailable"
        );
        assert_eq!(status.conditions[4].message, expected);
    }
    let server = server_with(json!({}));
    let bundle = bundle_of(&server, &[&limits]);
    let here = status_of(&server, Some(&report()), |inputs| {
        inputs.bundle = Some(keep(bundle.clone()));
        inputs.place = Place::Process;
    });
    assert_eq!(short(&here.conditions)[4], "LimitsDurable=True Journal");
    let two = status_of(&server, Some(&report()), |inputs| {
        inputs.bundle = Some(keep(bundle));
        inputs.replicas = keep([inputs.replicas[0], inputs.replicas[0]]);
    });
    assert!(two.conditions[4].message.starts_with("2 gateways run"));
}

#[test]
fn what_others_change_is_a_condition_while_it_goes_on() {
    let status = status_of(&server_with(json!({})), Some(&report()), |inputs| {
        inputs.tampered = Some("mallory changed data.bundle.json");
    });
    let conditions = short(&status.conditions);
    assert!(conditions.contains(&"Tampered=True ForeignChange".to_owned()));
    let quiet = status_of(&server_with(json!({})), Some(&report()), |_| {});
    assert!(!short(&quiet.conditions).join(" ").contains("Tampered"));
}

/// A policy, and why it is not accepted.
type Named = (String, Option<String>);

/// The conditions that say whether calls are let through, with the message of `Ready`, and the
/// policies.
fn opening(
    server: &McpServer,
    policies: &[&McpPolicy],
    change: impl FnOnce(&mut Bundle),
) -> (Vec<String>, String, Vec<Named>) {
    let mut bundle = bundle_of(server, policies);
    change(&mut bundle);
    let status = status_of(server, Some(&report()), |inputs| {
        inputs.bundle = Some(keep(bundle));
    });
    let mut conditions = short(&status.conditions);
    conditions.retain(|one| {
        ["Ready", "Poli", "Stal"]
            .iter()
            .any(|kind| one.starts_with(kind))
    });
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
    let named = status
        .policies
        .iter()
        .map(|policy| {
            (
                format!("{}/{}", policy.namespace, policy.name),
                policy.reason.clone(),
            )
        })
        .collect();
    (conditions, ready.unwrap().message.clone(), named)
}

#[test]
fn a_server_that_refuses_every_call_is_not_ready_and_names_the_policy() {
    let server = server_with(json!({}));
    let reads = policy_with(
        json!([{ "name": "reads", "tools": { "risks": ["Read"] }, "action": "Allow" }]),
    );
    let block = |policy: &'static str| {
        move |bundle: &mut Bundle| {
            bundle.blocked.push(crate::policy::bundle::Blocked {
                policy: policy.to_owned(),
                uid: "b".to_owned(),
                message: "spec.rules[0].when: there is no variable argz".to_owned(),
            });
        }
    };
    let closed = [
        "Ready=False Closed",
        "PoliciesAccepted=False Closed",
        "Stalled=True Closed",
    ];
    let (conditions, message, policies) = opening(&server, &[&reads], block("ml/broken"));
    assert_eq!(conditions, closed);
    assert!(
        message.contains("Policy ml/broken") && message.contains("argz"),
        "{message}"
    );
    assert_eq!(
        policies,
        [
            ("ml/base".to_owned(), None),
            ("ml/broken".to_owned(), Some("Closed".to_owned()))
        ]
    );
    let (conditions, message, _) = opening(&server, &[&reads], block("ops/guard"));
    assert_eq!(conditions, closed);
    assert!(message.contains("Guardrail ops/guard"), "{message}");
    // What is only recorded closes nothing.
    let audit = server_with(json!({ "enforcement": "Audit" }));
    let (conditions, ..) = opening(&audit, &[&reads], block("ml/broken"));
    assert_eq!(conditions[0], "Ready=True Ready");
}

#[test]
fn a_server_at_which_nothing_is_allowed_is_not_ready_and_says_what_to_write() {
    let server = server_with(json!({}));
    let rules = |rules: Value| policy_with(rules);
    let allow = json!({ "name": "a", "tools": { "risks": ["Read"] }, "action": "Allow" });
    let none = rules(json!([{ "name": "d", "tools": { "risks": ["Write"] }, "action": "Deny" }]));
    let blanket =
        rules(json!([allow, { "name": "d", "tools": { "names": ["*"] }, "action": "Deny" }]));
    let mut audit = rules(json!([allow]));
    audit.spec.mode = Some(crate::api::policy::Mode::Audit);
    for (policies, says) in [
        (vec![], "no McpPolicy with mode Enforce targets this server"),
        (
            vec![&audit],
            "no McpPolicy with mode Enforce targets this server",
        ),
        (vec![&none], "Add one to ml/base"),
        (vec![&blanket], "rule d of policy ml/base refuses all tools"),
    ] {
        let (conditions, message, _) = opening(&server, &policies, |_| {});
        assert_eq!(
            conditions,
            [
                "Ready=False NothingAllowed",
                "PoliciesAccepted=True Accepted"
            ]
        );
        assert!(message.contains(says), "{message}");
    }
    let mut default = none.clone();
    default.spec.default_action = Some(crate::api::policy::DefaultAction::Allow);
    let some = rules(
        json!([allow, { "name": "d", "tools": {"names": ["*"]}, "callers": ["key:x"], "action": "Deny" }]),
    );
    for policy in [&default, &some] {
        assert_eq!(opening(&server, &[policy], |_| {}).0[0], "Ready=True Ready");
    }
    let refuse = |bundle: &mut Bundle| {
        bundle.policies[0].not_accepted = Some(crate::policy::bundle::NotAccepted {
            reason: "SharedCountersNeeded".to_owned(),
            message: "Write a window of at most 1h.".to_owned(),
        });
    };
    let (conditions, message, policies) = opening(&server, &[&rules(json!([allow]))], refuse);
    assert_eq!(
        conditions,
        [
            "Ready=False NothingAllowed",
            "PoliciesAccepted=False SharedCountersNeeded"
        ]
    );
    assert!(
        message.contains("ml/base") && message.contains("at most 1h"),
        "{message}"
    );
    assert_eq!(
        policies,
        [(
            "ml/base".to_owned(),
            Some("SharedCountersNeeded".to_owned())
        )]
    );
}

#[test]
fn a_server_whose_tools_no_caller_can_list_is_not_ready() {
    let mut hidden = report();
    hidden.tools = vec![tool("a", false), tool("b", false)];
    let ready = |spec: Value, report: &Report| {
        let status = status_of(&server_with(spec), Some(report), |_| {});
        let mut all = status.conditions.into_iter();
        let ready = all.find(|condition| condition.type_ == "Ready").unwrap();
        (format!("{} {}", ready.status, ready.reason), ready.message)
    };
    let (condition, message) = ready(json!({}), &hidden);
    assert_eq!(condition, "False NothingAllowed");
    assert!(message.contains("any of the 2 tools"), "{message}");
    let (condition, message) = ready(json!({ "enforcement": "Audit" }), &hidden);
    assert_eq!(condition, "True Ready");
    assert!(
        message.contains("forwards every call: enforcement is Audit"),
        "{message}"
    );
    // Of a server without tools nothing can be listed.
    hidden.tools.clear();
    assert_eq!(ready(json!({}), &hidden).0, "True Ready");
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

#[test]
fn why_pods_do_not_run_is_told_in_place_of_what_follows_from_it() {
    let message = |status: &McpServerStatus, kind: ConditionType| {
        let mut all = status.conditions.iter();
        let found = all
            .find(|condition| condition.type_ == kind.as_str())
            .unwrap();
        (found.status.clone(), found.message.clone())
    };
    let failed = Report {
        listing: Some(ReportedListing {
            time: at(1),
            error: Some("connection refused".to_owned()),
        }),
        ..report()
    };
    let own = server_with(json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } }));
    for heard in [Some(&failed), None] {
        let status = status_of(&own, heard, |inputs| {
            inputs.upstream_trouble = Some("the image i cannot be pulled: not found");
        });
        let (is, shown) = message(&status, ConditionType::UpstreamReady);
        assert_eq!(
            (is.as_str(), shown.as_str()),
            (
                "False",
                "The server does not run: the image i cannot be pulled: not found."
            )
        );
    }
    // What is listed is there, whatever another pod does.
    let status = status_of(&own, Some(&report()), |inputs| {
        inputs.upstream_trouble = Some("the image i cannot be pulled: not found");
    });
    assert_eq!(message(&status, ConditionType::UpstreamReady).0, "True");
    let none = status_of(&own, None, |inputs| {
        inputs.replicas = &[];
        inputs.trouble = Some("its pods cannot be made: exceeded quota: few");
    });
    let (_, shown) = message(&none, ConditionType::Ready);
    assert!(shown.contains("exceeded quota: few"), "{shown}");
}

#[test]
fn a_webhook_that_fails_is_a_condition_in_words_and_makes_nothing_else_untrue() {
    let server = server_with(json!({}));
    let quiet = status_of(&server, Some(&report()), |_| {});
    assert!(!short(&quiet.conditions).join(" ").contains("NotifyFailing"));
    let mut failing = report();
    let fault = "spec.approvals.notify[0].webhook: it answered HTTP 500 Internal Server Error";
    failing.webhook_faults = vec![fault.to_owned()];
    let status = status_of(&server, Some(&failing), |_| {});
    let mut conditions = short(&status.conditions);
    let found = conditions
        .iter()
        .position(|one| one == "NotifyFailing=True WebhookFailing")
        .unwrap();
    assert!(
        status.conditions[found].message.contains(fault),
        "{}",
        status.conditions[found].message
    );
    conditions.remove(found);
    assert_eq!(conditions, short(&quiet.conditions));
}

#[test]
fn what_is_wrong_with_the_sessions_of_a_server_is_said_beside_its_tools() {
    let noted = Report {
        upstream_note: Some("the server forgets its sessions".to_owned()),
        ..report()
    };
    let status = status_of(&server_with(json!({})), Some(&noted), |_| {});
    let mut all = status.conditions.iter();
    let found = all.find(|condition| condition.type_ == "UpstreamReady");
    let found = found.unwrap();
    assert_eq!(
        (found.status.as_str(), found.message.as_str()),
        (
            "True",
            "The server lists 4 tools. But the server forgets its sessions."
        )
    );
}
