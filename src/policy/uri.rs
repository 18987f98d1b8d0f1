//! The only accepted spelling of a resource, in requests and in rules.
//!
//! In: a URI, a URI template or a pattern over URIs. Out: what is wrong with its spelling, and what
//! to write instead. Parsers that servers use (WHATWG URL, RFC 3986, `urllib`) drop, fold, encode
//! and decode what they read: `file:/a`, `file:////a` and `file://localhost/a` are `file:///a` to
//! many. If more than one spelling were accepted, a rule about one would not cover the others. Must
//! not do: repair a spelling, as the server would still get its own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a URI is refused before any rule is asked, if it is: a sentence part that says what to
/// write.
pub fn uri_fault(uri: &str) -> Option<String> {
    check(uri).err()
}

/// [`uri_fault`] for a URI template (RFC 6570): what stands outside of its expressions is held to
/// the same.
pub fn template_fault(template: &str) -> Option<String> {
    // An expression may stand for a port, which is a number, or for a name.
    let first = match expanded(template, "x") {
        Ok(text) => check(&text).err()?,
        Err(fault) => return Some(fault),
    };
    let number = expanded(template, "1").and_then(|text| check(&text));
    number.is_err().then_some(first)
}

/// [`uri_fault`] for a pattern in which `*` stands for anything: a fault if it can match no URI
/// that is let in, as its rule would silently be for nothing. A pattern may also name URI
/// templates, whose expressions it then has as they stand.
pub fn pattern_fault(pattern: &str) -> Option<String> {
    if !pattern.contains('{') {
        return plain_pattern_fault(pattern);
    }
    let text = match expanded(pattern, "x") {
        Ok(text) => text,
        Err(fault) => return Some(fault),
    };
    let number = || plain_pattern_fault(&expanded(pattern, "1").ok()?);
    plain_pattern_fault(&text).filter(|_| number().is_some())
}

fn plain_pattern_fault(pattern: &str) -> Option<String> {
    const FIRST: [&str; 9] = [
        "x", "", "1", "/x", "//x", "///x", "://x/x", "x://x/x", "http://x",
    ];
    const OTHERS: [&str; 4] = ["x", "", "1", "/x"];
    let mut parts = pattern.split('*');
    let start = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let plain = pattern.replace('*', "x");
    let fault = check(&plain).err()?;
    let fault = if start.is_empty() {
        // A star at the start stands for the scheme, too.
        match check(&format!("x://x/{plain}")) {
            Ok(()) => return None,
            Err(fault) => fault,
        }
    } else {
        fault
    };
    let Some((second, more)) = rest.split_first() else {
        return Some(fault);
    };
    let possible = FIRST.iter().any(|first| {
        OTHERS.iter().any(|other| {
            let mut text = format!("{start}{first}{second}");
            for part in more {
                text.push_str(other);
                text.push_str(part);
            }
            check(&text).is_ok()
        })
    });
    (!possible).then_some(fault)
}

/// The template with each expression replaced.
fn expanded(template: &str, by: &str) -> Result<String, String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (expression, more) = after
            .split_once('}')
            .ok_or("it has a `{` without its `}`; write {name}")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.,+/;?&*:%".contains(&b);
        if expression.is_empty() || !expression.bytes().all(plain) {
            return Err(format!(
                "the expression {{{}}} is not one of RFC 6570; write {{name}}",
                expression.escape_debug()
            ));
        }
        out.push_str(before);
        out.push_str(by);
        rest = more;
    }
    out.push_str(rest);
    Ok(out)
}

fn check(uri: &str) -> Result<(), String> {
    if uri.is_empty() {
        return Err("it is empty; write the whole URI".to_owned());
    }
    characters(uri)?;
    let (scheme, rest) = uri
        .split_once(':')
        .filter(|(scheme, _)| !scheme.contains(['/', '?', '#']))
        .ok_or("it has no scheme; write the whole URI, such as file:///a or x://a/b")?;
    let mut bytes = scheme.bytes();
    let plain = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if !plain {
        return Err(format!(
            "its scheme must be lower-case letters, digits, `+`, `-` and `.`; write {}:",
            scheme.to_ascii_lowercase()
        ));
    }
    if rest.contains('#') {
        return Err("it has a fragment, which is not part of a resource's name; leave out `#` and everything after \
        it".to_owned());
    }
    let (hierarchy, query) = match rest.split_once('?') {
        Some((_, "")) => {
            return Err("its query is empty; leave out the `?`".to_owned());
        }
        Some((hierarchy, query)) => (hierarchy, Some(query)),
        None => (rest, None),
    };
    let default_port = match scheme {
        "http" | "ws" => Some("80"),
        "https" | "wss" => Some("443"),
        "ftp" => Some("21"),
        _ => None,
    };
    let path = match (hierarchy.strip_prefix("//"), scheme) {
        (Some(path), "file") if path.starts_with('/') && !path.starts_with("//") => {
            if query.is_some() {
                return Err("a file has no query; leave out `?` and everything after it".to_owned());
            }
            path
        }
        (_, "file") => {
            return Err("a file URI is file:/// followed by the path, without another leading slash and without a host; \
            write file:///a/b".to_owned());
        }
        (Some(from_host), _) => {
            let end = from_host.find('/').unwrap_or(from_host.len());
            let (authority, path) = from_host.split_at(end);
            authority_fault(authority, default_port)?;
            if default_port.is_some() && path.is_empty() {
                return Err("it has no path; write a `/` after the host".to_owned());
            }
            path
        }
        (None, _) if default_port.is_some() => {
            return Err(format!(
                "its host does not follow two slashes; write {scheme}://host/path"
            ));
        }
        (None, _) => hierarchy,
    };
    if path.contains("//") {
        return Err("its path has an empty segment; write single slashes".to_owned());
    }
    if uri
        .split(['/', '?', ';', ':', '=', '&'])
        .any(|segment| segment == "." || segment == "..")
    {
        return Err("it has dot segments; write the path that they lead to".to_owned());
    }
    if let Some(query) = query {
        if query.contains('+') {
            return Err("its query has a `+`; write %20 for a space and %2B for a plus".to_owned());
        }
        if default_port.is_some() && query.contains('\'') {
            return Err("its query has a `'`; write %27".to_owned());
        }
    }
    let before_query = uri.len() - query.map_or(0, str::len);
    escapes(uri, before_query, default_port.is_some())
}

