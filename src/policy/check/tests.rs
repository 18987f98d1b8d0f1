//! Conditions are exercised through their text, as policies write them.

mod properties;

use super::*;
use crate::json;
use crate::policy::decision::{Caller, CallerKind};

const NOW: &str = "2026-11-21T08:30:15.250Z";

fn caller() -> Caller {
    let claims = serde_json::json!({"team": "ml", "level": 3, "tags": ["a", "b"]});
    Caller {
        grant: "serviceaccount:ml/trainer".into(),
        kind: CallerKind::ServiceAccount,
        groups: vec!["trainers".into(), "all".into()],
        claims: claims.as_object().unwrap().clone(),
    }
}

fn with_env<T>(arguments: &str, use_env: impl FnOnce(&Env<'_>) -> T) -> T {
    let value = json::parse(arguments.as_bytes()).unwrap();
    let caller = caller();
    let limit = serde_json::json!(10);
    let fills: Vec<_> = value
        .get("limit")
        .is_none()
        .then(|| Fill::absent(&value, "limit", &limit))
        .into_iter()
        .collect();
    use_env(&Env {
        args: Args::new(&value, &fills),
        fuel: &Fuel::full(),
        tool: "set_model_alias",
        risk: "Write",
        severity: "High",
        caller: &caller,
        session: "s1",
        now: NOW.parse().unwrap(),
    })
}

fn holds(source: &str, arguments: &str) -> Result<bool, String> {
    let condition =
        Condition::compile(source).map_err(|fault| format!("compile: {}", fault.message))?;
    with_env(arguments, |env| {
        condition.holds(env).map_err(|error| error.to_string())
    })
}

fn refused(source: &str) -> (u32, u32, String) {
    let fault = Condition::compile(source).map(|_| ()).expect_err(source);
    let position = fault.position(source);
    (position.line, position.column, fault.message)
}

#[test]
fn conditions_that_hold() {
    let arguments = r#"{"name":"churn","version":"7","n":7,"big":18446744073709551615,"f":1.5,"deep":{"a":[1,{"b":null}]},
                        "tags":["x","y"],"flag":true,"none":null,"stage":"PRODUCTION","when":"2026-11-21T08:00:00Z"}"#;
    for source in [
        "true",
        "args.name == 'churn'",
        "args.n == 7 && args.n == 7.0 && args.n == 7u && args.n != 8",
        "args.n in [1, 7.0]",
        "args.big == 18446744073709551615u && args.big > 9223372036854775807",
        "9007199254740993 != 9007199254740992.0",
        "args.f * 2.0 == 3.0",
        "args.none == null && args.name != null",
        "has(args.name) && !has(args.missing)",
        "has(args.limit) && args.limit == 10",
        "!has(sent.limit) && !('limit' in sent) && has(sent.name) && sent.name == args.name && size(sent) == 11",
        "type(args.name) == string && type(args.n) == int && type(args.big) == uint && type(args.f) == double",
        "type(args.tags) == list && type(args.deep) == map && type(args.flag) == bool && type(args.none) == null_type",
        "type(args.n) != string && type(args.n) in [int, uint, double] && !(type(args.name) in [int, list])",
        "type(args.name) == map && has(args.name.x) || true",
        "!(type(args.name) == map && has(args.name.x))",
        "args.tags.all(t, type(t) == string)",
        "size(args) == 12 && size(args.tags) == 2 && args.name.size() == 5",
        "args.deep.a[1].b == null && args['deep']['a'][0] == 1",
        "'x' in args.tags && !('z' in args.tags) && 'name' in args",
        "args.tags == ['x', 'y'] && args.tags != ['x'] && args.tags + ['z'] == ['x', 'y', 'z']",
        "args.deep == {'a': [1, {'b': null}]}",
        "args.tags.all(t, t in ['x', 'y', 'z']) && args.tags.exists(t, t == 'y')",
        "args.tags.exists_one(t, t == 'x') && args.tags.filter(t, t != 'x') == ['y']",
        "args.deep.all(k, k == 'a')",
        "args.tags.filter(t, t != 'x').all(u, u == 'y')",
        "args.stage.lowerAscii() == 'production' && 'aß'.upperAscii() == 'Aß'",
        "args.name.startsWith('ch') && args.name.endsWith('rn') && args.name.contains('hu')",
        "args.name.matches('^ch.*$') && matches(args.name, 'u') && !args.name.matches('^x')",
        "int(args.version) == 7 && uint('7') == 7u && double('1.5') == args.f && string(7) == '7' && int(1.9) == 1",
        "args.flag ? args.n > 1 : false",
        "-args.n == -7 && --7 == 7 && 7 / 2 == 3 && -7 % 3 == -1 && !!true",
        "-9223372036854775808 < 0",
        "tool.name == 'set_model_alias' && tool.risk == 'Write' && tool.severity == 'High'",
        "caller.kind == 'serviceaccount' && 'trainers' in caller.groups && caller.claims.level == 3",
        "caller.claims.tags.exists(t, t == 'b') && caller.grant.startsWith('serviceaccount:ml/')",
        "session.id == 's1'",
        "now.getHours() == 8 && now.getHours('+02:00') == 10 && now.getDayOfWeek() == 6 && now.getMonth() == 10",
        "now.getHours('Europe/Berlin') == 9 && now.getHours('America/New_York') == 3 && now.getMinutes('Asia/Kolkata') == 0",
        // Both changes of the clock in Berlin: 2026-03-29 and 2026-10-25, at 01:00 UTC.
        "timestamp('2026-03-29T00:59:59Z').getHours('Europe/Berlin') == 1 && timestamp('2026-03-29T01:00:00Z').getHours('Europe/Berlin') == 3",
        "timestamp('2026-10-25T00:59:59Z').getHours('Europe/Berlin') == 2 && timestamp('2026-10-25T01:00:00Z').getHours('Europe/Berlin') == 2",
        "timestamp('2026-10-25T02:00:00Z').getHours('Europe/Berlin') == 3 && timestamp('2026-10-24T22:30:00Z').getDate('Europe/Berlin') == 25",
        "now.getFullYear() == 2026 && now.getDate() == 21 && now.getDayOfMonth() == 20 && now.getDayOfYear() == 324",
        "now.getMinutes() == 30 && now.getSeconds() == 15 && now.getMilliseconds() == 250",
        "now - timestamp(args.when) > duration('30m') && now - duration('1h') < timestamp('2026-11-21T07:31:00Z')",
        "timestamp('2026-11-21T08:30:15.250Z') == now && duration('90s') == duration('1m30s')",
        r"'\u0061\x62\143\n' == 'abc' + '\n' && r'\d' == '\\d' && '''a'b''' == 'a\'b' && 'a' < 'b'",
        "// a remark\n true // and another",
        "[1, 2][1] == 2 && {'k': 1}.k == 1 && [] == []",
        "0x10 == 16 && 1e3 == 1000 && .5 == 0.5",
    ] {
        assert_eq!(holds(source, arguments), Ok(true), "{source}");
    }
}

