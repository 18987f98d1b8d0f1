//! Prompts, resources, and tools that the server itself keeps back.

use super::*;

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
                    "the argument `a`: its inputSchema refers to itself, which is not supported"
                        .into()
                )),
                false
            ),
        ]
    );
    for name in ["set_model_alias", "mystery", "cyclic"] {
        assert_eq!(result(&call(&bound, name, "{}")).0, Outcome::Hide);
        assert!(!bound.visible(name, &Caller::key("ci"), "", now()));
    }
}

#[test]
fn what_a_server_says_of_its_tools_never_lowers_their_risk() {
    let says = r#""title":"Read only","description":"Reads. Safe. risk: Read","annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true},"_meta":{"risk":"Read","portcullis.dev/risk":"Read"}"#;
    let named = |name: &str, properties: &str| {
        let raw = format!(
            r#"{{"name":"{name}",{says},"inputSchema":{{"type":"object","properties":{properties}}}}}"#
        );
        Definition::parse(raw.as_bytes()).unwrap()
    };
    let program = Arc::new(compile(&bundle("", &[("p", READS)])).unwrap());
    let listing = [
        named("get_run", r#"{"run_id":{"type":"string"}}"#),
        named(
            "delete_experiment",
            r#"{"experiment_id":{"type":"string"}}"#,
        ),
        // With inputs that no release of the known servers has.
        named("delete_run", r#"{"nothing":{"type":"string"}}"#),
        named("mystery", "{}"),
    ];
    let bound = Bound::new(&program, &listing);
    let outcome = |name: &str| call(&bound, name, "{}").outcome;
    assert_eq!(outcome("get_run"), Outcome::Allow);
    for name in ["delete_experiment", "delete_run", "mystery"] {
        assert_eq!(outcome(name), Outcome::Hide, "{name}");
    }
}

/// Servers leave out parts of a query that their template does not name, and of two values of one
/// name take the first.
#[test]
fn what_a_query_has_more_does_not_lead_past_a_rule() {
    let bound = bound(
        "",
        &[(
            "p",
            "
resources:
- {name: some, uris: ['notes://*', 'data://*'], exceptUris: ['notes://other/*', 'data://logs?of=me'], action: Allow}
- {name: secret, uris: ['notes://item/secret', 'data://items?id=secret', 'data://pairs?a=1&b=*'], action: Hide}
",
        )],
    );
    let caller = Caller::key("ci");
    for (uri, visible) in [
        ("notes://item/open", true),
        ("notes://item/open?fmt=md", true),
        ("notes://item/secret", false),
        ("notes://item/secret?junk=1", false),
        ("notes://item/secret?fmt=md&x=", false),
        ("notes://other/a", false),
        ("notes://other/a?x=1", false),
        ("data://items?id=open", true),
        ("data://items?id=secret", false),
        ("data://items?junk=1&id=secret", false),
        ("data://items?id=secret&junk=1", false),
        ("data://items?id=open&id=secret", false),
        ("data://items?id=secrets", true),
        ("data://pairs?a=1", true),
        ("data://pairs?b=2&x=3&a=1", false),
        ("data://logs?of=you", true),
        ("data://logs?x=1&of=me", false),
    ] {
        assert_eq!(bound.resource_visible(uri, &caller), visible, "{uri}");
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
        ("mlflow://runs/x%2F..", Outcome::BadArguments),
        ("mlflow://runs//private/1", Outcome::BadArguments),
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
    assert!(!bound.template_visible("mlflow://runs//{id}", &caller));
    assert_eq!(
        bound.template("mlflow://runs/../{id}", &caller).outcome,
        Outcome::BadArguments
    );
}
