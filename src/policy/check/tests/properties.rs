//! The same answers as another implementation, and no panic for any text.

use super::*;

use proptest::prelude::*;

/// Expressions over the common subset, in which both implementations have the same values.
fn common() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-5_i64..6).prop_map(|n| n.to_string()),
        (0_i64..4).prop_map(|n| format!("{n}.5")),
        prop_oneof![
            Just("true"),
            Just("false"),
            Just("'a'"),
            Just("'b'"),
            Just("null")
        ]
        .prop_map(str::to_owned),
        prop_oneof![
            Just("args.n"),
            Just("args.s"),
            Just("args.l"),
            Just("args.b"),
            Just("args.missing"),
            Just("args.l[0]")
        ]
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators = prop_oneof![
            Just("&&"), Just("||"), Just("=="), Just("!="), Just("<"), Just("<="), Just(">"), Just("+"), Just("-"), Just("*"),
            Just("/"), Just("%"), Just("in"),
        ];
        prop_oneof![
            4 => (inner.clone(), operators, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => inner.clone().prop_map(|a| format!("args.l.all(x, x == {a})")),
            1 => inner.clone().prop_map(|a| format!("args.l.exists(x, x == {a})")),
            1 => Just("has(args.n)".to_owned()),
            1 => inner.prop_map(|a| format!("size({a}) > 1")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whenever this engine gives an answer, the `cel` crate gives the same one: strictness may
    /// turn answers into errors, never into other answers. (Where that crate calls unlike kinds
    /// unequal, this one has an error.)
    #[test]
    fn answers_are_those_of_another_implementation(source in common()) {
        let ours = holds(&source, r#"{"n":3,"s":"a","l":[1,3],"b":true}"#);
        let Ok(ours) = ours else { return Ok(()) };
        let program = cel::Program::compile(&source).unwrap();
        let mut context = cel::Context::default();
        let args: std::collections::HashMap<String, cel::Value> = [
            ("n".to_owned(), cel::Value::Int(3)),
            ("s".to_owned(), cel::Value::String(std::sync::Arc::new("a".into()))),
            ("l".to_owned(), cel::Value::List(std::sync::Arc::new(vec![cel::Value::Int(1), cel::Value::Int(3)]))),
            ("b".to_owned(), cel::Value::Bool(true)),
        ]
        .into();
        context.add_variable_from_value("args", args);
        match program.execute(&context) {
            Ok(cel::Value::Bool(theirs)) => prop_assert_eq!(ours, theirs, "{}", source),
            other => prop_assert!(false, "{} is {} here and {:?} there", source, ours, other),
        }
    }

    #[test]
    fn no_text_panics(source in "\\PC{0,60}|[a-z.()\\[\\]{}!&|?:'\"0-9 +*/=<>,-]{0,80}") {
        if let Ok(condition) = Condition::compile(&source) {
            let _ = with_env(r#"{"n":3}"#, |env| condition.holds(env));
        }
        let _ = Condition::compile(&source).map_err(|fault| fault.position(&source));
    }
}
