//! Audit, guardrails, and policies that have never been accepted.

use super::*;

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
        result(&call(&bound("", &[("p", READS), allows]), "mystery", "{}")),
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
        uid: "u-guard".into(),
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
    // The refusals count for that very policy, not for one of its name that comes later.
    assert_eq!(&*call(&bound, "get_run", "{}").by.uid, "u-guard");
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
fn guardrails_are_named_first_whatever_the_policies_beside_them_are_called() {
    // `aaa` would come before `portcullis-system`, and `0` before every rule.
    let beside = |action: &str| {
        format!(
            "rules: [{{name: '0', tools: {{names: ['*']}}, action: {action}}}]\n\
             prompts: [{{name: '0', names: ['*'], action: Hide}}]\ndefaultAction: Deny"
        )
    };
    for (action, outcome) in [
        ("Deny", Outcome::Deny(Denial::Rule)),
        ("Hide", Outcome::Hide),
        ("RequireApproval", Outcome::RequireApproval),
    ] {
        let guard = beside(action).replace("'0'", "guard");
        let bound = bound(
            "",
            &[("aaa", &beside(action)), ("portcullis-system/zzz", &guard)],
        );
        let decision = call(&bound, "delete_experiment", "{}");
        assert_eq!(
            (decision.outcome, decision.by.to_string()),
            (
                outcome,
                "policy portcullis-system/zzz, rule guard".to_owned()
            )
        );
        let prompt = bound.prompt("p", &Caller::key("ci"));
        assert_eq!(
            prompt.by.to_string(),
            "policy portcullis-system/zzz, rule guard"
        );
    }
    let bound = bound(
        "",
        &[
            ("aaa", "defaultAction: Deny\nrules: []"),
            (
                "portcullis-system/zzz",
                "defaultAction: Deny\nrules: [{name: x, tools: {names: [x]}, action: Deny}]",
            ),
        ],
    );
    assert_eq!(
        call(&bound, "get_run", "{}").by.to_string(),
        "policy portcullis-system/zzz, rule (default)"
    );
}

#[test]
fn what_an_approver_is_not_shown_is_for_guardrails_to_say() {
    let ask = |redact: &str| {
        format!(
            "rules: [{{name: ask, tools: {{names: ['*']}}, action: RequireApproval, approval: {{{redact}}}}}]"
        )
    };
    let servers = ["/key".to_owned(), "/value".to_owned()];
    let hidden = |policies: &[(&str, &str)]| {
        let decision = call(&bound("", policies), "get_run", "{}");
        decision.approval.unwrap().hidden(&servers).into_owned()
    };
    let (none, value, both) = (
        ask(""),
        ask("redact: [/value]"),
        ask("redact: [/value, /note]"),
    );
    let own = ("own", both.as_str());
    assert_eq!(hidden(&[("own", &none)]), servers);
    assert_eq!(hidden(&[own]), ["/key", "/value", "/value", "/note"]);
    // What the server, or another policy, would keep from a guardrail's approver is shown.
    assert!(hidden(&[own, ("portcullis-system/g", &none)]).is_empty());
    assert_eq!(hidden(&[own, ("portcullis-system/g", &value)]), ["/value"]);
    assert_eq!(
        hidden(&[
            ("portcullis-system/g", &value),
            ("portcullis-system/h", &both)
        ]),
        ["/value"]
    );
    assert!(
        hidden(&[
            ("portcullis-system/g", &value),
            ("portcullis-system/h", &none)
        ])
        .is_empty()
    );
}
