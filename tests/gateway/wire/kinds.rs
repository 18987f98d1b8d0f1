//! What a rule reads is what the server reads: real servers of the Python SDK say what an argument
//! became after their own reading, for every kind of parameter and many values that look harmless.

use serde_json::{Value, json};

use crate::support::installed;
use crate::support::rig::{Held, Rig};

/// Values that some reader of arguments turns into another one.
fn values() -> Vec<Value> {
    let texts = [
        "",
        " ",
        "x",
        "null",
        " null",
        "null\n",
        "NULL",
        "None",
        "nil",
        "~",
        "true",
        "True",
        "false",
        "yes",
        "on",
        "off",
        "t",
        "y",
        "0",
        "1",
        "7",
        "07",
        " 7",
        "7 ",
        "+7",
        "-0",
        "7.0",
        "7.",
        ".5",
        "1e3",
        "1_000",
        "0x7",
        "٧",
        "７",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "[]",
        "[1]",
        "[\"x\"]",
        " [\"x\"]",
        "{}",
        "{\"stage\":\"Production\"}",
        "{\"stage\": null}",
        "\"x\"",
        "\"null\"",
        "'x'",
        "\u{feff}null",
        "\u{a0}null",
        "\u{2028}7",
        "\"\\ud800\"",
        "Staging",
        "Production",
        "staging",
        "Production ",
        "9223372036854775808",
        "1e400",
        "{\"a\":\"b\"}",
        "[[]]",
        "[null]",
        "nul",
        "[1",
        "x, y",
        "12345678-1234-4234-8234-123456789abc",
        "12345678-1234-4234-8234-123456789ABC",
        "12345678123442348234123456789abc",
        "urn:uuid:12345678-1234-4234-8234-123456789abc",
        "{12345678-1234-4234-8234-123456789abc}",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.5Z",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T01:00:00+01:00",
        "2026-01-01 00:00",
        "1767225600",
        "00:00",
        "00:00:00",
        "00:00:00Z",
        "00:00:00.0",
        "P1D",
        "PT24H",
        "P1DT0S",
        "P1W",
        "P1M",
        "PT1.5S",
        "1 day",
        "24:00:00",
        "1 days, 0:00:00",
        "HTTP://a.example/x",
        "http://a.example/x",
        "http://A.example",
        "http://a.example:80/x",
        "http://0x7f.1/x",
        " http://a.example/x",
        "http://a.example/x\t",
        "ht\ntp://a.example/x",
        "http://a.example/./x",
        "/etc/x",
        "//etc/x",
        "/./etc/x",
        "/etc//x",
        "/etc/x/",
        "./x",
        "10.0.0.1",
        "010.0.0.1",
        "167772161",
        "fd00::1",
        "FD00::1",
        "fd00:0::1",
        "::ffff:1.2.3.4",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "10.0.0.0/255.0.0.0",
        "fd00::/8",
        "FD00::/8",
        "aGk=",
        "aGl=",
        "aG k=",
        "aGk",
        "_-8=",
        "1.50",
        "1.5",
    ];
    let others = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0",
        "1",
        "7",
        "7.0",
        "7.5",
        "7e0",
        "1e3",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e22",
        "[]",
        "[null]",
        "[\"x\"]",
        "[\"null\"]",
        "[\"7\"]",
        "[7]",
        "[7.0]",
        "[true]",
        "[[]]",
        "[{}]",
        "{}",
        "{\"a\":\"b\"}",
        "{\"a\":null}",
        "{\"a\":7}",
        "{\"a\":\"null\"}",
        "{\"stage\":null}",
        "{\"stage\":\"null\"}",
        "{\"stage\":\"Production\"}",
        "{\"stage\":7}",
        "{\"Stage\":\"Production\"}",
        "{\"stageName\":\"Production\"}",
        "{\"stageName\":\"null\"}",
        "{\"stageName\":\"a\",\"stage\":\"b\"}",
        "{\"stage_name\":\"b\"}",
        "{\"count\":7}",
        "{\"count\":7.0}",
        "{\"count\":\"7\"}",
        "{\"count\":\" 7\"}",
        "{\"count\":true}",
        "{\"count\":null}",
        "{\"stage\":\"x\",\"other\":1}",
        "{\"7\":\"x\"}",
        "{\"07\":\"x\"}",
        "{\" 7\":\"x\"}",
        "{\"7.0\":\"x\"}",
        "{\"+7\":\"x\"}",
        "{\"7.5\":\"x\"}",
        "{\"7.50\":\"x\"}",
        "{\"1\":\"x\"}",
        "{\"true\":\"x\"}",
        "{\"Yes\":\"x\"}",
        "{\"stage\":\"x\"}",
        "{\"12345678-1234-4234-8234-123456789abc\":\"x\"}",
        "{\"12345678-1234-4234-8234-123456789ABC\":\"x\"}",
        "[\"12345678-1234-4234-8234-123456789abc\"]",
        "[\"12345678-1234-4234-8234-123456789ABC\"]",
        "[{\"stage\":\"x\"}]",
        "[{\"count\":\"7\"}]",
        "[\"{\\\"stage\\\":\\\"x\\\"}\"]",
    ];
    let texts = texts.into_iter().map(Value::from);
    let others = others
        .into_iter()
        .map(|text| serde_json::from_str(text).unwrap());
    texts.chain(others).collect()
}

