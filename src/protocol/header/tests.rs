use proptest::prelude::*;

use super::super::envelope::{self, Message};
use ::http::header::CONTENT_TYPE;

use super::*;

fn accepted_types(headers: &HeaderMap) -> Result<AcceptedTypes, HeaderFault> {
    super::accepted_types(&Fields::of(headers))
}

fn check_post_content(headers: &HeaderMap) -> Result<(), HeaderFault> {
    super::check_post_content(&Fields::of(headers))
}

fn session_id(headers: &HeaderMap) -> Result<Option<&str>, HeaderFault> {
    super::session_id(&Fields::of(headers))
}

fn protocol_version(headers: &HeaderMap) -> Result<Option<&str>, HeaderFault> {
    super::protocol_version(&Fields::of(headers))
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

#[test]
fn a_post_is_answered_in_the_types_that_it_accepts() {
    use AcceptedTypes::{Both, Events, Json};
    for (accept, types) in [
        (&["application/json, text/event-stream"][..], Both),
        (&["text/event-stream", "application/json"], Both),
        (&["*/*"], Both),
        (&["APPLICATION/json;q=0.5,text/*"], Both),
        (&["application/json, text/event-stream; q=0.001"], Both),
        (&[], Both),
        (&["application/json"], Json),
        (&["application/*"], Json),
        (&["application/json, text/event-stream;q=0"], Json),
        (&["text/event-stream"], Events),
        (&["application/jsonx, text/event-stream"], Events),
        (&["*/json, text/event-stream"], Events),
    ] {
        let pairs: Vec<_> = accept.iter().map(|value| ("accept", *value)).collect();
        assert_eq!(accepted_types(&headers(&pairs)), Ok(types), "{accept:?}");
    }
    for accept in ["", "text/html", "*/*;q=0.0"] {
        assert_eq!(
            accepted_types(&headers(&[("accept", accept)])),
            Err(HeaderFault::AcceptPost),
            "{accept}"
        );
    }
    assert_eq!(
        check_get_accept(&headers(&[("accept", "text/event-stream")])),
        Ok(())
    );
    assert_eq!(
        check_get_accept(&headers(&[("accept", "application/json")])),
        Err(HeaderFault::AcceptGet)
    );
}

#[test]
fn a_body_is_plain_json_in_utf_8() {
    for value in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
        "application/json;",
    ] {
        assert_eq!(
            check_post_content(&headers(&[("content-type", value)])),
            Ok(()),
            "{value}"
        );
    }
    for value in [
        "text/plain",
        "application/json-rpc",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; boundary=x",
        "application/json, text/plain",
        "",
    ] {
        assert_eq!(
            check_post_content(&headers(&[("content-type", value)])),
            Err(HeaderFault::ContentType),
            "{value}"
        );
    }
    let twice = headers(&[
        ("content-type", "application/json"),
        ("content-type", "application/json"),
    ]);
    assert_eq!(check_post_content(&twice), Err(HeaderFault::ContentType));
    for encoding in ["gzip", "identity", ""] {
        let encoded = headers(&[
            ("content-type", "application/json"),
            ("content-encoding", encoding),
        ]);
        assert_eq!(
            check_post_content(&encoded),
            Err(HeaderFault::ContentEncoding)
        );
    }
    assert!(
        is_event_stream("text/event-stream; charset=utf-8")
            && !is_event_stream("text/event-streams")
    );
}

#[test]
fn headers_that_may_stand_once_are_refused_twice() {
    let twice = headers(&[("mcp-session-id", "a"), ("Mcp-Session-Id", "b")]);
    assert_eq!(
        session_id(&twice),
        Err(HeaderFault::Unusable("mcp-session-id"))
    );
    assert_eq!(
        session_id(&headers(&[("mcp-session-id", "a b")])),
        Err(HeaderFault::Unusable("mcp-session-id"))
    );
    assert_eq!(
        session_id(&headers(&[("mcp-session-id", "é")])),
        Err(HeaderFault::Unusable("mcp-session-id"))
    );
    assert_eq!(
        session_id(&headers(&[("mcp-session-id", "a~!")])),
        Ok(Some("a~!"))
    );
    assert_eq!(session_id(&HeaderMap::new()), Ok(None));
}

