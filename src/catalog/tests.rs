//! Compares the data with the real servers' listings and with the expected classes.

use super::*;
use crate::api::Risk::*;
use serde_json::Value;

const FIXTURES: [(Server, &str); 2] = [
    (
        Server::MlflowMcp,
        include_str!("../../tests/fixtures/mlflow-mcp-0.4.1.tools.json"),
    ),
    (
        Server::MlflowCli,
        include_str!("../../tests/fixtures/mlflow-3.x-all.tools.json"),
    ),
];

fn listed(text: &str) -> Vec<(String, Vec<String>)> {
    let value: Value = serde_json::from_str(text).unwrap();
    value["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            let mut names: Vec<String> = tool["inputSchema"]["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k.clone())
                .collect();
            names.sort();
            (tool["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

#[test]
fn every_tool_of_both_real_servers_is_catalogued_with_its_inputs() {
    for (server, text) in FIXTURES {
        let mut real = listed(text);
        let mut ours: Vec<(String, Vec<String>)> = all()
            .iter()
            .filter(|e| e.server == server)
            .map(|e| {
                (
                    e.name.to_owned(),
                    e.properties.iter().map(|p| (*p).to_owned()).collect(),
                )
            })
            .collect();
        real.sort();
        ours.sort();
        assert_eq!(ours, real, "{server}");
    }
    let count = |server| all().iter().filter(|e| e.server == server).count();
    assert_eq!(Server::ALL.map(count), [40, 45]);
}

#[test]
fn a_listed_tool_is_found_in_the_form_of_its_own_server() {
    for (server, text) in FIXTURES {
        for (name, properties) in listed(text) {
            match find(&name, properties.iter().map(String::as_str)) {
                // delete_run and delete_experiment look the same in both servers, so either form is
                // right.
                Known::Yes(entry) => assert!(
                    entry.server == server || lookup(&name).count() == 2,
                    "{name}"
                ),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_tool_whose_inputs_match_no_form_has_drifted_and_keeps_its_class() {
    let Known::Drifted(entry) = find("set_run_tag", ["run_id", "key"]) else {
        panic!("too few inputs")
    };
    assert_eq!((entry.name, entry.risk), ("set_run_tag", Write));
    assert!(
        matches!(
            find("set_run_tag", ["run_id", "key", "value", "also"]),
            Known::Drifted(_)
        ),
        "an input more"
    );
    assert!(
        matches!(find("search_experiments", ["max_results", "view"]), Known::Yes(e) if e.server == Server::MlflowCli)
    );
    assert!(matches!(
        find("search_experiments", ["max_results"]),
        Known::Drifted(_)
    ));
    assert_eq!(find("send_email", ["to"]), Known::No);
    assert_eq!(find("", []), Known::No);
}

#[test]
fn three_names_are_in_both_servers_with_one_class_each() {
    let mut twice: Vec<&str> = all()
        .iter()
        .map(|e| e.name)
        .filter(|n| lookup(n).count() > 1)
        .collect();
    twice.sort_unstable();
    twice.dedup();
    assert_eq!(
        twice,
        ["delete_experiment", "delete_run", "search_experiments"]
    );
    for name in twice {
        let classes: BTreeSet<_> = lookup(name)
            .map(|e| (e.risk, e.severity, e.recommended))
            .collect();
        assert_eq!(classes.len(), 1, "{name}");
    }
}

#[test]
fn severity_follows_risk_except_where_a_tool_is_worse_than_its_class() {
    let exceptions: Vec<(&str, Severity)> = all()
        .iter()
        .filter(|e| e.severity != e.risk.default_severity())
        .map(|e| (e.name, e.severity))
        .collect();
    assert_eq!(
        exceptions,
        [
            ("get_artifact_content", Severity::Medium),
            ("set_model_alias", Severity::High),
            ("transition_model_version_stage", Severity::High),
            ("copy_model_version", Severity::High),
            ("update_experiment", Severity::High),
            ("create_deployment", Severity::High),
            ("update_deployment", Severity::High),
            ("create_deployment_endpoint", Severity::High),
            ("update_deployment_endpoint", Severity::High),
            ("update_model_pip_requirements", Severity::High),
        ]
    );
}

#[test]
fn classes_are_those_of_the_design() {
    let of = |server, risk| -> Vec<&str> {
        all()
            .iter()
            .filter(|e| e.server == server && e.risk == risk)
            .map(|e| e.name)
            .collect()
    };
    let count =
        |server| [Read, Write, Execute, Financial, Destructive].map(|risk| of(server, risk).len());
    assert_eq!(count(Server::MlflowMcp), [27, 8, 0, 0, 5]);
    assert_eq!(count(Server::MlflowCli), [12, 18, 9, 0, 6]);
    assert_eq!(
        of(Server::MlflowMcp, Destructive),
        [
            "delete_model_alias",
            "delete_model_version",
            "delete_registered_model",
            "delete_run",
            "delete_experiment"
        ]
    );
    assert_eq!(
        of(Server::MlflowCli, Destructive),
        [
            "delete_traces",
            "delete_trace_assessment",
            "delete_experiment",
            "delete_run",
            "delete_deployment",
            "delete_deployment_endpoint"
        ]
    );
    assert_eq!(
        of(Server::MlflowCli, Execute),
        [
            "evaluate_traces",
            "predict_with_deployment",
            "predict_with_model",
            "explain_deployment",
            "serve_model",
            "run_deployment_locally",
            "prepare_model_env",
            "build_model_docker",
            "generate_model_dockerfile"
        ]
    );
}

#[test]
fn the_recommendation_adds_up_to_the_figures_of_the_design() {
    let count = |server, wanted: &dyn Fn(Recommended) -> bool| {
        all()
            .iter()
            .filter(|e| e.server == server && wanted(e.recommended))
            .count()
    };
    let figures = |server| {
        (
            count(server, &|r| r.action() != Action::Hide),
            count(server, &|r| r.action() == Action::Hide),
            count(server, &|r| r == Recommended::Allow),
            count(server, &|r| r.counter() == Some("tags")),
            count(server, &|r| r.counter() == Some("writes")),
            count(server, &|r| r.action() == Action::RequireApproval),
        )
    };
    assert_eq!(figures(Server::MlflowMcp), (35, 5, 27, 3, 5, 3));
    assert_eq!(figures(Server::MlflowCli), (30, 15, 12, 1, 17, 0));
}

#[test]
fn every_why_is_one_sentence() {
    for entry in all() {
        assert!(
            entry.why.ends_with('.') && !entry.why.trim_end_matches('.').contains(". "),
            "{}: {}",
            entry.name,
            entry.why
        );
    }
}

#[test]
fn a_recommended_rule_names_its_tool_and_its_limit() {
    let rule = Recommended::Approve.rule("set_model_alias");
    assert_eq!(
        serde_json::to_value(&rule).unwrap(),
        serde_json::json!({
            "name": "set-model-alias", "tools": { "names": ["set_model_alias"] }, "action": "RequireApproval",
            "approval": {"observe": {
                "tool": "get_model_version_by_alias",
                "args": {"name": "args.name", "alias": "args.alias"},
                "onToolError": "Show",
            }},
            "limits": [{ "counter": "writes", "max": 30, "window": "1m", "scope": "Grant" }]
        })
    );
}

#[test]
fn every_argument_has_a_form_or_is_known_to_need_none() {
    for entry in all() {
        for argument in entry.properties {
            assert_ne!(
                entry.form(argument).is_some(),
                form::FREE.contains(argument),
                "{}.{argument}",
                entry.name
            );
        }
    }
}
