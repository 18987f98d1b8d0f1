//! Every key of the format with every other kind of value, and unknown keys at every level.

use super::*;

/// One key on a line; `@` marks what is replaced, and what kinds of value the key takes.
const DOCUMENT: &str = "
version: 1
default: allow
description: x                        #@ scalar
hide: [delete_run]                    #@ names
all_tools:                            #@ all_tools
  limits:                             #@ list
  - counter: all                      #@ scalar
    window: day                       #@ window
    max: 9                            #@ whole
    scope: grant                      #@ scalar
    increment: 2                      #@ positive
    increment_from: args.n            #@ path
    on_deny: x                        #@ scalar
tools:
  charge:                             #@ tool
    description: x                    #@ scalar
    action: evaluate                  #@ word
    reason: x                         #@ scalar
    on_deny: x                        #@ scalar
    approval_timeout: 5m              #@ unread
    rate_limit: 5/day                 #@ rate
    require:                          #@ list
    - path: args.a                    #@ word
      op: eq                          #@ word
      value: [x]                      #@ text
      on_deny: x                      #@ scalar
    deny_if:                          #@ list
    - path: args.a                    #@ word
      op: in                          #@ word
      value: [bad]                    #@ never
    limits:                           #@ list
    - counter: mine                   #@ scalar
      window: hour                    #@ window
      max: 9                          #@ whole
    rules:                            #@ list
    - name: r1                        #@ scalar
      action: evaluate                #@ word
      on_deny: x                      #@ scalar
      conditions:                     #@ list
      - path: args.a                  #@ word
        op: eq                        #@ word
        value: x                      #@ text
    - name: r2                        #@ scalar
      rate_limit: 5/hour              #@ rate
    - name: r3
      conditions:
      - path: state.charge.c          #@ word
        op: lte                       #@ word
        value: 9                      #@ number
      state:                          #@ map
        counter: c                    #@ word
        window: day                   #@ window
        increment: 2                  #@ positive
        increment_from: args.n        #@ path
";

/// The document with the line at `index` and all that belongs to it replaced by one value.
fn with(lines: &[&str], index: usize, value: &str) -> String {
    let line = lines[index];
    let (start, _) = line.split_once(':').unwrap();
    let indent = line.len() - line.trim_start().len();
    let mut out: Vec<String> = lines[..index]
        .iter()
        .map(|line| (*line).to_owned())
        .collect();
    out.push(format!("{start}: {value}"));
    let mut rest = lines[index + 1..].iter().peekable();
    // What stands below it: deeper lines, and the items of its list, which stand at the same depth.
    let item = line.trim_start().starts_with("- ");
    let own = indent + if item { 2 } else { 0 };
    while let Some(next) = rest.peek() {
        let depth = next.len() - next.trim_start().len();
        let below = depth > own || (depth == own && next.trim_start().starts_with("- "));
        if !below {
            break;
        }
        rest.next();
    }
    out.extend(rest.map(|line| (*line).to_owned()));
    out.join("\n")
}

