//! The engine as a whole: YAML policies in, decisions out.

mod arguments;
mod documents;
mod modes;
mod names;
mod properties;
mod recommended;

use super::bundle::{Blocked, Bundle, BundlePolicy, BundleServer};
use super::decision::*;
use super::*;
use crate::api::policy::Scope;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn now() -> Timestamp {
    "2026-11-21T08:30:00Z".parse().unwrap()
}

/// A bundle of one server and policies, each given as name (or namespace/name) and the YAML of its
/// spec without targets.
pub(crate) fn bundle(server: &str, policies: &[(&str, &str)]) -> Bundle {
    let server = if server.is_empty() {
        "upstream: {}"
    } else {
        server
    };
    Bundle {
        format: bundle::FORMAT,
        sequence: 1,
        revision: String::new(),
        server: BundleServer {
            namespace: "ml".into(),
            name: "mlflow".into(),
            uid: "uid-1".into(),
            spec: serde_saphyr::from_str(server).unwrap(),
        },
        policies: policies
            .iter()
            .map(|(name, spec)| {
                let (namespace, name) = name.split_once('/').unwrap_or(("ml", name));
                let target = "targetRefs: [{group: portcullis.dev, kind: McpServer, name: mlflow}]";
                BundlePolicy {
                    namespace: namespace.into(),
                    name: name.into(),
                    uid: format!("uid-{name}"),
                    generation: 1,
                    spec: serde_saphyr::from_str(&format!("{target}\n{spec}")).unwrap(),
                    not_accepted: None,
                }
            })
            .collect(),
        blocked: Vec::new(),
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
        rules: String::new(),
    }
    .sealed()
    .unwrap()
}

fn tool(name: &str, properties: &str) -> Definition {
    let raw = format!(
        r#"{{"name":"{name}","inputSchema":{{"type":"object","properties":{properties},"additionalProperties":false}}}}"#
    );
    Definition::parse(raw.as_bytes()).unwrap()
}

