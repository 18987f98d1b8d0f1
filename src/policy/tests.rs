//! The engine as a whole: YAML policies in, decisions out.

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

/// A bundle of one server and policies, each given as name (or namespace/name) and the YAML of its spec without targets.
pub(super) fn bundle(server: &str, policies: &[(&str, &str)]) -> Bundle {
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
                }
            })
            .collect(),
        blocked: Vec::new(),
        issuers: Vec::new(),
        report_token_sha256: None,
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

fn listing() -> Vec<Definition> {
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
fn said(decision: &Decision) -> (Outcome, &str, Option<&str>) {
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
            said(&call(&bound, "get_run", "{}")),
            (Outcome::Allow, "a-allow", None)
        );
        assert_eq!(
            said(&call(&bound, "set_model_alias", "{}")),
            (Outcome::RequireApproval, "b-approve", None)
        );
        assert_eq!(
            said(&call(&bound, "delete_experiment", "{}")),
            (
                Outcome::Deny(Denial::Rule),
                "c-deny",
                Some("Ask the platform team.")
            )
        );
        assert_eq!(
            said(&call(&bound, "mystery", "{}")),
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
        ("{name: r, tools: {}, action: Allow}", Outcome::Hide),
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
        said(&call(&bound, "set_model_alias", r#"{"alias":"staging"}"#)),
        (Outcome::Allow, "some", None)
    );
    assert_eq!(
        said(&call(
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
        said(&call(&with("Allow"), "set_model_alias", "{}")),
        (
            Outcome::Deny(Denial::ConditionError),
            "narrow",
            Some("its condition could not be evaluated: there is no `alias`")
        )
    );
    assert_eq!(
        said(&call(&with("Deny"), "set_model_alias", "{}")),
        (Outcome::Deny(Denial::Rule), "narrow", None)
    );
    assert_eq!(
        said(&call(&with("RequireApproval"), "set_model_alias", "{}")),
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
        said(&call(&hide, "get_run", "{}")),
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

#[test]
fn audit_policies_never_change_the_verdict_and_record_where_they_are_stricter() {
    let enforce = (
        "p",
        "rules: [{name: all, tools: {names: ['*']}, action: Allow}]",
    );
    let audit = ("w", "
mode: Audit
rules:
- {name: no-deletes, tools: {names: ['delete_*']}, action: Hide}
- {name: ask, tools: {names: [set_model_alias]}, when: args.alias == 'production', action: RequireApproval}
- {name: count, tools: {names: [get_run]}, action: Allow, limits: [{counter: c, max: 1, window: 1m}]}
");
    let both = bound("", &[enforce, audit]);
    let shadow = |decision: &Decision| {
        decision
            .shadow
            .as_ref()
            .map(|s| (s.outcome, s.by.rule.clone()))
    };
    let deleted = call(&both, "delete_experiment", "{}");
    assert_eq!(
        (deleted.outcome, shadow(&deleted)),
        (Outcome::Allow, Some((Outcome::Hide, "no-deletes".into())))
    );
    assert!(both.visible("delete_experiment", &Caller::key("ci"), "", now()));
    let asked = call(&both, "set_model_alias", r#"{"alias":"production"}"#);
    assert_eq!(
        (asked.outcome, shadow(&asked)),
        (
            Outcome::Allow,
            Some((Outcome::RequireApproval, "ask".into()))
        )
    );
    assert_eq!(asked.approval, None);
    let bad = call(&both, "set_model_alias", r#"{"alias":7}"#);
    assert_eq!(
        (bad.outcome, shadow(&bad)),
        (Outcome::Allow, Some((Outcome::BadArguments, "ask".into())))
    );
    let counted = call(&both, "get_run", "{}");
    assert_eq!(
        counted
            .charges
            .iter()
            .map(|c| (c.enforced(), c.key().shadow))
            .collect::<Vec<_>>(),
        [(false, true)]
    );
    let alone = bound("", &[audit]);
    let denied = call(&alone, "get_run", "{}");
    assert_eq!(
        (denied.outcome, &*denied.by.policy),
        (Outcome::Deny(Denial::NoPolicy), NO_POLICY)
    );
    assert!(!alone.visible("get_run", &Caller::key("ci"), "", now()));
    let allows = (
        "w",
        "mode: Audit\nrules: [{name: all, tools: {names: ['*']}, action: Allow}]",
    );
    assert_eq!(
        said(&call(&bound("", &[("p", READS), allows]), "mystery", "{}")),
        (Outcome::Hide, "(default)", None)
    );
}

#[test]
fn with_enforcement_audit_lists_are_whole_and_every_refusal_is_a_shadow() {
    let bound = bound(
        "{upstream: {}, enforcement: Audit}",
        &[(
            "p",
            "
rules:
- {name: reads, tools: {risks: [Read]}, action: Allow, limits: [{counter: c, max: 1, window: 1m}]}
- {name: ask, tools: {names: [set_model_alias]}, action: RequireApproval}
",
        )],
    );
    for (tool, expected) in [
        ("get_run", None),
        ("set_model_alias", Some((Outcome::RequireApproval, "ask"))),
        ("delete_experiment", Some((Outcome::Hide, "(default)"))),
        ("no_such_tool", Some((Outcome::Unknown, "(inventory)"))),
    ] {
        let decision = call(&bound, tool, "{}");
        assert_eq!(decision.outcome, Outcome::Allow);
        assert_eq!(
            decision.shadow.as_ref().map(|s| (s.outcome, &*s.by.rule)),
            expected
        );
        assert!(decision.charges.iter().all(|charge| !charge.enforced()));
        assert!(bound.visible(tool, &Caller::key("ci"), "", now()));
    }
    assert_eq!(call(&bound, "get_run", "{}").charges.len(), 1);
}

#[test]
fn a_policy_that_was_never_accepted_denies_everything_by_name() {
    let mut bundle = bundle(
        "",
        &[(
            "p",
            "rules: [{name: all, tools: {names: ['*']}, action: Allow}]",
        )],
    );
    bundle.blocked.push(Blocked {
        policy: "portcullis-system/guard".into(),
        message: "rule x: bad glob".into(),
    });
    let bound = Bound::new(&Arc::new(compile(&bundle).unwrap()), &listing());
    for tool in ["get_run", "no_such_tool"] {
        let decision = call(&bound, tool, "{}");
        assert_eq!(decision.outcome, Outcome::Deny(Denial::Blocked));
        assert_eq!(
            decision.by.to_string(),
            "policy portcullis-system/guard, rule (blocked)"
        );
        assert!(decision.reason.unwrap().ends_with("rule x: bad glob"));
    }
    assert!(!bound.visible("get_run", &Caller::key("ci"), "", now()));
    assert_eq!(bound.counts().visible, 0);
    assert_eq!(
        bound.prompt("p", &Caller::key("ci")).outcome,
        Outcome::Deny(Denial::Blocked)
    );
}

#[test]
fn guardrails_are_named_with_their_namespace_and_cannot_be_loosened() {
    let bound = bound(
        "",
        &[
            (
                "p",
                "defaultAction: Allow\nrules: [{name: all, tools: {names: ['*']}, action: Allow}]",
            ),
            (
                "portcullis-system/guard",
                "rules: [{name: no-deletes, tools: {risks: [Destructive]}, action: Deny}]",
            ),
        ],
    );
    let decision = call(&bound, "delete_experiment", "{}");
    assert_eq!(
        decision.by.to_string(),
        "policy portcullis-system/guard, rule no-deletes"
    );
    assert_eq!(
        call(&bound, "get_run", "{}").by.to_string(),
        "policy p, rule all"
    );
}

#[test]
fn a_tool_off_its_pin_listed_twice_or_with_a_schema_that_cannot_be_checked_is_hidden_from_everybody()
 {
    let digest = listing()[0].digest.clone();
    let server = format!(
        "{{upstream: {{}}, tools: [{{name: get_run, definitionDigest: '{digest}'}}, {{name: mystery, risk: Read, definitionDigest: 'sha256:{}'}}]}}",
        "0".repeat(64)
    );
    let policy =
        "rules: [{name: all, tools: {names: ['*']}, when: size(args) < 100, action: Allow}]";
    let program = Arc::new(compile(&bundle(&server, &[("p", policy)])).unwrap());
    let mut listing = listing();
    listing.push(listing[1].clone());
    listing.push(tool("cyclic", r##"{"a":{"$ref":"#"}}"##));
    let bound = Bound::new(&program, &listing);
    let withheld: Vec<_> = bound
        .tools()
        .iter()
        .map(|t| (&*t.name, t.withheld.clone(), t.drifted))
        .collect();
    use crate::policy::inventory::Withheld::*;
    assert_eq!(
        withheld,
        [
            ("get_run", None, bound.tool("get_run").unwrap().drifted),
            ("set_model_alias", Some(Duplicate), true),
            ("delete_experiment", None, false),
            ("mystery", Some(Pin), true),
            (
                "cyclic",
                Some(Schema(
                    "its inputSchema refers to itself, which is not supported".into()
                )),
                false
            ),
        ]
    );
    for name in ["set_model_alias", "mystery", "cyclic"] {
        assert_eq!(said(&call(&bound, name, "{}")).0, Outcome::Hide);
        assert!(!bound.visible(name, &Caller::key("ci"), "", now()));
    }
}

#[test]
fn prompts_and_resources_that_no_rule_matches_are_hidden() {
    let bound = bound(
        "",
        &[(
            "p",
            "
defaultAction: Allow
prompts:
- {name: all, names: ['*'], exceptNames: [promote], action: Allow}
- {name: none, names: [secret], action: Deny, reason: No.}
resources:
- {name: runs, uris: ['mlflow://runs/*'], action: Allow, callers: ['key:*']}
- {name: private, uris: ['mlflow://runs/private/*'], action: Hide}
",
        )],
    );
    let caller = Caller::key("ci");
    let prompts = ["hello", "promote", "secret"].map(|name| {
        (
            bound.prompt(name, &caller).outcome,
            bound.prompt_visible(name, &caller),
        )
    });
    assert_eq!(
        prompts,
        [
            (Outcome::Allow, true),
            (Outcome::Hide, false),
            (Outcome::Deny(Denial::Rule), true)
        ]
    );
    for (uri, outcome) in [
        ("mlflow://runs/1", Outcome::Allow),
        ("mlflow://runs/private/1", Outcome::Hide),
        ("mlflow://models/1", Outcome::Hide),
        ("mlflow://runs/x/../private/1", Outcome::BadArguments),
        ("mlflow://runs/%70rivate/1", Outcome::BadArguments),
        ("mlflow://runs/x%2f..", Outcome::BadArguments),
    ] {
        assert_eq!(bound.resource(uri, &caller).outcome, outcome, "{uri}");
        assert_eq!(
            bound.resource_visible(uri, &caller),
            outcome == Outcome::Allow
        );
    }
    assert_eq!(
        bound
            .resource("mlflow://runs/1", &Caller::anonymous())
            .outcome,
        Outcome::Hide
    );
    assert!(bound.template_visible("mlflow://runs/{id}", &caller));
}

#[test]
fn every_finding_names_policy_rule_field_and_position() {
    let bundle = bundle("", &[("p", "
rules:
- {name: a, tools: {nmaes: [x]}, action: Allow}
- {name: a, tools: {names: ['']}, callers: [admin], action: Hide, when: args.x == 1}
- {name: c, tools: {names: [x]}, action: Deny, limits: [{counter: c, max: 0, window: 32d}], approval: {waitUpTo: 1h}}
- {name: d, tools: {names: [x]}, action: Allow, limits: [{counter: c, max: 1, window: 1m}, {counter: e, max: 1, window: 1m, cost: '1.5'}]}
- {name: e, tools: {names: [x]}, action: Allow, limits: [{counter: c, max: 2, window: 1m}], when: \"true &&\\n arg.x == 1\"}
- {name: (default), tools: {names: [x]}, action: Allow}
prompts: [{name: p, names: [], action: RequireApproval}]
resources: [{name: r, uris: ['a/../b'], action: Allow}]
")]);
    let found = compile(&bundle).map(|_| ()).unwrap_err();
    let shown: Vec<_> = found
        .iter()
        .map(|d| {
            (
                d.rule.as_deref().unwrap_or(""),
                d.path.as_str(),
                d.position.map(|p| (p.line, p.column)),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a", "spec.rules[0].tools.nmaes", None),
            ("a", "spec.rules[1].name", None),
            ("a", "spec.rules[1].tools.names[0]", None),
            ("a", "spec.rules[1].callers[0]", None),
            ("a", "spec.rules[1].when", None),
            ("c", "spec.rules[2].approval", None),
            ("c", "spec.rules[2].approval.waitUpTo", None),
            ("c", "spec.rules[2].limits", None),
            ("c", "spec.rules[2].limits[0].max", None),
            ("c", "spec.rules[2].limits[0].window", None),
            ("d", "spec.rules[3].limits[1].cost", Some((1, 1))),
            ("e", "spec.rules[4].when", Some((2, 2))),
            ("e", "spec.rules[4].limits[0].counter", None),
            ("(default)", "spec.rules[5].name", None),
            ("p", "spec.prompts[0].action", None),
            ("p", "spec.prompts[0].names", None),
            ("r", "spec.resources[0].uris[0]", None),
        ]
    );
    assert_eq!(
        found[11].to_string(),
        "policy ml/p, rule e, spec.rules[4].when, line 2 column 2: unknown variable `arg`; there are args, tool.name, tool.risk, \
         tool.severity, caller.grant, caller.kind, caller.groups, caller.claims, session.id and now"
    );
}

#[test]
fn warnings_do_not_keep_a_policy_out() {
    let program = compile(&bundle(
        "",
        &[(
            "p",
            "
rules:
- {name: a, tools: {}, action: Allow, limits: [{counter: s, max: 1, window: 1m, scope: Session}]}
- {name: b, tools: {names: [get_run], exceptNames: ['get_*']}, action: Allow}
- {name: c, tools: {names: [get_run]}, callers: ['key:a'], exceptCallers: ['key:*'], action: Allow}
",
        )],
    ))
    .unwrap();
    let shown: Vec<_> = program
        .warnings()
        .iter()
        .map(|d| (d.rule.as_deref().unwrap(), d.path.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", "spec.rules[0].tools"),
            ("a", "spec.rules[0].limits"),
            ("b", "spec.rules[1].tools.exceptNames"),
            ("c", "spec.rules[2].exceptCallers"),
        ]
    );
}

#[test]
fn a_revision_depends_on_what_a_bundle_says_and_on_nothing_else() {
    let first = bundle("", &[("p", READS)]);
    let mut later = first.clone();
    later.sequence = 7;
    assert_eq!(later.clone().sealed().unwrap().revision, first.revision);
    later.policies[0].generation = 2;
    assert_ne!(later.sealed().unwrap().revision, first.revision);
    let text = serde_json::to_string_pretty(&first).unwrap();
    assert_eq!(Bundle::parse(text.as_bytes()).unwrap(), first);
    assert!(matches!(
        Bundle::parse(text.replace("reads", "raeds").as_bytes()),
        Err(bundle::BundleError::Revision { .. })
    ));
    assert!(matches!(
        Bundle::parse(text.replace("\"format\": 1", "\"format\": 2").as_bytes()),
        Err(bundle::BundleError::Format(2))
    ));
    let twice = text.replacen("\"format\": 1", "\"format\": 1, \"format\": 1", 1);
    assert!(matches!(
        Bundle::parse(twice.as_bytes()),
        Err(bundle::BundleError::Strict(_))
    ));
    assert!(Bundle::parse(b"{").is_err());
}
