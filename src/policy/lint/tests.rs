//! Which rules cause a warning, and which do not.

use super::*;
use crate::policy::tests::bundle;

/// Warnings of the compiler and of this page, as `path: message`.
fn warnings(server: &str, policies: &[(&str, &str)]) -> Vec<String> {
    let bundle = bundle(server, policies);
    let program = crate::policy::compile(&bundle).unwrap_or_else(|found| panic!("{found:#?}"));
    let all = program.warnings().iter().cloned().chain(lint(&bundle));
    all.map(|found| format!("{}: {}", found.path, found.message))
        .collect()
}

fn hide(names: &str) -> Vec<String> {
    let rules = format!(
        "rules: [{{name: all, tools: {{names: ['*']}}, action: Allow}}, {{name: hidden, tools: {{names: [{names}]}}, action: Hide}}]"
    );
    warnings("", &[("p", &rules)])
}

#[test]
fn a_pattern_of_another_dialect_is_warned_of_with_what_to_write() {
    for name in [
        "'delete_.*'",
        "'^delete_run$'",
        "'delete_run?'",
        "'delete_{run,experiment}'",
        "'delete_run|delete_experiment'",
        "'delete_[re]*'",
        "'(delete_run)'",
        "'delete\\_run'",
        "'.+'",
    ] {
        let found = hide(name);
        assert!(
            found
                .iter()
                .any(|text| text.starts_with("spec.rules[1].tools.names[0]: ")
                    && text.contains("only `*` is special")),
            "{name}: {found:?}"
        );
    }
    assert!(
        hide("'delete_.*'")
            .iter()
            .any(|text| text.contains(r#"write for example "delete_*""#))
    );
    let elsewhere = "
rules:
- {name: all, tools: {names: ['*'], exceptNames: ['delete_.*']}, callers: ['key:.*'], exceptCallers: ['key:a|b'], action: Allow}
prompts: [{name: a, names: ['.*'], exceptNames: ['^a'], action: Allow}]
resources: [{name: a, uris: ['mlflow://.*'], exceptUris: ['mlflow://a.*'], action: Allow}]
";
    let found = warnings("", &[("p", elsewhere)]);
    for path in [
        "spec.rules[0].tools.exceptNames[0]",
        "spec.rules[0].callers[0]",
        "spec.rules[0].exceptCallers[0]",
        "spec.prompts[0].names[0]",
        "spec.prompts[0].exceptNames[0]",
        "spec.resources[0].uris[0]",
        "spec.resources[0].exceptUris[0]",
    ] {
        assert!(
            found.iter().any(|text| text.starts_with(path)),
            "{path}: {found:#?}"
        );
    }
    let template = "rules: [{name: all, tools: {names: ['*']}, action: Allow}]\nresources: [{name: a, uris: ['mlflow://runs/{id}?x=1'], action: Allow}]";
    assert_eq!(warnings("", &[("p", template)]), Vec::<String>::new());
}

#[test]
fn a_name_that_is_almost_that_of_a_known_tool_is_warned_of() {
    for (name, meant) in [
        ("delete_runs", "delete_run"),
        ("Delete_Run", "delete_run"),
        ("delete-run", "delete_run"),
        ("deleteRun", "delete_run"),
        ("delet_run", "delete_run"),
        ("delete_rnu", "delete_run"),
        ("delete_tun", "delete_run"),
        ("xdelete_run", "delete_run"),
        ("set_model_aliases", "set_model_alias"),
    ] {
        let found = hide(name);
        assert!(
            found
                .iter()
                .any(|text| text.contains(&format!("did you mean {meant:?}?"))),
            "{name}: {found:?}"
        );
        let listed = format!("upstream: {{}}\ntools: [{{name: {name}, risk: Write}}]");
        let rules = format!("rules: [{{name: a, tools: {{names: [{name}]}}, action: Allow}}]");
        assert_eq!(
            warnings(&listed, &[("p", &rules)]),
            Vec::<String>::new(),
            "listed in spec.tools"
        );
    }
    assert_eq!(hide("delete_run"), Vec::<String>::new());
    assert_eq!(hide("'*_run'"), Vec::<String>::new());
}

#[test]
fn a_rule_that_selects_no_known_tool_and_policies_that_allow_nothing_are_warned_of() {
    let nothing = |found: &[String]| {
        found
            .iter()
            .any(|text| text.contains("selects none of the"))
    };
    assert!(nothing(&hide("send_email")));
    assert!(nothing(&hide("'deletion_*'")));
    let risks = |risk: &str| {
        warnings(
            "",
            &[(
                "p",
                &format!("rules: [{{name: a, tools: {{risks: [{risk}]}}, action: Allow}}]"),
            )],
        )
    };
    assert!(nothing(&risks("Financial")));
    assert_eq!(risks("Read"), Vec::<String>::new());
    // Nothing is known of other servers.
    let other = "rules: [{name: a, tools: {names: [send_email]}, action: Allow}]";
    assert_eq!(
        warnings("upstream: {}\ncatalog: None", &[("p", other)]),
        Vec::<String>::new()
    );

    let refused = |policies: &[(&str, &str)]| {
        warnings("", policies)
            .iter()
            .filter(|text| text.contains("allows anything"))
            .count()
    };
    let hides = "rules: [{name: a, tools: {names: [delete_run]}, action: Hide}]";
    let reads = "rules: [{name: a, tools: {risks: [Read]}, action: Allow}]";
    assert_eq!(refused(&[("p", hides)]), 1);
    assert_eq!(refused(&[("p", "defaultAction: Deny")]), 1);
    assert_eq!(
        refused(&[(
            "p",
            "rules: [{name: a, tools: {names: ['get_.*']}, action: Allow}]"
        )]),
        1
    );
    assert_eq!(refused(&[("p", hides), ("q", reads)]), 0);
    assert_eq!(refused(&[("p", "defaultAction: Allow")]), 0);
    assert_eq!(
        refused(&[(
            "p",
            "rules: [{name: a, tools: {names: [delete_run]}, action: RequireApproval}]"
        )]),
        0
    );
    assert_eq!(
        refused(&[("p", "resources: [{name: a, uris: ['*'], action: Allow}]")]),
        0
    );
}
