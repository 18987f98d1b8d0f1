//! Numbers of arguments and schemas, compared without rounding.
//!
//! In: tokens of the wire, numbers of a schema. Out: order and divisibility.

use crate::policy::check::int_double;
use std::cmp::Ordering;

/// Whether no other text is this number to any decoder: at most 15 digits, which a double tells
/// apart, in their shortest form.
pub(super) fn canonical_number(text: &str) -> bool {
    let number = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|fraction| digits(fraction) && !fraction.ends_with('0'))
        && whole.len() + fraction.map_or(0, str::len) <= 15
        && text != "-0"
}

/// A number that lost nothing when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Num {
    Whole(i128),
    Double(f64),
}

impl Num {
    /// A number that 64 bits or a double hold; none for a longer integer, as bounds would be held
    /// against another number than the server gets.
    pub fn of_token(token: &str) -> Option<Num> {
        if let Ok(value) = token.parse::<i64>() {
            return Some(Num::Whole(value.into()));
        }
        if let Ok(value) = token.parse::<u64>() {
            return Some(Num::Whole(value.into()));
        }
        if !token.contains(['.', 'e', 'E']) {
            return None;
        }
        token
            .parse::<f64>()
            .ok()
            .filter(|value| value.is_finite())
            .map(Num::Double)
    }

    pub fn of_plain(number: &serde_json::Number) -> Option<Num> {
        if let Some(value) = number.as_i64() {
            return Some(Num::Whole(value.into()));
        }
        if let Some(value) = number.as_u64() {
            return Some(Num::Whole(value.into()));
        }
        number.as_f64().filter(|v| v.is_finite()).map(Num::Double)
    }

    pub fn order(self, other: Num) -> Option<Ordering> {
        match (self, other) {
            (Num::Whole(a), Num::Whole(b)) => Some(a.cmp(&b)),
            (Num::Whole(a), Num::Double(b)) => int_double(a, b),
            (Num::Double(a), Num::Whole(b)) => int_double(b, a).map(Ordering::reverse),
            (Num::Double(a), Num::Double(b)) => a.partial_cmp(&b),
        }
    }

    pub fn is_whole(self) -> bool {
        match self {
            Num::Whole(_) => true,
            Num::Double(value) => value.fract() == 0.0,
        }
    }

    pub fn is_multiple_of(self, other: Num) -> bool {
        match (self, other) {
            (_, Num::Whole(0)) => false,
            (Num::Whole(a), Num::Whole(b)) => a % b == 0,
            (a, b) => {
                let quotient = a.double() / b.double();
                // 0.07 is a multiple of 0.01 to the author of the schema, though not as doubles.
                quotient.is_finite()
                    && (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
            }
        }
    }

    fn double(self) -> f64 {
        match self {
            Num::Whole(value) => value as f64,
            Num::Double(value) => value,
        }
    }
}
