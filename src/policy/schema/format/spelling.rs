//! Whether a text is the one spelling of its value, for each kind of value.
//!
//! In: a text. Out: whether every decoder that is known keeps it as it is. Must not do: know which
//! schemas ask for it.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

pub(super) fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && text.starts_with(|c: char| ('0'..='7').contains(&c))
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b)))
}

/// The text as a number, if it is exactly `count` digits.
fn digits(text: &str, count: usize) -> Option<u32> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

pub(super) fn is_date(text: &str) -> bool {
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

pub(super) fn is_date_time(text: &str) -> bool {
    text.strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
        .is_some_and(|(date, time)| is_date(date) && is_time(time))
}

pub(super) fn is_time(text: &str) -> bool {
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

pub(super) fn is_duration(text: &str) -> bool {
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

pub(super) fn is_path(text: &str) -> bool {
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

pub(super) fn is_host(text: &str) -> bool {
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

pub(super) fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        let plain = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+/=?^_`{|}~-".contains(&b)
        };
        let sound = |part: &str| !part.is_empty() && part.bytes().all(plain);
        name.split('.').all(sound) && is_host(host) && host.contains('.')
    })
}

pub(super) fn is_v4(text: &str) -> bool {
    text.parse::<Ipv4Addr>()
        .is_ok_and(|address| address.to_string() == text)
}

pub(super) fn is_v6(text: &str) -> bool {
    !text.contains('.')
        && text
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.to_string() == text)
}

pub(super) fn is_interface(text: &str, address: fn(&str) -> bool, most: u32) -> bool {
    text.split_once('/')
        .is_some_and(|(before, length)| address(before) && length_of(length, most).is_some())
}

fn length_of(text: &str, most: u32) -> Option<u32> {
    let length: u32 = text.parse().ok()?;
    (length <= most && length.to_string() == text).then_some(length)
}

pub(super) fn is_network(
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

pub(super) fn is_base64(text: &str, plus: u8, slash: u8) -> bool {
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

/// Pydantic can read bytes as hexadecimal digits, and its schema does not say when it does.
pub(super) fn is_mixed_hex(text: &str) -> bool {
    text.len().is_multiple_of(2)
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b.is_ascii_uppercase())
}

pub(super) fn is_integer(text: &str) -> bool {
    let number = text.strip_prefix('-').unwrap_or(text);
    text == "0"
        || (number.starts_with(|c: char| ('1'..='9').contains(&c))
            && number.bytes().all(|b| b.is_ascii_digit()))
}
