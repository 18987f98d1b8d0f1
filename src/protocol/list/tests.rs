use std::collections::HashSet;

use proptest::prelude::*;

use super::super::envelope::parse;
use super::*;
use crate::json;

fn filtered(text: &str, hide: &[&str]) -> Result<Option<String>, Malformed> {
    let message = parse(text.as_bytes()).unwrap();
    filter(&message, &Edits::new(), |_, entry| {
        !hide.contains(&&*entry.name)
    })
    .map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()))
}

fn result(body: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{body}}}"#)
}

/// One entry as [`entry`] must read it, by way of the strict object.
fn plainly(kind: ListKind, raw: &str) -> Option<Entry<'_>> {
    let object = Object::from_raw(raw, keys::ENTRY).ok()?;
    let name = object.string(kind.identity()).ok().flatten()?;
    Some(Entry {
        name,
        raw: object.raw,
    })
}

fn any_entry() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "uri",
        "_meta",
        "Name",
        "title",
        "TITLE",
        "a",
        "\\u006eame",
        "x\\n",
        "inputSchema",
    ]);
    let value = prop::sample::select(vec![
        "\"n\"",
        "\"m\"",
        "\"\\u006e\"",
        "1",
        "null",
        "{}",
        "[]",
        "{\"a\":\"]}\\\"{\"}",
        "{\"a\":1,\"A\":2}",
        "{\"x\\u0000\":1}",
        "[1, {\"b\" : [ ]} ]",
    ]);
    let object = prop::collection::vec((key, value), 0..6).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(key, value)| format!("\"{key}\": {value}"))
            .collect();
        format!("{{ {} }}", members.join(" ,"))
    });
    prop_oneof![8 => object, 1 => prop::sample::select(vec!["1", "[{}]", "\"n\"", "null"]).prop_map(String::from)]
        .prop_filter("checked", |text| json::check(text.as_bytes()).is_ok())
}

proptest! {
    #[test]
    fn entries_are_read_and_filtered_as_the_plain_rules_have_it(
        entries in prop::collection::vec(any_entry(), 0..12),
        hidden in prop::sample::select(vec!["n", "m", ""]),
        kind in prop::sample::select(&ListKind::ALL),
    ) {
        let text = result(&format!("{{\"{}\":[ {} ]}}", kind.key(), entries.join(" , ")));
        let read: Vec<_> = entries.iter().map(|raw| plainly(kind, raw)).collect();
        let named = |name: &str| read.iter().flatten().filter(|entry| entry.name == name).count();
        let kept: Vec<_> = read
            .iter()
            .flatten()
            .filter(|entry| entry.name != hidden && (kind != ListKind::Tools || named(&entry.name) == 1))
            .collect();
        let expected = (kept.len() < entries.len()).then(|| {
            let raws: Vec<_> = kept.iter().map(|entry| entry.raw).collect();
            result(&format!("{{\"{}\":[{}]}}", kind.key(), raws.join(",")))
        });
        prop_assert_eq!(filtered(&text, &[hidden]), Ok(expected));
        let readable: Vec<Entry<'_>> = read.iter().flatten().cloned().collect();
        let twice: HashSet<&str> = readable
            .iter()
            .map(|entry| entry.name.as_ref())
            .filter(|name| named(name) > 1)
            .collect();
        prop_assert_eq!(named_twice(&readable), twice);
    }

    #[test]
    fn names_that_stand_more_than_once_are_found(names in prop::collection::vec("(x{0,3}[ab]{0,9}|é?c{0,2})", 0..40)) {
        let entries: Vec<Entry<'_>> = names.iter().map(|name| Entry { name: name.into(), raw: "" }).collect();
        let twice: HashSet<&str> = names
            .iter()
            .filter(|name| names.iter().filter(|other| other == name).count() > 1)
            .map(String::as_str)
            .collect();
        prop_assert_eq!(named_twice(&entries), twice);
    }
}

