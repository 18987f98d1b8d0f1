//! Schemas of real and of hostile servers, and the same answers as another implementation.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn compile(schema: &Value) -> Result<Schema, String> {
    compile_within(schema, &mut Budget::default())
}

fn compile_within(schema: &Value, budget: &mut Budget) -> Result<Schema, String> {
    Schema::compile(schema, &reads_of("size(args) < 100"), budget)
}

fn reads_of(condition: &str) -> Reads {
    let condition = crate::policy::check::Condition::compile(condition).unwrap();
    condition.reads().clone()
}

/// No rule reads a text by its spelling.
fn unread() -> Exact<'static> {
    static NONE: std::sync::LazyLock<Reads> = std::sync::LazyLock::new(Reads::default);
    Exact {
        reads: &NONE,
        forms: &[],
        known: &[],
    }
}

fn check(schema: &Value, arguments: &str) -> Result<(), String> {
    let schema = compile(schema)?;
    let value = json::parse(arguments.as_bytes()).unwrap();
    schema
        .check(&value, &Fuel::full(), unread())
        .map(drop)
        .map_err(|Misfit(text)| text)
}

/// Each schema is the property `x`; the first list of arguments passes, the second is refused with
/// this in the message.
fn cases(part: &str, list: &[(Value, &[&str], &[&str])]) {
    for (property, good, bad) in list {
        let schema = json!({"type": "object", "properties": {"x": property}, "$defs": {
            "text": {"type": ["string", "null"]}, "a b": {"properties": {"stage": {"type": "string"}}}}});
        for value in *good {
            let said = check(&schema, &format!(r#"{{"x":{value}}}"#));
            assert_eq!(said, Ok(()), "{property} {value}");
        }
        for value in *bad {
            let said = check(&schema, &format!(r#"{{"x":{value}}}"#));
            assert!(
                said.as_ref().is_err_and(|text| text.contains(part)),
                "{property} {value}: {said:?}"
            );
        }
    }
}

#[test]
fn an_argument_that_the_server_would_coerce_is_named_with_what_it_must_be() {
    let schema = json!({
        "type": "object",
        "properties": {
            "version": {"type": "integer"},
            "force": {"type": "boolean", "default": false},
            "alias": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "stage": {"enum": ["Staging", "Production"]}
        },
        "required": ["version"],
        "additionalProperties": false
    });
    let says = |arguments| check(&schema, arguments);
    assert_eq!(says(r#"{"version":7}"#), Ok(()));
    assert_eq!(says(r#"{"version":7.0}"#), Ok(()));
    for (arguments, message) in [
        (
            r#"{"version":"7"}"#,
            "the argument `version` must be of type integer",
        ),
        (
            r#"{"version":7,"force":"true"}"#,
            "the argument `force` must be of type boolean",
        ),
        ("{}", "the argument `version` is missing"),
        (
            r#"{"Version":7}"#,
            "write the argument `Version` as `version`",
        ),
        (
            r#"{"version":7,"Force":true}"#,
            "write the argument `Force` as `force`",
        ),
        (r#"{"version":7,"x":1}"#, "there is no such argument: `x`"),
        (
            r#"{"version":7,"alias":1}"#,
            "the argument `alias` must be of one of the types string, null",
        ),
        (
            r#"{"version":7,"stage":"production"}"#,
            r#"the argument `stage` must be one of ["Staging","Production"]"#,
        ),
        (
            r#"{"version":123456789012345678901234567890}"#,
            "an integer in the arguments does not fit 64 bits",
        ),
    ] {
        assert_eq!(says(arguments), Err(message.to_owned()), "{arguments}");
    }
}

#[test]
fn text_that_a_server_decodes_once_more_is_refused_wherever_it_may_be_something_else() {
    let decoded: &[&str] = &[
        r#""null""#,
        r#"" null ""#,
        r#""[]""#,
        r#""{\"a\":1}""#,
        r#""[NaN, -Infinity]""#,
        r#""[\"\\ud800\"]""#,
        r#""\ufeffnull""#,
    ];
    let plain: &[&str] = &[r#""name = 'x'""#, r#""[WIP]""#, r#""""#, r#""Null""#];
    cases(
        "decode as JSON",
        &[
            (
                json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
                plain,
                decoded,
            ),
            (
                json!({"oneOf": [{"type": "string"}, {"type": "array"}]}),
                plain,
                decoded,
            ),
            (json!({"type": ["object", "string"]}), plain, decoded),
            (json!({}), plain, decoded),
            (json!(true), plain, decoded),
            (json!({"description": "anything"}), plain, decoded),
            (json!({"$ref": "#/$defs/text"}), plain, decoded),
            (
                json!({"allOf": [{"$ref": "#/$defs/text"}, {"minLength": 0}]}),
                plain,
                decoded,
            ),
            (json!({"enum": ["null", null]}), &[], &[r#""null""#]),
            (json!({"type": "string", "default": null}), plain, decoded),
            (json!({"type": "string", "nullable": true}), plain, decoded),
            (
                json!({"if": {"minLength": 3}, "then": {"type": "string"}}),
                plain,
                decoded,
            ),
            (json!({"type": "string"}), decoded, &[]),
            (
                json!({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}),
                decoded,
                &[],
            ),
        ],
    );
    // At every level that the schema declares, and whatever an argument that it does not.
    let nested = json!({"properties": {"o": {"properties": {"f": {"type": ["string", "null"]}}},
                                       "l": {"items": {"type": ["string", "null"]}}, "t": {"type": "object"}}});
    assert!(check(&nested, r#"{"o":{"f":"null"}}"#).is_err());
    assert!(check(&nested, r#"{"l":["a","null"]}"#).is_err());
    assert_eq!(
        check(&nested, r#"{"t":{"note":"[1]"}}"#),
        Ok(()),
        "neither a name nor a type"
    );
    assert!(check(&json!({"type": "object"}), r#"{"f":"null"}"#).is_err());
    assert!(
        check(
            &json!({"properties": {}, "additionalProperties": true}),
            r#"{"f":"null"}"#
        )
        .is_err()
    );
}

#[test]
fn text_that_a_server_turns_into_a_number_or_a_boolean_is_refused_where_it_may_be_one() {
    let numbers: &[&str] = &[
        r#""7""#,
        r#""０7""#,
        r#"" 7e0""#,
        r#""0x7""#,
        r#""Infinity""#,
        r#""""#,
    ];
    cases(
        "decode as a number",
        &[
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
                &["7", r#""v7""#],
                numbers,
            ),
            (
                json!({"type": ["number", "string"]}),
                &["7.5", r#""2026-11-21""#],
                numbers,
            ),
        ],
    );
    cases(
        "decode as a boolean",
        &[(
            json!({"type": ["boolean", "string"]}),
            &["true", r#""perhaps""#],
            &[r#""true""#, r#""No""#, r#""1""#],
        )],
    );
    // No server converts what may be anything.
    cases("", &[(json!({}), &[r#""7""#, r#""true""#], &[])]);
}

#[test]
fn names_that_a_schema_does_not_list_are_refused_at_every_level() {
    let stage = json!({"properties": {"stageName": {"type": "string"}}});
    let good: &[&str] = &[r#"{"stageName":"a"}"#, "{}"];
    let bad: &[&str] = &[
        r#"{"stage":"a"}"#,
        r#"{"stage_name":"a"}"#,
        r#"{"StageName":"a"}"#,
        r#"{"stageName":"a","ſtageName":"b"}"#,
        r#"{"stageName":"a","other":1}"#,
    ];
    let list = |values: &[&str]| {
        values
            .iter()
            .map(|value| format!("[{value}]"))
            .collect::<Vec<_>>()
    };
    let (good_list, bad_list) = (list(good), list(bad));
    let strs = |values: &'static [String]| -> &'static [&'static str] {
        Vec::leak(values.iter().map(String::as_str).collect())
    };
    let (good_list, bad_list) = (strs(Vec::leak(good_list)), strs(Vec::leak(bad_list)));
    let at_least_one = &bad[..2];
    cases(
        "`",
        &[
            (stage.clone(), good, bad),
            (json!({"allOf": [stage]}), good, bad),
            (json!({"anyOf": [stage, {"type": "null"}]}), good, bad),
            (json!({"oneOf": [stage, {"type": "string"}]}), good, bad),
            (json!({"if": {}, "then": stage}), good, bad),
            (json!({"if": false, "else": stage}), good, bad),
            (json!({"items": stage}), good_list, bad_list),
            (json!({"prefixItems": [stage]}), good_list, bad_list),
            (
                json!({"items": [stage], "additionalItems": stage}),
                good_list,
                bad_list,
            ),
            (
                json!({"additionalProperties": stage}),
                &[r#"{"k":{"stageName":"a"}}"#],
                &[r#"{"k":{"stage":"a"}}"#],
            ),
            (
                json!({"patternProperties": {"^k": stage}}),
                &[r#"{"k":{"stageName":"a"}}"#],
                &[r#"{"k":{"stage":"a"}}"#],
            ),
            (
                json!({"dependentSchemas": {"k": {"properties": {"k": {}, "m": {}}}}}),
                &[r#"{"k":1,"m":2}"#],
                &[r#"{"k":1,"n":2}"#],
            ),
            (
                json!({"$ref": "#/$defs/a%20b"}),
                &[r#"{"stage":"a"}"#],
                &[r#"{"stages":"a"}"#],
            ),
            (
                json!({"$ref": "#/%24defs/a b"}),
                &[r#"{"stage":"a"}"#],
                &[r#"{"stages":"a"}"#],
            ),
            // Together they list both.
            (
                json!({"allOf": [stage, {"properties": {"k": {}}}]}),
                &[r#"{"stageName":"a","k":1}"#],
                &[r#"{"stageName":"a","m":1}"#],
            ),
            // Each reading must list it.
            (
                json!({"anyOf": [stage, {"properties": {"k": {}}}]}),
                &[],
                &[r#"{"k":1}"#],
            ),
            (
                json!({"anyOf": [{"required": ["stageName"]}, {"required": ["k"]}], "properties": {"stageName": {}, "k": {}}}),
                &[r#"{"k":1}"#],
                &[r#"{"k":1,"m":1}"#],
            ),
            // Open, but not for what looks like a listed name.
            (
                json!({"properties": {"stageName": {}}, "additionalProperties": true}),
                &[r#"{"other":1}"#],
                &bad[1..4],
            ),
            (
                json!({"properties": {"stageName": {}}, "patternProperties": {"^o": {}}}),
                &[r#"{"other":1}"#],
                &bad[1..4],
            ),
            (
                json!({"properties": {"stageName": {}}, "unevaluatedProperties": false}),
                good,
                at_least_one,
            ),
            (
                json!({"allOf": [stage], "unevaluatedProperties": false}),
                good,
                at_least_one,
            ),
            // Without a list of names any name may be.
            (json!({"type": "object"}), &[r#"{"a":1,"A":2}"#], &[]),
        ],
    );
}

/// Arguments as rules read them.
fn read(schema: &Value, arguments: &str, path: &str) -> Result<String, String> {
    use crate::policy::check::{Args, Condition, Env};
    let schema = compile(schema)?;
    let value = json::parse(arguments.as_bytes()).unwrap();
    let fuel = Fuel::full();
    let (fills, _) = schema
        .check(&value, &fuel, unread())
        .map_err(|misfit| misfit.0)?;
    let caller = crate::policy::Caller::key("ci");
    let env = Env {
        args: Args::new(&value, &fills),
        tool: "t",
        risk: "Read",
        severity: "Low",
        caller: &caller,
        session: "",
        now: "2026-11-21T08:30:00Z".parse().unwrap(),
        fuel: &fuel,
    };
    let asks = |source: &str| Condition::compile(source).unwrap().holds(&env);
    if asks(&format!("has({path})")) != Ok(true) {
        return Ok("absent".to_owned());
    }
    for value in ["'Production'", "'Staging'", "1", "2", "null", "true"] {
        if asks(&format!("{path} == {value}")) == Ok(true) {
            return Ok(value.to_owned());
        }
    }
    Ok("other".to_owned())
}

#[test]
fn defaults_are_taken_over_at_every_level_or_the_call_is_refused() {
    let stage = json!({"properties": {"stage": {"type": "string", "default": "Production"}}});
    let at = |property: Value| json!({"properties": {"opts": property}, "$defs": {"s": stage, "p": {"default": "Production"}}});
    let production = Ok("'Production'".to_owned());
    for (property, arguments, path) in [
        (stage.clone(), r#"{"opts":{}}"#, "args.opts.stage"),
        (
            json!({"$ref": "#/$defs/s"}),
            r#"{"opts":{}}"#,
            "args.opts.stage",
        ),
        (
            json!({"allOf": [{"$ref": "#/$defs/s"}], "default": {}}),
            "{}",
            "args.opts.stage",
        ),
        (
            json!({"properties": {"stage": {"default": "Production"}}, "default": {}}),
            "{}",
            "args.opts.stage",
        ),
        (
            json!({"anyOf": [stage, {"type": "null"}], "default": null}),
            r#"{"opts":{}}"#,
            "args.opts.stage",
        ),
        (
            json!({"oneOf": [{"type": "string"}, stage]}),
            r#"{"opts":{}}"#,
            "args.opts.stage",
        ),
        (
            json!({"items": stage}),
            r#"{"opts":[{"stage":"Staging"},{}]}"#,
            "args.opts[1].stage",
        ),
        (
            json!({"prefixItems": [stage]}),
            r#"{"opts":[{}]}"#,
            "args.opts[0].stage",
        ),
        (
            json!({"additionalProperties": stage}),
            r#"{"opts":{"k":{}}}"#,
            "args.opts.k.stage",
        ),
        (
            json!({"properties": {"stage": {"$ref": "#/$defs/p"}}}),
            r#"{"opts":{}}"#,
            "args.opts.stage",
        ),
        (
            json!({"if": {"required": ["k"]}, "then": {"properties": {"k": {}, "stage": {"default": "Production"}}}}),
            r#"{"opts":{"k":1}}"#,
            "args.opts.stage",
        ),
        (
            json!({"default": {"stage": "Production"}}),
            "{}",
            "args.opts.stage",
        ),
    ] {
        assert_eq!(
            read(&at(property.clone()), arguments, path),
            production,
            "{property}"
        );
    }
    // A default that leaves something out, which only some branch of the schema fills in, or which
    // is below an open key.
    for property in [
        json!({"anyOf": [stage, {"type": "null"}], "default": {}}),
        json!({"oneOf": [{"$ref": "#/$defs/s"}, {"type": "string"}], "default": {}}),
        json!({"if": {"required": ["k"]}, "then": stage, "default": {"k": 1}}),
        json!({"dependentSchemas": {"k": stage}, "default": {"k": 1}}),
        json!({"additionalProperties": stage, "default": {"k": {}}}),
        json!({"patternProperties": {"^k": stage}, "default": {"k": {}}}),
        json!({"properties": {"in": {"anyOf": [stage]}}, "default": {"in": {}}}),
    ] {
        let said = read(&at(property.clone()), "{}", "args.opts.stage");
        assert!(
            said.as_ref()
                .is_err_and(|said| said.contains("send the argument `opts`")),
            "{property}: {said:?}"
        );
    }
    let items = at(json!({"items": stage, "default": [{}]}));
    assert_eq!(read(&items, "{}", "args.opts[0].stage"), production);
    assert_eq!(
        read(
            &at(stage.clone()),
            r#"{"opts":{"stage":"Staging"}}"#,
            "args.opts.stage"
        ),
        Ok("'Staging'".to_owned())
    );
    assert_eq!(
        read(&at(stage.clone()), "{}", "args.opts"),
        Ok("absent".to_owned())
    );
    // Two objects without members are two objects.
    let two =
        json!({"properties": {"a": stage, "b": {"properties": {"stage": {"default": "Staging"}}}}});
    assert_eq!(
        read(&two, r#"{"a":{},"b":{}}"#, "args.b.stage"),
        Ok("'Staging'".to_owned())
    );
    assert_eq!(read(&two, r#"{"a":{},"b":{}}"#, "args.a.stage"), production);
    for (property, arguments) in [
        // Readings that differ.
        (
            json!({"anyOf": [stage, {"properties": {"stage": {"default": "Staging"}}}]}),
            r#"{"opts":{}}"#,
        ),
        (
            json!({"anyOf": [{"type": "string", "default": "Production"}, {"type": "null"}]}),
            "{}",
        ),
        (json!({"allOf": [{"default": "a"}, {"default": "b"}]}), "{}"),
        (
            json!({"allOf": [stage, {"properties": {"stage": {"default": "Staging"}}}]}),
            r#"{"opts":{}}"#,
        ),
        // A condition on what is filled in.
        (
            json!({"properties": {"mode": {"default": "x"}, "k": {}}, "if": {"properties": {"mode": {"const": "y"}}},
            "then": {"properties": {"stage": {}}}}),
            r#"{"opts":{}}"#,
        ),
        (
            json!({"properties": {"mode": {"default": "x"}}, "dependentSchemas": {"mode": stage}}),
            r#"{"opts":{}}"#,
        ),
        (json!({"prefixItems": [{"default": 1}]}), r#"{"opts":[]}"#),
    ] {
        let said = check(&at(property.clone()), arguments);
        assert!(
            said.as_ref().is_err_and(|text| text.contains("send")),
            "{property}: {said:?}"
        );
    }
}

#[test]
fn a_default_of_null_is_an_absent_argument_at_every_level() {
    let tags = json!({"anyOf": [{"type": "object", "additionalProperties": true}, {"type": "null"}], "default": null});
    let schema = json!({"properties": {"tags": tags, "o": {"properties": {"tags": tags}}}});
    let absent = Ok("absent".to_owned());
    for (arguments, path) in [
        ("{}", "args.tags"),
        (r#"{"tags":null}"#, "args.tags"),
        (r#"{"o":{}}"#, "args.o.tags"),
        (r#"{"o":{"tags":null}}"#, "args.o.tags"),
    ] {
        assert_eq!(read(&schema, arguments, path), absent, "{arguments}");
    }
    assert_eq!(
        read(&schema, r#"{"tags":{}}"#, "args.tags"),
        Ok("other".to_owned())
    );
    // Null is a value where it is not what an absent argument is.
    let other = json!({"properties": {"tags": {"type": ["object", "null"]}}});
    assert_eq!(
        read(&other, r#"{"tags":null}"#, "args.tags"),
        Ok("null".to_owned())
    );
}

#[test]
fn a_hostile_schema_is_refused_rather_than_followed() {
    let doubling = |encode: fn(usize) -> String| {
        let mut defs = serde_json::Map::new();
        defs.insert("d 0".into(), json!({"type": "string"}));
        for i in 1..40 {
            let reference = json!({"$ref": encode(i - 1)});
            defs.insert(format!("d {i}"), json!({"allOf": [reference, reference]}));
        }
        json!({"$defs": defs, "$ref": encode(39)})
    };
    for (schema, part) in [
        (json!(true), "not an object"),
        (json!({"$ref": "#"}), "itself"),
        (
            json!({"properties": {"a": {"$ref": "#/properties/a"}}}),
            "itself",
        ),
        (
            json!({"properties": {"a": {"$ref": "#/propertie%73/a"}}}),
            "itself",
        ),
        (
            json!({"properties": {"a": {"items": {"$ref": "#/properties/a"}}}}),
            "itself",
        ),
        (
            json!({"$ref": "https://evil.example/schema"}),
            "outside itself",
        ),
        (json!({"$ref": "#/$defs/none"}), "missing"),
        (
            json!({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}),
            "missing",
        ),
        (json!({"$ref": "#/%zz"}), "missing"),
        (
            json!({"properties": {"a": {"$id": "b", "properties": {"c": {}}}}}),
            "base",
        ),
        (
            json!({"properties": {"a": {"id": "b", "items": {"$ref": "#/$defs/x"}}}, "$defs": {"x": {}}}),
            "base",
        ),
        (
            json!({"properties": {"a": {"$dynamicRef": "#x"}}}),
            "not supported",
        ),
        (
            json!({"not": {"unevaluatedProperties": false}}),
            "not supported",
        ),
        (doubling(|i| format!("#/$defs/d {i}")), "nodes"),
        (doubling(|i| format!("#/$defs/d%20{i}")), "nodes"),
        (doubling(|i| format!("#/%24defs/d%20{i}")), "nodes"),
        (
            json!({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}),
            "cannot be compiled",
        ),
        (
            json!({"properties": {"a": {"pattern": "(?=x)"}}}),
            "cannot be compiled",
        ),
        (json!({"type": "objekt"}), "cannot be compiled"),
        (json!({"properties": {"a": 1}}), "cannot be used"),
        (
            json!({"properties": {"a": {}, "A": {}}}),
            "differ only in case",
        ),
    ] {
        let error = compile(&schema).map(drop).unwrap_err();
        assert!(error.contains(part), "{schema}: {error}");
    }
    // An `id` that is a property or says nothing about references.
    for schema in [
        json!({"properties": {"id": {"type": "string"}, "$id": {"type": "string"}}}),
        json!({"$id": "https://x.example/s", "properties": {"a": {"id": "Name", "type": "string"}}}),
    ] {
        compile(&schema).unwrap();
    }
}

#[test]
fn an_argument_that_no_rule_reads_may_have_a_schema_that_cannot_be_compiled() {
    let schema = json!({
        "type": "object",
        "properties": {
            "stage": {"type": "string", "default": "None"},
            "tree": {"$ref": "#/$defs/tree"},
            "text": {"type": "string", "pattern": "(?=x)x"},
            "other": {"$ref": "#/$defs/tree"},
        },
        "required": ["tree"],
        "$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}},
    });
    let read =
        |condition: &str| Schema::compile(&schema, &reads_of(condition), &mut Budget::default());
    for (condition, named) in [
        (
            "args.tree.left == null",
            "`tree`: its inputSchema refers to itself",
        ),
        (
            "args.stage == 'x' && args.text == 'x'",
            "`text`: its inputSchema cannot be compiled",
        ),
        ("size(args) > 1", "its inputSchema refers to itself"),
        ("args[tool.name] == 'x'", "its inputSchema refers to itself"),
    ] {
        let why = read(condition).map(drop).unwrap_err();
        assert!(why.contains(named), "{condition}: {why}");
    }
    let compiled = read("args.stage == 'Production'").unwrap();
    let reads = reads_of("args.stage == 'Production'");
    let exact = Exact {
        reads: &reads,
        forms: &[],
        known: &[],
    };
    let check = |arguments: &str| {
        let value = json::parse(arguments.as_bytes()).unwrap();
        let checked = compiled.check(&value, &Fuel::full(), exact);
        checked
            .map(|(fills, _)| fills.len())
            .map_err(|Misfit(text)| text)
    };
    // Whatever is in the argument that nothing reads; the default of the one that is read counts.
    for tree in ["1", "null", "\"null\"", "[]", "{\"left\": {\"Left\": 1}}"] {
        assert_eq!(
            check(&format!("{{\"tree\": {tree}, \"text\": \"no\"}}")),
            Ok(1)
        );
    }
    // Attack: what is read, under another name, as another kind, or through the other argument.
    for (arguments, says) in [
        (r#"{"tree": 1, "Stage": "Production"}"#, "Stage"),
        (r#"{"tree": 1, "stage": ["Production"]}"#, "stage"),
        (r#"{"tree": 1, "stage2": "Production"}"#, "stage2"),
        (r#"{"Tree": {"stage": "Production"}}"#, "ree"),
        (r#"{"stage": "None"}"#, "tree"),
    ] {
        let why = check(arguments).unwrap_err();
        assert!(why.contains(says), "{arguments}: {why}");
    }
}

#[test]
fn the_schemas_of_a_listing_share_what_patterns_and_nodes_they_may_have() {
    let mut budget = Budget::default();
    let heavy = |i: usize| json!({"properties": {"a": {"pattern": format!("^[a-z]{{{i}}}\\p{{L}}{{3}}$")}}});
    let failed = (1..200).find(|i| compile_within(&heavy(*i), &mut budget).is_err());
    let first = failed.expect("an end");
    assert!((5..150).contains(&first), "{first}");
    assert!(compile_within(&json!({"properties": {"a": {}}}), &mut budget).is_ok());
    let wide: Value = (0..5_000)
        .map(|i| (format!("p{i}"), json!({})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut budget = Budget::default();
    let failed =
        (0..100).find(|_| compile_within(&json!({"properties": wide}), &mut budget).is_err());
    assert_eq!(failed, Some(39));
}

#[test]
fn holding_arguments_against_a_schema_takes_from_the_budget_of_the_call() {
    let list = |n: usize| {
        format!(
            r#"{{"x":[{}]}}"#,
            (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
        )
    };
    let unique = json!({"properties": {"x": {"uniqueItems": true}}});
    assert_eq!(check(&unique, &list(1_000)), Ok(()));
    let patterns = json!({"properties": {"x": {"items": {"pattern": "^([ab]{1,40}c?){1,20}$"}}}});
    let branches: Vec<_> = (0..500)
        .map(|i| json!({"contains": {"const": format!("k{i}")}}))
        .collect();
    let texts = format!(
        r#"{{"x":[{}]}}"#,
        vec![format!("\"{}\"", "ab".repeat(500)); 2_000].join(",")
    );
    for (schema, arguments) in [
        (unique, list(50_000)),
        (patterns, texts),
        (
            json!({"properties": {"x": {"anyOf": branches}}}),
            list(50_000),
        ),
    ] {
        let said = check(&schema, &arguments);
        assert!(
            said.as_ref()
                .is_err_and(|text| text.contains("too much work")),
            "{said:?}"
        );
    }
}

/// Schemas of the keywords that usual servers use.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
        prop::sample::select(vec![
            "null", "boolean", "integer", "number", "string", "array", "object"
        ])
        .prop_map(|kind| json!({"type": kind})),
        Just(json!({"type": ["string", "null"]})),
        (0_i64..4, 0_i64..4).prop_map(|(a, b)| json!({"minimum": a, "exclusiveMaximum": a + b})),
        (1_u64..3).prop_map(|n| json!({"multipleOf": n})),
        (0_u64..3).prop_map(|n| json!({"minLength": n, "maxLength": n + 1})),
        Just(json!({"pattern": "^[ab]\\d?$"})),
        Just(json!({"enum": [1, "a", null, [1.0], {"a": 2}]})),
        Just(json!({"const": {"a": 1}})),
        Just(json!({"required": ["a"]})),
        Just(json!({"uniqueItems": true, "maxItems": 2})),
        Just(json!({"minProperties": 1, "maxProperties": 2})),
        Just(json!({"dependentRequired": {"a": ["b"]}})),
        Just(json!({"$ref": "#/$defs/r"})),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let two = prop::collection::vec(inner.clone(), 1..3);
        let key = prop::sample::select(vec!["allOf", "anyOf", "oneOf", "prefixItems"]);
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"properties": {"a": a, "b": b}})),
            2 => (key, two).prop_map(|(key, list)| json!({key: list})),
            1 => inner.clone().prop_map(|a| json!({"items": a})),
            1 => inner.clone().prop_map(|a| json!({"contains": a})),
            1 => inner.clone().prop_map(|a| json!({"not": a})),
            1 => inner.clone().prop_map(|a| json!({"propertyNames": a})),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"properties": {"a": a}, "additionalProperties": b})),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"patternProperties": {"^a": a}, "additionalProperties": b})),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| json!({"if": a, "then": b, "else": c})),
            1 => inner.prop_map(|a| json!({"dependentSchemas": {"a": a}})),
        ]
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..5).prop_map(Value::from),
        Just(json!(1.0)),
        Just(json!(1.5)),
        prop::sample::select(vec!["", "a", "b1", "null", "\u{ff17}"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                prop::sample::select(vec!["a", "b", "ab", "c"]),
                inner,
                0..3
            )
            .prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// What is valid is what another implementation finds valid; and no schema and value panics.
    #[test]
    fn validity_is_that_of_another_implementation(schema in schemas(), r in prop_oneof![Just(json!({"type": "string"})), Just(json!({"properties": {"a": {}}}))],
                                                  value in values()) {
        let mut whole = json!({"allOf": [schema]});
        whole["$defs"] = json!({"r": r});
        let oracle = jsonschema::options().build(&whole).unwrap();
        let schema = compile(&whole).unwrap();
        let text = value.to_string();
        let parsed = json::parse(text.as_bytes()).unwrap();
        let fuel = Fuel::full();
        let run = validate::Run { schema: &schema, fuel: &fuel, quiet: false };
        let ours = run.validate(schema.root, &parsed, &Path::ROOT).is_ok();
        prop_assert_eq!(ours, oracle.is_valid(&value), "{} {}", whole, text);
        // What the survey adds only refuses.
        if schema.check(&parsed, &fuel, unread()).is_ok() {
            prop_assert!(ours);
        }
    }
}

/// The arguments that are not in their one spelling, where rules read the argument `x`.
fn off(property: &Value, value: &str) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"x": property, "y": property}, "$defs": {
        "id": {"type": "string", "format": "uuid"}}});
    let schema = compile(&schema).unwrap();
    let arguments = format!(r#"{{"x":{value},"y":{value}}}"#);
    let value = json::parse(arguments.as_bytes()).unwrap();
    let condition = crate::policy::check::Condition::compile("has(args.x)").unwrap();
    let exact = Exact {
        reads: condition.reads(),
        forms: &[],
        known: &[],
    };
    let (_, off) = schema.check(&value, &Fuel::full(), exact).unwrap();
    off.into_iter()
        .map(|off| {
            assert_eq!(off.name, "x");
            off.misfit.0
        })
        .collect()
}

#[test]
fn text_with_a_format_is_read_in_one_spelling_wherever_it_is() {
    let good = "\"12345678-1234-4234-8234-123456789abc\"";
    let bad = "\"12345678-1234-4234-8234-123456789ABC\"";
    let id = json!({"type": "string", "format": "uuid"});
    let of = |schema: Value, shape: &str| (schema, shape.to_owned());
    for (schema, shape) in [
        of(id.clone(), "@"),
        of(json!({"$ref": "#/$defs/id"}), "@"),
        of(
            json!({"allOf": [{"$ref": "#/$defs/id"}, {"minLength": 1}]}),
            "@",
        ),
        of(
            json!({"anyOf": [id, {"type": "null"}], "default": null}),
            "@",
        ),
        of(json!({"anyOf": [{"type": "string"}, id]}), "@"),
        of(
            json!({"oneOf": [{"$ref": "#/$defs/id"}, {"type": "array"}]}),
            "@",
        ),
        of(
            json!({"if": {"minLength": 1}, "then": {"$ref": "#/$defs/id"}}),
            "@",
        ),
        of(json!({"format": "uuid"}), "@"),
        of(
            json!({"type": ["string", "integer"], "format": "uuid"}),
            "@",
        ),
        of(json!({"type": "array", "items": id}), "[@]"),
        of(
            json!({"type": "array", "prefixItems": [{"type": "integer"}, id]}),
            "[1,@]",
        ),
        of(
            json!({"type": "object", "additionalProperties": id}),
            r#"{"k":@}"#,
        ),
        of(
            json!({"type": "object", "patternProperties": {"k": id}}),
            r#"{"k":@}"#,
        ),
        of(
            json!({"type": "object", "properties": {"id": {"$ref": "#/$defs/id"}}}),
            r#"{"id":@}"#,
        ),
        of(
            json!({"anyOf": [{"type": "object", "properties": {"a": {"type": "array", "items": id}}}, {"type": "null"}]}),
            r#"{"a":[@]}"#,
        ),
        of(
            json!({"type": "object", "propertyNames": {"format": "uuid"}, "additionalProperties": {"type": "integer"}}),
            r#"{@:1}"#,
        ),
    ] {
        assert_eq!(off(&schema, &shape.replace('@', good)), [""; 0], "{schema}");
        let said = off(&schema, &shape.replace('@', bad));
        assert!(
            said.len() == 1
                && said[0].contains("write a UUID in lower case")
                && said[0].contains('x'),
            "{schema}: {said:?}"
        );
    }
    // What is not a UUID to anybody is the text that it is, where plain text may be sent.
    let either = json!({"anyOf": [{"type": "string"}, {"type": "string", "format": "uuid"}]});
    assert_eq!(off(&either, "\"latest\""), [""; 0]);
    assert_eq!(
        off(&either, "\"{12345678123442348234123456789abc}\"").len(),
        1
    );
    let addresses = json!({"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]});
    assert_eq!(off(&addresses, "\"10.0.0.1\""), [""; 0]);
    assert_eq!(off(&addresses, "\"fd00::1\""), [""; 0]);
    assert_eq!(off(&addresses, "\"FD00::1\"").len(), 1);
    assert_eq!(
        off(&json!({"type": "integer", "format": "odd"}), "7"),
        [""; 0]
    );
}

#[test]
fn keys_of_maps_that_a_server_may_convert_are_read_in_one_spelling() {
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let listed = json!({"type": "object", "properties": {"07": {"type": "string"}, "yes": {"type": "string"}}});
    for key in [
        "7",
        "0",
        "-7",
        "7.5",
        "stage",
        "mlflow.user",
        "",
        "07x",
        "v1.0",
        "2026-01-01",
    ] {
        let expected = usize::from(key.is_empty());
        assert_eq!(
            off(&map, &format!("{{{key:?}:\"\"}}")).len(),
            expected,
            "{key}"
        );
    }
    for key in [
        "07",
        " 7",
        "7.0",
        "7 ",
        "+7",
        "-0",
        "0_7",
        "７",
        "7e0",
        "0x7",
        "NaN",
        "inf",
        "true",
        "Yes",
        "on",
        "t",
        "9007199254740993",
    ] {
        let said = off(&map, &format!("{{{key:?}:\"\"}}"));
        assert!(
            said.len() == 1 && said[0].contains("the key"),
            "{key}: {said:?}"
        );
        for other in [
            json!({"type": "object"}),
            json!({"type": "object", "patternProperties": {"": {"type": "string"}}}),
            json!({"type": "object", "propertyNames": {"minLength": 1}}),
            json!({"anyOf": [map, {"type": "null"}]}),
        ] {
            assert_eq!(
                off(&other, &format!("{{{key:?}:\"\"}}")).len(),
                1,
                "{other} {key}"
            );
        }
        let nested = json!({"type": "array", "items": map});
        assert_eq!(
            off(&nested, &format!("[{{{key:?}:\"\"}}]")).len(),
            1,
            "{key}"
        );
        // What may be anything is left as it is.
        assert_eq!(
            off(&json!({}), &format!("{{{key:?}:\"\"}}")),
            [""; 0],
            "{key}"
        );
    }
    assert_eq!(off(&listed, r#"{"07":"","yes":""}"#), [""; 0]);
}
