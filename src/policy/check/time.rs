//! Timestamps, durations and zones as CEL writes them.
//!
//! In: text. Out: values, or a sentence on what to write.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// RFC 3339, which needs an offset: a time without one would mean another moment elsewhere.
pub(super) fn timestamp(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "this is not an RFC 3339 time; write for example \"2026-11-21T08:00:00Z\"".to_owned()
    })
}

/// Numbers with the units h, m, s, ms, us or ns, for example `1h30m` or `1.5s`, with an optional
/// sign.
pub(super) fn duration(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text)
        .ok_or_else(|| "this is not a duration; write for example \"1h30m\" or \"1.5s\"".to_owned())
}

fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total: i128 = 0;
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    while !rest.is_empty() {
        let length = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, tail) = rest.split_at(length);
        let (unit, tail) = [
            ("ns", 1_i128),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ]
        .iter()
        .find_map(|(name, unit)| tail.strip_prefix(name).map(|tail| (*unit, tail)))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty()
            || fraction.is_empty()
            || fraction.contains('.')
            || fraction.len() > 15
            || whole.len() > 15
        {
            return None;
        }
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = whole.parse::<i128>().ok()?.checked_mul(unit)?;
        let extra = fraction.parse::<i128>().ok()?.checked_mul(unit)? / scale;
        total = total.checked_add(part)?.checked_add(extra)?;
        rest = tail;
    }
    let total = if negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    let nanos = i64::try_from(total.rem_euclid(1_000_000_000)).ok()?;
    SignedDuration::from_secs(seconds).checked_add(SignedDuration::from_nanos(nanos))
}

/// A time zone: a fixed offset, or one of the IANA database by its name. The database is part of
/// the program, so that every gateway decides alike, whatever its image holds.
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    if let Some(seconds) = parse_offset(name) {
        let offset = Offset::from_seconds(seconds).map_err(|error| error.to_string())?;
        return Ok(offset.to_time_zone());
    }
    TimeZone::get(name)
        .ok()
        .filter(|zone| !zone.is_unknown())
        .ok_or_else(|| {
            format!(
                "the zone {name:?} is not known; write \"UTC\", an offset such as \"+02:00\" or a name of the IANA database such as \"Europe/Berlin\""
            )
        })
}

/// Seconds east of UTC.
fn parse_offset(zone: &str) -> Option<i32> {
    if matches!(zone, "UTC" | "Z" | "") {
        return Some(0);
    }
    let (sign, rest) = match zone.as_bytes().first()? {
        b'+' => (1, &zone[1..]),
        b'-' => (-1, &zone[1..]),
        _ => (1, zone),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |text: &str| {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<i32>().ok())
    };
    let (hours, minutes) = (two(hours)??, two(minutes)??);
    (hours <= 14 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}
