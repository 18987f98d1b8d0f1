//! Conditions, schemas and limits: decisions that depend on the arguments of a call.

use super::*;
use crate::json;

#[test]
fn a_condition_that_fails_denies_an_allow_rule_and_makes_a_stricter_rule_match() {
    let with = |action: &str| {
        bound(
            "",
            &[(
                "p",
                &format!(
                    "
rules:
- {{name: broad, tools: {{names: ['*']}}, action: Allow}}
- {{name: narrow, tools: {{names: [set_model_alias]}}, when: args.alias == 'x', action: {action}}}
"
                ),
            )],
        )
    };
    assert_eq!(
        result(&call(&with("Allow"), "set_model_alias", "{}")),
        (
            Outcome::Deny(Denial::ConditionError),
            "narrow",
            Some("its condition could not be evaluated: there is no `alias`")
        )
    );
    assert_eq!(
        result(&call(&with("Deny"), "set_model_alias", "{}")),
        (Outcome::Deny(Denial::Rule), "narrow", None)
    );
    assert_eq!(
        result(&call(&with("RequireApproval"), "set_model_alias", "{}")),
        (Outcome::RequireApproval, "narrow", None)
    );
    let hide = bound(
        "",
        &[(
            "p",
            "
rules:
- {name: broad, tools: {names: ['*']}, action: Allow}
- {name: narrow, tools: {names: ['*']}, when: caller.claims.team == 'x', action: Hide}
",
        )],
    );
    assert_eq!(
        result(&call(&hide, "get_run", "{}")),
        (Outcome::Hide, "narrow", None)
    );
    assert!(!hide.visible("get_run", &Caller::key("ci"), "", now()));
}