#[test]
fn every_key_with_another_kind_of_value_closes_its_tool_or_the_document_at_its_line() {
    let document = DOCUMENT.replace("value: [x] ", "value: x   ");
    let lines: Vec<&str> = document.lines().collect();
    let imported = import(&document, "mlflow").unwrap();
    assert!(
        imported.notes.iter().all(|note| !note.closes),
        "{:#?}",
        imported.notes
    );
    let mut tried = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((_, takes)) = line.split_once("#@ ") else {
            continue;
        };
        for (value, kind) in [
            ("[1, 2]", "list"),
            ("[[1]]", "nested"),
            ("{x: 1}", "map"),
            ("text", "text"),
            ("true", "bool"),
            ("7", "int"),
            ("'7'", "digits"),
            ("-1", "negative"),
            ("2.5", "fraction"),
            ("2024-01-01", "date"),
            ("!!binary eA==", "tagged"),
            ("!x y", "tagged"),
        ] {
            let scalars = [
                "text", "bool", "int", "digits", "negative", "fraction", "date",
            ];
            let takes_it = match takes {
                "scalar" => scalars.contains(&kind),
                "names" => kind == "list",
                "list" | "never" | "map" | "tool" | "word" | "window" | "rate" | "all_tools"
                | "path" => false,
                // A bound below 1 becomes a Deny rule, reported as a note.
                "whole" => ["int", "negative"].contains(&kind),
                "positive" => kind == "int",
                "number" => ["int", "negative", "fraction"].contains(&kind),
                "text" => scalars.contains(&kind) && kind != "date",
                // Only read where approval is asked for.
                "unread" => true,
                other => panic!("{other}"),
            };
            // Lists whose items are not mappings, or lack required keys, also close their tool.
            let takes_it = takes_it || (takes == "never" && kind == "list");
            let text = with(&lines, index, value);
            tried += 1;
            let found = import(&text, "mlflow");
            let at = u32::try_from(index + 1).unwrap();
            let Ok(imported) = found else {
                assert!(!takes_it, "line {at}: {value}: {found:?}");
                continue;
            };
            let closed_here = imported
                .notes
                .iter()
                .any(|note| note.closes && note.places.iter().any(|place| place.at.line == at));
            // Mistakes that are reported only at the surrounding mapping, because another key needs
            // the value there.
            let closed = imported.notes.iter().any(|note| note.closes);
            assert_eq!(
                closed, !takes_it,
                "line {at}: {line} with {value}: {:#?}",
                imported.notes
            );
            if closed && !["word", "path"].contains(&takes) {
                assert!(
                    closed_here,
                    "line {at}: {line} with {value}: {:#?}",
                    imported.notes
                );
            }
            if closed {
                let (_, outcome) = decide(&text);
                let arguments = r#"{"a":"x","n":1}"#;
                assert!(
                    !matches!(
                        outcome("charge", arguments),
                        Outcome::Allow | Outcome::RequireApproval
                    ),
                    "line {at}: {value}"
                );
            }
        }
        // Nothing after the colon is an absent key, to the source as here.
        let empty = with(&lines, index, "");
        if let Ok(imported) = import(&empty, "mlflow") {
            let needed = ["word", "window", "whole", "number", "path", "never"].contains(&takes);
            let closes = imported.notes.iter().any(|note| note.closes);
            assert!(
                closes
                    || !needed
                    || line.contains("action")
                    || line.contains("increment")
                    || line.contains("value")
                    || line.contains("scope"),
                "line {}: {line}: {:#?}",
                index + 1,
                imported.notes
            );
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn every_unknown_key_closes_its_tool_or_every_tool_at_its_line() {
    let document = DOCUMENT.replace("value: [x] ", "value: x   ");
    let lines: Vec<&str> = document.lines().collect();
    let mut tried = 0;
    for index in 1..lines.len() {
        let line = lines[index];
        let indent = line.len() - line.trim_start().len()
            + if line.trim_start().starts_with("- ") {
                2
            } else {
                0
            };
        if line.trim_start().starts_with("charge:") {
            continue;
        }
        for key in [
            "quota: 5",
            "Action: deny",
            "except: [a]",
            "when: {}",
            "deny: ~",
        ] {
            let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            // Before the line, at its depth, so that it is a sibling.
            let text = if line.trim_start().starts_with("- ") {
                let (before, after) = line.split_once("- ").unwrap();
                changed[index] = format!("{before}- {key}\n{before}  {after}");
                changed.join("\n")
            } else {
                changed.insert(index, format!("{}{key}", " ".repeat(indent)));
                changed.join("\n")
            };
            let at = u32::try_from(index + 1).unwrap();
            let imported =
                import(&text, "mlflow").unwrap_or_else(|error| panic!("{error:?}\n{text}"));
            let closed = imported
                .notes
                .iter()
                .any(|note| note.closes && note.places.iter().any(|place| place.at.line == at));
            assert!(closed, "line {at}: {key}: {:#?}\n{text}", imported.notes);
            let (_, outcome) = decide(&text);
            assert!(
                !matches!(outcome("charge", r#"{"a":"x","n":1}"#), Outcome::Allow),
                "{text}"
            );
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn what_the_source_refuses_closes_its_tool() {
    for (rule, part) in [
        ("{name: x}", "neither conditions nor a rate_limit"),
        (
            "{name: x, conditions: []}",
            "neither conditions nor a rate_limit",
        ),
        ("{name: x, action: escalate}", "\"escalate\""),
        ("{name: x, action: true}", "\"true\""),
        ("{name: x, rate_limit: many}", "not a rate"),
        ("{name: x, rate_limit: 0/hour}", "not a rate"),
        ("{name: x, rate_limit: 5/week}", "not a rate"),
        (
            "{name: x, rate_limit: 5/hour, conditions: [{path: args.a, op: eq, value: 1}]}",
            "two rules",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: like, value: x}]}",
            "\"like\" is not known",
        ),
        (
            "{name: x, conditions: [{path: caller.a, op: eq, value: x}]}",
            "does not start with args.",
        ),
        ("{name: x, conditions: [{op: eq, value: x}]}", "no path"),
        ("{name: x, conditions: [{path: args.a, value: x}]}", "no op"),
        (
            "{name: x, conditions: [{path: args.a, op: lt, value: '5'}]}",
            "without quotes",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: lt, value: 18446744073709551615}]}",
            "needs a number",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: exists, value: yes}]}",
            "true or false",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: regex, value: 5}]}",
            "pattern in quotes",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: regex, value: '(?=x)'}]}",
            "cannot be written in CEL",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: in, value: x}]}",
            "needs a list",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: {k: 1}}]}",
            "a mapping",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: in, value: [[1]]}]}",
            "a list",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: 2024-01-01}]}",
            "quotes",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: .inf}]}",
            "quotes",
        ),
        (
            "{name: x, conditions: [{path: state.other.c, op: lte, value: 1}]}",
            "another rule counts",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: 1}], state: text}",
            "must be a mapping",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: 1}], state: {counter: c, window: day}}",
            "bounds nothing",
        ),
        (
            "{name: x, conditions: [{path: args.a, op: eq, value: 1}], approval_timeout: 5m}",
            "require_approval",
        ),
        (
            "{name: x, action: require_approval, approval_timeout: soon}",
            "a duration",
        ),
    ] {
        let text =
            format!("version: 1\ndefault: allow\ntools:\n  charge:\n    rules:\n    - {rule}\n");
        let (notes, outcome) = decide(&text);
        assert_eq!(outcome("charge", "{}"), DENY, "{rule}");
        assert_eq!(outcome("get_run", "{}"), Outcome::Allow, "{rule}");
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("6:") && note.contains(part)),
            "{rule}: {notes:?}"
        );
    }
}

