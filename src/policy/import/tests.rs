use super::*;
use crate::api::policy::Scope;
use crate::policy::compile::compile;
use crate::policy::inventory::{Bound, Definition};
use crate::policy::tests::{bundle, now};
use crate::policy::{Call, Caller, Outcome};
use std::sync::Arc;

/// Imports, compiles, and decides calls of these tools.
fn decide(text: &str) -> (Vec<String>, impl Fn(&str, &str) -> Outcome + use<>) {
    let imported = import(text, "mlflow").unwrap();
    let spec = imported.spec;
    let mut bundle = bundle("", &[("p", "rules: []")]);
    bundle.policies[0].spec = spec;
    let program = Arc::new(compile(&bundle).unwrap());
    let names = ["delete_run", "get_run", "charge", "other"];
    let bound = Bound::new(&program, &names.map(Definition::assumed));
    let notes = imported.notes;
    (notes, move |tool: &str, arguments: &str| {
        let caller = Caller::key("ci");
        bound
            .evaluate(
                &Call {
                    tool,
                    arguments: arguments.as_bytes(),
                    caller: &caller,
                    session: "",
                },
                now(),
            )
            .outcome
    })
}

const DENY: Outcome = Outcome::Deny(crate::policy::decision::Denial::Rule);

#[test]
fn a_policy_json_with_only_hide_denies_everything_else_too_and_says_so() {
    let (notes, outcome) = decide(r#"{"version":"1","default":"deny","hide":["delete_run"]}"#);
    assert_eq!(outcome("delete_run", "{}"), Outcome::Hide);
    assert_eq!(outcome("get_run", "{}"), DENY);
    assert!(
        notes.iter().any(|note| note.contains("denies every tool")),
        "{notes:?}"
    );
}

#[test]
fn require_and_deny_if_have_opposite_polarity() {
    let (_, outcome) = decide(
        r#"{"version":"1","default":"deny","tools":{"get_run":{},"charge":{
            "require":[{"path":"args.currency","op":"in","value":["usd","eur"]},{"path":"args.reason","op":"exists","value":true}],
            "deny_if":[{"path":"args.amount","op":"gt","value":10000},{"path":"args.to","op":"regex","value":"^evil\\."}]}}}"#,
    );
    assert_eq!(outcome("get_run", "{}"), Outcome::Allow);
    assert_eq!(outcome("other", "{}"), DENY);
    for (arguments, expected) in [
        (
            r#"{"currency":"usd","reason":"x","amount":5}"#,
            Outcome::Allow,
        ),
        (r#"{"currency":"usd","reason":"x"}"#, Outcome::Allow),
        (r#"{"currency":"gbp","reason":"x"}"#, DENY),
        (r#"{"reason":"x"}"#, DENY),
        (r#"{"currency":"usd"}"#, DENY),
        (r#"{"currency":"usd","reason":null}"#, DENY),
        (r#"{"currency":"usd","reason":"x","amount":10001}"#, DENY),
        (r#"{"currency":"usd","reason":"x","amount":"10001"}"#, DENY),
        (
            r#"{"currency":"usd","reason":"x","to":"evil.example"}"#,
            DENY,
        ),
    ] {
        assert_eq!(outcome("charge", arguments), expected, "{arguments}");
    }
}

#[test]
fn limits_keep_their_counters_and_never_allow_a_tool_that_is_not_listed() {
    let text = r#"{"version":"1","default":"deny","all_tools":{"limits":[{"counter":"all","window":"hour","max":100,"scope":"grant"}]},
        "tools":{"charge":{"limits":[{"counter":"c","window":"minute","max":30,"scope":"grant"},
        {"counter":"sum","window":"day","max":1000,"scope":"org","increment_from":"args.amount"}]}}}"#;
    let (notes, outcome) = decide(text);
    assert_eq!(outcome("charge", r#"{"amount":1}"#), Outcome::Allow);
    assert_eq!(outcome("other", "{}"), DENY);
    assert!(notes.iter().any(|note| note.contains("org")), "{notes:?}");
    let spec = import(text, "mlflow").unwrap().spec;
    let limits: Vec<_> = spec
        .rules
        .iter()
        .flat_map(|rule| &rule.limits)
        .map(|l| {
            (
                l.counter.as_str(),
                l.max,
                l.window.as_str(),
                l.scope(),
                l.cost.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("all", 100, "1h", Scope::Grant, None),
            ("c", 30, "1m", Scope::Grant, None),
            ("sum", 1000, "1d", Scope::Server, Some("args.amount"))
        ]
    );
}

#[test]
fn an_intercept_file_is_carried_over_rule_by_rule() {
    let (notes, outcome) = decide(
        "
version: '1'
description: example
hide: [delete_run]
tools:
  charge:
    rules:
    - name: max single charge
      conditions: [{path: args.amount, op: lte, value: 500}, {path: args.meta.kind, op: neq, value: draft}]
      on_deny: Too much.
    - name: daily spend
      conditions: [{path: state.charge.spend, op: lt, value: 1000}]
      state: {counter: spend, window: day, increment_from: args.amount}
  other:
    rules:
    - {name: never, action: deny, on_deny: Not by agents.}
  '*':
    rules:
    - {name: global, rate_limit: 60/minute}
",
    );
    assert_eq!(outcome("delete_run", "{}"), Outcome::Hide);
    assert_eq!(outcome("other", "{}"), DENY);
    assert_eq!(outcome("get_run", "{}"), Outcome::Allow);
    assert_eq!(
        outcome("charge", r#"{"amount":500,"meta":{"kind":"final"}}"#),
        Outcome::Allow
    );
    assert_eq!(
        outcome("charge", r#"{"amount":501,"meta":{"kind":"final"}}"#),
        DENY
    );
    assert_eq!(
        outcome("charge", r#"{"amount":500,"meta":{"kind":"draft"}}"#),
        DENY
    );
    assert_eq!(outcome("charge", r#"{"amount":500}"#), DENY);
    assert!(
        notes.iter().any(|note| note.contains("calendar")),
        "{notes:?}"
    );
}

#[test]
fn what_has_no_equivalent_denies_its_tool_and_is_told() {
    for (entry, part) in [
        (r#"{"quota":5}"#, "tools.charge.quota"),
        (r#"{"action":"escalate"}"#, "tools.charge.action"),
        (
            r#"{"deny_if":[{"path":"args.a","op":"like","value":"x"}]}"#,
            "\"like\" is not known",
        ),
        (
            r#"{"deny_if":[{"path":"caller.a","op":"eq","value":"x"}]}"#,
            "does not start with args.",
        ),
        (
            r#"{"require":[{"path":"args.a","op":"regex","value":"(?=x)"}]}"#,
            "cannot be written in CEL",
        ),
        (
            r#"{"limits":[{"counter":"c","window":"week","max":1,"scope":"grant"}]}"#,
            "\"week\"",
        ),
        (
            r#"{"limits":[{"counter":"c","window":"day","max":0,"scope":"grant"}]}"#,
            "never lets a call through",
        ),
        (
            r#"{"rules":[{"name":"x","conditions":[{"path":"state.other.c","op":"lte","value":1}]}]}"#,
            "another rule counts",
        ),
        (r#"{"rate_limit":"many"}"#, "count/window"),
        (r#"7"#, "no object"),
    ] {
        let (notes, outcome) = decide(&format!(
            r#"{{"version":"1","default":"allow","tools":{{"charge":{entry}}}}}"#
        ));
        assert_eq!(outcome("charge", "{}"), DENY, "{entry}");
        assert_eq!(outcome("get_run", "{}"), Outcome::Allow, "{entry}");
        assert!(
            notes.iter().any(|note| note.contains(part)),
            "{entry}: {notes:?}"
        );
    }
}

#[test]
fn another_kind_of_document_is_refused_with_what_is_known() {
    assert!(matches!(import("{", "s"), Err(ImportError::Syntax(_))));
    assert!(
        matches!(import("version: '2'", "s"), Err(ImportError::Shape(text)) if text.contains("only \"1\""))
    );
    assert!(
        matches!(import("version: '1'\ndefault: maybe", "s"), Err(ImportError::Shape(text)) if text.contains("maybe"))
    );
}

#[test]
fn a_regular_expression_of_go_is_written_so_that_it_means_the_same() {
    let import = |pattern: &str| {
        let entry = serde_json::json!({"version": "1", "default": "allow", "tools": {"t": {
            "deny_if": [{"path": "args.a", "op": "regex", "value": pattern}]}}});
        let spec = import(&entry.to_string(), "mlflow").unwrap().spec;
        spec.rules
            .into_iter()
            .find_map(|rule| rule.when)
            .unwrap_or_default()
    };
    assert!(
        import("^[^a&&b]+$").contains(r#"matches("^[^a\\&\\&b]+$")"#),
        "{}",
        import("^[^a&&b]+$")
    );
    assert!(import("^[[a]$").contains(r#"matches("^[\\[a]$")"#));
    assert!(import(r"^\<\d+$").contains(r#"matches("^<\\d+$")"#));
}