#[test]
fn comparing_different_kinds_is_an_error_and_not_false() {
    let arguments =
        r#"{"version":"7","n":7,"flag":"true","list":["7"],"huge":123456789012345678901234567890}"#;
    for source in [
        "args.version == 7",
        "args.version != 7",
        "7 in args.list",
        "args.n in ['7']",
        "args.flag == true",
        "args.list == [7]",
        "{'v': args.version, 'n': 7} == {'v': 7, 'n': args.n}",
        "args.version > 6",
        "args.n + args.version == 1",
        "args.n + 1u == 8u",
        "args.huge == 1",
        "args.huge > 0.0",
        "args.missing == 1",
        "args.n.x == 1",
        "args.list[1] == '8'",
        "args.list['a'] == '8'",
        "has(args.n.x)",
        "args.flag ? true : false",
        "args.n / 0 == 1",
        "9223372036854775807 + args.n > 0",
        "1.0 / (double(args.n) - 7.0) > 0.0",
        "args.version.size() > 0 && int(args.flag) == 1",
        "args.n",
        "now - args.n == now",
    ] {
        let result = holds(source, arguments);
        assert!(
            result
                .as_ref()
                .is_err_and(|error| !error.starts_with("compile")),
            "{source}: {result:?}"
        );
    }
    assert_eq!(
        holds("args.version == 7", arguments),
        Err("a string cannot be compared with an integer".into())
    );
    assert_eq!(
        holds("args.missing == 1", arguments),
        Err("there is no `missing`".into())
    );
}

