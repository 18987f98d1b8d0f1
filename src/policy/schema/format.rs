//! One spelling for each value of a string that has a `format`.
//!
//! In: a format, and text. Out: whether the text is the one canonical spelling of its value, and
//! what to write. Servers parse such text (pydantic makes it a UUID, a date, an address), so that
//! several texts are one value to them and different ones to a rule. Formats that no usual decoder
//! converts are left alone; formats that are not known here have no canonical spelling. Must not
//! do: repair.

use super::number::canonical_number;
use crate::policy::uri::uri_fault;
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};

mod spelling;

use spelling::{
    is_base64, is_date, is_date_time, is_duration, is_email, is_host, is_integer, is_interface,
    is_mixed_hex, is_network, is_path, is_time, is_ulid, is_uuid, is_v4, is_v6,
};

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
    /// Some decoder may read it, in a way that is unknown here.
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

    /// Whether some decoder of the format may take the text: where it may also be something else,
    /// no does no harm.
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

#[cfg(test)]
mod tests;
