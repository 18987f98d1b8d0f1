//! The forms in which the source product documents its policies: fragments, and conditions below
//! `conditions`.

use super::*;

fn outcome(text: &str, tool: &str, arguments: &str) -> Outcome {
    let (_, outcome) = decide(text);
    outcome(tool, arguments)
}

fn is_denied(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Deny(_) | Outcome::Hide)
}

/// As the pages about single tools show them.
#[test]
fn a_fragment_is_read_as_version_1_and_allows_only_what_it_lists() {
    for (text, free, refused) in [
        (
            r#"{"default":"deny","hide":["delete_run"]}"#,
            None,
            "delete_run",
        ),
        (r#"{"hide":["delete_run"]}"#, None, "get_run"),
        (
            r#"{"default":"deny","tools":{"get_run":{}}}"#,
            Some("get_run"),
            "other",
        ),
        (r#"{"tools":{"get_run":{}}}"#, Some("get_run"), "other"),
        (
            r#"{"tools":{"get_run":{"limits":[{"counter":"c","window":"minute","max":30,"scope":"grant"}]}}}"#,
            Some("get_run"),
            "other",
        ),
        ("tools:\n  get_run: {}\n", Some("get_run"), "other"),
    ] {
        let imported = import(text, "mlflow").unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let said = texts(&imported.notes);
        assert!(
            said.iter()
                .any(|note| note.contains("read as version \"1\"")),
            "{text}: {said:?}"
        );
        if let Some(free) = free {
            assert_eq!(outcome(text, free, "{}"), Outcome::Allow, "{text}");
        }
        assert!(is_denied(outcome(text, refused, "{}")), "{text}");
    }
}

#[test]
fn what_is_not_a_fragment_is_refused() {
    for text in [
        "{}",
        r#"{"rules":[]}"#,
        r#"{"apiVersion":"v1","kind":"ConfigMap","tools":{}}"#,
        r#"{"version":"2","tools":{}}"#,
        r#"{"version":null,"tools":{}}"#,
    ] {
        if text.contains("null") {
            // A key with an empty value counts as absent.
            assert!(import(text, "mlflow").is_ok(), "{text}");
        } else {
            let error = import(text, "mlflow").unwrap_err();
            assert!(
                error.message.contains("must be \"1\""),
                "{text}: {}",
                error.message
            );
        }
    }
}

fn nested(field: &str, entries: &str) -> String {
    format!(
        r#"{{"version":"1","default":"deny","tools":{{"charge":{{"{field}":[{entries}]}},"get_run":{{}}}}}}"#
    )
}

#[test]
fn the_conditions_of_an_entry_of_deny_if_hold_together_and_entries_each_by_themselves() {
    let both = nested(
        "deny_if",
        r#"{"conditions":[{"path":"args.a","op":"eq","value":"x"},{"path":"args.n","op":"gt","value":5}],"on_deny":"too much"}"#,
    );
    let imported = import(&both, "mlflow").unwrap();
    assert!(
        imported.notes.iter().all(|note| !note.closes),
        "{:?}",
        imported.notes
    );
    let rules = &imported.policies[0].rules;
    assert!(
        rules
            .iter()
            .any(|rule| rule.reason.as_deref() == Some("too much")),
        "{rules:?}"
    );
    for (arguments, denied) in [
        (r#"{"a":"x","n":6}"#, true),
        (r#"{"a":"x","n":5}"#, false),
        (r#"{"a":"y","n":6}"#, false),
        (r#"{"n":6}"#, false),
        ("{}", false),
    ] {
        assert_eq!(
            is_denied(outcome(&both, "charge", arguments)),
            denied,
            "{arguments}"
        );
    }
    let either = nested(
        "deny_if",
        r#"{"conditions":[{"path":"args.a","op":"eq","value":"x"}]},{"conditions":[{"path":"args.n","op":"gt","value":5}]}"#,
    );
    for (arguments, denied) in [
        (r#"{"a":"x","n":1}"#, true),
        (r#"{"a":"y","n":6}"#, true),
        (r#"{"a":"y","n":1}"#, false),
    ] {
        assert_eq!(
            is_denied(outcome(&either, "charge", arguments)),
            denied,
            "{arguments}"
        );
    }
}

#[test]
fn every_condition_of_an_entry_of_require_must_hold() {
    let text = nested(
        "require",
        r#"{"conditions":[{"path":"args.a","op":"in","value":["x","y"]},{"path":"args.n","op":"lte","value":5}],"on_deny":"not so"}"#,
    );
    for (arguments, denied) in [
        (r#"{"a":"x","n":5}"#, false),
        (r#"{"a":"z","n":5}"#, true),
        (r#"{"a":"x","n":6}"#, true),
        (r#"{"a":"x"}"#, true),
        ("{}", true),
    ] {
        assert_eq!(
            is_denied(outcome(&text, "charge", arguments)),
            denied,
            "{arguments}"
        );
    }
    let imported = import(&text, "mlflow").unwrap();
    let reasons = imported.policies[0]
        .rules
        .iter()
        .filter(|rule| rule.reason.as_deref() == Some("not so"));
    assert_eq!(reasons.count(), 2);
}

#[test]
fn no_conditions_always_hold() {
    let always = nested("deny_if", r#"{"conditions":[],"on_deny":"never"}"#);
    assert!(is_denied(outcome(&always, "charge", "{}")));
    assert!(is_denied(outcome(&always, "charge", r#"{"a":"x"}"#)));
    assert_eq!(outcome(&always, "get_run", "{}"), Outcome::Allow);
    let nothing = nested("require", r#"{"conditions":[]}"#);
    assert_eq!(outcome(&nothing, "charge", "{}"), Outcome::Allow);
    let said = texts(&import(&nothing, "mlflow").unwrap().notes);
    assert!(
        said.iter().any(|note| note.contains("requires nothing")),
        "{said:?}"
    );
}

#[test]
fn an_entry_that_is_not_understood_closes_its_tool() {
    for (field, entries) in [
        ("deny_if", r#"{"conditions":{"path":"args.a"}}"#),
        ("deny_if", r#"{"conditions":null}"#),
        (
            "deny_if",
            r#"{"conditions":[{"path":"args.a","op":"like","value":"x"}]}"#,
        ),
        (
            "deny_if",
            r#"{"conditions":[{"path":"a","op":"eq","value":"x"}]}"#,
        ),
        (
            "deny_if",
            r#"{"conditions":[{"path":"args.a","op":"eq","value":"x"},{"path":"args.b","op":"eq"},"x"]}"#,
        ),
        ("deny_if", r#"{"conditions":[],"unless":[]}"#),
        ("deny_if", r#"{"conditions":[],"on_deny":[7]}"#),
        ("require", r#"{"conditions":[],"any":true}"#),
        ("require", r#"{"conditions":"x"}"#),
        (
            "require",
            r#"{"conditions":[],"path":"args.a","op":"eq","value":"x"}"#,
        ),
    ] {
        let text = nested(field, entries);
        assert!(
            is_denied(outcome(&text, "charge", r#"{"a":"y","b":"z"}"#)),
            "{text}"
        );
        let closed = import(&text, "mlflow")
            .unwrap()
            .notes
            .iter()
            .any(|note| note.closes);
        assert!(closed, "{text}");
    }
}
