//! Documents in, decisions out.

mod conditions;
mod forms;
mod kinds;
mod property;
mod second;

use super::*;
use crate::api::policy::Scope;
use crate::policy::compile::compile;
use crate::policy::inventory::{Bound, Definition};
use crate::policy::tests::{bundle, now};
use crate::policy::{Call, Caller, Outcome};
use std::sync::Arc;

/// The notes of a document, as texts with their places.
fn texts(notes: &[Note]) -> Vec<String> {
    notes
        .iter()
        .map(|note| {
            let place = note.places.first().unwrap();
            format!(
                "{}:{}: {}: {}",
                place.at.line, place.at.column, place.path, note.text
            )
        })
        .collect()
}

/// Imports, compiles, and decides calls of these tools.
fn decide(text: &str) -> (Vec<String>, impl Fn(&str, &str) -> Outcome + use<>) {
    decide_by(text, serde_json::json!({}))
}

/// The same for tools with these properties.
fn decide_by(
    text: &str,
    properties: serde_json::Value,
) -> (Vec<String>, impl Fn(&str, &str) -> Outcome + use<>) {
    let imported = import(text, "mlflow").unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let mut bundle = bundle(
        "",
        &[("p", "rules: []"), ("q", "rules: []"), ("r", "rules: []")],
    );
    bundle.policies.truncate(imported.policies.len());
    for (entry, spec) in bundle.policies.iter_mut().zip(&imported.policies) {
        entry.spec = spec.clone();
    }
    let program = Arc::new(compile(&bundle).unwrap());
    let definitions = ["delete_run", "get_run", "charge", "other"].map(|name| {
        let mut schema = serde_json::json!({"type": "object"});
        if properties.as_object().is_some_and(|all| !all.is_empty()) {
            schema["properties"] = properties.clone();
        }
        let definition = serde_json::json!({"name": name, "inputSchema": schema});
        Definition::parse(definition.to_string().as_bytes()).unwrap()
    });
    let bound = Bound::new(&program, &definitions);
    (
        texts(&imported.notes),
        move |tool: &str, arguments: &str| {
            let caller = Caller::key("ci");
            let call = Call {
                tool,
                arguments: arguments.as_bytes(),
                caller: &caller,
                session: "",
            };
            bound.evaluate(&call, now()).outcome
        },
    )
}

const DENY: Outcome = Outcome::Deny(crate::policy::decision::Denial::Rule);

