//! Mistakes in policies and bundles are reported, and a revision stands for exactly one content.

use super::*;

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
        "policy ml/p, rule e, spec.rules[4].when, line 2 column 2: there is no variable `arg`; write args.name for an argument of the \
         call (the variables are args, sent, tool.name, tool.risk, tool.severity, caller.grant, caller.kind, caller.groups, \
         caller.claims, session.id and now)"
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
- {name: a, tools: {exceptNames: [x]}, action: Allow, limits: [{counter: s, max: 1, window: 1m, scope: Session}]}
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
fn a_rule_that_says_nothing_about_tools_selects_none() {
    let errors = compile(&bundle(
        "",
        &[("p", "rules: [{name: all, tools: {}, action: Allow}]")],
    ))
    .unwrap_err();
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "policy ml/p, rule all, spec.rules[0].tools: this says nothing about tools; to select every tool write names: [\"*\"]"
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
        Bundle::parse(text.replace("\"format\": 2", "\"format\": 3").as_bytes()),
        Err(bundle::BundleError::Format(3))
    ));
    let twice = text.replacen("\"format\": 2", "\"format\": 2, \"format\": 2", 1);
    assert!(matches!(
        Bundle::parse(twice.as_bytes()),
        Err(bundle::BundleError::Strict(_))
    ));
    assert!(Bundle::parse(b"{").is_err());
}

/// Accepted, this took two gigabytes and a minute, in the operator and in each gateway.
#[test]
fn a_policy_of_thousands_of_patterns_is_refused_at_the_one_that_is_too_many() {
    let rules: String = (0..60)
        .map(|rule| {
            let terms: Vec<String> = (0..90)
                .map(|i| format!("args.a.matches(\"[0-9]{{4}}{rule}-{i}\")"))
                .collect();
            let when = terms.join("||").replace('"', "\\\"");
            format!("- {{name: r{rule}, tools: {{names: [x]}}, action: Deny, when: \"{when}\"}}\n")
        })
        .collect();
    let found = compile(&bundle("", &[("p", &format!("\nrules:\n{rules}"))])).unwrap_err();
    let first = found[0].to_string();
    assert!(
        first.starts_with("policy ml/p, rule r0, spec.rules[0].when, line 1 column ")
            && first.contains("65 different patterns, and a policy may have 64"),
        "{first}"
    );
}

#[test]
fn a_policy_has_a_size() {
    let rules: String = (0..60)
        .map(|rule| {
            let when = format!("[{}] == []", "1,".repeat(2_000));
            let limit = |i| format!("{{counter: c{i}, max: 1, window: 1m, cost: 'size({when}) + 1'}}");
            let limits: Vec<String> = (0..2).map(|i| limit(i + rule * 2)).collect();
            format!("- {{name: r{rule}, tools: {{names: [x]}}, action: Allow, when: '{when}', limits: [{}]}}\n", limits.join(","))
        })
        .collect();
    let found = compile(&bundle("", &[("p", &format!("\nrules:\n{rules}"))])).unwrap_err();
    assert_eq!(found.len(), 1);
    let found = found[0].to_string();
    assert!(found.contains("bytes and may have 262144"), "{found}");
}
