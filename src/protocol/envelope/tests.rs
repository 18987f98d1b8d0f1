use proptest::prelude::*;

use crate::protocol::emit::{self, Edits};

use super::*;

fn fault(text: &str) -> Fault {
    parse(text.as_bytes()).unwrap_err().fault
}

fn request(text: &str) -> Request<'_> {
    match parse(text.as_bytes()).unwrap() {
        Message::Request(request) => request,
        other => panic!("not a request: {other:?}"),
    }
}

fn emitted(text: &str, edits: &Edits<'_>) -> String {
    String::from_utf8(parse(text.as_bytes()).unwrap().emit(edits)).unwrap()
}

#[test]
fn a_tool_call_is_read_with_its_arguments_raw() {
    let call = request(
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_run","arguments":{ "n": 1.0 },"_meta":{"progressToken":"p"},"task":{"ttl":5}}}"#,
    );
    assert_eq!(call.id, Id::Integer(7));
    assert_eq!(
        call.tool_call(),
        Ok(ToolCall {
            name: "get_run".into(),
            arguments: Some(r#"{ "n": 1.0 }"#),
            task: Some(r#"{"ttl":5}"#),
            request_state: None,
            input_responses: None,
        })
    );
    assert_eq!(
        call.params.unwrap().meta("progressToken").unwrap().raw,
        "\"p\""
    );
}

#[test]
fn a_message_is_exactly_one_of_request_notification_and_response() {
    for (text, expected) in [
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            Fault::Batch,
        ),
        ("[]", Fault::Batch),
        ("1", Fault::NotAnObject),
        ("null", Fault::NotAnObject),
        (r#"{"id":1,"method":"ping"}"#, Fault::Version),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            Fault::Version,
        ),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, Fault::Version),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","id":1e2,"method":"ping"}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","id":-0,"method":"ping"}"#, Fault::Id),
        (
            r#"{"jsonrpc":"2.0","id":99999999999999999999,"method":"ping"}"#,
            Fault::Id,
        ),
        (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, Fault::Id),
        (
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}"#,
            Fault::IdMissing,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled"}"#,
            Fault::IdUnwanted,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#,
            Fault::Method,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            Fault::Params,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}"#,
            Fault::Member("_meta", "an object"),
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, Fault::Mixture),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            Fault::Mixture,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            Fault::Mixture,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#,
            Fault::Mixture,
        ),
        (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","result":{}}"#, Fault::Id),
        (r#"{"jsonrpc":"2.0","id":1,"result":[]}"#, Fault::Result),
        (r#"{"jsonrpc":"2.0","id":1,"error":"x"}"#, Fault::Error),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}"#,
            Fault::Error,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
            Fault::Error,
        ),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
}

#[test]
fn an_error_response_may_lack_its_id() {
    for id in ["", "\"id\":null,"] {
        let text = format!(
            r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32700,"message":"no","data":[1]}}}}"#
        );
        let Message::Response(response) = parse(text.as_bytes()).unwrap() else {
            panic!("not a response")
        };
        let error = ErrorObject {
            code: -32700,
            message: "no".into(),
            data: Some("[1]"),
        };
        assert_eq!(
            response,
            Response {
                id: None,
                id_raw: Some("null").filter(|_| !id.is_empty()),
                outcome: Outcome::Error(error)
            }
        );
        assert_eq!(
            response.emit(&Edits::new()),
            br#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"no","data":[1]}}"#
        );
    }
}

