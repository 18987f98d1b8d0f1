use proptest::prelude::*;

use super::*;

#[test]
fn the_plain_spelling_of_a_resource_is_let_in() {
    for uri in [
        "mlflow://runs/abc",
        "mlflow://Runs/1",
        "file:///",
        "file:///a/b.txt",
        "file:///a%20b/%C3%A9",
        "file:///C:/a",
        "x://a/...",
        "x://a/b/",
        "x:///a",
        "x:/a",
        "x:a",
        "urn:a:b",
        "x://a:8080/b",
        "x://a/b?q=1&r=a%26b%3Dc%2Bd%20e",
        "http://runs/secret",
        "http://runs/",
        "https://runs:8443/secret?x=1",
        "https://runs/?q=%27",
        "http://127.0.0.1/x",
        "http://[::1]:8080/x",
        "http://1.a/x",
        "greeting://Alice",
        "x://a/b;v=1,2/(c)!$*@d",
    ] {
        assert_eq!(uri_fault(uri), None, "{uri}");
    }
}

#[test]
fn every_other_spelling_is_refused_with_what_to_write() {
    for (uri, write) in [
        ("", "whole URI"),
        ("a", "scheme"),
        ("/etc/passwd", "scheme"),
        ("//a/b", "scheme"),
        // Files.
        ("file:/etc/passwd", "file:///a/b"),
        ("file:etc/passwd", "file:///a/b"),
        ("file://localhost/etc/passwd", "file:///a/b"),
        ("file://127.0.0.1/etc/passwd", "file:///a/b"),
        ("file:////etc/passwd", "file:///a/b"),
        ("file://///etc/passwd", "file:///a/b"),
        ("file://etc/passwd", "file:///a/b"),
        ("file:///etc//passwd", "single slashes"),
        ("file:///etc/passwd?x", "leave out `?`"),
        ("file:///etc/passwd#x", "leave out `#`"),
        ("FILE:///etc/passwd", "write file:"),
        ("fIle:///etc/passwd", "write file:"),
        ("file:///c|/x", "%7C"),
        // Characters.
        ("file:///\u{e9}", "write %C3%A9"),
        ("x://a/\u{ff0f}b", "write %EF%BC%8F"),
        ("x://a b", "write %20"),
        ("x://a/\tb", "control"),
        ("x://a/\nb", "control"),
        ("\u{0}x://a", "control"),
        (" x://a", "write %20"),
        ("x:\\a", "slashes"),
        ("http:\\\\runs\\secret", "slashes"),
        ("x://a/\"b\"", "write %22"),
        ("x://a/<b>", "write %3C"),
        ("x://a/^", "write %5E"),
        ("x://a/`", "write %60"),
        ("x://a/{b}", "write %7B"),
        ("x://a/b[0]", "%5B"),
        // Escapes.
        ("x://a/%c3%a9", "upper case"),
        ("x://a/%C3%a9", "upper case"),
        ("x://a%", "two digits"),
        ("x://a/%zz", "two digits"),
        ("x://%61dmin", "write a"),
        ("x://a/%2E%2E/b", "write ."),
        ("x://a/%7E", "write ~"),
        ("x://a/%3A", "write :"),
        ("x://a/%40", "write @"),
        ("x://a/%2B", "write +"),
        ("x://a?%2A", "write *"),
        ("x://a%2Fb", "separator"),
        ("x://a%5Cb", "separator"),
        ("x://a/%252E", "separator"),
        ("x://a/%3Fb", "separator"),
        ("x://a/%23b", "separator"),
        ("x://a/%00", "control"),
        ("x://a/%0A", "control"),
        ("x://a/%C2%85", "control"),
        ("x://a/%FF", "UTF-8"),
        ("x://a/%C0%AF", "UTF-8"),
        ("x://a/%ED%A0%80", "UTF-8"),
        // Dot segments.
        ("x://a/../b", "dot segments"),
        ("x://a/..", "dot segments"),
        ("x://a/./b", "dot segments"),
        ("x://a/..?q", "dot segments"),
        ("x://a/..;p/b", "dot segments"),
        ("x:..", "dot segments"),
        ("x://..", "dot segments"),
        // Queries and fragments.
        ("x://a?", "leave out the `?`"),
        ("x://a/b#", "fragment"),
        ("x://a?q=a+b", "%20"),
        ("http://a/?q='b'", "%27"),
        // Hosts and ports.
        ("http://RUNS/secret", "lower-case"),
        ("http:/runs/secret", "http://host/path"),
        ("http:runs/secret", "http://host/path"),
        ("http:///runs/secret", "lower-case"),
        ("http://runs", "`/`"),
        ("http://runs?secret", "`/`"),
        ("http://runs:80/secret", "leave out :80"),
        ("https://runs:443/secret", "leave out :443"),
        ("ws://runs:80/x", "leave out :80"),
        ("ftp://runs:21/x", "leave out :21"),
        ("http://runs:/secret", "port"),
        ("http://runs:08080/secret", "port"),
        ("http://runs:+8/secret", "port"),
        ("http://runs:99999/secret", "port"),
        ("x://runs:080/secret", "port"),
        ("x://runs:/secret", "port"),
        ("http://me@runs/secret", "`@`"),
        ("x://me:pw@runs/secret", "`@`"),
        ("x://@runs/secret", "`@`"),
        ("http://runs./secret", "single dots"),
        ("http://a..b/secret", "single dots"),
        ("http://127.1/x", "127.0.0.1"),
        ("http://0x7f.1/x", "127.0.0.1"),
        ("http://2130706433/x", "127.0.0.1"),
        ("http://0177.0.0.1/x", "127.0.0.1"),
        ("http://0x7f000001/x", "127.0.0.1"),
        ("http://127.0.0.01/x", "127.0.0.1"),
        ("http://%31/x", "lower-case"),
        ("http://[::0001]/x", "IPv6"),
        ("http://[0:0:0:0:0:0:0:1]/x", "IPv6"),
        ("http://[::FFFF]/x", "IPv6"),
        ("http://[::ffff:1.2.3.4]/x", "IPv6"),
        ("http://a[::1]/x", "IPv6"),
        ("http://[::1]x/", "port"),
        ("x://a//b", "single slashes"),
        ("x:////a", "single slashes"),
    ] {
        let fault = uri_fault(uri).unwrap_or_else(|| panic!("{uri:?} is let in"));
        assert!(fault.contains(write), "{uri:?}: {fault}");
    }
}