fn one(text: &str) -> McpPolicySpec {
    let mut policies = import(text, "mlflow").unwrap().policies;
    assert_eq!(policies.len(), 1);
    policies.remove(0)
}

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
fn limits_keep_their_counters_and_never_allow_a_tool_that_is_not_listed() {
    let text = r#"{"version":"1","default":"deny","all_tools":{"limits":[{"counter":"all","window":"hour","max":100,"scope":"grant"}]},
        "tools":{"charge":{"limits":[{"counter":"c","window":"minute","max":30,"scope":"grant"},
        {"counter":"sum","window":"day","max":1000,"scope":"org","increment_from":"args.amount"}]}}}"#;
    let (notes, outcome) = decide(text);
    assert_eq!(outcome("charge", r#"{"amount":1}"#), Outcome::Allow);
    assert_eq!(outcome("charge", r#"{"amount":"1"}"#), DENY);
    assert_eq!(outcome("other", "{}"), DENY);
    assert!(notes.iter().any(|note| note.contains("org")), "{notes:?}");
    let spec = one(text);
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
            ("sum", 1000, "1d", Scope::Server, Some("int(args.amount)"))
        ]
    );
}

#[test]
fn texts_for_the_agent_are_kept_with_their_line_breaks() {
    let spec = one(
        "version: 1\ndefault: allow\ntools:\n  charge:\n    rules:\n    - name: a\n      rate_limit: 5/hour\n      on_deny: |\n        Too fast.\n        Wait.\n    - {name: b, action: deny, on_deny: \"No.\\r\\n\\tNever.\"}\n",
    );
    let reasons: Vec<_> = spec
        .rules
        .iter()
        .map(|rule| rule.reason.as_deref())
        .collect();
    assert_eq!(reasons, [Some("Too fast.\nWait."), Some("No.\n Never.")]);
}

#[test]
fn an_intercept_file_is_carried_over_rule_by_rule() {
    let (notes, outcome) = decide(
        "
version: '1'
description: example
default: allow
hide: [delete_run]
tools:
  charge:
    description: money
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
    for (arguments, expected) in [
        (r#"{"amount":500,"meta":{"kind":"final"}}"#, Outcome::Allow),
        (r#"{"amount":501,"meta":{"kind":"final"}}"#, DENY),
        (r#"{"amount":500,"meta":{"kind":"draft"}}"#, DENY),
        (r#"{"amount":500}"#, DENY),
        (r#"{"amount":500,"meta":"final"}"#, DENY),
    ] {
        assert_eq!(outcome("charge", arguments), expected, "{arguments}");
    }
    assert!(
        notes.iter().any(|note| note.contains("calendar")),
        "{notes:?}"
    );
    assert!(
        !notes.iter().any(|note| note.contains("correct that")),
        "{notes:?}"
    );
}

#[test]
fn a_rule_that_asks_for_approval_is_one_here_with_its_timeout() {
    let text = "version: 1\ndefault: deny\napprovals: {webhook: {url: 'https://a.example'}}\ntools:\n  charge:\n    rules:\n    \
                - {name: big, action: require_approval, approval_timeout: 5m, on_deny: Ask.}\n  \
                get_run: {action: require_approval}\n  '*':\n    rules: [{name: all, action: require_approval}]\n";
    let (notes, outcome) = decide(text);
    assert_eq!(outcome("charge", "{}"), Outcome::RequireApproval);
    // A wildcard does not allow what is not listed.
    assert_eq!(outcome("other", "{}"), DENY);
    let spec = one(text);
    let expiries: Vec<_> = spec
        .rules
        .iter()
        .filter(|rule| rule.action == Action::RequireApproval)
        .map(|rule| {
            let approval = rule.approval.as_ref();
            approval
                .and_then(|approval| approval.expires_after.as_ref())
                .map(|text| text.as_str())
        })
        .collect();
    assert_eq!(expiries, [Some("5m"), None, None]);
    assert!(
        !notes.iter().any(|note| note.contains("correct that")),
        "{notes:?}"
    );
}

#[test]
fn a_missing_default_is_not_guessed_to_be_allow() {
    for text in [
        "version: 1\ntools: {charge: {rules: []}}",
        "version: 1\ndefault:\ntools: {charge: {rules: []}}",
        "version: 1\ndefault: ~\ntools: {charge: {}}",
    ] {
        let imported = import(text, "mlflow").unwrap();
        assert!(
            imported.notes[0].closes && imported.notes[0].text.contains("not guessed"),
            "{text}"
        );
        let (_, outcome) = decide(text);
        assert_eq!(outcome("charge", "{}"), Outcome::Allow);
        assert_eq!(outcome("other", "{}"), DENY);
    }
}

#[test]
fn equal_notes_are_one_with_all_their_places_and_closures_come_first() {
    let mut text = "version: 1\ndefault: allow\ntools:\n".to_owned();
    for i in 0..86 {
        text.push_str(&format!(
            "  t{i}: {{rules: [{{name: r, rate_limit: 5/hour}}]}}\n"
        ));
    }
    text.push_str("  last: 7\n");
    let notes = import(&text, "mlflow").unwrap().notes;
    assert_eq!(notes.len(), 4, "{notes:#?}");
    assert!(notes[0].closes && notes[0].text.contains("the tool last"));
    assert_eq!(notes[0].places[0].at.line, 90);
    let scopes = notes
        .iter()
        .find(|note| note.text.contains("whole proxy"))
        .unwrap();
    let lines: Vec<_> = scopes.places.iter().map(|place| place.at.line).collect();
    assert_eq!(lines, (4..90).collect::<Vec<_>>());
}

#[test]
fn a_document_beyond_the_bounds_of_one_policy_becomes_several() {
    let mut text = "version: 1\ndefault: allow\ntools:\n  charge:\n    deny_if:\n".to_owned();
    for i in 0..100 {
        text.push_str(&format!(
            "    - {{path: args.x, op: regex, value: '^v{i}$'}}\n"
        ));
    }
    for i in 0..300 {
        text.push_str(&format!("    - {{path: args.y, op: eq, value: w{i}}}\n"));
    }
    for i in 0..200 {
        text.push_str(&format!(
            "  t{i}: {{limits: [{{counter: c{}, window: day, max: 3, scope: grant}}]}}\n",
            i % 2
        ));
    }
    let imported = import(&text, "mlflow").unwrap();
    assert_eq!(imported.policies.len(), 3);
    let homes = |counter: &str| {
        let has = |spec: &&McpPolicySpec| {
            spec.rules
                .iter()
                .any(|rule| rule.limits.iter().any(|limit| limit.counter == counter))
        };
        imported.policies.iter().filter(has).count()
    };
    assert_eq!((homes("c0"), homes("c1")), (1, 1));
    let (_, outcome) = decide(&text);
    for (arguments, expected) in [
        (r#"{"x":"v0"}"#, DENY),
        (r#"{"x":"v99"}"#, DENY),
        (r#"{"y":"w299"}"#, DENY),
        (r#"{"x":"v100"}"#, Outcome::Allow),
    ] {
        assert_eq!(outcome("charge", arguments), expected, "{arguments}");
    }
    // The policies of a server have a bound together, too.
    for i in 100..140 {
        let line = format!("    - {{path: args.x, op: regex, value: '^v{i}$'}}\n");
        text = text.replacen("    deny_if:\n", &format!("    deny_if:\n{line}"), 1);
    }
    let error = import(&text, "mlflow").unwrap_err();
    assert!(
        error.message.contains("different patterns") && error.message.contains("join"),
        "{error}"
    );
}

#[test]
fn another_kind_of_document_is_refused_with_its_place() {
    for (text, line, part) in [
        ("{", 1, ""),
        ("version: '2'", 1, "must be \"1\""),
        ("version: 1.0", 1, "1.0"),
        ("version: [1]", 1, "a list"),
        ("rules: []", 1, "missing"),
        ("[1]", 1, "a list"),
        ("version: '1'\ndefault: maybe", 2, "maybe"),
        ("version: '1'\ndefault: [deny]", 2, "a list"),
        ("version: '1'\ndefault: true", 2, "true"),
        ("version: '1'\ntools: {a: {}, a: {}}", 2, "twice"),
    ] {
        let error = import(text, "s").unwrap_err();
        assert!(
            error.message.contains(part) && error.at.is_some_and(|at| at.line >= line),
            "{text}: {error:?}"
        );
    }
}
