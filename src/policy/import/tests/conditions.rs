//! Conditions: what was sent, what the server reads, and values of every kind.

use super::*;

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
        // No number, so no order, there as here.
        (
            r#"{"currency":"usd","reason":"x","amount":"10001"}"#,
            Outcome::Allow,
        ),
        (
            r#"{"currency":"usd","reason":"x","to":"evil.example"}"#,
            DENY,
        ),
    ] {
        assert_eq!(outcome("charge", arguments), expected, "{arguments}");
    }
}

#[test]
fn a_default_neither_passes_for_what_was_sent_nor_hides_what_the_server_reads() {
    let tool = |key: &str, conditions: &str| {
        format!("version: 1\ndefault: allow\ntools:\n  charge: {{{key}: [{conditions}]}}\n")
    };
    let properties = serde_json::json!({
        "reason": {"type": "string", "default": ""},
        "mode": {"type": "string", "default": "fast"},
        "note": {"type": ["string", "null"], "default": null},
        "opts": {"type": "object", "properties": {"deep": {"type": "string", "default": "fast"}}, "default": {}},
        "n": {"type": "number", "default": 5}
    });
    for (key, condition, arguments, expected) in [
        // The source sees no reason; the server reads an empty one.
        (
            "require",
            "{path: args.reason, op: exists, value: true}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.reason, op: exists, value: true}",
            r#"{"reason":""}"#,
            Outcome::Allow,
        ),
        (
            "require",
            "{path: args.reason, op: exists, value: false}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.mode, op: in, value: [fast]}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.mode, op: in, value: [fast]}",
            r#"{"mode":"fast"}"#,
            Outcome::Allow,
        ),
        (
            "require",
            "{path: args.mode, op: neq, value: slow}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.mode, op: not_in, value: [slow]}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.mode, op: regex, value: fast}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.mode, op: contains, value: f}",
            "{}",
            DENY,
        ),
        ("require", "{path: args.n, op: lt, value: 9}", "{}", DENY),
        (
            "require",
            "{path: args.n, op: lt, value: 9}",
            r#"{"n":8}"#,
            Outcome::Allow,
        ),
        (
            "require",
            "{path: args.opts.deep, op: eq, value: fast}",
            "{}",
            DENY,
        ),
        (
            "require",
            "{path: args.opts.deep, op: eq, value: fast}",
            r#"{"opts":{}}"#,
            DENY,
        ),
        // The source sees no mode; the server goes fast.
        (
            "deny_if",
            "{path: args.mode, op: eq, value: fast}",
            "{}",
            DENY,
        ),
        (
            "deny_if",
            "{path: args.mode, op: eq, value: fast}",
            r#"{"mode":"slow"}"#,
            Outcome::Allow,
        ),
        (
            "deny_if",
            "{path: args.opts.deep, op: eq, value: fast}",
            "{}",
            DENY,
        ),
        (
            "deny_if",
            "{path: args.opts.deep, op: eq, value: fast}",
            r#"{"opts":{}}"#,
            DENY,
        ),
        ("deny_if", "{path: args.n, op: gt, value: 4}", "{}", DENY),
        (
            "deny_if",
            "{path: args.reason, op: exists, value: true}",
            "{}",
            DENY,
        ),
        (
            "deny_if",
            "{path: args.reason, op: exists, value: false}",
            "{}",
            DENY,
        ),
        // A null is a value to the source, and an absent argument to the server.
        (
            "deny_if",
            "{path: args.note, op: neq, value: ok}",
            r#"{"note":null}"#,
            DENY,
        ),
        (
            "deny_if",
            "{path: args.note, op: neq, value: ok}",
            "{}",
            Outcome::Allow,
        ),
        (
            "deny_if",
            "{path: args.note, op: not_in, value: [ok]}",
            r#"{"note":null}"#,
            DENY,
        ),
        (
            "deny_if",
            "{path: args.note, op: eq}",
            r#"{"note":null}"#,
            DENY,
        ),
        (
            "require",
            "{path: args.note, op: neq, value: no}",
            r#"{"note":null}"#,
            DENY,
        ),
        (
            "require",
            "{path: args.note, op: neq, value: no}",
            r#"{"note":"ok"}"#,
            Outcome::Allow,
        ),
        (
            "require",
            "{path: args.note, op: exists, value: false}",
            r#"{"note":null}"#,
            Outcome::Allow,
        ),
    ] {
        let (_, outcome) = decide_by(&tool(key, condition), properties.clone());
        assert_eq!(
            outcome("charge", arguments),
            expected,
            "{key} {condition} {arguments}"
        );
    }
    let counted = "version: 1\ndefault: allow\ntools:\n  charge:\n    rules:\n    - name: sum\n      \
                   conditions: [{path: state.charge.sum, op: lte, value: 9}]\n      \
                   state: {counter: sum, window: day, increment_from: args.n}\n";
    let (_, outcome) = decide_by(counted, properties);
    assert_eq!(outcome("charge", "{}"), DENY);
    assert_eq!(outcome("charge", r#"{"n":1}"#), Outcome::Allow);
}

#[test]
fn values_compare_across_kinds_as_the_source_prints_them() {
    let text = "version: 1\ndefault: deny\ntools:\n  charge: {require: [{path: args.x, op: OP, value: VALUE}]}\n";
    for (op, value, arguments, expected) in [
        ("eq", "7", r#"{"x":"7"}"#, true),
        ("eq", "'7'", r#"{"x":7.0}"#, true),
        ("neq", "'7'", r#"{"x":7}"#, false),
        ("neq", "7", r#"{"x":[7]}"#, true),
        ("neq", "x", r#"{"x":null}"#, true),
        ("eq", "0600", r#"{"x":384}"#, true),
        ("eq", "0600", r#"{"x":600}"#, false),
        ("eq", "no", r#"{"x":"no"}"#, true),
        ("eq", "no", r#"{"x":false}"#, false),
        ("in", "[yes, 'true', 1]", r#"{"x":true}"#, true),
        ("in", "[yes, 1]", r#"{"x":"1"}"#, true),
        ("not_in", "[a, 1, true]", r#"{"x":{"k":1}}"#, true),
        ("contains", "a", r#"{"x":["a","b"]}"#, true),
        ("contains", "a", r#"{"x":["ab"]}"#, false),
        ("contains", "a", r#"{"x":"ab"}"#, true),
        ("contains", "7", r#"{"x":["7"]}"#, true),
        ("contains", "7", r#"{"x":"7"}"#, false),
        ("contains", "a", r#"{"x":7}"#, false),
        ("exists", "false", r#"{"x":null}"#, true),
        ("exists", "false", r#"{"x":[]}"#, false),
        ("eq", "0", r#"{"x":-0}"#, true),
        ("eq", "'0'", r#"{"x":-0}"#, false),
        ("eq", "'-0'", r#"{"x":-0.0}"#, true),
        ("eq", "'1000000'", r#"{"x":1000000}"#, false),
        ("eq", "'1e+06'", r#"{"x":1000000}"#, true),
        // It could print as the text, so it is refused.
        ("neq", "'[a]'", r#"{"x":["b"]}"#, false),
        ("neq", "'[a]'", r#"{"x":"b"}"#, true),
    ] {
        let text = text.replace("OP", op).replace("VALUE", value);
        let (_, outcome) = decide(&text);
        let expected = if expected { Outcome::Allow } else { DENY };
        assert_eq!(
            outcome("charge", arguments),
            expected,
            "{op} {value} {arguments}"
        );
    }
}

#[test]
fn a_regular_expression_of_go_is_written_so_that_it_means_the_same() {
    let import = |pattern: &str| {
        let entry = serde_json::json!({"version": "1", "default": "allow", "tools": {"t": {
            "deny_if": [{"path": "args.a", "op": "regex", "value": pattern}]}}});
        let spec = one(&entry.to_string());
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
