//! Random documents with what they mean.

use super::super::second::{Condition, Go, Limit, Policy, Rule, State, Tool};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Spellings of scalars, and what yaml.v3 makes of them.
fn scalars() -> Vec<(&'static str, Go)> {
    let text = |text: &str| Go::Text(text.to_owned());
    vec![
        ("7", Go::Int(7)),
        ("'7'", text("7")),
        ("7.0", Go::Float(7.0)),
        ("007", Go::Int(7)),
        ("0600", Go::Int(384)),
        ("0o600", Go::Int(384)),
        ("'0600'", text("0600")),
        ("08", Go::Float(8.0)),
        ("1_000", Go::Int(1000)),
        ("0x1F", Go::Int(31)),
        ("0b111", Go::Int(7)),
        ("1e6", Go::Float(1e6)),
        ("1000000", Go::Int(1_000_000)),
        ("'1e+06'", text("1e+06")),
        ("'1000000'", text("1000000")),
        ("1.5", Go::Float(1.5)),
        ("'1.5'", text("1.5")),
        ("true", Go::Bool(true)),
        ("True", Go::Bool(true)),
        ("FALSE", Go::Bool(false)),
        ("'true'", text("true")),
        ("no", text("no")),
        ("Yes", text("Yes")),
        ("on", text("on")),
        ("y", text("y")),
        ("~", Go::Nil),
        ("Null", Go::Nil),
        ("'<nil>'", text("<nil>")),
        ("''", text("")),
        ("usd", text("usd")),
        ("\"us\\x64\"", text("usd")),
        ("!!str 7", text("7")),
        ("'[7 usd]'", text("[7 usd]")),
        ("'map[k:7]'", text("map[k:7]")),
        ("0", Go::Int(0)),
        ("-0", Go::Int(0)),
        ("'0'", text("0")),
        ("'-0'", text("-0")),
        ("-0.0", Go::Float(-0.0)),
        ("1e400", text("1e400")),
        ("18446744073709551615", Go::Uint(u64::MAX)),
        ("9007199254740993", Go::Int(9_007_199_254_740_993)),
        ("é", text("é")),
    ]
}

fn scalar() -> impl Strategy<Value = (String, Go)> {
    prop::sample::select(scalars()).prop_map(|(text, value)| (text.to_owned(), value))
}

fn list() -> impl Strategy<Value = (String, Go)> {
    prop::collection::vec(scalar(), 0..9).prop_map(|items| {
        let (texts, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        (format!("[{}]", texts.join(", ")), Go::List(values))
    })
}

fn path() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "args.a",
        "args.a",
        "args.a",
        "args.a",
        "args.b",
        "args.b",
        "args.b",
        "args.c",
        "args.c",
        "args.m.k",
        "args.m.k",
        "args.m.n",
        "args.m",
        "args.a.k",
        "args.m.k.z",
        "args.odd-key",
        "args.none",
        "args.null",
    ])
    .prop_map(str::to_owned)
}

/// A condition as it is written, and what it means.
fn condition() -> impl Strategy<Value = (String, Condition)> {
    let numbers = scalars()
        .into_iter()
        .filter(|(_, value)| value.number().is_some());
    let number = prop::sample::select(numbers.collect::<Vec<_>>())
        .prop_map(|(text, value)| (text.to_owned(), value));
    let patterns = prop::sample::select(vec![
        ("'^usd$'", "^usd$"),
        ("'7'", "7"),
        ("'^\\d+$'", "^[0-9]+$"),
        ("'^\\w*$'", "^[0-9A-Za-z_]*$"),
        ("'^[^a&&b]+$'", "^[^a\\&b]+$"),
        ("'^[[a-z]+$'", "^[\\[a-z]+$"),
        ("'(?i)USD'", "(?i)usd"),
        ("''", ""),
    ])
    .prop_map(|(text, pattern)| (text.to_owned(), Go::Text(pattern.to_owned())));
    let boolean = any::<bool>().prop_map(|value| (value.to_string(), Go::Bool(value)));
    let test = prop_oneof![
        4 => (prop::sample::select(vec!["eq", "neq", "neq"]), scalar()),
        4 => (prop::sample::select(vec!["in", "not_in", "not_in"]), list()),
        2 => (prop::sample::select(vec!["lt", "lte", "gt", "gte"]), number),
        2 => (Just("regex"), patterns),
        3 => (Just("contains"), scalar()),
        3 => (Just("exists"), boolean),
    ];
    (path(), test, any::<bool>()).prop_map(|(path, (op, (text, value)), omit)| {
        // An empty value may be left out.
        let written = match value == Go::Nil && omit {
            true => format!("{{path: {path}, op: {op}}}"),
            false => format!("{{path: {path}, op: {op}, value: {text}}}"),
        };
        (written, Condition { path, op, value })
    })
}

fn conditions(least: usize, most: usize) -> impl Strategy<Value = (String, Vec<Condition>)> {
    prop::collection::vec(condition(), least..=most).prop_map(|found| {
        let (texts, values): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        (texts.join(", "), values)
    })
}

fn increment() -> impl Strategy<Value = (String, i64, Option<String>)> {
    prop_oneof![
        3 => Just((String::new(), 1, None)),
        1 => Just((", increment: 2".to_owned(), 2, None)),
        1 => Just((", increment: 2.0".to_owned(), 2, None)),
        1 => Just((", increment: 0".to_owned(), 1, None)),
        2 => path().prop_map(|path| (format!(", increment_from: {path}"), 1, Some(path))),
    ]
}

