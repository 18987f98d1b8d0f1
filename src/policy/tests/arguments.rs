//! Conditions, schemas and limits: what depends on the arguments of a call.

use super::*;

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
