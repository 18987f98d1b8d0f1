//! Values while an expression runs, borrowed from the call wherever they can be.
//!
//! In: the call's JSON, a caller's claims, constants. Out: values with the strict comparisons of
//! this engine: `==` between different kinds is an error, numbers are one kind and compared
//! exactly, null compares with anything.

use super::fuel::{EvalError, Fuel};
use super::ir::{Const, Kind};
use crate::json;
use jiff::{SignedDuration, Timestamp};
use std::{borrow::Cow, cmp::Ordering};

#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Cow<'a, str>),
    List(List<'a>),
    Map(Map<'a>),
    Time(Timestamp),
    Span(SignedDuration),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Wire(&'a [json::Value<'a>], &'a [Fill<'a>]),
    Plain(&'a [serde_json::Value]),
    Strings(&'a [String]),
    Own(Vec<Val<'a>>),
}

#[derive(Clone, Debug)]
pub(super) enum Map<'a> {
    Wire(&'a json::Value<'a>, &'a [Fill<'a>]),
    Plain(&'a serde_json::Map<String, serde_json::Value>),
    Own(Vec<(&'a str, Val<'a>)>),
}

/// The arguments of a call as the server will read them: what came, and what its schema makes of
/// it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Args<'a> {
    root: Option<&'a json::Value<'a>>,
    fills: &'a [Fill<'a>],
}

impl<'a> Args<'a> {
    /// Arguments with what the server fills in.
    pub fn new(root: &'a json::Value<'a>, fills: &'a [Fill<'a>]) -> Self {
        Self {
            root: Some(root),
            fills,
        }
    }

    /// The arguments as they came, without what the server fills in.
    pub(super) fn sent(self) -> Val<'a> {
        Args { fills: &[], ..self }.value()
    }

    pub(super) fn value(self) -> Val<'a> {
        match self.root {
            Some(root) => Val::Map(Map::Wire(root, self.fills)),
            None => Val::Map(Map::Own(Vec::new())),
        }
    }
}

/// What a server reads in one object of the arguments beside what was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill<'a> {
    /// Which object: its place in memory, which no two objects of a call share.
    object: usize,
    /// The key.
    pub name: &'a str,
    value: Option<&'a serde_json::Value>,
}

impl<'a> Fill<'a> {
    /// The key is absent, and the server reads this.
    pub fn absent(object: &json::Value<'_>, name: &'a str, value: &'a serde_json::Value) -> Self {
        Self {
            object: place(object),
            name,
            value: Some(value),
        }
    }

    /// The key is null, and that is what it is where it is absent.
    pub fn dropped(object: &json::Value<'_>, name: &'a str) -> Self {
        Self {
            object: place(object),
            name,
            value: None,
        }
    }
}

fn place(object: &json::Value<'_>) -> usize {
    std::ptr::from_ref(object).addr()
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Sent(&'a json::Value<'a>),
    Filled(&'a serde_json::Value),
}

/// Members of an object on the wire, with what the server fills in.
fn members<'a>(
    object: &'a json::Value<'a>,
    fills: &'a [Fill<'a>],
) -> impl Iterator<Item = (&'a str, Source<'a>)> {
    let place = place(object);
    let here = move || fills.iter().filter(move |fill| fill.object == place);
    let sent = object.as_object().unwrap_or_default().iter();
    sent.filter(move |(key, value)| {
        !matches!(value, json::Value::Null)
            || !here().any(|fill| fill.value.is_none() && fill.name == key)
    })
    .map(|(key, value)| (key.as_ref(), Source::Sent(value)))
    .chain(here().filter_map(|fill| Some((fill.name, Source::Filled(fill.value?)))))
}