#[test]
fn the_bytes_that_parsers_disagree_about_are_refused() {
    let json = |text: &str| match parse(text.as_bytes()) {
        Err(Refusal {
            fault: Fault::Json(error),
            ..
        }) => error.kind,
        other => panic!("{text}: {other:?}"),
    };
    use crate::json::ErrorKind::*;
    let with = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a","arguments":{arguments}}}}}"#
        )
    };
    assert_eq!(
        json(r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#),
        Duplicate
    );
    assert_eq!(
        json(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":"a","n\u0061me":"b"}}"#),
        Duplicate
    );
    assert_eq!(
        json(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a":1,"a":2}}}"#),
        Duplicate
    );
    assert_eq!(json(&with(r#"{"x":{"y":1,"y":2}}"#)), Duplicate);
    assert_eq!(json(&with(r#"{"x":NaN}"#)), Literal);
    assert_eq!(json(&with(r#"{"x":1e999}"#)), Overflow);
    assert_eq!(json(&with(r#"{"x":"\udc00"}"#)), Surrogate);
    assert_eq!(
        json(&with(&format!("{}1{}", "[".repeat(70), "]".repeat(70)))),
        Depth
    );
    assert_eq!(json(&format!("{} ,", with("{}"))), Trailing);
    assert_eq!(json(&format!("{}{}", with("{}"), with("{}"))), Trailing);
    assert_eq!(json(&format!("\u{feff}{}", with("{}"))), ByteOrderMark);
    assert!(matches!(
        parse(b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\"}"),
        Err(Refusal {
            fault: Fault::Json(_),
            ..
        })
    ));
}

#[test]
fn case_variants_and_control_characters_in_keys_are_refused() {
    let call = |envelope: &str, params: &str, meta: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call"{envelope},"params":{{"name":"a"{params},"_meta":{{"x":1{meta}}}}}}}"#
        )
    };
    assert!(parse(call("", "", "").as_bytes()).is_ok());
    for (envelope, params, meta, why) in [
        (r#","Method":"ping""#, "", "", Suspicion::Variant),
        (r#","paramſ":{"name":"delete"}"#, "", "", Suspicion::Variant),
        (r#","method\u0000":"ping""#, "", "", Suspicion::Control),
        (r#","extra":1,"EXTRA":2"#, "", "", Suspicion::Twice),
        ("", r#","Name":"delete""#, "", Suspicion::Variant),
        ("", r#","argument\u017f":{}"#, "", Suspicion::Variant),
        ("", r#","name\u0000":"delete""#, "", Suspicion::Control),
        ("", r#","foo":1,"Foo":2"#, "", Suspicion::Twice),
        ("", r#","_META":{}"#, "", Suspicion::Variant),
        ("", "", r#","progressTo\u212Aen":1"#, Suspicion::Variant),
        ("", "", r#","X":2"#, Suspicion::Twice),
        ("", "", r#","\t":2"#, Suspicion::Control),
    ] {
        let text = call(envelope, params, meta);
        let refusal = parse(text.as_bytes()).unwrap_err();
        assert!(
            matches!(&refusal.fault, Fault::Key(_, found) if *found == why),
            "{text}: {refusal:?}"
        );
        assert_eq!(refusal.fault.code(), -32600);
    }
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"Tools":[{"name":"delete"}]}}"#;
    assert_eq!(
        fault(result),
        Fault::Key("Tools".into(), Suspicion::Variant)
    );
    // A tool's arguments are its own business.
    assert!(
        parse(call("", r#","arguments":{"Name":1,"name":2,"a\u0000":3}"#, "").as_bytes()).is_ok()
    );
}

#[test]
fn a_refused_message_is_answered_under_its_id_wherever_that_stands() {
    let refusal =
        parse(br#"{"method":"ping","params":3,"jsonrpc":"2.0","id":"late"}"#).unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            id: Some(Id::String("late".into())),
            fault: Fault::Params
        }
    );
    let refusal =
        parse(br#"{"jsonrpc":"2.0","id":5,"method":"ping","params":3,"x":NaN}"#).unwrap_err();
    assert_eq!(refusal.id, Some(Id::Integer(5)));
}

#[test]
fn params_that_are_null_are_absent() {
    let read = request(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#);
    assert_eq!(read.params, None);
    // It opens nothing: what needs params is refused as without them, and null is not a second
    // place for them.
    let call = request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}"#);
    assert_eq!(call.tool_call(), Err(Fault::Member("params", "an object")));
    let twice =
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null,"params":{"name":"a"}}"#;
    assert!(matches!(parse(twice).unwrap_err().fault, Fault::Json(_)));
}

#[test]
fn a_refusal_has_the_id_if_it_stood_before_what_is_wrong() {
    for (text, id) in [
        (
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1,"a":2}}"#,
            Some(Id::Integer(7)),
        ),
        (
            r#"{"jsonrpc":"2.0","id":"x","method":"ping","params":{"a":"\ud800"}}"#,
            Some(Id::String("x".into())),
        ),
        (r#"{"jsonrpc":"2.0","id":7,"method":"#, Some(Id::Integer(7))),
        (
            r#"{"params":{"a":1,"a":2},"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            None,
        ),
        (r#"{"id":{},"method":"ping","params":[}"#, None),
    ] {
        let refusal = parse(text.as_bytes()).unwrap_err();
        assert_eq!(refusal.id, id, "{text}");
    }
}

#[test]
fn a_tool_call_needs_a_text_name_and_object_arguments() {
    let read = |params: &str| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        request(&text)
            .tool_call()
            .map(|call| call.name.into_owned())
    };
    assert_eq!(read(r#"{"name":"a"}"#), Ok("a".into()));
    assert_eq!(read(r#"{"name":"\u0061"}"#), Ok("a".into()));
    assert_eq!(read("{}"), Err(Fault::Member("name", "a string")));
    assert_eq!(
        read(r#"{"name":["a"]}"#),
        Err(Fault::Member("name", "a string"))
    );
    assert_eq!(read(r#"{"name":"a","arguments":null}"#), Ok("a".into()));
    for arguments in ["[]", "[{\"a\":1}]", "\"{}\"", "1", "false"] {
        let params = format!(r#"{{"name":"a","arguments":{arguments}}}"#);
        assert_eq!(read(&params), Err(Fault::Member("arguments", "an object")));
    }
    assert_eq!(
        read(r#"{"name":"a","task":true}"#),
        Err(Fault::Member("task", "an object"))
    );
    let bare = request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#);
    assert_eq!(bare.tool_call(), Err(Fault::Member("params", "an object")));
}

#[test]
fn a_completion_names_a_prompt_or_a_resource() {
    let read = |reference: &str| {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{reference}}}}}"#
        );
        request(&text).completion_ref().map(|found| match found {
            CompletionRef::Prompt(name) => format!("prompt {name}"),
            CompletionRef::Resource(uri) => format!("resource {uri}"),
        })
    };
    assert_eq!(
        read(r#"{"type":"ref/prompt","name":"p"}"#),
        Ok("prompt p".into())
    );
    assert_eq!(
        read(r#"{"type":"ref/resource","uri":"file:///{x}"}"#),
        Ok("resource file:///{x}".into())
    );
    for reference in [
        "3",
        "{}",
        r#"{"type":"ref/x","name":"p"}"#,
        r#"{"type":"ref/prompt","name":"p","Name":"q"}"#,
    ] {
        assert!(read(reference).is_err(), "{reference}");
    }
}

#[test]
fn what_goes_on_is_written_anew_on_one_line() {
    let text = "{ \"params\": {\"name\":\"a\",\r\n \"arguments\": {\"x\":\n[1.50, \"l\\n\"]}}, \"junk\": [1],\n \"method\":\"tools/call\", \"id\":\"q\\u0022\", \"jsonrpc\":\"2.0\"}\n";
    assert_eq!(
        emitted(text, &Edits::new()),
        r#"{"jsonrpc":"2.0","id":"q\"","method":"tools/call","params":{"name":"a","arguments":{"x": [1.50, "l\n"]}}}"#
    );
}

#[test]
fn members_are_replaced_added_and_removed_on_the_way() {
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"sampling":{},"roots":{"listChanged":true}},"_meta":{"progressToken":1,"k":2}}}"#;
    let capabilities = emit::without(
        r#"{"sampling":{},"roots":{"listChanged":true}}"#,
        keys::CAPABILITIES,
        &["sampling"],
    )
    .unwrap();
    let edits = Edits::new()
        .id(Id::String("new".into()))
        .set_string("protocolVersion", "2025-11-25")
        .set("capabilities", capabilities)
        .set_meta("progressToken", "9")
        .set_meta("progressToken", "\"sealed\"")
        .remove_meta("k")
        .set_meta("traceparent", "\"00-1\"")
        .set("added", "[true]");
    assert_eq!(
        emitted(initialize, &edits),
        r#"{"jsonrpc":"2.0","id":"new","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true}},"_meta":{"progressToken":"sealed","traceparent":"00-1"},"added":[true]}}"#
    );
    let bare = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
    assert_eq!(
        emitted(bare, &Edits::new().remove("x").remove_meta("y")),
        bare
    );
    assert_eq!(
        emitted(bare, &Edits::new().set_meta("a", "1")),
        r#"{"jsonrpc":"2.0","id":0,"method":"ping","params":{"_meta":{"a":1}}}"#
    );
    let empty = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"requestId":4}}"#;
    assert_eq!(
        emitted(empty, &Edits::new().remove("requestId").id(Id::Integer(3))),
        r#"{"jsonrpc":"2.0","method":"notifications/x","params":{}}"#
    );
    assert_eq!(
        emitted(empty, &Edits::new().set_meta("a", "1")),
        r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"requestId":4,"_meta":{"a":1}}}"#
    );
}

#[test]
fn capabilities_with_a_variant_of_a_denied_one_are_refused() {
    let variant = r#"{"Sampling":{},"roots":{}}"#;
    assert!(emit::without(variant, keys::CAPABILITIES, &["sampling"]).is_err());
    assert!(emit::without("[]", keys::CAPABILITIES, &["sampling"]).is_err());
}

fn json_text() -> impl Strategy<Value = serde_json::Value> {
    crate::json::tests::arbitrary_json()
}

proptest! {
    #[test]
    fn an_integer_is_an_id_in_its_one_spelling_only(text in "-?[0-9]{0,3}([0-9]{17})?", number in any::<i64>()) {
        for raw in [text, number.to_string(), format!("0{number}")] {
            let plain = raw.parse().ok().filter(|read: &i64| read.to_string() == raw);
            prop_assert_eq!(Id::from_json(&raw), plain.map(Id::Integer));
        }
        prop_assert_eq!(Id::Integer(number).to_json(), number.to_string());
    }

    #[test]
    fn an_object_is_written_alike_whether_it_is_compact_or_not(
        members in prop::collection::hash_map(
            prop::sample::select(vec!["a", "b", "\\u0063", "é", "d\\/", "_meta"]),
            prop::sample::select(vec!["1", "[1, 2]", "{\"x\" :\n1}", "{}", "\"x\\n\""]),
            0..6,
        ),
        spaces in prop::collection::vec(prop::sample::select(vec!["", "", " ", "\r\n"]), 24),
    ) {
        let mut spaces = spaces.into_iter();
        let mut raw = format!("{{{}", spaces.next().unwrap_or_default());
        let mut separator = "";
        for (key, value) in &members {
            let value = if *key == "_meta" { "{ \"k\":[1\n] }" } else { value };
            let (before, after) = (spaces.next().unwrap_or_default(), spaces.next().unwrap_or_default());
            raw.push_str(&format!("{separator}\"{key}\"{before}:{value}{after}"));
            separator = ",";
        }
        raw.push('}');
        let object = Object::from_raw(&raw, &[]).unwrap();
        let expected: Vec<_> = object
            .members
            .iter()
            .map(|member| format!("{}:{}", json::quoted(&member.key), member.raw.replace(['\r', '\n'], " ")))
            .collect();
        prop_assert_eq!(object.to_text(&Edits::new()), format!("{{{}}}", expected.join(",")));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
        if let Ok(message) = parse(&bytes) {
            prop_assert!(parse(&message.emit(&Edits::new())).is_ok());
        }
    }

    #[test]
    fn nearly_messages_never_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "\"jsonrpc\":\"2.0\"", "\"id\":1", "\"id\":null", ",", "\"method\":\"tools/call\"", "\"method\":\"notifications/x\"",
        "\"params\":{", "\"name\":\"a\"", "\"arguments\":{}", "\"_meta\":{", "\"result\":{", "\"error\":{", "\"code\":1",
        "\"message\":\"m\"", "\"Name\":1", "[", "]", "\n",
    ]), 0..16)) {
        let text = pieces.concat();
        if let Ok(message) = parse(text.as_bytes()) {
            let once = message.emit(&Edits::new());
            let again = parse(&once).unwrap();
            prop_assert_eq!(again.emit(&Edits::new()), once);
        }
    }

    #[test]
    fn what_is_forwarded_reads_elsewhere_as_the_same_call(
        name in any::<String>(),
        arguments in prop::collection::btree_map(any::<String>(), json_text(), 0..6),
        id in any::<i64>(),
        pretty in any::<bool>(),
    ) {
        let sent = serde_json::json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call", "extra": 1,
            "params": {"name": name, "arguments": arguments, "_meta": {"progressToken": "t"}},
        });
        let bytes = if pretty { serde_json::to_vec_pretty(&sent) } else { serde_json::to_vec(&sent) }.unwrap();
        let Ok(Message::Request(request)) = parse(&bytes) else { return Err(TestCaseError::fail("refused")) };
        let call = request.tool_call().unwrap();
        prop_assert_eq!(&call.name, &name);
        let forwarded = request.emit(&Edits::new().id(Id::Integer(5)).set_meta("progressToken", "6"));
        prop_assert!(!forwarded.contains(&b'\n'));
        let seen: serde_json::Value = serde_json::from_slice(&forwarded).unwrap();
        // Both sides went through serde_json once, as its own reading of floats need not
        // round-trip.
        let original: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(&seen["params"]["arguments"], &original["params"]["arguments"]);
        prop_assert_eq!(&seen["params"]["name"], &original["params"]["name"]);
        prop_assert_eq!(&seen["method"], "tools/call");
        prop_assert_eq!(&seen["id"], 5);
        prop_assert_eq!(&seen["params"]["_meta"]["progressToken"], 6);
        prop_assert!(seen.get("extra").is_none());
    }
}