#[test]
fn counters_that_cannot_be_shared_close_their_tool() {
    for (limits, closes) in [
        (
            "a: {limits: [{counter: c, window: day, max: 3, scope: grant}]}\n  charge: {limits: [{counter: c, window: day, max: 3, scope: grant}]}",
            false,
        ),
        (
            "a: {limits: [{counter: c, window: day, max: 3, scope: grant}]}\n  charge: {limits: [{counter: c, window: day, max: 4, scope: grant}]}",
            true,
        ),
        (
            "a: {limits: [{counter: c, window: day, max: 3, scope: grant}]}\n  charge: {limits: [{counter: c, window: hour, max: 3, scope: grant}]}",
            true,
        ),
        (
            "'*': {limits: [{counter: c, window: day, max: 3, scope: grant}]}\n  charge: {limits: [{counter: c, window: day, max: 3, scope: grant}]}",
            true,
        ),
        (
            "a: {}\n  charge: {limits: [{counter: c, window: day, max: 3, scope: grant}, {counter: c, window: day, max: 3, scope: grant}]}",
            true,
        ),
        (
            "a: {}\n  charge: {rules: [{name: x, rate_limit: 5/hour}, {name: y, rate_limit: 3/hour}]}",
            true,
        ),
    ] {
        let text = format!("version: 1\ndefault: allow\ntools:\n  {limits}\n");
        let (notes, outcome) = decide(&text);
        assert_eq!(outcome("charge", "{}") == DENY, closes, "{limits}");
        assert_eq!(
            notes.iter().any(|note| note.contains("its counter")),
            closes,
            "{notes:?}"
        );
    }
}

#[test]
fn a_null_in_an_optional_place_is_an_absent_key() {
    let (notes, outcome) = decide(
        "version: 1\ndefault: allow\nhide:\nall_tools: ~\ndescription:\ntools:\n  charge: {rate_limit: ~, rules: ~, limits: ~, require: ~, deny_if: ~, action: ~}\n  other: {rules: [{name: x, conditions: [{path: args.a, op: exists, value: true}], rate_limit: ~, state: ~, on_deny: ~}]}\n",
    );
    assert!(
        !notes.iter().any(|note| note.contains("correct that")),
        "{notes:?}"
    );
    assert_eq!(outcome("charge", "{}"), Outcome::Allow);
    assert_eq!(outcome("other", r#"{"a":1}"#), Outcome::Allow);
    assert_eq!(outcome("other", "{}"), DENY);
}
