//! One spelling for each value of a string that has a `format`.
//!
//! In: a format, and text. Out: whether the text is the one canonical spelling of its value, and what to write. Servers parse
//! such text (pydantic makes it a UUID, a date, an address), so that several texts are one value to them and different ones to a
//! rule. Formats that no usual decoder converts are left alone; formats that are not known here have no canonical spelling.
//! Must not do: repair.

use super::number::canonical_number;
use crate::policy::uri::uri_fault;
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a string with a `format` is to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Format {
    Uuid,
    Ulid,
    Date,
    DateTime,
    Time,
    Duration,
    Uri,
    Path,
    Email,
    Host,
    V4,
    V6,
    V4Network,
    V6Network,
    V4Interface,
    V6Interface,
    Base64,
    Base64Url,
    Binary,
    Integer,
    Decimal,
    /// Some decoder may read it, and nobody here knows how.
    Unknown,
}

const ALL: [Format; 22] = [
    Format::Uuid,
    Format::Ulid,
    Format::Date,
    Format::DateTime,
    Format::Time,
    Format::Duration,
    Format::Uri,
    Format::Path,
    Format::Email,
    Format::Host,
    Format::V4,
    Format::V6,
    Format::V4Network,
    Format::V6Network,
    Format::V4Interface,
    Format::V6Interface,
    Format::Base64,
    Format::Base64Url,
    Format::Binary,
    Format::Integer,
    Format::Decimal,
    Format::Unknown,
];

/// The formats that a string may have by a schema and all that it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Formats {
    set: u32,
    /// Whether the text may also be taken as it stands.
    plain: bool,
}

impl Default for Formats {
    fn default() -> Self {
        Formats::PLAIN
    }
}

impl Formats {
    /// Text without a format.
    pub const PLAIN: Formats = Formats {
        set: 0,
        plain: true,
    };
    /// No text at all.
    pub const NONE: Formats = Formats {
        set: 0,
        plain: false,
    };

    fn one(format: Format) -> Self {
        Formats {
            set: 1 << format as u8,
            plain: false,
        }
    }

    fn several(list: &[Format]) -> Self {
        list.iter()
            .map(|format| Formats::one(*format))
            .fold(Formats::NONE, Formats::or)
    }

    /// Where both say something about the text.
    pub fn and(self, other: Formats) -> Self {
        Formats {
            set: self.set | other.set,
            plain: self.plain && other.plain,
        }
    }

    /// Where either does.
    pub fn or(self, other: Formats) -> Self {
        Formats {
            set: self.set | other.set,
            plain: self.plain || other.plain,
        }
    }

    /// Whether every text is another value.
    pub fn is_plain(self) -> bool {
        self.set == 0
    }

    /// What the keywords of one schema say of a string.
    pub fn stated(members: &Map<String, Value>) -> Self {
        // How pydantic describes its `ByteSize`, which reads `1kB` and `1000` alike.
        const BYTE_SIZE: &str = "^\\s*(\\d*\\.?\\d+)\\s*(\\w+)?";
        let text = |key: &str| {
            let value = members.get(key);
            value.map(|value| value.as_str().unwrap_or_default())
        };
        let mut formats = text("format").map_or(Formats::PLAIN, named);
        match (text("contentEncoding"), text("contentMediaType")) {
            (Some(encoding), _) => formats = formats.and(encoded(encoding)),
            (None, Some(kind)) if !kind.starts_with("text/") => {
                formats = formats.and(Formats::one(Format::Unknown));
            }
            _ => {}
        }
        if text("pattern") == Some(BYTE_SIZE) {
            formats = formats.and(Formats::one(Format::Unknown));
        }
        formats
    }

    /// What to write, if the text is not the only spelling of its value.
    pub fn fault(self, text: &str) -> Option<String> {
        let alone = !self.plain && self.set.count_ones() == 1;
        ALL.into_iter()
            .filter(|format| self.set & (1 << *format as u8) != 0)
            .find_map(|format| {
                let fault = format.fault(text)?;
                (alone || format.may_take(text)).then_some(fault)
            })
    }
}