#[test]
fn a_session_takes_any_version_header_that_we_speak_or_none() {
    for header in [
        None,
        Some("2025-03-26"),
        Some("2025-06-18"),
        Some("2025-11-25"),
    ] {
        assert_eq!(check_session_version(header), Ok(()));
    }
    for header in ["", "2024-11-05", "2026-07-28", "2025-11-25, 2025-11-25"] {
        assert_eq!(
            check_session_version(Some(header)),
            Err(HeaderFault::Version)
        );
    }
}

#[test]
fn equal_copies_of_the_version_header_are_one() {
    let read = |values: &[&str]| {
        let values: Vec<_> = values
            .iter()
            .map(|value| ("mcp-protocol-version", *value))
            .collect();
        protocol_version(&headers(&values)).map(|found| found.map(str::to_owned))
    };
    assert_eq!(read(&[]), Ok(None));
    for equal in [
        &["2025-11-25"][..],
        &["2025-11-25, 2025-11-25"],
        &["2025-11-25", "2025-11-25"],
        &["2025-11-25,2025-11-25", " 2025-11-25 "],
    ] {
        assert_eq!(read(equal), Ok(Some("2025-11-25".to_owned())), "{equal:?}");
    }
    for two in [
        &["2025-11-25, 2025-06-18"][..],
        &["2025-11-25", "2026-07-28"],
        &["2025-11-25,"],
        &["", "2025-11-25"],
    ] {
        assert_eq!(read(two), Err(HeaderFault::VersionTwice), "{two:?}");
    }
}

#[test]
fn only_listed_headers_go_upstream() {
    let client = headers(&[
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1.2.3.4"),
        ("mcp-session-id", "s"),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-method", "tools/call"),
        ("host", "h"),
        ("connection", "upgrade"),
        ("traceparent", "00-1-2-01"),
        ("tracestate", "a=1"),
        ("tracestate", "b=1"),
        ("Mcp-Param-Region", "eu"),
        ("mcp-params", "x"),
    ]);
    let mut passed: Vec<_> = forwarded(&client)
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    passed.sort_unstable();
    assert_eq!(
        passed,
        [("mcp-param-region", "eu"), ("traceparent", "00-1-2-01")]
    );
}

#[test]
fn a_401_says_where_to_get_a_credential() {
    assert_eq!(www_authenticate(None, None), "Bearer");
    assert_eq!(
        www_authenticate(
            Some("https://h/.well-known/oauth-protected-resource"),
            Some("invalid_token")
        ),
        r#"Bearer error="invalid_token", resource_metadata="https://h/.well-known/oauth-protected-resource""#
    );
    assert_eq!(
        www_authenticate(Some("a\"\r\n\\b"), None),
        r#"Bearer resource_metadata="a\"\\b""#
    );
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn origins_of_this_machine_and_listed_ones_are_answered() {
    let allowed = list(&[
        "https://app.example",
        "http://[2001:db8::1]:8080",
        "https://Port.example:8443",
    ]);
    for origin in [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:6274",
        "http://127.9.9.9",
        "http://[::1]:80",
        "http://app.localhost:1",
        "https://app.example",
        "https://APP.example:443",
        "http://[2001:db8:0::1]:8080",
        "https://port.example:8443",
    ] {
        assert!(origin_allowed(origin, &allowed), "{origin}");
    }
    for origin in [
        "null",
        "",
        "http://app.example",
        "https://app.example:8443",
        "https://port.example",
        "https://evil.app.example",
        "https://app.example.evil",
        "https://app.example/path",
        "https://app.example@evil.example",
        "http://localhost.evil.example",
        "http://notlocalhost",
        "http://127.0.0.1.evil.example",
        "http://127.1",
        "http://0x7f.0.0.1",
        "http://[::1",
        "http://::1",
        "file://localhost",
        "chrome-extension://localhost",
        "http://localhost:port",
        "http://localhost:",
        "http://localhost:99999",
        "http://localhost, http://evil.example",
    ] {
        assert!(!origin_allowed(origin, &allowed), "{origin}");
    }
}

#[test]
fn hosts_of_this_machine_and_listed_ones_are_answered() {
    let mut allowed = AllowedHosts::default();
    allowed.extend(list(&[
        "gateway.ml.svc",
        "mcp.example:8443",
        "[2001:db8::1]",
        "a b",
    ]));
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:1",
        "[::1]",
        "[::ffff:127.0.0.1]:80",
        "gateway.ml.svc",
        "Gateway.ML.svc.:8080",
        "mcp.example:8443",
        "[2001:db8::1]:443",
    ] {
        assert!(allowed.contains(host), "{host}");
    }
    for host in [
        "",
        "mcp.example",
        "mcp.example:80",
        "gateway.ml.svc.evil.example",
        "evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "user@localhost",
        "::1",
        "[::1]x",
        "[2001:db8::2]",
        "127.0.0.1.nip.example",
        "2130706433",
        "localhost:80:80",
        "mcp.example:8443:80",
        "gateway.ml.svc:80:80",
        "localhost:",
        "127.0.0.1:65536",
        "a b",
    ] {
        assert!(!allowed.contains(host), "{host}");
    }
}

