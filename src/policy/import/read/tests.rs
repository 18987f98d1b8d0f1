//! YAML as Go's yaml.v3 reads it.

use super::*;

fn kind(text: &str) -> Kind {
    let node = read(&format!("v: {text}")).unwrap();
    node.map().unwrap()[0].value.scalar().unwrap().kind
}

#[test]
fn scalars_are_what_go_reads() {
    for (text, expected) in [
        ("0600", Kind::Int(384)),
        ("0o600", Kind::Int(384)),
        ("-0600", Kind::Int(-384)),
        ("08", Kind::Float(8.0)),
        ("0b101", Kind::Int(5)),
        ("0x1F", Kind::Int(31)),
        ("-0x1f", Kind::Int(-31)),
        ("1_000", Kind::Int(1000)),
        ("0_600", Kind::Int(384)),
        ("+5", Kind::Int(5)),
        ("0", Kind::Int(0)),
        ("18446744073709551615", Kind::Uint(u64::MAX)),
        ("+18446744073709551615", Kind::Float(18446744073709551615.0)),
        ("18446744073709551616", Kind::Float(18446744073709551616.0)),
        ("1e3", Kind::Float(1000.0)),
        ("1E+3", Kind::Float(1000.0)),
        (".5", Kind::Float(0.5)),
        (".5_0", Kind::Unclear),
        ("-.5", Kind::Float(-0.5)),
        ("5.", Kind::Float(5.0)),
        ("1e400", Kind::Text),
        ("1:30", Kind::Text),
        ("1.2.3", Kind::Text),
        ("0o8", Kind::Unclear),
        ("0b-1", Kind::Unclear),
        ("0xZZ", Kind::Unclear),
        ("no", Kind::Text),
        ("Yes", Kind::Text),
        ("on", Kind::Text),
        ("y", Kind::Text),
        ("True", Kind::Bool(true)),
        ("FALSE", Kind::Bool(false)),
        ("tRUE", Kind::Text),
        ("~", Kind::Null),
        ("", Kind::Null),
        ("Null", Kind::Null),
        ("nULL", Kind::Text),
        (".inf", Kind::Unclear),
        ("-.INF", Kind::Unclear),
        (".NaN", Kind::Unclear),
        ("inf", Kind::Text),
        ("nan", Kind::Text),
        ("+", Kind::Text),
        ("2024-01-01", Kind::Date),
        ("2024-1-1T10:00:00Z", Kind::Date),
        ("2024-01", Kind::Text),
        ("20240-1-1", Kind::Text),
        ("'0600'", Kind::Text),
        ("\"true\"", Kind::Text),
        ("!!str 5", Kind::Text),
        ("!!int '5'", Kind::Unclear),
        ("!custom x", Kind::Unclear),
        ("! 5", Kind::Unclear),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn places_are_those_of_the_file() {
    let node = read("# comment\na:\n  - b: [1,\n      zwei]\n").unwrap();
    let list = node.get("a").unwrap().list().unwrap()[0].get("b").unwrap();
    let at = |node: &Node| (node.at.line, node.at.column);
    assert_eq!(at(&list.list().unwrap()[0]), (3, 9));
    assert_eq!(at(&list.list().unwrap()[1]), (4, 7));
    assert_eq!((node.map().unwrap()[0].at.line, at(list)), (2, (3, 8)));
}

#[test]
fn what_the_source_refuses_or_reads_in_part_is_refused_with_its_place() {
    for (text, line, part) in [
        ("a: 1\nb: 2\na: 3", 3, "twice"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("x: &x {a: 1}\ny:\n  <<: *x", 3, "merge keys"),
        ("a:\n  ? [1]\n  : 2", 2, "this key is a list"),
        ("a:\n  ~: 2", 2, "this key is empty"),
        ("a: [", 1, ""),
        ("", 1, "empty"),
        ("x: &x [*x]", 1, "contains it"),
        ("a: 1\n# end\u{2028}hide: ['*']\n", 2, "invisible"),
        ("a: 1\nb: \"x\u{85}y\"\n", 2, "invisible"),
        ("a: |\n  x", 1, "line break"),
    ] {
        let broken = read(text).unwrap_err();
        assert!(
            broken.message.contains(part) && broken.at.line >= line,
            "{text}: {broken:?}"
        );
    }
    let deep = format!("a: {}{}", "[".repeat(80), "]".repeat(80));
    assert!(read(&deep).unwrap_err().message.contains("nested"));
    let long = format!("a: '{}'", "x".repeat(MAX_BYTES));
    assert!(read(&long).unwrap_err().message.contains("longer than"));
    let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for i in 1..9 {
        let alias = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 9].join(", ")));
    }
    assert!(read(&bomb).unwrap_err().message.contains("values"));
}

#[test]
fn json_is_read_as_json() {
    let node =
        read("{\"a\": \"\\u00e9\\ud83d\\ude00\\/\\t\", \"b\":\t[1.5, -0, true, null]}").unwrap();
    assert_eq!(node.get("a").unwrap().text(), Some("é😀/\t"));
    let kinds: Vec<_> = node
        .get("b")
        .unwrap()
        .list()
        .unwrap()
        .iter()
        .map(|item| item.scalar().unwrap().kind)
        .collect();
    assert_eq!(
        kinds,
        [Kind::Float(1.5), Kind::Int(0), Kind::Bool(true), Kind::Null]
    );
}
