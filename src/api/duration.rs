//! Durations as people write them.
//!
//! In: a string such as `1h30m`. Out: a span of time. The form is GEP-2257's, extended by `d` for
//! days of 24 hours, as a limit's window may be 31 days long. Must not do: accept fractions, signs
//! or bare numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// A duration such as `90s`, `1h30m` or `7d`: up to five groups of a number and one of `d`, `h`,
/// `m`, `s`, `ms`.
///
/// It keeps the original text, so that a spec survives a round trip.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
#[schemars(inline)]
pub struct DurationString(
    #[schemars(
        length(min = 2, max = 32),
        regex(pattern = "^([0-9]{1,5}(d|h|ms|m|s)){1,5}$")
    )]
    pub String,
);

/// Why a string is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a duration: write numbers with the units d, h, m, s or ms, for example `90s`, `1h30m` or `7d`"
)]
pub struct DurationError(pub String);

impl DurationString {
    /// The span of time, or why there is none. Groups add up, as in GEP-2257.
    pub fn parse(&self) -> Result<Duration, DurationError> {
        parse(&self.0).ok_or_else(|| DurationError(self.0.chars().take(40).collect()))
    }

    /// The original text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for DurationString {
    fn from(text: &str) -> Self {
        DurationString(text.to_owned())
    }
}

impl fmt::Display for DurationString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut groups = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 || groups == 5 {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (unit, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (Duration::from_millis(1), tail)
        } else if let Some(tail) = tail.strip_prefix('d') {
            (Duration::from_secs(86_400), tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (Duration::from_secs(3_600), tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (Duration::from_secs(60), tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (Duration::from_secs(1), tail)
        } else {
            return None;
        };
        // Five digits of days are far below what u32 and Duration hold.
        total = total.checked_add(unit.checked_mul(u32::try_from(number).ok()?)?)?;
        rest = tail;
        groups += 1;
    }
    (groups > 0).then_some(total)
}