pub(super) fn listing() -> Vec<Definition> {
    let text = r#"{"name":{"type":"string"},"alias":{"type":"string"},"version":{"type":"integer"},"force":{"type":"boolean","default":false}}"#;
    vec![
        tool("get_run", r#"{"run_id":{"type":"string"}}"#),
        tool("set_model_alias", text),
        tool(
            "delete_experiment",
            r#"{"experiment_id":{"type":"string"}}"#,
        ),
        tool("mystery", r#"{"x":{"type":"integer"}}"#),
    ]
}

pub(super) fn bound(server: &str, policies: &[(&str, &str)]) -> Bound {
    let program = compile(&bundle(server, policies)).unwrap_or_else(|found| panic!("{found:#?}"));
    Bound::new(&Arc::new(program), &listing())
}

pub(super) fn call(bound: &Bound, tool: &str, arguments: &str) -> Decision {
    call_as(bound, tool, arguments, &Caller::key("ci"))
}

fn call_as(bound: &Bound, tool: &str, arguments: &str, caller: &Caller) -> Decision {
    bound.evaluate(
        &Call {
            tool,
            arguments: arguments.as_bytes(),
            caller,
            session: "",
        },
        now(),
    )
}

/// Outcome, rule and reason in one value to compare.
fn result(decision: &Decision) -> (Outcome, &str, Option<&str>) {
    (
        decision.outcome,
        &decision.by.rule,
        decision.reason.as_deref(),
    )
}

const READS: &str = "rules: [{name: reads, tools: {risks: [Read]}, action: Allow}]";

#[test]
fn the_strictest_matching_rule_wins_whatever_the_order() {
    let rules = [
        "{name: a-allow, tools: {names: ['*']}, action: Allow}",
        "{name: b-approve, tools: {names: ['set_*', 'delete_*', mystery]}, action: RequireApproval}",
        "{name: c-deny, tools: {names: ['delete_*', mystery]}, action: Deny, reason: Ask the platform team.}",
        "{name: d-hide, tools: {names: [mystery]}, action: Hide}",
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let yaml = format!("rules: [{}]", order.map(|i| rules[i]).join(", "));
        let bound = bound("", &[("p", &yaml)]);
        assert_eq!(
            result(&call(&bound, "get_run", "{}")),
            (Outcome::Allow, "a-allow", None)
        );
        assert_eq!(
            result(&call(&bound, "set_model_alias", "{}")),
            (Outcome::RequireApproval, "b-approve", None)
        );
        assert_eq!(
            result(&call(&bound, "delete_experiment", "{}")),
            (
                Outcome::Deny(Denial::Rule),
                "c-deny",
                Some("Ask the platform team.")
            )
        );
        assert_eq!(
            result(&call(&bound, "mystery", "{}")),
            (Outcome::Hide, "d-hide", None)
        );
    }
}

#[test]
fn the_strictest_stated_default_decides_what_no_rule_matches_and_hide_where_none_is_stated() {
    let outcome = |policies: &[(&str, &str)]| {
        let bound = bound("", policies);
        let decision = call(&bound, "set_model_alias", "{}");
        (
            decision.outcome,
            decision.by.policy.clone(),
            decision.by.rule.clone(),
        )
    };
    let is = |outcome, policy: &str| (outcome, policy.to_owned(), "(default)".to_owned());
    assert_eq!(
        outcome(&[("b", READS), ("a", READS)]),
        is(Outcome::Hide, "a")
    );
    assert_eq!(
        outcome(&[("a", READS), ("b", "defaultAction: Allow")]),
        is(Outcome::Allow, "b")
    );
    let deny = "defaultAction: Deny";
    assert_eq!(
        outcome(&[("a", "defaultAction: Allow"), ("c", deny), ("b", deny)]),
        is(Outcome::Deny(Denial::Rule), "b")
    );
    assert_eq!(
        outcome(&[("a", deny), ("b", "defaultAction: Hide")]),
        is(Outcome::Hide, "b")
    );
}

#[test]
fn an_unclassified_tool_falls_under_every_restriction_by_class_and_only_a_name_allows_it() {
    for (rules, expected) in [
        (
            "{name: r, tools: {risks: [Destructive]}, action: Hide}, {name: a, tools: {names: [mystery]}, action: Allow}",
            Outcome::Hide,
        ),
        (
            "{name: r, tools: {minSeverity: Critical}, action: Deny}, {name: a, tools: {names: [mystery]}, action: Allow}",
            Outcome::Deny(Denial::Rule),
        ),
        (
            "{name: r, tools: {risks: [Read]}, action: RequireApproval}",
            Outcome::RequireApproval,
        ),
        (
            "{name: r, tools: {risks: [Read, Write, Execute, Financial, Destructive]}, action: Allow}",
            Outcome::Hide,
        ),
        (
            "{name: r, tools: {minSeverity: Low}, action: Allow}",
            Outcome::Hide,
        ),
        (
            "{name: r, tools: {names: ['*'], risks: [Read]}, action: Allow}",
            Outcome::Hide,
        ),
        (
            "{name: r, tools: {exceptNames: [x]}, action: Allow}",
            Outcome::Hide,
        ),
        (
            "{name: r, tools: {names: ['myst*']}, action: Allow}",
            Outcome::Allow,
        ),
    ] {
        let bound = bound("", &[("p", &format!("rules: [{rules}]"))]);
        assert_eq!(call(&bound, "mystery", "{}").outcome, expected, "{rules}");
    }
    let bound = bound(
        "",
        &[(
            "p",
            "rules: [{name: r, tools: {names: ['*']}, when: \"tool.risk == 'Unclassified' && tool.severity == ''\", action: Allow}]",
        )],
    );
    assert_eq!(call(&bound, "mystery", "{}").outcome, Outcome::Allow);
    assert_eq!(call(&bound, "get_run", "{}").outcome, Outcome::Hide);
}

#[test]
fn an_exception_is_written_with_except_callers_and_an_allow_rule() {
    let bound = bound(
        "",
        &[(
            "p",
            "
rules:
- {name: deletions, tools: {risks: [Destructive]}, action: Hide, exceptCallers: ['key:admin*']}
- {name: admins, tools: {names: ['delete_*']}, action: Allow, callers: ['key:admin*']}
",
        )],
    );
    let admin = Caller::key("admin-1");
    assert_eq!(
        call(&bound, "delete_experiment", "{}").outcome,
        Outcome::Hide
    );
    assert_eq!(
        call_as(&bound, "delete_experiment", "{}", &admin).outcome,
        Outcome::Allow
    );
    assert!(bound.visible("delete_experiment", &admin, "", now()));
    assert!(!bound.visible("delete_experiment", &Caller::key("ci"), "", now()));
    assert_eq!(bound.counts().visible, 1);
}

#[test]
fn a_tool_is_listed_unless_it_is_hidden_whatever_the_arguments() {
    let bound = bound(
        "",
        &[(
            "p",
            "
rules:
- {name: denied, tools: {names: [get_run]}, action: Deny}
- {name: some, tools: {names: [set_model_alias]}, when: args.alias == 'staging', action: Allow}
- {name: night, tools: {names: [mystery]}, when: now.getHours() > 20, action: Allow}
",
        )],
    );
    let caller = Caller::key("ci");
    let listed: Vec<_> = bound
        .tools()
        .iter()
        .map(|t| &*t.name)
        .filter(|name| bound.visible(name, &caller, "", now()))
        .collect();
    assert_eq!(listed, ["get_run", "set_model_alias"]);
    assert_eq!(
        result(&call(&bound, "set_model_alias", r#"{"alias":"staging"}"#)),
        (Outcome::Allow, "some", None)
    );
    assert_eq!(
        result(&call(
            &bound,
            "set_model_alias",
            r#"{"alias":"production"}"#
        )),
        (
            Outcome::Deny(Denial::NotAllowed),
            "(default)",
            Some("no rule allows these arguments")
        )
    );
    assert_eq!(call(&bound, "mystery", "{}").outcome, Outcome::Hide);
    assert_eq!(call(&bound, "no_such_tool", "{}").outcome, Outcome::Unknown);
    assert!(!bound.visible("no_such_tool", &caller, "", now()));
}