/// A rule of the tool as it is written, and what it means.
fn rule(tool: &'static str, index: usize) -> impl Strategy<Value = (String, Rule)> {
    let scope = if tool == "*" { "_global" } else { tool };
    let evaluate = conditions(1, 2).prop_map(move |(text, conditions)| {
        (
            format!("{{name: r{index}, conditions: [{text}]}}"),
            Rule {
                conditions,
                ..Rule::default()
            },
        )
    });
    let bound = prop::sample::select(vec![
        ("lte", "3", 3.0),
        ("lt", "3", 3.0),
        ("lte", "2.5", 2.5),
        ("lt", "2.5", 2.5),
        ("lte", "0", 0.0),
        ("lt", "0.5", 0.5),
        ("lte", "-0.5", -0.5),
        ("lte", "010", 8.0),
    ]);
    let counted = (conditions(0, 1), bound, increment()).prop_map(
        move |((text, mut conditions), (op, value, number), (units, increment, from))| {
            let counter = format!("c{index}");
            let path = format!("state.{scope}.{counter}");
            let comma = if text.is_empty() { "" } else { ", " };
            let written = format!(
                "{{name: r{index}, conditions: [{text}{comma}{{path: {path}, op: {op}, value: {value}}}], \
                 state: {{counter: {counter}, window: hour{units}}}}}"
            );
            conditions.push(Condition {
                path,
                op,
                value: Go::Float(number),
            });
            let state = State {
                counter,
                increment,
                increment_from: from,
            };
            (
                written,
                Rule {
                    deny: false,
                    conditions,
                    state: Some(state),
                },
            )
        },
    );
    let rate = (
        1_i64..4,
        prop::sample::select(vec!["minute", "hour", "day"]),
    )
        .prop_map(move |(max, window)| {
            // Twice the same window for a tool is refused there, so a tool has one such rule.
            let counter = format!("_rate_{window}");
            (
                format!("{{name: r{index}, rate_limit: {max}/{window}}}"),
                Rule {
                    deny: false,
                    conditions: vec![Condition {
                        path: format!("state.{scope}.{counter}"),
                        op: "lte",
                        value: Go::Int(max),
                    }],
                    state: Some(State {
                        counter,
                        increment: 1,
                        increment_from: None,
                    }),
                },
            )
        });
    let deny = Just((
        format!("{{name: r{index}, action: deny}}"),
        Rule {
            deny: true,
            ..Rule::default()
        },
    ));
    match index {
        0 => prop_oneof![6 => evaluate.boxed(), 2 => counted.boxed(), 2 => rate.boxed(), 1 => deny.boxed()].boxed(),
        _ => prop_oneof![6 => evaluate.boxed(), 2 => counted.boxed()].boxed(),
    }
}

fn limit(tool: &'static str) -> impl Strategy<Value = (String, Limit)> {
    (1_i64..4, increment()).prop_map(move |(max, (units, increment, from))| {
        let counter = format!("q-{tool}");
        (
            format!("{{counter: {counter}, window: day, max: {max}, scope: grant{units}}}"),
            Limit {
                counter,
                max,
                increment,
                increment_from: from,
            },
        )
    })
}

fn tool(name: &'static str) -> impl Strategy<Value = (String, Tool)> {
    let rules = prop::sample::select(vec![0_usize, 0, 1, 1, 2]).prop_flat_map(move |count| {
        (0..count)
            .map(|index| rule(name, index))
            .collect::<Vec<_>>()
    });
    let native = (
        conditions(0, 1),
        conditions(0, 2),
        prop::option::weighted(0.2, limit(name)),
    );
    let native = prop::option::weighted(0.7, native);
    (rules, native).prop_map(|(rules, native)| {
        let (texts, rules): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        let mut written = vec![format!("rules: [{}]", texts.join(", "))];
        let mut entry = Tool {
            rules,
            ..Tool::default()
        };
        if let Some(((require, requires), (deny_if, denies), limit)) = native {
            written.push(format!("require: [{require}]"));
            written.push(format!("deny_if: [{deny_if}]"));
            entry.require = requires;
            entry.deny_if = denies;
            if let Some((text, limit)) = limit {
                written.push(format!("limits: [{text}]"));
                entry.limits.push(limit);
            }
        }
        (format!("{{{}}}", written.join(", ")), entry)
    })
}

pub fn policies() -> impl Strategy<Value = (String, Policy)> {
    let hide = prop_oneof![
        8 => Just(vec![]), 1 => Just(vec!["charge"]), 1 => Just(vec!["other"]), 1 => Just(vec!["*"]),
    ];
    (
        any::<bool>(),
        hide,
        tool("charge"),
        prop::option::weighted(0.3, tool("other")),
        prop::option::weighted(0.3, tool("*")),
    )
        .prop_map(|(allow, hide, charge, other, all)| {
            let mut tools = BTreeMap::new();
            let mut text = format!(
                "version: 1\ndefault: {}\nhide: [{}]\ntools:\n",
                if allow { "allow" } else { "deny" },
                hide.iter()
                    .map(|name| format!("'{name}'"))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            for (name, entry) in [("charge", Some(charge)), ("other", other), ("*", all)] {
                let Some((written, entry)) = entry else {
                    continue;
                };
                text.push_str(&format!("  '{name}': {written}\n"));
                tools.insert(name.to_owned(), entry);
            }
            let hide = hide.into_iter().map(str::to_owned).collect();
            (text, Policy { allow, hide, tools })
        })
}