#[test]
fn arguments_that_a_rule_reads_must_be_as_the_schema_says() {
    let bound = bound(
        "",
        &[(
            "p",
            "
rules:
- {name: broad, tools: {names: ['*']}, action: Allow}
- {name: forced, tools: {names: [set_model_alias]}, when: args.force == true, action: Deny}
",
        )],
    );
    let says = |arguments| {
        let decision = call(&bound, "set_model_alias", arguments);
        (
            decision.outcome,
            decision.reason.map(|reason| reason.to_string()),
        )
    };
    let bad = |text: &str| (Outcome::BadArguments, Some(text.to_owned()));
    assert_eq!(
        says("{}"),
        (Outcome::Allow, None),
        "the default of `force` is false"
    );
    assert_eq!(says(""), (Outcome::Allow, None));
    assert_eq!(
        says(r#"{"force":true}"#),
        (Outcome::Deny(Denial::Rule), None)
    );
    assert_eq!(
        says(r#"{"force":"true"}"#),
        bad("the argument `force` must be of type boolean")
    );
    assert_eq!(
        says(r#"{"Force":true}"#),
        bad("write the argument `Force` as `force`")
    );
    assert_eq!(
        says(r#"{"other":1}"#),
        bad("there is no such argument: `other`")
    );
    assert_eq!(says("[1]"), bad("the arguments must be an object"));
    assert_eq!(
        says(r#"{"force":false,"force":true}"#).0,
        Outcome::BadArguments
    );
    assert_eq!(
        call(&bound, "get_run", r#"{"x":1}"#).outcome,
        Outcome::Allow,
        "no rule reads these"
    );
    assert!(!Outcome::BadArguments.is_violation());
}

#[test]
fn equal_calls_share_a_counter_whatever_their_spelling_and_no_others_do() {
    let bound = bound("", &[("p", "
rules:
- name: all
  tools: {names: ['*']}
  action: Allow
  limits: [{counter: repeats, max: 3, window: 1m, scope: Call}, {counter: slower, max: 9, window: 1h, scope: Call}]
")]);
    let key = |tool: &str, caller: &str, session: &str, arguments: &str| {
        let caller = Caller::key(caller);
        let call = Call {
            tool,
            arguments: arguments.as_bytes(),
            caller: &caller,
            session,
        };
        let decision = bound.evaluate(&call, now());
        assert_eq!(decision.outcome, Outcome::Allow, "{arguments}");
        let [first, second] = &decision.charges[..] else {
            panic!("{:?}", decision.charges)
        };
        assert_eq!((first.scope, &first.value), (Scope::Call, &second.value));
        assert_eq!(first.value.len(), 64, "{}", first.value);
        first.value.clone()
    };
    let one = key(
        "get_run",
        "ci",
        "",
        r#"{"name":"churn","n":[1,{"a":2,"b":"x"}]}"#,
    );
    for same in [
        r#" { "n" : [1, {"b":"\u0078","a":2}], "name":"churn" } "#,
        r#"{"n":[1,{"b":"x","a":2}],"name":"churn"}"#,
    ] {
        assert_eq!(one, key("get_run", "ci", "another", same));
    }
    for other in [
        r#"{"name":"churn","n":[1,{"a":2,"b":"y"}]}"#,
        r#"{"name":"churn","n":[{"a":2,"b":"x"},1]}"#,
        r#"{"name":"churn"}"#,
    ] {
        assert_ne!(one, key("get_run", "ci", "", other));
    }
    let ten = key("get_run", "ci", "", r#"{"n":10}"#);
    for same in [
        "1e1", "1E1", "10.0", "1e01", "1e+1", "100e-1", "0.1e2", "10.00e0",
    ] {
        assert_eq!(
            ten,
            key("get_run", "ci", "", &format!("{{\"n\":{same}}}")),
            "{same}"
        );
    }
    for other in ["-10", "1", "100", "10.1", "\"10\""] {
        assert_ne!(
            ten,
            key("get_run", "ci", "", &format!("{{\"n\":{other}}}")),
            "{other}"
        );
    }
    let zero = key("get_run", "ci", "", r#"{"n":0}"#);
    for same in ["-0", "0.0", "0e5", "-0.00E-7"] {
        assert_eq!(
            zero,
            key("get_run", "ci", "", &format!("{{\"n\":{same}}}")),
            "{same}"
        );
    }
    let none = key("get_run", "ci", "", "");
    assert_eq!(none, key("get_run", "ci", "", "{}"));
    assert_ne!(none, key("set_model_alias", "ci", "", "{}"));
    assert_ne!(none, key("get_run", "other", "", "{}"));
    // The names of tool and caller cannot run into one another.
    assert_ne!(
        key("get_run", "a", "", "{}"),
        key("set_model_alias", "a", "", "{}")
    );
}

#[test]
fn arguments_that_take_too_much_work_to_compare_are_not_let_through_uncounted() {
    let bound = bound(
        "",
        &[(
            "p",
            "
rules:
- name: all
  tools: {names: ['*']}
  action: Allow
  limits: [{counter: repeats, max: 3, window: 1m, scope: Call}]
",
        )],
    );
    let caller = Caller::key("ci");
    let many = format!(r#"{{"name":[{}]}}"#, vec!["1"; 200_000].join(","));
    let call = Call {
        tool: "get_run",
        arguments: many.as_bytes(),
        caller: &caller,
        session: "",
    };
    let decision = bound.evaluate(&call, now());
    assert_eq!(decision.outcome, Outcome::Deny(Denial::CostError));
    assert!(decision.charges.is_empty());
    let reason = decision.reason.unwrap();
    assert!(
        reason.contains("repeats") && reason.contains("fewer"),
        "{reason}"
    );
}

#[test]
fn limits_of_every_matching_rule_are_charged_once_a_counter_at_the_highest_cost() {
    let bound = bound("", &[
        ("p", "
rules:
- name: all
  tools: {names: ['*']}
  action: Allow
  limits: [{counter: calls, max: 100, window: 1m}, {counter: total, max: 1000, window: 1h, scope: Server}]
- name: tags
  tools: {names: [set_model_alias]}
  action: RequireApproval
  approval: {expiresAfter: 5m}
  limits: [{counter: calls, max: 100, window: 60s, scope: Grant, cost: 'size(args.name)'}, {counter: s, max: 5, window: 1m, scope: Session}]
"),
        ("q", "rules: [{name: again, tools: {names: [set_model_alias]}, action: RequireApproval, approval: {waitUpTo: 1s}}]"),
    ]);
    let decide = |arguments: &str, session: &str| {
        let caller = Caller::key("ci");
        bound.evaluate(
            &Call {
                tool: "set_model_alias",
                arguments: arguments.as_bytes(),
                caller: &caller,
                session,
            },
            now(),
        )
    };
    let decision = decide(r#"{"name":"churn"}"#, "");
    let shown: Vec<_> = decision
        .charges
        .iter()
        .map(|c| (&*c.counter.name, c.scope, &*c.value, c.cost, &*c.by.rule))
        .collect();
    assert_eq!(
        shown,
        [
            ("calls", Scope::Grant, "key:ci", 5, "all"),
            ("total", Scope::Server, "", 1, "all"),
            ("s", Scope::Grant, "key:ci", 1, "tags")
        ]
    );
    assert_eq!(decision.charges[0].key().server.as_ref(), "uid-1");
    let demand = decision.approval.unwrap();
    assert_eq!(
        demand
            .rules
            .iter()
            .map(|r| format!("{}/{}", r.policy, r.rule))
            .collect::<Vec<_>>(),
        ["p/tags", "q/again"]
    );
    assert_eq!(
        (demand.expires_after, demand.wait_up_to),
        (Duration::from_secs(300), Duration::from_secs(1))
    );
    let decision = decide(r#"{"name":""}"#, "s1");
    let shown: Vec<_> = decision
        .charges
        .iter()
        .map(|c| (&*c.counter.name, c.scope, &*c.value, c.cost))
        .collect();
    assert_eq!(
        shown,
        [
            ("calls", Scope::Grant, "key:ci", 1),
            ("total", Scope::Server, "", 1),
            ("s", Scope::Session, "s1", 1)
        ]
    );
    let decision = decide("{}", "");
    assert_eq!(
        (decision.outcome, &*decision.by.rule),
        (Outcome::Deny(Denial::CostError), "tags")
    );
}

/// The tools of a real server under some rules.
fn real(listing: &str, server: &str, rules: &str) -> Bound {
    let listing: serde_json::Value = serde_json::from_str(listing).unwrap();
    let tools: Vec<_> = listing["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| Definition::parse(tool.to_string().as_bytes()).unwrap())
        .collect();
    let program = compile(&bundle(server, &[("p", rules)])).unwrap_or_else(|e| panic!("{e:#?}"));
    Bound::new(&Arc::new(program), &tools)
}

const MLFLOW_MCP: &str = include_str!("../../../tests/fixtures/mlflow-mcp-0.4.1.tools.json");
const MLFLOW_CLI: &str = include_str!("../../../tests/fixtures/mlflow-3.x.tools.json");

#[test]
fn an_argument_of_mlflow_mcp_whose_default_is_null_is_absent_unless_it_has_a_value() {
    // Tool, what it needs, argument, a value.
    let nine = [
        ("search_experiments", "", "filter_string", r#""name = 'a'""#),
        ("search_experiments", "", "order_by", r#"["name"]"#),
        (
            "get_runs",
            r#""experiment_id":"1","#,
            "order_by",
            r#"["a"]"#,
        ),
        (
            "query_runs",
            r#""experiment_id":"1","query":"a","#,
            "order_by",
            r#"["a"]"#,
        ),
        (
            "get_latest_versions",
            r#""name":"churn","#,
            "stages",
            r#"["Production"]"#,
        ),
        (
            "search_logged_models",
            r#""experiment_ids":["1"],"#,
            "filter_string",
            r#""a = 1""#,
        ),
        (
            "search_logged_models",
            r#""experiment_ids":["1"],"#,
            "datasets",
            r#"[{"a":1}]"#,
        ),
        (
            "search_logged_models",
            r#""experiment_ids":["1"],"#,
            "order_by",
            r#"[{"a":1}]"#,
        ),
        (
            "register_model",
            r#""model_name":"churn","model_uri":"runs:/a/b","#,
            "tags",
            r#"{"a":"b"}"#,
        ),
    ];
    let listed = MLFLOW_MCP.matches("\"default\": null").count();
    assert_eq!(
        listed.max(MLFLOW_MCP.matches("\"default\":null").count()),
        nine.len()
    );
    for (tool, needed, argument, value) in nine {
        let rule = |action: &str, when: &str| {
            real(
                MLFLOW_MCP,
                "",
                &format!(
                    "rules: [{{name: all, tools: {{names: ['*']}}, action: Allow}}, {{name: r, tools: {{names: [{tool}]}}, \
                     when: '{when}', action: {action}}}]"
                ),
            )
        };
        let says = |bound: &Bound, rest: &str| {
            let inner = format!("{needed}{rest}");
            call(bound, tool, &format!("{{{}}}", inner.trim_end_matches(','))).outcome
        };
        let null = format!(r#""{argument}":null"#);
        let given = format!(r#""{argument}":{value}"#);
        let there = rule(
            "Deny",
            &format!("has(args.{argument}) && size(args.{argument}) > 0"),
        );
        assert_eq!(says(&there, ""), Outcome::Allow, "{tool}.{argument}");
        assert_eq!(says(&there, &null), Outcome::Allow, "{tool}.{argument}");
        assert_eq!(
            says(&there, &given),
            Outcome::Deny(Denial::Rule),
            "{tool}.{argument}"
        );
        let allow = rule(
            "Allow",
            &format!("!has(args.{argument}) || size(args.{argument}) < 20"),
        );
        for rest in ["", &*null, &*given] {
            assert_eq!(
                says(&allow, rest),
                Outcome::Allow,
                "{tool}.{argument} {rest}"
            );
        }
        // Read without has() it is not there, which never lets a call through.
        let unasked = rule(
            "Deny",
            &format!("args.{argument} == null || size(args.{argument}) == 0"),
        );
        assert_eq!(says(&unasked, ""), Outcome::Deny(Denial::Rule));
        assert_eq!(says(&unasked, &null), Outcome::Deny(Denial::Rule));
        // The whole list for "null" is what FastMCP makes of it.
        let text = format!(r#""{argument}":"null""#);
        assert_eq!(says(&unasked, &text), Outcome::BadArguments);
    }
}

#[test]
fn a_rule_reads_an_argument_in_its_canonical_form_or_not_at_all() {
    let rules = "
rules:
- {name: all, tools: {names: ['*']}, action: Allow}
- {name: seven, tools: {names: [set_model_alias]}, when: args.version == '7', action: Deny}
- {name: one, tools: {names: [get_runs, search_logged_models]}, when: \"'experiment_ids' in args ? '1' in args.experiment_ids : args.experiment_id == '1'\", action: Deny}
- {name: stage, tools: {names: [transition_model_version_stage, get_latest_versions]}, when: \"'stages' in args ? 'Production' in args.stages : args.stage == 'Production'\", action: Deny}
- {name: churn, tools: {names: [delete_registered_model]}, when: args.name == 'churn', action: Deny}
";
    let bound = real(MLFLOW_MCP, "", rules);
    let says = |tool: &str, arguments: &str| call(&bound, tool, arguments);
    let denied = Outcome::Deny(Denial::Rule);
    for (tool, good, same) in [
        (
            "set_model_alias",
            r#"{"name":"Churn X","alias":"A","version":"@"}"#,
            [(
                "8",
                "7",
                vec![
                    "\u{ff17}", "07", " 7", "0_7", "7 ", "+7", "7\n", "\u{667}", "",
                ],
            )],
        ),
        (
            "get_runs",
            r#"{"experiment_id":"@"}"#,
            [("2", "1", vec!["01", " 1", "\u{ff11}", "1\t"])],
        ),
        (
            "search_logged_models",
            r#"{"experiment_ids":["3","@"]}"#,
            [("2", "1", vec!["01", "1 "])],
        ),
        (
            "transition_model_version_stage",
            r#"{"name":"X","version":"07","stage":"@"}"#,
            [(
                "Staging",
                "Production",
                vec!["production", "PRODUCTION", " Production"],
            )],
        ),
        (
            "get_latest_versions",
            r#"{"name":"X","stages":["@"]}"#,
            [("Staging", "Production", vec!["production"])],
        ),
        (
            "delete_registered_model",
            r#"{"name":"@"}"#,
            [(
                "fraud",
                "churn",
                vec![
                    "Churn",
                    "CHURN",
                    "ch\u{fc}rn",
                    "churn ",
                    "churn' or 'a",
                    "\u{ff43}hurn",
                ],
            )],
        ),
    ] {
        for (other, exact, variants) in same {
            let put = |value: &str| good.replace("\"@\"", &json::quoted(value));
            assert_eq!(
                says(tool, &put(other)).outcome,
                Outcome::Allow,
                "{tool} {other}"
            );
            assert_eq!(says(tool, &put(exact)).outcome, denied, "{tool} {exact}");
            for variant in variants {
                let decision = says(tool, &put(variant));
                assert_eq!(
                    decision.outcome,
                    Outcome::BadArguments,
                    "{tool} {variant:?}"
                );
                let reason = decision.reason.unwrap();
                assert!(reason.contains("canonical form"), "{reason}");
            }
        }
    }
    let reason = says(
        "set_model_alias",
        r#"{"name":"a","alias":"b","version":"07"}"#,
    )
    .reason
    .unwrap();
    assert_eq!(
        &*reason,
        "write the argument `version` in its canonical form, digits without leading zeros (0|[1-9][0-9]*), as a rule reads it"
    );
    // What no rule reads may be written as people like.
    assert_eq!(
        says(
            "get_model_version",
            r#"{"model_name":"Churn","version":"07"}"#
        )
        .outcome,
        Outcome::Allow
    );
}

#[test]
fn the_spec_of_a_server_says_the_forms_of_arguments_and_wins_over_the_catalogue() {
    let rules = "
rules:
- {name: all, tools: {names: ['*']}, action: Allow}
- {name: x, tools: {names: [mystery, delete_experiment]}, when: \"has(args.x) ? args.x == 7 : args.experiment_id == 'a'\", action: Deny}
- {name: cost, tools: {names: [get_run]}, action: Allow, limits: [{counter: c, max: 9, window: 1m, cost: size(args.run_id)}]}
";
    let server = "
upstream: {}
tools:
- {name: mystery, arguments: {x: {pattern: '[1-9]'}}}
- {name: delete_experiment, arguments: {experiment_id: {pattern: '[a-z]+'}}}
- {name: get_run, arguments: {run_id: {pattern: 'r|s'}}}
";
    let bound = bound(server, &[("p", rules)]);
    let says = |tool: &str, arguments: &str| call(&bound, tool, arguments).outcome;
    assert_eq!(says("mystery", r#"{"x":7}"#), Outcome::Deny(Denial::Rule));
    assert_eq!(says("mystery", r#"{"x":8}"#), Outcome::Allow);
    assert_eq!(says("mystery", r#"{"x":7.0}"#), Outcome::BadArguments);
    assert_eq!(says("mystery", r#"{"x":17}"#), Outcome::BadArguments);
    assert_eq!(
        says("delete_experiment", r#"{"experiment_id":"b"}"#),
        Outcome::Allow
    );
    assert_eq!(
        says("delete_experiment", r#"{"experiment_id":"1"}"#),
        Outcome::BadArguments
    );
    // A cost reads too.
    assert_eq!(says("get_run", r#"{"run_id":"s"}"#), Outcome::Allow);
    assert_eq!(says("get_run", r#"{"run_id":"rs"}"#), Outcome::BadArguments);
    for (pattern, part) in [
        ("a)(b", "closes nothing"),
        ("[", ""),
        ("a{,3}", ""),
        ("[a&&b]", "sets"),
        ("\\p{L}{99}", "KiB"),
    ] {
        let server = format!(
            "upstream: {{}}\ntools: [{{name: t, arguments: {{v: {{pattern: '{pattern}'}}}}}}]"
        );
        let found = compile(&bundle(&server, &[("p", READS)])).unwrap_err();
        assert_eq!(found[0].path, "spec.tools[0].arguments.v.pattern");
        assert!(
            found[0].message.contains(part),
            "{pattern}: {}",
            found[0].message
        );
    }
}

#[test]
fn a_form_that_only_an_audit_policy_reads_refuses_nothing() {
    let watch = "mode: Audit\nrules: [{name: w, tools: {names: [get_run]}, when: args.run_id == 'a', action: Deny}]";
    let bound = bound("", &[("p", READS), ("q", watch)]);
    let decision = call(&bound, "get_run", r#"{"run_id":"A"}"#);
    assert_eq!(decision.outcome, Outcome::Allow);
    assert_eq!(decision.shadow.unwrap().outcome, Outcome::BadArguments);
}

#[test]
fn real_mlflow_servers_can_be_read_by_rules_argument_by_argument() {
    for listing in [MLFLOW_MCP, MLFLOW_CLI] {
        let rules =
            "rules: [{name: r, tools: {names: ['*']}, when: size(args) < 50, action: Allow}]";
        let bound = real(listing, "", rules);
        assert!(bound.tools().iter().all(|tool| tool.withheld.is_none()));
    }
    let bound = real(
        MLFLOW_CLI,
        "",
        "rules: [{name: r, tools: {names: ['*']}, when: args.include_spans == 'false', action: Allow}]",
    );
    let says = |value: &str| {
        let arguments = format!(r#"{{"experiment_id":"1","include_spans":"{value}"}}"#);
        call(&bound, "search_traces", &arguments).outcome
    };
    assert_eq!(says("false"), Outcome::Allow);
    assert_eq!(says("true"), Outcome::Deny(Denial::NotAllowed));
    for text in ["FALSE", "0", "no", "f", " false"] {
        assert_eq!(says(text), Outcome::BadArguments, "{text}");
    }
}

#[test]
fn one_call_has_one_budget_over_all_rules_and_audit_policies_have_their_own() {
    let heavy = |n: usize, action: &str| {
        let rules: Vec<_> = (0..n)
            .map(|i| format!("{{name: h{i}, tools: {{names: [get_run]}}, when: \"args.run_id.matches('(a|b|ab)*c{i}[a-z]{{20}}$')\", action: {action}}}"))
            .collect();
        rules.join(", ")
    };
    let allow = "{name: all, tools: {names: ['*']}, action: Allow}";
    let long = format!(r#"{{"run_id":"{}"}}"#, "ab".repeat(32_500));
    let with = |rest: &str| bound("", &[("p", &format!("rules: [{allow}, {rest}]"))]);
    assert_eq!(
        call(&with(&heavy(1, "Deny")), "get_run", &long).outcome,
        Outcome::Allow
    );
    // Each by itself could be afforded.
    let all = call(&with(&heavy(63, "Deny")), "get_run", &long);
    assert_eq!(all.outcome, Outcome::Deny(Denial::Rule));
    let all = call(&with(&heavy(63, "Allow")), "get_run", &long);
    assert_eq!(all.outcome, Outcome::Deny(Denial::ConditionError));
    assert!(all.reason.unwrap().contains("too much work"));
    let watch = format!("mode: Audit\nrules: [{}]", heavy(63, "Deny"));
    let audited = bound(
        "",
        &[
            ("p", &format!("rules: [{allow}, {}]", heavy(1, "Deny"))),
            ("a", &watch),
        ],
    );
    let decision = call(&audited, "get_run", &long);
    assert_eq!(decision.outcome, Outcome::Allow);
    assert_eq!(
        decision.shadow.unwrap().outcome,
        Outcome::Deny(Denial::Rule)
    );
}
