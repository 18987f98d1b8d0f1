//! Spellings of each format: of the spellings that some decoder reads as one value, one passes.

use super::*;
use serde_json::json;

fn passes(schema: Value, text: &str) -> bool {
    let members = schema.as_object().unwrap();
    Formats::stated(members).fault(text).is_none()
}

#[test]
fn each_format_has_one_spelling_for_a_value() {
    let network = [
        "10.0.0.1",
        "10.0.0.0/08",
        "10.0.0.0/255.0.0.0",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "010.0.0.0/8",
        "10.0.0.0/8 ",
        "10/8",
    ];
    let six = [
        "FD00::1",
        "fd00:0::1",
        "fd00::0001",
        "::ffff:1.2.3.4",
        "fe80::1%eth0",
        "[fd00::1]",
        "0:0:0:0:0:0:0:1",
    ];
    for (format, good, bad) in [
        (
            "uuid",
            &["12345678-1234-4234-8234-123456789abc"][..],
            &[
                "12345678-1234-4234-8234-123456789ABC",
                "12345678123442348234123456789abc",
                "urn:uuid:12345678-1234-4234-8234-123456789abc",
                "{12345678-1234-4234-8234-123456789abc}",
                " 12345678-1234-4234-8234-123456789abc",
                "1234567-81234-4234-8234-123456789abc",
                "",
                "x",
            ][..],
        ),
        (
            "uuid7",
            &["12345678-1234-7234-8234-123456789abc"],
            &["12345678-1234-7234-8234-123456789Abc"],
        ),
        (
            "date",
            &["2026-01-01", "2024-02-29", "0001-01-01"],
            &[
                "2026-01-01T00:00:00",
                "2026-01-01T00:00:00Z",
                "1767225600",
                "1767225600.0",
                "2026-1-1",
                "20260101",
                " 2026-01-01",
                "2026-02-29",
                "2026-13-01",
                "2026-00-01",
                "2026-01-00",
                "+2026-01-01",
                "２０２６-01-01",
                "0000-01-01",
                "2026-W01-1",
                "2026-01-01-",
            ],
        ),
        (
            "date-time",
            &[
                "2026-01-01T00:00:00Z",
                "2026-01-01T23:59:59.5Z",
                "2026-01-01T00:00:00.123Z",
            ],
            &[
                "2026-01-01T00:00:00",
                "2026-01-01T00:00:00+00:00",
                "2026-01-01T00:00:00-00:00",
                "2026-01-01T01:00:00+01:00",
                "2026-01-01 00:00:00Z",
                "2026-01-01t00:00:00z",
                "2026-01-01T00:00Z",
                "2026-01-01T00:00:00.0Z",
                "2026-01-01T00:00:00.1234567Z",
                "2026-01-01T00:00:00,5Z",
                "2026-01-01",
                "1767225600",
                "2026-01-01T24:00:00Z",
                "2026-01-01T00:00:60Z",
                "2026-01-01T00:00:00.Z",
                "2026-01-01T00:00:00ZZ",
            ],
        ),
        (
            "time",
            &["00:00:00", "23:59:59.125"],
            &[
                "00:00",
                "00:00:00Z",
                "00:00:00.0",
                "00:00:00+00:00",
                "0:00:00",
                "24:00:00",
                "0",
                "86399",
                " 00:00:00",
                "00:00:00.1234",
            ],
        ),
        (
            "duration",
            &[
                "P1D",
                "PT1H",
                "PT1M",
                "PT1S",
                "PT0S",
                "-P1D",
                "P2DT23H59M59S",
                "PT1.5S",
                "PT0.125S",
                "P400D",
            ],
            &[
                "PT24H",
                "P1DT0S",
                "P1DT",
                "P",
                "PT",
                "P1W",
                "P7D ",
                "P1Y",
                "P1M",
                "1 day",
                "24:00:00",
                "86400",
                "PT60M",
                "PT01H",
                "P01D",
                "+P1D",
                "-PT0S",
                "P0D",
                "PT1.50S",
                "PT1,5S",
                "PT0.0S",
                "p1d",
                "PT1.5H",
                "PT1S1M",
                "PT1M1H",
                "P1DT1D",
                "1 days, 0:00:00",
                "PT.5S",
            ],
        ),
        (
            "uri",
            &[
                "http://a/",
                "https://a.b/c?d=e",
                "file:///a",
                "x://a/b",
                "http://127.0.0.1/",
            ],
            &[
                "HTTP://a/",
                "http://A/",
                "http://a",
                "http://a:80/",
                "http://0x7f.1/",
                "http://2130706433/",
                " http://a/",
                "http://a/\t",
                "ht\ntp://a/",
                "http://a/é",
                "http://a/./b",
                "http://a/%41",
                "http:/a",
                "http:\\\\a",
                "http://u@a/",
                "http://a/#f",
                "a",
            ],
        ),
        ("url", &["http://a/"], &["http://a"]),
        (
            "path",
            &["/etc/x", "a/b", "/", ".", "a b", ".hidden", "..."],
            &[
                "//etc/x", "/./etc/x", "/etc//x", "/etc/x/", "./a", "a/.", "a/../b", "..", "",
                "a\\b", "a\0", "//", "/etc/\nx",
            ],
        ),
        ("file-path", &["/a"], &["//a"]),
        (
            "email",
            &["a.b+c@x.example"],
            &[
                "A@x.example",
                "a@X.example",
                " a@x.example",
                "a@x.example.",
                "J <a@x.example>",
                "\"a\"@x.example",
                "a@x",
                "a@b@x.example",
                "a..b@x.example",
                "é@x.example",
                "",
            ],
        ),
        ("name-email", &["a@x.example"], &["J <a@x.example>"]),
        (
            "hostname",
            &["a.example", "a-b", "127.0.0.1"],
            &["A.example", "a.example.", "0x7f", "127.1", "a_b", "-a", ""],
        ),
        (
            "ipv4",
            &["10.0.0.1"],
            &[
                "010.0.0.1",
                "10.0.0.1 ",
                "167772161",
                "10.1",
                "0xa.0.0.1",
                "1０.0.0.1",
            ],
        ),
        ("ipv6", &["fd00::1", "::1"], &six),
        (
            "ipvanyaddress",
            &["10.0.0.1", "fd00::1"],
            &["010.0.0.1", "FD00::1", "::ffff:10.0.0.1", "167772161"],
        ),
        (
            "ipv4network",
            &["10.0.0.0/8", "0.0.0.0/0", "10.0.0.1/32"],
            &network,
        ),
        ("cidrv4", &["10.0.0.0/8"], &network),
        (
            "ipv6network",
            &["fd00::/8", "::/0", "::1/128"],
            &["fd00::1/8", "FD00::/8", "fd00::", "fd00::/08", "fd00::/129"],
        ),
        (
            "ipvanynetwork",
            &["10.0.0.0/8", "fd00::/8"],
            &["10.0.0.1", "10.0.0.0/255.0.0.0", "fd00::1/8"],
        ),
        (
            "ipv4interface",
            &["10.0.0.1/8"],
            &["10.0.0.1", "10.0.0.1/08", "10.0.0.1/255.0.0.0"],
        ),
        ("ipv6interface", &["fd00::1/8"], &["fd00::1", "FD00::1/8"]),
        (
            "base64",
            &["", "aGk=", "/+8=", "QUJD"],
            &[
                "aGk", "aG k=", "aG\nk=", "aGl=", "_-8=", "aGk=\n", "aGk==", "====",
            ],
        ),
        ("byte", &["aGk="], &["aGl="]),
        ("base64url", &["aGk=", "_-8="], &["aGk", "/+8=", "aGl="]),
        (
            "binary",
            &["any Text", "é", "00ff", "Hi there"],
            &["00FF", "DEAD"],
        ),
        (
            "int64",
            &["7", "0", "-7"],
            &["07", "+7", " 7", "7.0", "-0", "", "1_0", "７"],
        ),
        (
            "decimal",
            &["7", "7.5", "-0.5"],
            &[
                "7.0", "7.50", ".5", "7.", "1e3", "07", "NaN", "-0", "+1", "_1",
            ],
        ),
        (
            "ulid",
            &["01ARZ3NDEKTSV4RRFFQ69G5FAV"],
            &[
                "01arz3ndektsv4rrffq69g5fav",
                "81ARZ3NDEKTSV4RRFFQ69G5FAV",
                "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            ],
        ),
        ("regex", &["(?i)A", ""], &[]),
        ("password", &["Any text"], &[]),
        ("json-string", &[], &["1", "{}", ""]),
        ("UUID", &[], &["12345678-1234-4234-8234-123456789abc"]),
        ("color", &[], &["red", "#f00"]),
    ] {
        for text in good {
            assert!(
                passes(json!({"type": "string", "format": format}), text),
                "{format} {text:?}"
            );
        }
        for text in bad {
            assert!(
                !passes(json!({"type": "string", "format": format}), text),
                "{format} {text:?}"
            );
        }
    }
}

#[test]
fn encodings_and_media_types_are_formats_too() {
    let base64 = json!({"contentEncoding": "base64", "contentMediaType": "image/png"});
    assert!(passes(base64.clone(), "aGk="));
    assert!(!passes(base64, "aGl="));
    for odd in [
        json!({"contentMediaType": "application/json"}),
        json!({"contentEncoding": "quoted-printable"}),
        json!({"format": 7}),
        json!({"pattern": "^\\s*(\\d*\\.?\\d+)\\s*(\\w+)?"}),
    ] {
        assert!(!passes(odd.clone(), "1"), "{odd}");
    }
    assert!(passes(json!({"contentMediaType": "text/markdown"}), "# A"));
    assert!(passes(json!({"pattern": "^a"}), "b"));
}