#[test]
fn a_deciding_term_decides_wherever_it_stands_and_an_error_is_never_swallowed_otherwise() {
    let error = "args.missing == 1";
    for (source, expected) in [
        (format!("{error} && false"), Some(false)),
        (format!("false && {error}"), Some(false)),
        (format!("{error} || true"), Some(true)),
        (format!("true || {error}"), Some(true)),
        (format!("{error} && true"), None),
        (format!("{error} || false"), None),
        (format!("!({error}) || {error}"), None),
        (format!("true && true && {error}"), None),
        (
            "[1, 2].exists(x, x == args.missing || x == 2)".to_owned(),
            Some(true),
        ),
        ("[1, 2].exists(x, x == args.missing)".to_owned(), None),
        (
            "[1, 2].all(x, x == args.missing && x == 2)".to_owned(),
            Some(false),
        ),
        ("[1, 2].all(x, x == args.missing && x > 0)".to_owned(), None),
        (
            "[1, 2].exists_one(x, x == args.missing || x == 2)".to_owned(),
            None,
        ),
    ] {
        assert_eq!(holds(&source, "{}").ok(), expected, "{source}");
    }
}

#[test]
fn an_expression_that_cannot_be_right_is_refused_with_its_place() {
    for (source, line, column, part) in [
        ("", 1, 1, "ends too early"),
        ("arg.name == 'x'", 1, 1, "no variable `arg`"),
        ("type(args.x)", 1, 1, "write type(x) == string"),
        ("type(args.x) == 'string'", 1, 17, "write type(x) == string"),
        ("type(args.x) == text", 1, 17, "`text` is not a type"),
        ("type(args.x) < int", 1, 1, "write type(x) == string"),
        ("type(args.x) in int", 1, 17, "write type(x) == string"),
        ("type(args.x, 1) == int", 1, 1, "write type(x) == string"),
        (
            "true &&\n  tool.rsk == 'Read'",
            2,
            3,
            "no variable `tool.rsk`",
        ),
        ("caller == 'x'", 1, 1, "is not a value"),
        ("args.name", 1, 5, ""),
        ("args.name.lower() == 'x'", 1, 10, "lowerAscii"),
        ("args.n = 1", 1, 8, "`==`"),
        ("size(args.n)", 1, 1, "gives an integer"),
        ("'a'", 1, 1, "gives a string"),
        (
            "tool.risk == 1",
            1,
            11,
            "cannot stand between a string and an integer",
        ),
        ("tool.risk in ['Read', 2]", 1, 11, "cannot stand"),
        ("'a' in tool.name", 1, 5, "x.contains("),
        ("args.name.matches(args.pattern)", 1, 23, "literal"),
        ("args.name.matches('(a')", 1, 19, "has no closing `)`"),
        (
            "args.name.matches('(a{1000}){1000}')",
            1,
            19,
            "more than 128 KiB",
        ),
        ("args.a.all(x, x.all(y, y))", 1, 16, "inside another"),
        ("args.a.all(args, true)", 1, 7, "is taken"),
        ("args.a.all(x.y, true)", 1, 7, "written list.all"),
        ("args.a.map(x, x)", 1, 7, "`map` is not supported"),
        ("has(args)", 1, 1, "has(args.name)"),
        ("has(tool.name)", 1, 1, "always there"),
        ("b'x' == b'x'", 1, 1, "bytes"),
        ("args.`a b` == 1", 1, 6, "escaped identifiers"),
        ("Foo{a: 1} == 1", 1, 4, "before `{`"),
        ("args.?a == 1", 1, 5, "optional"),
        ("'abc", 1, 1, "no closing quote"),
        (r"'\q' == 'q'", 1, 2, "unknown escape"),
        ("12345678901234567890123 == 1", 1, 1, "too large"),
        ("1 +", 1, 4, "ends too early"),
        ("(true", 1, 6, "write `)`"),
        ("true true", 1, 6, "does not fit here"),
        ("now.getHours('Europe/Bern') == 1", 1, 14, "is not known"),
        ("now.getHours('Etc/Unknown') == 1", 1, 14, "is not known"),
        ("now.getHours(args.zone) == 1", 1, 4, "Europe/Berlin"),
        ("now > timestamp('yesterday')", 1, 17, "RFC 3339"),
        (
            "now - timestamp('2026-01-01T00:00:00Z') > duration('2 days')",
            1,
            52,
            "duration",
        ),
        ("{'a': 1, 'a': 2} == args.x", 1, 10, "there twice"),
        ("{args.k: 1} == args.x", 1, 6, "text in quotes"),
        ("if == 1", 1, 1, "reserves"),
        ("-args.name && true", 1, 1, ""),
        ("!tool.name", 1, 6, "needs a condition"),
        ("null < 1", 1, 6, "null is neither larger"),
    ] {
        if part.is_empty() {
            continue;
        }
        let (found_line, found_column, message) = refused(source);
        assert_eq!(
            (found_line, found_column),
            (line, column),
            "{source}: {message}"
        );
        assert!(message.contains(part), "{source}: {message}");
    }
}