/// Every character must be one that all parsers leave alone.
fn characters(uri: &str) -> Result<(), String> {
    for character in uri.chars() {
        match character {
            'a'..='z'
            | 'A'..='Z'
            | '0'..='9'
            | '-'
            | '.'
            | '_'
            | '~'
            | ':'
            | '/'
            | '?'
            | '#'
            | '['
            | ']'
            | '@'
            | '!'
            | '$'
            | '&'
            | '\''
            | '('
            | ')'
            | '*'
            | '+'
            | ','
            | ';'
            | '='
            | '%' => {}
            '\\' => return Err("it has a backslash; write slashes between segments".to_owned()),
            character if character.is_control() => {
                return Err("it has control characters; leave them out".to_owned());
            }
            character => {
                let mut escaped = String::new();
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a String does not fail.
                    let _ = write!(escaped, "%{byte:02X}");
                }
                return Err(format!(
                    "it has the character {character:?}; write {escaped}"
                ));
            }
        }
    }
    Ok(())
}

fn authority_fault(authority: &str, default_port: Option<&str>) -> Result<(), String> {
    if authority.contains('@') {
        return Err(
            "it has a user before its host; leave out the `@` and everything before it".to_owned(),
        );
    }
    let (host, port) = match authority.rfind(']') {
        Some(end) => match authority.split_at(end + 1) {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':').unwrap_or("x"))),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if let Some(port) = port {
        let number = port.parse::<u16>();
        if number.map(|number| number.to_string()).as_deref() != Ok(port) {
            return Err("its port must be a number without leading zeros; write it so, or leave out the `:`".to_owned());
        }
        if default_port == Some(port) {
            return Err(format!(
                "{port} is the port of its scheme anyway; leave out :{port}"
            ));
        }
    }
    if host.contains(['[', ']']) {
        return match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(address) if !address.contains('.') && is_ipv6(address) => Ok(()),
            _ => Err("its host must be an IPv6 address in its shortest form, lower case and without dots; write [::1]".to_owned()),
        };
    }
    if default_port.is_none() {
        return Ok(());
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) || host.split('.').any(str::is_empty) {
        return Err("its host must be lower-case letters, digits, `-`, `_` and single dots between them; write it so".to_owned());
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let plain = |address: Ipv4Addr| address.to_string() == host;
    if numeric && !host.parse().is_ok_and(plain) {
        return Err("its host is a number that parsers read as an address; write four decimal numbers, such as 127.0.0.1".to_owned());
    }
    Ok(())
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>()
        .is_ok_and(|address| address.to_string() == text)
}

/// Every `%XX` must be upper case, needed, part of a character, and no separator. What starts at
/// `query` is one.
fn escapes(uri: &str, query: usize, web: bool) -> Result<(), String> {
    let bytes = uri.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            decoded.push(byte);
            at += 1;
            continue;
        }
        let digit = |offset: usize| match bytes.get(at + offset) {
            Some(digit @ b'0'..=b'9') => Some(digit - b'0'),
            Some(digit @ b'A'..=b'F') => Some(digit - b'A' + 10),
            _ => None,
        };
        let (Some(high), Some(low)) = (digit(1), digit(2)) else {
            return Err("it has a `%` without two digits, of which letters must be upper case; write %2A, and %25 is \
            not accepted".to_owned());
        };
        let value = high * 16 + low;
        let character = char::from(value);
        match value {
            b'/' | b'\\' | b'%' | b'?' | b'#' => {
                return Err(format!(
                    "it has an encoded separator ({character}); name the resource without it"
                ));
            }
            0..=0x1f | 0x7f => {
                return Err("it has encoded control characters; leave them out".to_owned());
            }
            // In a query they mean something else when they are not encoded.
            b'&' | b'=' | b'+' | b';' if at >= query => {}
            b'\'' if at >= query && web => {}
            b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b':'
            | b'@' => {
                return Err(format!(
                    "it encodes characters that need no encoding; write {character}"
                ));
            }
            _ => {}
        }
        decoded.push(value);
        at += 3;
    }
    // Brackets mark an address in a host; elsewhere they are encoded.
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = path.find('/').map_or("", |start| &path[start..]);
    if path.contains(['[', ']']) {
        return Err("it has brackets after its host; write %5B and %5D".to_owned());
    }
    match std::str::from_utf8(&decoded) {
        Ok(text) if text.chars().any(char::is_control) => {
            Err("it has encoded control characters; leave them out".to_owned())
        }
        Ok(_) => Ok(()),
        Err(_) => Err("it encodes bytes that are not UTF-8; encode characters as UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests;