impl<'a> Val<'a> {
    pub fn kind(&self) -> Kind {
        match self {
            Val::Null => Kind::Null,
            Val::Bool(_) => Kind::Bool,
            Val::Int(_) => Kind::Int,
            Val::Uint(_) => Kind::Uint,
            Val::Double(_) => Kind::Double,
            Val::Str(_) => Kind::String,
            Val::List(_) => Kind::List,
            Val::Map(_) => Kind::Map,
            Val::Time(_) => Kind::Timestamp,
            Val::Span(_) => Kind::Duration,
        }
    }

    pub fn constant(constant: &'a Const) -> Val<'a> {
        match constant {
            Const::Null => Val::Null,
            Const::Bool(value) => Val::Bool(*value),
            Const::Int(value) => Val::Int(*value),
            Const::Uint(value) => Val::Uint(*value),
            Const::Double(value) => Val::Double(*value),
            Const::Str(text) => Val::Str(Cow::Borrowed(text)),
            Const::Time(time) => Val::Time(*time),
            Const::Span(span) => Val::Span(*span),
            Const::Json(value) => Val::plain(value),
        }
    }

    /// A value of the call. An integer that fits neither sort of integer is an error where it is
    /// read: as a double it would compare equal to its neighbours.
    pub fn wire(value: &'a json::Value<'a>, fills: &'a [Fill<'a>]) -> Result<Val<'a>, EvalError> {
        Ok(match value {
            json::Value::Null => Val::Null,
            json::Value::Bool(value) => Val::Bool(*value),
            json::Value::Number(token) => return number(token),
            json::Value::String(text) => Val::Str(Cow::Borrowed(text)),
            json::Value::Array(items) => Val::List(List::Wire(items, fills)),
            json::Value::Object(_) => Val::Map(Map::Wire(value, fills)),
        })
    }

    pub fn plain(value: &'a serde_json::Value) -> Val<'a> {
        match value {
            serde_json::Value::Null => Val::Null,
            serde_json::Value::Bool(value) => Val::Bool(*value),
            serde_json::Value::Number(number) => {
                if let Some(value) = number.as_i64() {
                    Val::Int(value)
                } else if let Some(value) = number.as_u64() {
                    Val::Uint(value)
                } else {
                    Val::Double(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            serde_json::Value::String(text) => Val::Str(Cow::Borrowed(text)),
            serde_json::Value::Array(items) => Val::List(List::Plain(items)),
            serde_json::Value::Object(members) => Val::Map(Map::Plain(members)),
        }
    }

    /// Writes the value as JSON.
    pub fn write_json(&self, out: &mut String, fuel: &Fuel) -> Result<(), EvalError> {
        use std::fmt::Write as _;
        fuel.burn(1)?;
        // Writing to a String cannot fail.
        let _ = match self {
            Val::Null => write!(out, "null"),
            Val::Bool(value) => write!(out, "{value}"),
            Val::Int(value) => write!(out, "{value}"),
            Val::Uint(value) => write!(out, "{value}"),
            // With a fraction or an exponent, as it came.
            Val::Double(value) if value.is_finite() => write!(out, "{value:?}"),
            Val::Double(_) => return Err(EvalError::fixed("a number that JSON does not have")),
            Val::Str(text) => {
                fuel.burn_bytes(text.len())?;
                json::write_string(out, text);
                Ok(())
            }
            Val::List(list) => {
                out.push('[');
                for at in 0..list.len() {
                    if at > 0 {
                        out.push(',');
                    }
                    list.at(at)?.write_json(out, fuel)?;
                }
                out.push(']');
                Ok(())
            }
            Val::Map(map) => {
                out.push('{');
                for (at, key) in map.keys().into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    json::write_string(out, key);
                    out.push(':');
                    let value = map
                        .get(key, fuel)?
                        .ok_or(EvalError::fixed("a key without a value"))??;
                    value.write_json(out, fuel)?;
                }
                out.push('}');
                Ok(())
            }
            Val::Time(_) | Val::Span(_) => {
                return Err(EvalError::fixed(
                    "JSON has no times and durations; write string(…) around it",
                ));
            }
        };
        Ok(())
    }

    /// `==`, or why it is not defined.
    pub fn equals(&self, other: &Val<'a>, fuel: &Fuel) -> Result<bool, EvalError> {
        fuel.burn(1)?;
        match (self, other) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::Null, _) | (_, Val::Null) => Ok(false),
            (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
            (Val::Str(a), Val::Str(b)) => {
                fuel.burn_bytes(a.len().min(b.len()))?;
                Ok(a == b)
            }
            (Val::Time(a), Val::Time(b)) => Ok(a == b),
            (Val::Span(a), Val::Span(b)) => Ok(a == b),
            (Val::List(a), Val::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                all_equal((0..a.len()).map(|i| Ok((a.at(i)?, b.at(i)?))), fuel)
            }
            (Val::Map(a), Val::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for key in a.keys() {
                    fuel.burn(1)?;
                    if !b.has(key, fuel)? {
                        return Ok(false);
                    }
                }
                let mut error = None;
                for key in a.keys() {
                    let pair = (a.get(key, fuel)?, b.get(key, fuel)?);
                    let (Some(x), Some(y)) = pair else {
                        return Ok(false);
                    };
                    match x.and_then(|x| x.equals(&y?, fuel)) {
                        Ok(true) => {}
                        Ok(false) => return Ok(false),
                        Err(found) => error = Some(found),
                    }
                }
                error.map_or(Ok(true), Err)
            }
            (a, b) if a.kind().is_number() && b.kind().is_number() => {
                Ok(numeric(a, b) == Some(Ordering::Equal))
            }
            (a, b) => Err(EvalError::new(format!(
                "{} cannot be compared with {}",
                a.kind().name(),
                b.kind().name()
            ))),
        }
    }

    /// The order of two values, none where one is not a number; or why there is no order.
    pub fn order(&self, other: &Val<'a>, fuel: &Fuel) -> Result<Option<Ordering>, EvalError> {
        match (self, other) {
            (Val::Str(a), Val::Str(b)) => {
                fuel.burn_bytes(a.len().min(b.len()))?;
                Ok(Some(a.cmp(b)))
            }
            (Val::Time(a), Val::Time(b)) => Ok(Some(a.cmp(b))),
            (Val::Span(a), Val::Span(b)) => Ok(Some(a.cmp(b))),
            (a, b) if a.kind().is_number() && b.kind().is_number() => Ok(numeric(a, b)),
            (a, b) => Err(EvalError::new(format!(
                "there is no order between {} and {}",
                a.kind().name(),
                b.kind().name()
            ))),
        }
    }
}

/// One false decides; else one error spoils; else all are equal.
fn all_equal<'a>(
    pairs: impl Iterator<Item = Result<(Val<'a>, Val<'a>), EvalError>>,
    fuel: &Fuel,
) -> Result<bool, EvalError> {
    let mut error = None;
    for pair in pairs {
        match pair.and_then(|(a, b)| a.equals(&b, fuel)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(found) if found.is_exhausted() => return Err(found),
            Err(found) => error = Some(found),
        }
    }
    error.map_or(Ok(true), Err)
}

