//! A call's arguments as a tree, within a budget.
//!
//! In: the arguments as sent, and the remaining budget. Out: the tree, or why there is none. A few
//! megabytes can hold a million values, which take longer to read than all rules together, so each
//! value costs steps. Must not do: read arguments that no rule needs.

use super::check::{EvalError, Fuel};
use crate::json::{self, Kind, Reader, Value};
use std::borrow::Cow;

/// Steps for a value: what it takes to read it, keep it and look at it.
const VALUE: usize = 10;
/// Steps for a member of an object beside those for its value: its name is kept, and compared with
/// the others.
const MEMBER: usize = 30;

/// Why there is no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    /// They are not what every reader reads alike.
    #[error("the arguments are not strict JSON: {0}")]
    Json(#[from] json::Error),
    /// There are too many of them.
    #[error("{0}")]
    Exhausted(EvalError),
}

/// Reads arguments; those of a call without any are an empty object.
pub(super) fn read<'a>(arguments: &'a [u8], fuel: &Fuel) -> Result<Value<'a>, Unread> {
    if arguments.is_empty() {
        return Ok(Value::Object(Vec::new()));
    }
    let mut reader = Reader::new(arguments)?;
    let value = value(&mut reader, fuel)?;
    reader.finish()?;
    Ok(value)
}

fn value<'a>(reader: &mut Reader<'a>, fuel: &Fuel) -> Result<Value<'a>, Unread> {
    fuel.burn(VALUE).map_err(Unread::Exhausted)?;
    match reader.kind()? {
        Kind::Array => {
            let mut items = Vec::new();
            reader.array(|reader| {
                items.push(value(reader, fuel)?);
                Ok::<(), Unread>(())
            })?;
            Ok(Value::Array(items))
        }
        Kind::Object => {
            let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
            reader.object(|reader, key| {
                fuel.burn(MEMBER).map_err(Unread::Exhausted)?;
                members.push((key, value(reader, fuel)?));
                Ok::<(), Unread>(())
            })?;
            Ok(Value::Object(members))
        }
        Kind::Null | Kind::Bool | Kind::Number | Kind::String => Ok(reader.value()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_read_is_what_the_reader_of_all_json_reads(text in r#"[\[\]{}",:0-9a-c \\ntrue]{0,40}"#) {
            let read = read(text.as_bytes(), &Fuel::full());
            if !text.is_empty() {
                proptest::prop_assert_eq!(read, json::parse(text.as_bytes()).map_err(Unread::Json));
            }
        }
    }

    #[test]
    fn every_value_is_paid_for_and_too_many_are_not_read() {
        let left = |text: &str| {
            let fuel = Fuel::full();
            let all = fuel.left();
            let read = read(text.as_bytes(), &fuel);
            read.map(|_| all - fuel.left())
        };
        assert_eq!(left(""), Ok(0));
        assert_eq!(left("{}"), Ok(VALUE));
        assert_eq!(left(r#"{"a": [1, {}]}"#), Ok(4 * VALUE + MEMBER));
        let members: Vec<String> = (0..100_000).map(|n| format!("\"k{n}\":1")).collect();
        for many in [
            format!("[{}]", vec!["1"; 200_000].join(",")),
            format!("[{}]", vec!["[[[]]]"; 50_000].join(",")),
            format!("{{{}}}", members.join(",")),
        ] {
            assert!(
                matches!(left(&many), Err(Unread::Exhausted(_))),
                "{:.20}",
                many
            );
        }
    }
}
