//! Functions of one value, and the parts of a time.

use super::eval_errors::{overflow, wrong};
use super::fuel::EvalError;
use super::ir::{Function, Part};
use super::time;
use super::value::Val;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::borrow::Cow;

pub(super) fn convert(function: Function, value: Val<'_>) -> Result<Val<'_>, EvalError> {
    let number = || EvalError::fixed("the value cannot be converted to this kind of number");
    Ok(match (function, value) {
        (Function::Size, Val::Str(text)) => count(text.chars().count())?,
        (Function::Size, Val::List(list)) => count(list.len())?,
        (Function::Size, Val::Map(map)) => count(map.len())?,
        (Function::LowerAscii, Val::Str(text)) => {
            Val::Str(match text.bytes().any(|b| b.is_ascii_uppercase()) {
                true => Cow::Owned(text.to_ascii_lowercase()),
                false => text,
            })
        }
        (Function::UpperAscii, Val::Str(text)) => {
            Val::Str(match text.bytes().any(|b| b.is_ascii_lowercase()) {
                true => Cow::Owned(text.to_ascii_uppercase()),
                false => text,
            })
        }
        (Function::Int, value @ Val::Int(_))
        | (Function::Uint, value @ Val::Uint(_))
        | (Function::Double, value @ Val::Double(_))
        | (Function::String, value @ Val::Str(_))
        | (Function::Timestamp, value @ Val::Time(_))
        | (Function::Duration, value @ Val::Span(_)) => value,
        (Function::Int, Val::Uint(value)) => Val::Int(i64::try_from(value).map_err(|_| number())?),
        (Function::Int, Val::Double(value)) => {
            // The largest double below 2^63 is far from it, so that the bounds are exact.
            if value > -9_223_372_036_854_775_809.0 && value < 9_223_372_036_854_775_808.0 {
                Val::Int(value.trunc() as i64)
            } else {
                return Err(number());
            }
        }
        (Function::Int, Val::Str(text)) => Val::Int(text.parse().map_err(|_| number())?),
        (Function::Int, Val::Time(time)) => Val::Int(time.as_second()),
        (Function::Uint, Val::Int(value)) => Val::Uint(u64::try_from(value).map_err(|_| number())?),
        (Function::Uint, Val::Double(value)) => {
            if value > -1.0 && value < 18_446_744_073_709_551_616.0 {
                Val::Uint(value.trunc() as u64)
            } else {
                return Err(number());
            }
        }
        (Function::Uint, Val::Str(text)) => Val::Uint(text.parse().map_err(|_| number())?),
        (Function::Double, Val::Int(value)) => Val::Double(value as f64),
        (Function::Double, Val::Uint(value)) => Val::Double(value as f64),
        (Function::Double, Val::Str(text)) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Val::Double(value),
            _ => return Err(number()),
        },
        (Function::String, Val::Bool(value)) => {
            Val::Str(Cow::Borrowed(if value { "true" } else { "false" }))
        }
        (Function::String, Val::Int(value)) => Val::Str(Cow::Owned(value.to_string())),
        (Function::String, Val::Uint(value)) => Val::Str(Cow::Owned(value.to_string())),
        (Function::String, Val::Double(value)) => Val::Str(Cow::Owned(value.to_string())),
        (Function::String, Val::Time(value)) => Val::Str(Cow::Owned(value.to_string())),
        (Function::String, Val::Span(value)) => {
            Val::Str(Cow::Owned(format!("{}s", value.as_secs_f64())))
        }
        (Function::Timestamp, Val::Int(value)) => {
            Val::Time(Timestamp::from_second(value).map_err(|_| overflow())?)
        }
        (Function::Timestamp, Val::Str(text)) => {
            Val::Time(time::timestamp(&text).map_err(EvalError::new)?)
        }
        (Function::Duration, Val::Str(text)) => {
            Val::Span(time::duration(&text).map_err(EvalError::new)?)
        }
        (_, value) => {
            return Err(wrong(
                "the function does not take this kind of value",
                &value,
            ));
        }
    })
}

pub(super) fn component(part: Part, time: Timestamp, zone: &TimeZone) -> Result<i64, EvalError> {
    let offset = zone.to_offset(time);
    // Shifting the time may leave the range of dates at its very ends.
    time.checked_add(SignedDuration::from_secs(i64::from(offset.seconds())))
        .map_err(|_| overflow())?;
    let local = offset.to_datetime(time);
    Ok(match part {
        Part::FullYear => i64::from(local.year()),
        Part::Month => i64::from(local.month()) - 1,
        Part::Date => i64::from(local.day()),
        Part::DayOfMonth => i64::from(local.day()) - 1,
        Part::DayOfWeek => i64::from(local.weekday().to_sunday_zero_offset()),
        Part::DayOfYear => i64::from(local.date().day_of_year()) - 1,
        Part::Hours => i64::from(local.hour()),
        Part::Minutes => i64::from(local.minute()),
        Part::Seconds => i64::from(local.second()),
        Part::Milliseconds => i64::from(local.millisecond()),
    })
}

fn count<'a>(count: usize) -> Result<Val<'a>, EvalError> {
    i64::try_from(count).map(Val::Int).map_err(|_| overflow())
}