#[test]
fn whether_arguments_are_read_is_known_before_any_call() {
    for (source, reads) in [
        ("args.a == 1", true),
        ("caller.kind == 'key' || size(args) > 0", true),
        ("caller.kind == 'key' && now.getHours() > 8", false),
        ("has(args.a)", true),
    ] {
        assert_eq!(
            Condition::compile(source).unwrap().reads_args(),
            reads,
            "{source}"
        );
    }
}

#[test]
fn a_cost_is_a_count_or_an_error() {
    let units = |source: &str, arguments: &str| {
        let cost = Cost::compile(source).map_err(|fault| fault.message)?;
        with_env(arguments, |env| {
            cost.units(env).map_err(|error| error.to_string())
        })
    };
    assert_eq!(units("size(args.ids)", r#"{"ids":[1,2,3]}"#), Ok(3));
    assert_eq!(units("args.n", r#"{"n":5}"#), Ok(5));
    assert_eq!(units("has(args.n) ? args.n : 1", "{}"), Ok(1));
    assert_eq!(
        units("args.n", r#"{"n":-5}"#),
        Err("the cost is negative".into())
    );
    assert_eq!(
        units("args.n", r#"{"n":5.0}"#),
        Err("the cost is a double, not an integer".into())
    );
    assert!(
        units("args.n > 1", "{}")
            .unwrap_err()
            .contains("must give a whole number")
    );
    assert!(
        units("1.5", "{}")
            .unwrap_err()
            .contains("must give a whole number")
    );
}

#[test]
fn hostile_expressions_are_refused_and_never_overflow_the_stack() {
    let fill = |unit: &str| unit.repeat(4_096 / unit.len());
    let mut sources: Vec<String> = [
        "(", "!", "-", "[", "a?b:", "1+", "{", ".a.a.a", "{'a':", "args[", "f(", "true?", "true||",
        "a.all(x,", "'", "\"\"\"", "- -", "!(", "x.y(",
    ]
    .iter()
    .map(|unit| fill(unit))
    .collect();
    sources.push(format!("{}1", "1+".repeat(2_000)));
    sources.push(format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000)));
    sources.push(format!("args{} == 1", ".a".repeat(2_000)));
    sources.push(format!("args{} == 1", "[0]".repeat(1_300)));
    sources.push(format!("{}true", "true?true:".repeat(400)));
    sources.push("x".repeat(4_097));
    // The stack of an ordinary thread is enough even without optimization.
    let worker = std::thread::Builder::new()
        .stack_size(1536 * 1024)
        .spawn(move || {
            for source in sources {
                assert!(
                    Condition::compile(&source).is_err(),
                    "{}",
                    &source[..20.min(source.len())]
                );
            }
            let wide = vec!["args.a == 1"; 250].join(" || ");
            assert!(Condition::compile(&wide).is_ok());
            let deep = format!("{}true{}", "(".repeat(60), ")".repeat(60));
            assert!(Condition::compile(&deep).is_ok());
            let nested = format!("{}1{} == args.a", "[".repeat(60), "]".repeat(60));
            assert_eq!(holds(&nested, r#"{"a":[]}"#), Ok(false));
        })
        .unwrap();
    worker.join().unwrap();
}

#[test]
fn work_is_bounded_whatever_the_arguments() {
    let list = |count: usize, item: &str| format!("[{}]", vec![item; count].join(","));
    let long = "x".repeat(70_000);
    let arguments = format!(
        r#"{{"many":{},"thousand":{},"other":{},"long":"{long}"}}"#,
        list(1_001, "1"),
        list(1_000, "1"),
        list(100_000, "2")
    );
    for (source, part) in [
        ("args.many.all(x, x == 1)", "more than 1000"),
        ("args.long.matches('x')", "64 KiB"),
        ("args.thousand.exists(x, x in args.other)", "too much work"),
        ("args.thousand.all(x, !(x in args.other))", "too much work"),
        (
            "args.thousand.exists(x, x in args.other) || true",
            "too much work",
        ),
        (
            "args.thousand.exists(x, args.long.contains('y'))",
            "too much work",
        ),
    ] {
        let error = holds(source, &arguments).unwrap_err();
        assert!(error.contains(part), "{source}: {error}");
    }
    assert_eq!(holds("args.thousand.all(x, x == 1)", &arguments), Ok(true));
}