/// Names of formats: those of JSON Schema, OpenAPI, pydantic and zod.
fn named(name: &str) -> Formats {
    Formats::one(match name {
        "uuid" | "uuid1" | "uuid3" | "uuid4" | "uuid5" | "uuid6" | "uuid7" | "uuid8" | "guid" => {
            Format::Uuid
        }
        "ulid" => Format::Ulid,
        "date" => Format::Date,
        "date-time" => Format::DateTime,
        "time" => Format::Time,
        "duration" => Format::Duration,
        "uri" | "url" | "iri" | "multi-host-uri" => Format::Uri,
        "path" | "file-path" | "directory-path" => Format::Path,
        "email" | "idn-email" | "name-email" => Format::Email,
        "hostname" | "idn-hostname" => Format::Host,
        "ipv4" => Format::V4,
        "ipv6" => Format::V6,
        "ipv4network" | "cidrv4" => Format::V4Network,
        "ipv6network" | "cidrv6" => Format::V6Network,
        "ipv4interface" => Format::V4Interface,
        "ipv6interface" => Format::V6Interface,
        "ipvanyaddress" => return Formats::several(&[Format::V4, Format::V6]),
        "ipvanynetwork" => return Formats::several(&[Format::V4Network, Format::V6Network]),
        "ipvanyinterface" => return Formats::several(&[Format::V4Interface, Format::V6Interface]),
        "base64" | "byte" => Format::Base64,
        "base64url" => Format::Base64Url,
        "binary" => Format::Binary,
        "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64" => {
            Format::Integer
        }
        "float" | "double" | "decimal" => Format::Decimal,
        // To every decoder that is known, each text is another value.
        "regex"
        | "password"
        | "json-pointer"
        | "relative-json-pointer"
        | "uri-template"
        | "e164"
        | "nanoid"
        | "cuid"
        | "cuid2"
        | "xid"
        | "ksuid"
        | "jwt"
        | "emoji" => {
            return Formats::PLAIN;
        }
        _ => Format::Unknown,
    })
}

fn encoded(encoding: &str) -> Formats {
    match encoding {
        "base64" => Formats::one(Format::Base64),
        "base64url" => Formats::one(Format::Base64Url),
        "7bit" | "8bit" => Formats::PLAIN,
        "binary" => Formats::one(Format::Binary),
        _ => Formats::one(Format::Unknown),
    }
}

impl Format {
    /// What to write, if the text is not the canonical spelling.
    fn fault(self, text: &str) -> Option<String> {
        let (good, what) = match self {
            Format::Uri => return uri_fault(text).map(|fault| format!("a URI; {fault}")),
            Format::Uuid => (
                is_uuid(text),
                "a UUID in lower case with four dashes and nothing around it",
            ),
            Format::Ulid => (is_ulid(text), "26 digits and upper-case letters of a ULID"),
            Format::Date => (is_date(text), "a date as 2026-01-31"),
            Format::DateTime => (
                is_date_time(text),
                "a time in UTC as 2026-01-31T23:59:00Z, with up to three decimals of a second that do not end in 0",
            ),
            Format::Time => (
                is_time(text),
                "a time as 23:59:00 without a zone, with up to three decimals of a second that do not end in 0",
            ),
            Format::Duration => (
                is_duration(text),
                "a duration as P2DT23H59M59S: days, up to 23 hours, 59 minutes and 59 seconds, without what is 0 (PT0S for nothing)",
            ),
            Format::Path => (
                is_path(text),
                "a path without empty, `.` or `..` segments, a slash at its end, backslashes or control characters",
            ),
            Format::Email => (
                is_email(text),
                "an address as name@host.example in lower case",
            ),
            Format::Host => (
                is_host(text),
                "a host in lower case without a dot at its end",
            ),
            Format::V4 => (is_v4(text), "an IPv4 address as 10.0.0.1"),
            Format::V6 => (
                is_v6(text),
                "an IPv6 address in lower case and its shortest form, without dots or a zone, as fd00::1",
            ),
            Format::V4Network => (
                is_network(
                    text,
                    is_v4,
                    |text| Some(text.parse::<Ipv4Addr>().ok()?.to_bits().into()),
                    32,
                ),
                "an IPv4 network by its first address and length, as 10.0.0.0/8",
            ),
            Format::V6Network => (
                is_network(
                    text,
                    is_v6,
                    |text| Some(text.parse::<Ipv6Addr>().ok()?.to_bits()),
                    128,
                ),
                "an IPv6 network by its first address and length, as fd00::/8",
            ),
            Format::V4Interface => (
                is_interface(text, is_v4, 32),
                "an IPv4 address and a length, as 10.0.0.1/8",
            ),
            Format::V6Interface => (
                is_interface(text, is_v6, 128),
                "an IPv6 address and a length, as fd00::1/8",
            ),
            Format::Base64 => (
                is_base64(text, b'+', b'/'),
                "base64 with `+`, `/` and padding, without white space, unused bits 0",
            ),
            Format::Base64Url => (
                is_base64(text, b'-', b'_'),
                "base64 with `-`, `_` and padding, without white space, unused bits 0",
            ),
            Format::Binary => (!is_mixed_hex(text), "hexadecimal digits in lower case"),
            Format::Integer => (
                is_integer(text),
                "an integer without leading zeros, `+` or white space",
            ),
            Format::Decimal => (
                canonical_number(text),
                "a number in its shortest form of up to 15 digits, without an exponent",
            ),
            Format::Unknown => (
                false,
                "text whose form spec.tools[].arguments.<name>.pattern of the McpServer says: its schema has a format that is not known",
            ),
        };
        (!good).then(|| what.to_owned())
    }