#[test]
fn a_list_of_very_many_entries_is_filtered_in_one_go() {
    let entries: Vec<_> = (0..100_000)
        .map(|index| format!(r#"{{"name":"tool_{index:09}_same_end"}}"#))
        .collect();
    let text = result(&format!(
        "{{\"tools\":[{},{}]}}",
        entries.join(","),
        entries[7]
    ));
    let rest = [&entries[..7], &entries[8..]].concat().join(",");
    assert_eq!(
        filtered(&text, &[]),
        Ok(Some(result(&format!("{{\"tools\":[{rest}]}}"))))
    );
}

#[test]
fn hidden_tools_go_and_every_other_byte_stays() {
    let listed = r#"{"tools":[{"name":"a", "inputSchema":{"x":1.0}},{"name":"b"},{"name":"c","extra":[ ]}],"nextCursor":"n","_meta":{"k":1e0}}"#;
    assert_eq!(
        filtered(&result(listed), &["b"]),
        Ok(Some(result(
            r#"{"tools":[{"name":"a", "inputSchema":{"x":1.0}},{"name":"c","extra":[ ]}],"nextCursor":"n","_meta":{"k":1e0}}"#
        )))
    );
    assert_eq!(filtered(&result(listed), &[]), Ok(None));
    assert_eq!(
        filtered(&result(r#"{"tools":[{"name":"a"}]}"#), &["a"]),
        Ok(Some(result(r#"{"tools":[]}"#)))
    );
}

#[test]
fn prompts_resources_and_templates_are_known_by_name_uri_and_template() {
    let listed = r#"{"prompts":[{"name":"p"},{"name":"q"}],"resources":[{"name":"q","uri":"u:1"},{"name":"n","uri":"u:2"}],"resourceTemplates":[{"name":"q","uriTemplate":"u:{x}"},{"uriTemplate":"v:{x}","name":"n"}]}"#;
    assert_eq!(
        filtered(&result(listed), &["q", "u:2", "v:{x}"]),
        Ok(Some(result(
            r#"{"prompts":[{"name":"p"}],"resources":[{"name":"q","uri":"u:1"}],"resourceTemplates":[{"name":"q","uriTemplate":"u:{x}"}]}"#
        )))
    );
}

#[test]
fn entries_whose_name_cannot_be_read_are_dropped() {
    for entry in [
        r#"{}"#,
        r#"{"name":1}"#,
        r#"{"name":["a"]}"#,
        r#"{"name":null}"#,
        r#"{"title":"a"}"#,
        r#""a""#,
        "null",
        r#"[{"name":"a"}]"#,
        r#"{"name":"ok","Name":"delete"}"#,
        r#"{"name":"ok","name\u0000":"delete"}"#,
    ] {
        assert_eq!(
            filtered(
                &result(&format!(r#"{{"tools":[{entry},{{"name":"b"}}]}}"#)),
                &[]
            ),
            Ok(Some(result(r#"{"tools":[{"name":"b"}]}"#))),
            "{entry}"
        );
    }
}

#[test]
fn resources_are_filtered_wherever_answers_name_them() {
    let (hidden, seen) = ("file:///secret", "file:///a");
    let check = |before: &str, after: Option<&str>| {
        assert_eq!(
            filtered(&result(before), &[hidden]),
            Ok(after.map(result)),
            "{before}"
        );
    };
    let text = r#"{"type":"text","text":"see the uri file:///secret"}"#;
    check(
        &format!(
            r#"{{"contents":[{{"uri":"{hidden}","text":"x"}},{{"uri":"{seen}","text":"y"}}]}}"#
        ),
        Some(&format!(
            r#"{{"contents":[{{"uri":"{seen}","text":"y"}}]}}"#
        )),
    );
    for block in [
        format!(r#"{{"type":"resource_link","uri":"{hidden}","name":"n"}}"#),
        format!(r#"{{"type":"resource","resource":{{"uri":"{hidden}","text":"x"}}}}"#),
        r#"{"type":"resource_link","\u0075ri":"file:///secret"}"#.to_owned(),
        r#"{"type":"resource_link","uri":"file:\/\/\/\u0073ecret"}"#.to_owned(),
        format!(r#"{{"type":"resource_link","uri":"{seen}","URI":"{hidden}"}}"#),
        format!(r#"{{"type":"resource","resource":{{"Uri":"{hidden}","text":"x"}}}}"#),
        format!(r#"{{"type":"text","text":"t","resource":{{"uri":"{hidden}"}}}}"#),
        r#"{"type":"resource_link","uri":["file:///secret"]}"#.to_owned(),
        r#"{"type":"resource","resource":"uri file:///secret"}"#.to_owned(),
    ] {
        check(
            &format!(r#"{{"content":[{text},{block}],"isError":false}}"#),
            Some(&format!(r#"{{"content":[{text}],"isError":false}}"#)),
        );
        // In the place of a list, and inside of other blocks and lists.
        check(
            &format!(r#"{{"content":{block},"isError":false}}"#),
            Some(r#"{"content":[],"isError":false}"#),
        );
        for outer in [
            format!(r#"{{"type":"tool_result","content":[{text},{block}]}}"#),
            format!(r#"{{"type":"tool_result","content":{block}}}"#),
            format!(r#"{{"type":"x","content":[{{"content":[{block}]}}]}}"#),
            format!("[{block}]"),
        ] {
            check(
                &format!(r#"{{"content":[{text},{outer}]}}"#),
                Some(&format!(r#"{{"content":[{text}]}}"#)),
            );
        }
        let message = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
        let kept = message(text);
        for content in [block.clone(), format!("[{text},{block}]")] {
            check(
                &format!(r#"{{"messages":[{},{kept}]}}"#, message(&content)),
                Some(&format!(r#"{{"messages":[{kept}]}}"#)),
            );
        }
    }
    for whole in [
        format!(r#"{{"content":[{text}]}}"#),
        format!(r#"{{"content":[{{"type":"resource_link","uri":"{seen}"}}]}}"#),
        format!(
            r#"{{"messages":[{{"role":"user","content":{{"type":"resource","resource":{{"uri":"{seen}"}}}}}}]}}"#
        ),
        r#"{"content":{"uri":"x"}}"#.to_owned(),
    ] {
        check(&whole, None);
    }
    check(
        &format!(
            r#"{{"content":[{{"type":"tool_result","content":[{text},{{"type":"resource_link","uri":"{seen}"}}]}}]}}"#
        ),
        None,
    );
    let deep = r#"{"content":["#.repeat(9) + r#""uri""# + &"]}".repeat(9);
    check(&deep, Some(r#"{"content":[]}"#));
    // What could be typed on.
    check(
        &format!(
            r#"{{"completion":{{"values":["a","{hidden}","FILE:///b","{seen}","k: v",7],"total":6}}}}"#
        ),
        Some(&format!(
            r#"{{"completion":{{"values":["a","FILE:///b","{seen}","k: v"],"total":6}}}}"#
        )),
    );
    check(
        r#"{"completion":{"values":["a","b:c"],"hasMore":false}}"#,
        None,
    );
    // Inside the result of a task, too.
    check(
        &format!(r#"{{"result":{{"contents":[{{"uri":"{hidden}"}}]}}}}"#),
        Some(r#"{"result":{"contents":[]}}"#),
    );
}

#[test]
fn members_of_any_shape_lose_links_to_hidden_resources_and_nothing_else() {
    let (hidden, seen) = ("file:///secret", "file:///a");
    let check = |before: &str, after: Option<&str>| {
        for key in ["structuredContent", "_meta"] {
            let whole = |value: &str| result(&format!(r#"{{"{key}":{value},"content":[]}}"#));
            assert_eq!(
                filtered(&whole(before), &[hidden]),
                Ok(after.map(whole)),
                "{before}"
            );
        }
    };
    let link = |uri: &str| format!(r#"{{"type":"resource_link","uri":"{uri}","name":"n"}}"#);
    for block in [
        link(hidden),
        format!(r#"{{"type":"resource","resource":{{"uri":"{hidden}","text":"x"}}}}"#),
        r#"{"type":"\u0072esource_link","\u0075ri":"file:\/\/\/secret"}"#.to_owned(),
        format!(r#"{{"uri":"{hidden}","n":[1, {{"a":2}}],"type":"resource_link"}}"#),
    ] {
        let kept = link(seen);
        check(
            &format!(r#"{{"result":[{kept},{block}],"n":1.50}}"#),
            Some(&format!(r#"{{"result":[{kept}],"n":1.50}}"#)),
        );
        check(
            &format!(r#"{{"a":{{"b":{block},"c \"d":[[{block}],null]}}}}"#),
            Some(r#"{"a":{"c \"d":[[],null]}}"#),
        );
        check(&block, Some("{}"));
        let inside = format!(r#"{{"type":"tool_result","structuredContent":{{"x":[{block}]}}}}"#);
        assert_eq!(
            filtered(&result(&format!(r#"{{"content":[{inside}]}}"#)), &[hidden]),
            Ok(Some(result(r#"{"content":[]}"#)))
        );
    }
    for other in [
        link(seen),
        format!(r#"{{"resource":"{hidden}","uri":"{hidden}","type":"model"}}"#),
        format!(r#"{{"result":["resource_link","{hidden}"]}}"#),
        r#"{"type":"resource_link","uri":7}"#.to_owned(),
        r#"{"type":"resource","resource":["x"]}"#.to_owned(),
    ] {
        check(&other, None);
    }
}

#[test]
fn a_completion_does_not_mention_what_is_hidden() {
    struct Hides;
    impl Visibility for Hides {
        fn keep(&mut self, _: ListKind, _: &Entry<'_>) -> bool {
            true
        }
        fn may_mention(&mut self, text: &str) -> bool {
            text != "delete_run"
        }
    }
    let text = result(r#"{"completion":{"values":["delete_run","get_run","delete"],"total":3}}"#);
    let message = parse(text.as_bytes()).unwrap();
    let bytes = filter_by(&message, &Edits::new(), Hides).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        result(r#"{"completion":{"values":["get_run","delete"],"total":3}}"#)
    );
}

#[test]
fn a_name_is_decided_on_unescaped() {
    assert_eq!(
        filtered(
            &result(r#"{"tools":[{"name":"\u0064elete"}]}"#),
            &["delete"]
        ),
        Ok(Some(result(r#"{"tools":[]}"#)))
    );
}

#[test]
fn tools_listed_twice_are_dropped_both_times() {
    let listed = r#"{"tools":[{"name":"a","v":1},{"name":"b"},{"name":"\u0061","v":2}]}"#;
    assert_eq!(
        filtered(&result(listed), &[]),
        Ok(Some(result(r#"{"tools":[{"name":"b"}]}"#)))
    );
}

#[test]
fn a_list_that_is_no_array_refuses_the_whole_message() {
    for value in [r#"{"0":{"name":"a"}}"#, "null", "\"a\"", "1", "true"] {
        assert_eq!(
            filtered(&result(&format!(r#"{{"tools":{value}}}"#)), &[]),
            Err(Malformed::NotAList("tools")),
            "{value}"
        );
    }
}

#[test]
fn lists_inside_the_results_of_tasks_are_filtered_too() {
    let task = r#"{"taskId":"t","status":"completed","result":{"tools":[{"name":"a"},{"name":"b"}],"x":1}}"#;
    let expected = r#"{"taskId":"t","status":"completed","result":{"tools":[{"name":"b"}],"x":1}}"#;
    assert_eq!(filtered(&result(task), &["a"]), Ok(Some(result(expected))));
    let notification = |params: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{params}}}"#)
    };
    assert_eq!(
        filtered(&notification(task), &["a"]),
        Ok(Some(notification(expected)))
    );
    let variant = r#"{"result":{"Tools":[{"name":"a"}]}}"#;
    assert!(matches!(
        filtered(&result(variant), &[]),
        Err(Malformed::Nested(Fault::Key(..)))
    ));
    let mut deep = String::from(r#"{"tools":[]}"#);
    for _ in 0..6 {
        deep = format!(r#"{{"result":{deep}}}"#);
    }
    assert_eq!(filtered(&result(&deep), &[]), Err(Malformed::TooDeep));
}

#[test]
fn what_holds_no_list_passes() {
    for body in [
        r#"{"content":[{"type":"text","text":"{\"tools\":[]}"}],"structuredContent":{"tools":{}}}"#,
        "{}",
    ] {
        assert_eq!(filtered(&result(body), &[]), Ok(None));
    }
    assert_eq!(
        filtered(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
            &[]
        ),
        Ok(None)
    );
    assert_eq!(
        filtered(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &[]),
        Ok(None)
    );
}

#[test]
fn edits_are_made_along_with_the_filtering() {
    let text = result(r#"{"tools":[{"name":"a"}],"ttlMs":9}"#);
    let message = parse(text.as_bytes()).unwrap();
    let edits = Edits::new()
        .id(super::super::envelope::Id::Integer(2))
        .set("ttlMs", "1");
    let bytes = filter(&message, &edits, |_, _| false).unwrap().unwrap();
    assert_eq!(
        bytes,
        br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[],"ttlMs":1}}"#
    );
}

#[test]
fn definitions_are_taken_out_raw_for_the_inventory() {
    let text = result(
        r#"{"tools":[{"name":"a","x":1.0},{"nome":"b"},{"name":"a"},{"name":"c"}],"nextCursor":"n"}"#,
    );
    let Message::Response(response) = parse(text.as_bytes()).unwrap() else {
        panic!("not a response")
    };
    let Outcome::Result(result) = response.outcome else {
        panic!("not a result")
    };
    let found = entries(&result, ListKind::Tools).unwrap().unwrap();
    assert_eq!(
        found
            .iter()
            .map(|entry| (entry.name.as_ref(), entry.raw))
            .collect::<Vec<_>>(),
        [
            ("a", r#"{"name":"a","x":1.0}"#),
            ("a", r#"{"name":"a"}"#),
            ("c", r#"{"name":"c"}"#)
        ]
    );
    assert_eq!(named_twice(&found), HashSet::from(["a"]));
    assert_eq!(next_cursor(&result).as_deref(), Some("n"));
    assert_eq!(entries(&result, ListKind::Prompts), Ok(None));
}
