use proptest::prelude::*;

use super::*;

mod plain;

fn kind_of(bytes: &[u8]) -> ErrorKind {
    let error = parse(bytes).unwrap_err();
    assert_eq!(check(bytes), Err(error), "check and parse disagree");
    error.kind
}

fn text(text: &str) -> Value<'_> {
    Value::String(Cow::Borrowed(text))
}

#[test]
fn a_document_becomes_a_tree_with_its_number_tokens() {
    let read = parse(br#" {"a":[1,-0.50,1e2,123456789012345678901234567890],"b":{"c":null,"d":true,"e":false},"f":"x\n\u00e9\ud83d\ude00"} "#);
    let expected = Value::Object(vec![
        (
            "a".into(),
            Value::Array(vec![
                Value::Number("1"),
                Value::Number("-0.50"),
                Value::Number("1e2"),
                Value::Number("123456789012345678901234567890"),
            ]),
        ),
        (
            "b".into(),
            Value::Object(vec![
                ("c".into(), Value::Null),
                ("d".into(), Value::Bool(true)),
                ("e".into(), Value::Bool(false)),
            ]),
        ),
        ("f".into(), text("x\né😀")),
    ]);
    assert_eq!(read, Ok(expected));
}

#[test]
fn duplicate_keys_are_refused_at_every_depth_and_after_unescaping() {
    for bytes in [
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[[{"x":{"a":1,"b":2,"a":3}}]]"#,
        r#"{"":1,"":2}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
    ] {
        assert_eq!(kind_of(bytes.as_bytes()), ErrorKind::Duplicate, "{bytes}");
    }
    assert_eq!(
        check(br#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#),
        Ok(())
    );
}

#[test]
fn duplicates_are_found_in_large_objects_without_comparing_every_pair() {
    let mut many: String = (0..100_000)
        .map(|index| format!("\"key{index}\":0,"))
        .collect();
    let unique = format!("{{{many}\"last\":{{\"key0\":0}}}}");
    assert_eq!(check(unique.as_bytes()), Ok(()));
    many.push_str("\"key7\":0");
    let repeated = format!("{{{many}}}");
    assert_eq!(kind_of(repeated.as_bytes()), ErrorKind::Duplicate);
    // Keys of the same marks, and a repeated one among those that were escaped.
    let alike: String = (0..100_000)
        .map(|index| format!("\"x{index:06}x\":0,"))
        .collect();
    assert_eq!(check(format!("{{{alike}\"y\":0}}").as_bytes()), Ok(()));
    assert_eq!(
        kind_of(format!("{{{alike}\"\\u0078000009x\":0}}").as_bytes()),
        ErrorKind::Duplicate
    );
    for size in 1..40 {
        let keys: String = (0..size).map(|index| format!("\"k{index}\":0,")).collect();
        assert_eq!(
            check(format!("{{{keys}\"z\":{{\"k0\":0}}}}").as_bytes()),
            Ok(()),
            "{size}"
        );
        assert_eq!(
            kind_of(format!("{{{keys}\"k{}\":0}}", size - 1).as_bytes()),
            ErrorKind::Duplicate,
            "{size}"
        );
    }
}

#[test]
fn what_other_readers_would_read_differently_is_refused() {
    for (bytes, kind) in [
        (&b"\xef\xbb\xbf{}"[..], ErrorKind::ByteOrderMark),
        (b"\"\xff\"", ErrorKind::Utf8),
        (b"\"\xed\xa0\x80\"", ErrorKind::Utf8),
        (b"\"\xc0\xaf\"", ErrorKind::Utf8),
        (br#""\ud800""#, ErrorKind::Surrogate),
        (br#""\udc00""#, ErrorKind::Surrogate),
        (br#""\ud800\u0041""#, ErrorKind::Surrogate),
        (br#""\ud800x""#, ErrorKind::Surrogate),
        (b"NaN", ErrorKind::Literal),
        (b"Infinity", ErrorKind::Literal),
        (b"-Infinity", ErrorKind::Number),
        (b"[-NaN]", ErrorKind::Number),
        (b"1e999", ErrorKind::Overflow),
        (b"[-1e309]", ErrorKind::Overflow),
        (b"01", ErrorKind::Trailing),
        (b"[01]", ErrorKind::Comma),
        (b"+1", ErrorKind::Literal),
        (b".5", ErrorKind::Literal),
        (b"1.", ErrorKind::Number),
        (b"1e", ErrorKind::Number),
        (b"0x10", ErrorKind::Trailing),
        (b"{} {}", ErrorKind::Trailing),
        (b"{}\0", ErrorKind::Trailing),
        (b"{}//c", ErrorKind::Trailing),
        (b"", ErrorKind::End),
        (b"  ", ErrorKind::End),
        (b"{\"a\"", ErrorKind::End),
        (b"{\"a\":", ErrorKind::End),
        (b"{\"a\":1", ErrorKind::End),
        (b"{\"a\":1,}", ErrorKind::Key),
        (b"{a:1}", ErrorKind::Key),
        (b"{'a':1}", ErrorKind::Key),
        (b"{\"a\" 1}", ErrorKind::Colon),
        (b"[1,]", ErrorKind::Literal),
        (b"[1 2]", ErrorKind::Comma),
        (b"[1}", ErrorKind::Comma),
        (b"\"a\nb\"", ErrorKind::Control),
        (b"\"a\0b\"", ErrorKind::Control),
        (b"\"12345678\x1f2345678\"", ErrorKind::Control),
        (br#""\x41""#, ErrorKind::Escape),
        (br#""\u12g4""#, ErrorKind::Escape),
        (br#""\u+123""#, ErrorKind::Escape),
        (b"\"\\", ErrorKind::End),
        (b"\"abc", ErrorKind::End),
        (b"True", ErrorKind::Literal),
        (b"nul", ErrorKind::Literal),
        (b"\x0c1", ErrorKind::Literal),
        ("\u{a0}1".as_bytes(), ErrorKind::Literal),
    ] {
        assert_eq!(kind_of(bytes), kind, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_long_integer_overflows_where_a_double_does() {
    let most = format!("1{}", "0".repeat(308));
    assert_eq!(check(most.as_bytes()), Ok(()));
    assert_eq!(kind_of(format!("{most}0").as_bytes()), ErrorKind::Overflow);
    assert_eq!(check(format!("0.{}1", "0".repeat(5000)).as_bytes()), Ok(()));
    assert_eq!(check(b"1e-999"), Ok(()));
}

#[test]
fn depth_is_bounded_in_arrays_and_objects_alike() {
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert_eq!(check(arrays(64).as_bytes()), Ok(()));
    assert_eq!(check(objects(64).as_bytes()), Ok(()));
    assert_eq!(kind_of(arrays(65).as_bytes()), ErrorKind::Depth);
    assert_eq!(kind_of(objects(65).as_bytes()), ErrorKind::Depth);
    assert_eq!(kind_of("[".repeat(1_000_000).as_bytes()), ErrorKind::Depth);
    assert_eq!(
        check(format!("[{}]", vec![arrays(63); 50].join(",")).as_bytes()),
        Ok(())
    );
}

#[test]
fn an_error_says_what_and_where() {
    let error = parse(br#"{"a":1,"a":2}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a key is repeated in one object at byte 7"
    );
    assert_eq!(parse(b"[1, x]").unwrap_err().offset, 4);
}

#[test]
fn members_are_raw_slices_of_a_checked_object() {
    let read = members(br#" { "a" : [1, 2] ,"\u0062":"x\"y", "c":{ } } "#).unwrap();
    let expected = vec![
        Member {
            key: "a".into(),
            kind: Kind::Array,
            raw: "[1, 2]",
        },
        Member {
            key: "b".into(),
            kind: Kind::String,
            raw: r#""x\"y""#,
        },
        Member {
            key: "c".into(),
            kind: Kind::Object,
            raw: "{ }",
        },
    ];
    assert_eq!(read, expected);
    assert_eq!(decode_string(r#""x\"y""#).unwrap(), "x\"y");
    assert_eq!(
        members(br#"{"a":{"b":1,"b":2}}"#).unwrap_err().kind,
        ErrorKind::Duplicate
    );
    assert_eq!(
        members(b"[]").unwrap_err().kind,
        ErrorKind::Unexpected(Kind::Array)
    );
    assert_eq!(members(b"{} 1").unwrap_err().kind, ErrorKind::Trailing);
}

#[test]
fn a_reader_that_failed_stays_failed() {
    let mut reader = Reader::new(b"[NaN] ").unwrap();
    assert!(reader.raw().is_err());
    assert!(reader.raw().is_err());
    assert!(reader.finish().is_err());
}

#[test]
fn canonical_text_sorts_keys_and_keeps_number_tokens() {
    let value = parse(
        br#"{ "b" : [1.0, 1e2, {"z":1,"a":2}], "a\u0001": "\u0041\/\u00e9\n\u007f", "B": null }"#,
    )
    .unwrap();
    assert_eq!(
        canonical(&value),
        "{\"B\":null,\"a\\u0001\":\"A/é\\n\u{7f}\",\"b\":[1.0,1e2,{\"a\":2,\"z\":1}]}"
    );
}

/// The tree as serde_json has it. Numbers go through its own reader.
fn reference(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(token) => serde_json::from_str(token).unwrap(),
        Value::String(text) => text.as_ref().into(),
        Value::Array(items) => items.iter().map(reference).collect(),
        Value::Object(members) => serde_json::Value::Object(
            members
                .iter()
                .map(|(key, value)| (key.to_string(), reference(value)))
                .collect(),
        ),
    }
}

/// Arbitrary JSON as a value of serde_json.
pub fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 64, 24, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..24)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Text that is often JSON and often nearly so.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":", "\"b\":", "\\", "\\u", "d800",
        "\\udc00", "1", "0", "-", ".", "e9", "E+308", "true", "null", " ", "\n", "\u{feff}", "é",
        "\u{0}",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

fn agrees_with_serde_json(bytes: &[u8]) {
    let read = parse(bytes);
    assert_eq!(read.as_ref().err(), check(bytes).as_ref().err());
    if let Ok(value) = read {
        let other: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(reference(&value), other);
        let text = canonical(&value);
        let again = parse(text.as_bytes()).unwrap();
        assert_eq!(canonical(&again), text);
        assert_eq!(reference(&again), other);
    }
}

/// Text around the sizes at which the reader looks at several bytes at once, and objects around the
/// size at which it finds repeated keys in another way, whole or damaged at one place.
fn long_json() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        5 => "[a-c]{0,2}",
        2 => "[a-z_]{1,40}",
        1 => prop::sample::select(vec!["\\u0061", "\\n", "é", "\\ud83d\\ude00", "a\\/b"]).prop_map(String::from),
    ];
    let value = prop_oneof![
        Just(String::from("{\"a\":[1,{}]}")),
        "\"[ -!#-\\[\\]-~é]{0,90}\"",
        "\"([a-z]{0,12}\\\\[nrt\"/]){0,9}\"",
        "-?[0-9]{1,4}(\\.[0-9]{1,3})?(e[0-9]{1,3})?",
    ];
    let object = prop::collection::vec((key, value, "[ \\n]{0,2}"), 0..24);
    let damage = (
        any::<prop::sample::Index>(),
        prop::sample::select(b"\"\\{}[],:\0\n\x1f\x7fa0 \xff".to_vec()),
    );
    (object, prop::option::of(damage)).prop_map(|(members, damage)| {
        let members: Vec<String> = members
            .into_iter()
            .map(|(key, value, space)| format!("\"{key}\"{space}:{value}{space}"))
            .collect();
        let mut bytes = format!("{{{}}}", members.join(",")).into_bytes();
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Where the text is accepted, a walk over text known to be checked finds the same members.
fn agrees_with_the_plain_rules(bytes: &[u8]) {
    let result = plain::check(bytes);
    assert_eq!(check(bytes), result);
    assert_eq!(parse(bytes).map(drop), result);
    let text = String::from_utf8_lossy(bytes);
    let walk = |mut reader: Reader<'_>| {
        let members = reader.members().map(|members| format!("{members:?}"));
        (members, reader.finish())
    };
    let again = walk(Reader::over_checked(&text));
    if result.is_ok() {
        assert_eq!(again, walk(Reader::over(&text)));
    }
}

proptest! {
    #[test]
    fn the_reader_says_of_long_text_what_the_plain_rules_say(bytes in long_json()) {
        agrees_with_the_plain_rules(&bytes);
    }

    #[test]
    fn the_reader_says_of_nearly_json_what_the_plain_rules_say(bytes in nearly_json()) {
        agrees_with_the_plain_rules(&bytes);
    }

    #[test]
    fn the_reader_says_of_any_text_what_the_plain_rules_say(text in any::<String>()) {
        agrees_with_the_plain_rules(text.as_bytes());
        agrees_with_the_plain_rules(format!("{{\"{text}\":\"{text}\"}}").as_bytes());
    }

    #[test]
    fn line_breaks_are_found_wherever_they_stand(bytes in prop::collection::vec(prop::sample::select(b"\n\r\x0b\x0c\x8a\x8d\xff a".to_vec()), 0..3), before in 0..80_usize, after in 0..80_usize) {
        let text = [&vec![b'x'; before][..], &bytes, &vec![0x89; after]].concat();
        prop_assert_eq!(is_one_line(&text), !text.iter().any(|byte| b"\r\n".contains(byte)));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_accepted_reads_the_same_elsewhere(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        agrees_with_serde_json(&bytes);
    }

    #[test]
    fn nearly_json_text_is_read_as_serde_json_reads_it_or_refused(bytes in nearly_json()) {
        agrees_with_serde_json(&bytes);
    }

    #[test]
    fn every_document_with_unique_keys_is_accepted(value in arbitrary_json(), pretty in any::<bool>()) {
        let bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert_eq!(reference(&parse(&bytes).unwrap()), serde_json::from_slice::<serde_json::Value>(&bytes).unwrap());
        agrees_with_serde_json(&bytes);
    }

    #[test]
    fn a_written_string_reads_back(text in any::<String>()) {
        let written = quoted(&text);
        prop_assert_eq!(decode_string(&written).unwrap(), text.as_str());
        prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