#[test]
fn mirrored_values_are_decoded_as_the_specification_shows() {
    for (text, value) in [
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ] {
        assert_eq!(encode_value(text), value);
        assert_eq!(decode_value(value).as_deref(), Some(text));
    }
    assert_eq!(decode_value("=?base64?*?="), None);
    assert_eq!(decode_value("=?base64?/w==?="), None);
}

#[test]
fn a_stateless_requests_headers_must_agree_with_its_body() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"gét"}}"#;
    let Message::Request(request) = envelope::parse(body.as_bytes()).unwrap() else {
        panic!("not a request")
    };
    let check = |pairs: &[(&str, &str)]| check_stateless(&headers(pairs), "2026-07-28", &request);
    let version = ("mcp-protocol-version", "2026-07-28");
    let method = ("mcp-method", "tools/call");
    let name = ("mcp-name", "=?base64?Z8OpdA==?=");
    assert_eq!(check(&[version, method, name]), Ok(()));
    assert_eq!(
        check(&[method, name]),
        Err(HeaderFault::Missing("mcp-protocol-version"))
    );
    assert_eq!(
        check(&[version, name]),
        Err(HeaderFault::Missing("mcp-method"))
    );
    assert_eq!(
        check(&[version, method]),
        Err(HeaderFault::Missing("mcp-name"))
    );
    assert_eq!(
        check(&[version, ("mcp-method", "tools/list"), name]),
        Err(HeaderFault::Mismatch("mcp-method"))
    );
    assert_eq!(
        check(&[version, method, ("mcp-name", "get")]),
        Err(HeaderFault::Mismatch("mcp-name"))
    );
    assert_eq!(
        check(&[version, method, name, name]),
        Err(HeaderFault::Unusable("mcp-name"))
    );
    assert_eq!(
        check(&[("mcp-protocol-version", "2025-11-25"), method, name]),
        Err(HeaderFault::Mismatch("mcp-protocol-version"))
    );
}

proptest! {
    #[test]
    fn text_is_visible_where_each_byte_is(
        before in prop::collection::vec(0x21..0x7f_u8, 0..20),
        odd in prop::collection::vec(any::<u8>(), 0..3),
        after in prop::collection::vec(prop::sample::select(b"!~\x21\x7e".to_vec()), 0..20),
    ) {
        let text = [before, odd, after].concat();
        prop_assert_eq!(is_visible(&text), text.iter().all(|byte| (0x21..=0x7e).contains(byte)));
    }

    #[test]
    fn usual_headers_are_judged_as_any_others(values in prop::collection::vec(prop::sample::select(vec![
        "application/json, text/event-stream", "text/event-stream, application/json", "*/*", "application/json",
        "application/json,text/event-stream", "Application/JSON, text/event-stream;q=0", "text/event-stream", "",
    ]), 0..3)) {
        let mut headers = HeaderMap::new();
        for value in &values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
            headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        let json = accepts(&headers, "application", "json");
        let types = match (json, accepts(&headers, "text", "event-stream")) {
            (true, true) => Ok(AcceptedTypes::Both),
            (true, false) => Ok(AcceptedTypes::Json),
            (false, true) => Ok(AcceptedTypes::Events),
            (false, false) if values.is_empty() => Ok(AcceptedTypes::Both),
            (false, false) => Err(HeaderFault::AcceptPost),
        };
        prop_assert_eq!(accepted_types(&headers), types);
        let json = matches!(values[..], [value] if is_json(value));
        prop_assert_eq!(check_post_content(&headers).is_ok(), json);
    }
}