    /// Whether some decoder of the format may take the text: where it may also be something else, no is no harm.
    fn may_take(self, text: &str) -> bool {
        let has = |wanted: fn(char) -> bool| text.chars().any(wanted);
        match self {
            // Braces, dashes, `urn:uuid:` and so on stand around and between these.
            Format::Uuid => text.chars().filter(char::is_ascii_hexdigit).count() >= 32,
            Format::Ulid => text.chars().filter(char::is_ascii_alphanumeric).count() >= 26,
            Format::Date
            | Format::DateTime
            | Format::Time
            | Format::Duration
            | Format::Integer
            | Format::Decimal => has(char::is_numeric) || super::text::is_number(text),
            Format::Uri => text.contains(':'),
            Format::Email => text.contains('@') || has(|c| !c.is_ascii()),
            // An IPv6 address has a colon, and an IPv4 address has none.
            Format::V4 | Format::V4Network | Format::V4Interface => {
                has(char::is_numeric) && !text.contains(':')
            }
            Format::V6 | Format::V6Network | Format::V6Interface => {
                text.contains(':') || text.chars().all(char::is_numeric)
            }
            Format::Path
            | Format::Host
            | Format::Base64
            | Format::Base64Url
            | Format::Binary
            | Format::Unknown => true,
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && text.starts_with(|c: char| ('0'..='7').contains(&c))
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b)))
}

/// Digits as a number, if there are so many of them and nothing else.
fn digits(text: &str, count: usize) -> Option<u32> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let mut part = |count| parts.next().and_then(|part| digits(part, count));
    let (Some(year), Some(month), Some(day)) = (part(4), part(2), part(2)) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    year >= 1 && (1..=days).contains(&day)
}

fn is_date_time(text: &str) -> bool {
    text.strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
        .is_some_and(|(date, time)| is_date(date) && is_time(time))
}

fn is_time(text: &str) -> bool {
    let (time, fraction) = match text.split_once('.') {
        Some((time, fraction)) => (time, Some(fraction)),
        None => (text, None),
    };
    let mut parts = time.splitn(3, ':');
    let mut part = |below| {
        let found = parts.next().and_then(|part| digits(part, 2));
        found.is_some_and(|found| found < below)
    };
    part(24) && part(60) && part(60) && fraction.is_none_or(is_fraction)
}

/// Decimals of a second that every decoder keeps.
fn is_fraction(text: &str) -> bool {
    (1..=3).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit())
        && !text.ends_with('0')
}