/// Reads a number token: int, then uint, then, if it is written as one, double. Only a double has a
/// negative zero.
fn number<'a>(token: &str) -> Result<Val<'a>, EvalError> {
    if token == "-0" {
        return Ok(Val::Double(-0.0));
    }
    if let Ok(value) = token.parse::<i64>() {
        return Ok(Val::Int(value));
    }
    if let Ok(value) = token.parse::<u64>() {
        return Ok(Val::Uint(value));
    }
    if token.contains(['.', 'e', 'E']) {
        return match token.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Val::Double(value)),
            _ => Err(EvalError::fixed("a number does not fit a double")),
        };
    }
    Err(EvalError::fixed("an integer does not fit 64 bits"))
}

/// Compares two numbers exactly: no integer is rounded to a double on the way.
fn numeric(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |v: &Val<'_>| match v {
        Val::Int(value) => Some(i128::from(*value)),
        Val::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    match (whole(a), whole(b), a, b) {
        (Some(a), Some(b), ..) => Some(a.cmp(&b)),
        (Some(a), None, _, Val::Double(b)) => int_double(a, *b),
        (None, Some(b), Val::Double(a), _) => int_double(b, *a).map(Ordering::reverse),
        (None, None, Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        _ => None,
    }
}

pub fn int_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // Beyond 2^100 every double is larger in size than any 64-bit integer, infinities included.
    let bound = 2f64.powi(100);
    if b >= bound {
        return Some(Ordering::Less);
    }
    if b <= -bound {
        return Some(Ordering::Greater);
    }
    let floor = b.floor();
    // Within the bound the floor is an integer that i128 holds exactly.
    let whole = floor as i128;
    Some(a.cmp(&whole).then(if b > floor {
        Ordering::Less
    } else {
        Ordering::Equal
    }))
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Wire(items, _) => items.len(),
            List::Plain(items) => items.len(),
            List::Strings(items) => items.len(),
            List::Own(items) => items.len(),
        }
    }

    /// The element, which must exist.
    pub fn at(&self, index: usize) -> Result<Val<'a>, EvalError> {
        let missing = || EvalError::new(format!("the list has no element {index}"));
        match self {
            List::Wire(items, fills) => items
                .get(index)
                .ok_or_else(missing)
                .and_then(|item| Val::wire(item, fills)),
            List::Plain(items) => items.get(index).ok_or_else(missing).map(Val::plain),
            List::Strings(items) => items
                .get(index)
                .ok_or_else(missing)
                .map(|text| Val::Str(Cow::Borrowed(text.as_str()))),
            List::Own(items) => items.get(index).ok_or_else(missing).cloned(),
        }
    }

    pub fn contains(&self, wanted: &Val<'a>, fuel: &Fuel) -> Result<bool, EvalError> {
        let mut error = None;
        for index in 0..self.len() {
            match self.at(index).and_then(|item| wanted.equals(&item, fuel)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(found) if found.is_exhausted() => return Err(found),
                Err(found) => error = Some(found),
            }
        }
        error.map_or(Ok(false), Err)
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Wire(object, fills) => members(object, fills).count(),
            Map::Plain(members) => members.len(),
            Map::Own(members) => members.len(),
        }
    }

    pub fn get(
        &self,
        key: &str,
        fuel: &Fuel,
    ) -> Result<Option<Result<Val<'a>, EvalError>>, EvalError> {
        // Looking a key up walks the members.
        fuel.burn(match self {
            Map::Plain(_) => 1,
            other => other.raw_len(),
        })?;
        Ok(match self {
            Map::Wire(object, fills) => members(object, fills).find(|(name, _)| *name == key).map(
                |(_, value)| match value {
                    Source::Sent(value) => Val::wire(value, fills),
                    Source::Filled(value) => Ok(Val::plain(value)),
                },
            ),
            Map::Plain(members) => members.get(key).map(|value| Ok(Val::plain(value))),
            Map::Own(members) => members
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| Ok(value.clone())),
        })
    }

    /// Whether the key is there, whatever its value: a number out of range is there too.
    pub fn has(&self, key: &str, fuel: &Fuel) -> Result<bool, EvalError> {
        Ok(self.get(key, fuel)?.is_some())
    }

    fn raw_len(&self) -> usize {
        match self {
            Map::Wire(object, fills) => object.as_object().unwrap_or_default().len() + fills.len(),
            other => other.len(),
        }
    }

    pub fn keys(&self) -> Vec<&'a str> {
        match self {
            Map::Wire(object, fills) => members(object, fills).map(|(key, _)| key).collect(),
            Map::Plain(members) => members.keys().map(String::as_str).collect(),
            Map::Own(members) => members.iter().map(|(key, _)| *key).collect(),
        }
    }
}