/// Equal to a rule: numbers by value, as CEL compares them.
fn same(sent: &Value, read: &Value) -> bool {
    match (sent, read) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => sent == read,
    }
}

async fn holds(variable: &str, what: &str) {
    let Some(python) = installed(variable, what) else {
        return;
    };
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/gateway/fixtures/kinds_server.py"
    );
    let spec = json!({
        "upstream": {"stdio": {"image": "unused:1", "command": [python.to_str().unwrap(), script]}},
        "authentication": {"anonymous": "Allow"},
        "catalog": "None",
    });
    // It reads the argument and refuses nothing.
    let policy = json!({"rules": [{"name": "reads", "tools": {"names": ["*"]}, "action": "Allow",
        "when": "!has(args.value) || has(args.value)"}]});
    let rig = Rig::with(spec, Held::default(), &[policy]).await;
    let client = rig.client.session().await;
    let tools = client.tools().await;
    assert_eq!(tools.len(), 49, "{what}");
    let mut passed = Vec::new();
    let mut other = Vec::new();
    for tool in &tools {
        for value in values() {
            let (refused, text) = client.call(tool, json!({"value": value})).await.tool();
            if refused {
                continue;
            }
            let read: Value = serde_json::from_str(&text).unwrap();
            if !same(&value, &read) {
                other.push(format!("{tool}: {value} was read as {read}"));
            }
            passed.push((tool.clone(), value));
        }
    }
    assert!(other.is_empty(), "{what}:\n{}", other.join("\n"));
    // Nothing of this is refused for no reason.
    for (tool, value) in [
        ("text", json!("null")),
        ("text", json!("7")),
        ("text_or_null", json!("x, y")),
        ("text_or_null", json!(null)),
        ("number", json!(7)),
        ("number_or_null", json!(null)),
        ("yes_or_no", json!(true)),
        ("text_or_number", json!(7)),
        ("texts", json!(["x"])),
        ("texts_or_null", json!(["x"])),
        ("map_or_null", json!({"a": "b"})),
        ("free_map", json!({"a": "null"})),
        ("anything", json!({"a": "b"})),
        ("chosen", json!("Staging")),
        ("stage", json!("Production")),
        ("options", json!({"count": 7})),
        ("options_or_null", json!({"stage": "Production"})),
        ("many_options", json!([{"stage": "x"}])),
        ("aliased", json!({"stageName": "Production"})),
        ("identifier", json!("12345678-1234-4234-8234-123456789abc")),
        ("identifier_or_null", json!(null)),
        ("identifier_or_text", json!("x, y")),
        (
            "identifiers",
            json!(["12345678-1234-4234-8234-123456789abc"]),
        ),
        ("day", json!("2026-01-01")),
        ("moment", json!("2026-01-01T00:00:00Z")),
        ("hour", json!("00:00:00")),
        ("span", json!("P1D")),
        ("span", json!("PT1.5S")),
        ("address", json!("http://a.example/x")),
        ("web_address", json!("http://a.example/x")),
        ("path", json!("/etc/x")),
        ("exact", json!(7)),
        ("host", json!("10.0.0.1")),
        ("host_six", json!("fd00::1")),
        ("any_host", json!("10.0.0.1")),
        ("any_host", json!("fd00::1")),
        ("network", json!("10.0.0.0/8")),
        ("network_six", json!("fd00::/8")),
        ("interface", json!("10.0.0.1/8")),
        ("encoded", json!("aGk=")),
        ("hidden", json!("x, y")),
        ("bytes", json!("x, y")),
        ("by_number", json!({"7": "x"})),
        ("by_decimal", json!({"7.5": "x"})),
        ("by_switch", json!({"1": "x"})),
        (
            "by_identifier",
            json!({"12345678-1234-4234-8234-123456789abc": "x"}),
        ),
        ("by_text", json!({"stage": "x"})),
    ] {
        let of_it = (tool.to_owned(), value);
        assert!(passed.contains(&of_it), "{what}: {of_it:?} was refused");
    }
    rig.gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_the_python_sdk_1_read_what_the_rule_read() {
    holds("PORTCULLIS_TEST_PYTHON_1", "Python SDK 1.x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_the_python_sdk_2_read_what_the_rule_read() {
    holds("PORTCULLIS_TEST_PYTHON_2", "Python SDK 2.x").await;
}