fn is_duration(text: &str) -> bool {
    if text == "PT0S" {
        return true;
    }
    let text = text.strip_prefix('-').unwrap_or(text);
    let Some(text) = text.strip_prefix('P') else {
        return false;
    };
    let (days, time) = match text.split_once('T') {
        Some((_, "")) => return false,
        Some((days, time)) => (days, time),
        None => (text, ""),
    };
    let amount = |text: &str, most: u32| {
        !text.is_empty()
            && !text.starts_with('0')
            && digits(text, text.len()).is_some_and(|amount| amount <= most)
    };
    let mut rest = time;
    let mut sound = days.is_empty()
        || days
            .strip_suffix('D')
            .is_some_and(|days| amount(days, 999_999_999));
    for (unit, most) in [('H', 23), ('M', 59)] {
        if let Some((found, after)) = rest.split_once(unit) {
            sound &= amount(found, most);
            rest = after;
        }
    }
    if !rest.is_empty() {
        sound &= rest
            .strip_suffix('S')
            .is_some_and(|seconds| match seconds.split_once('.') {
                Some((whole, fraction)) => {
                    (whole == "0" || amount(whole, 59)) && is_fraction(fraction)
                }
                None => amount(seconds, 59),
            });
    }
    sound && !(days.is_empty() && time.is_empty())
}

fn is_path(text: &str) -> bool {
    if text == "/" || text == "." {
        return true;
    }
    let relative = text.strip_prefix('/').unwrap_or(text);
    !text.contains('\\')
        && !text.contains(char::is_control)
        && relative
            .split('/')
            .all(|segment| !matches!(segment, "" | "." | ".."))
}

fn is_host(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
        // Resolvers read other numbers as addresses, too.
        && (is_v4(text)
            || !text
                .rsplit('.')
                .next()
                .is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit())))
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        let plain = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+/=?^_`{|}~-".contains(&b)
        };
        let sound = |part: &str| !part.is_empty() && part.bytes().all(plain);
        name.split('.').all(sound) && is_host(host) && host.contains('.')
    })
}

fn is_v4(text: &str) -> bool {
    text.parse::<Ipv4Addr>()
        .is_ok_and(|address| address.to_string() == text)
}

fn is_v6(text: &str) -> bool {
    !text.contains('.')
        && text
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.to_string() == text)
}

fn is_interface(text: &str, address: fn(&str) -> bool, most: u32) -> bool {
    text.split_once('/')
        .is_some_and(|(before, length)| address(before) && length_of(length, most).is_some())
}

fn length_of(text: &str, most: u32) -> Option<u32> {
    let length: u32 = text.parse().ok()?;
    (length <= most && length.to_string() == text).then_some(length)
}

fn is_network(
    text: &str,
    address: fn(&str) -> bool,
    bits: fn(&str) -> Option<u128>,
    most: u32,
) -> bool {
    let Some((before, length)) = text.split_once('/') else {
        return false;
    };
    let (Some(bits), Some(length)) = (bits(before), length_of(length, most)) else {
        return false;
    };
    let below = most - length;
    let mask = 1_u128.checked_shl(below).map_or(u128::MAX, |bit| bit - 1);
    address(before) && bits & mask == 0
}

fn is_base64(text: &str, plus: u8, slash: u8) -> bool {
    if !text.len().is_multiple_of(4) {
        return false;
    }
    let body = text.strip_suffix('=').unwrap_or(text);
    let body = body.strip_suffix('=').unwrap_or(body);
    let value = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b if b == plus => Some(62),
        b if b == slash => Some(63),
        _ => None,
    };
    let last = body.bytes().last().and_then(value).unwrap_or(0);
    let unused = match text.len() - body.len() {
        0 => 0,
        1 => 0b11,
        _ => 0b1111,
    };
    body.bytes().all(|b| value(b).is_some()) && last & unused == 0
}

/// Pydantic can be told to read bytes as hexadecimal digits, which it does not say in its schema.
fn is_mixed_hex(text: &str) -> bool {
    text.len().is_multiple_of(2)
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_integer(text: &str) -> bool {
    let number = text.strip_prefix('-').unwrap_or(text);
    text == "0"
        || (number.starts_with(|c: char| ('1'..='9').contains(&c))
            && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