#[test]
fn templates_are_held_to_the_same_outside_of_their_expressions() {
    for template in [
        "file:///{path}",
        "file:///good/{+path}",
        "x://{host}:{port}/a{/more*}{?q,r}{&s}",
        "{scheme}://a/b",
        "greeting://{name}",
        "x://a/b",
    ] {
        assert_eq!(template_fault(template), None, "{template}");
    }
    for (template, write) in [
        ("file:/etc/{x}", "file:///a/b"),
        ("file:////etc/{x}", "file:///a/b"),
        ("FILE:///{x}", "write file:"),
        ("x://a/../{x}", "dot segments"),
        ("x://a/%7e{x}", "upper case"),
        ("x://a/{x", "`}`"),
        ("x://a/x}", "write %7D"),
        ("x://a/{}", "RFC 6570"),
        ("x://a/{a b}", "RFC 6570"),
        ("x://a/{{a}}", "RFC 6570"),
        ("x://a/{\u{e9}}", "RFC 6570"),
    ] {
        let fault = template_fault(template).unwrap_or_else(|| panic!("{template:?} is let in"));
        assert!(fault.contains(write), "{template:?}: {fault}");
    }
}

#[test]
fn a_pattern_that_could_match_refused_uris_only_is_refused() {
    for pattern in [
        "*",
        "file:*",
        "file:/*",
        "file://*",
        "file:///*",
        "file:///etc/*",
        "*.txt",
        "*/secret/*",
        "http*",
        "*://runs/*",
        "x:*",
        "*:8080/*",
        "x://a:*/b",
        "mlflow://runs/*/artifacts",
        "f*/a",
        "*%C3%A9*",
        "http://[::1]*",
        "*?q=*",
        "x://a/b",
    ] {
        assert_eq!(pattern_fault(pattern), None, "{pattern}");
    }
    for (pattern, write) in [
        ("file:/etc/*", "file:///a/b"),
        ("file:////etc/*", "file:///a/b"),
        ("file://localhost/*", "file:///a/b"),
        ("FILE:*", "write file:"),
        ("x://a/../*", "dot segments"),
        ("x://%7e*", "upper case"),
        ("*/%2e%2e/*", "upper case"),
        ("*\u{e9}*", "write %C3%A9"),
        ("* *", "write %20"),
        ("http://RUNS/*", "lower-case"),
        ("http://runs:80/*", "leave out :80"),
        ("*#*", "fragment"),
        ("x://me@*", "`@`"),
        ("a", "scheme"),
        ("/etc/*", "scheme"),
    ] {
        let fault = pattern_fault(pattern).unwrap_or_else(|| panic!("{pattern:?} is let in"));
        assert!(fault.contains(write), "{pattern:?}: {fault}");
    }
}

proptest! {
    #[test]
    fn no_uri_panics(uri in "\\PC{0,40}") {
        uri_fault(&uri);
        template_fault(&uri);
        pattern_fault(&uri);
    }

    /// What is let in is one spelling: another writing of the same path, by any one change, is
    /// refused.
    #[test]
    fn no_change_of_spelling_is_let_in(path in "[a-z]{1,4}(/[a-z]{1,4}){0,2}", at in 0usize..12, how in 0usize..5) {
        let uri = format!("file:///{path}");
        prop_assert_eq!(uri_fault(&uri), None);
        let at = 8 + at % path.len();
        let (before, after) = uri.split_at(at);
        let first = after.chars().next().unwrap();
        let changed = match how {
            0 => format!("{before}%{:02X}{}", u32::from(first), &after[1..]),
            1 => format!("{before}%{:02x}{}", u32::from(first), &after[1..]),
            2 => format!("{before}\t{after}"),
            3 => format!("{}{path}", ["file:/", "file:", "file:////", "File:///", "file://localhost/"][at % 5]),
            _ => format!("file:///./{path}"),
        };
        prop_assert!(uri_fault(&changed).is_some(), "{}", changed);
    }
}

#[test]
fn a_pattern_may_name_templates() {
    for pattern in [
        "mlflow://runs/{id}",
        "mlflow://runs/{id}/*",
        "mlflow://runs/{id}{?x}",
        "*/{id}",
    ] {
        assert_eq!(pattern_fault(pattern), None, "{pattern}");
    }
    for pattern in [
        "mlflow://runs/{id",
        "mlflow://../{id}",
        "MLFLOW://runs/{id}",
    ] {
        assert!(pattern_fault(pattern).is_some(), "{pattern}");
    }
}
