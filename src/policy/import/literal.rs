//! A value of a condition, as the source product compares it.
//!
//! In: a scalar of the document. Out: the text that Go prints for it, and its number if it has one.
//! The source compares as numbers where both sides are numbers, and otherwise the texts that Go
//! prints for them (`fmt.Sprint`), so that `"7"` equals 7, `"true"` equals true and `"<nil>"`
//! equals null. Must not do: know CEL.

use super::read::{Kind, Node, Scalar};

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    /// What Go prints for it.
    pub text: String,
    /// If it is a number there: integers beyond 63 bits are none.
    pub number: Option<f64>,
    /// Whether it is text.
    pub is_text: bool,
}

impl Literal {
    /// Reads it, or says what is wrong with it.
    pub fn of(node: Option<&Node>) -> Result<Self, String> {
        let Some(node) = node else {
            return Ok(Literal {
                text: "<nil>".to_owned(),
                number: None,
                is_text: false,
            });
        };
        let Some(Scalar { raw, kind }) = node.scalar() else {
            return Err(format!(
                "it compares with {}, which has no equivalent",
                node.kind()
            ));
        };
        let (text, number) = match kind {
            Kind::Null => ("<nil>".to_owned(), None),
            Kind::Bool(value) => (value.to_string(), None),
            Kind::Int(value) => (value.to_string(), Some(*value as f64)),
            Kind::Uint(value) => (value.to_string(), None),
            Kind::Float(value) => (printed(*value), Some(*value)),
            Kind::Text => (raw.clone(), None),
            Kind::Date => {
                return Err(format!(
                    "{raw} is a date to the source product; put it in quotes"
                ));
            }
            Kind::Unclear => {
                return Err(format!(
                    "{raw:?} is read in more than one way; put it in quotes, or write a plain number"
                ));
            }
        };
        Ok(Literal {
            text,
            number,
            is_text: *kind == Kind::Text,
        })
    }

    /// The number that prints as this text, if the literal itself is not a number.
    pub fn prints_as(&self) -> Option<f64> {
        let value: f64 = self.text.parse().ok()?;
        (self.number.is_none() && value.is_finite() && printed(value) == self.text).then_some(value)
    }

    /// Whether a list or an object could print as this text.
    pub fn like_a_list(&self) -> bool {
        self.is_text && (self.text.starts_with('[') || self.text.starts_with("map["))
    }
}

/// A double as Go's `%v` prints it: the shortest digits that give it back, with an exponent below
/// 1e-4 and from 1e6.
pub(super) fn printed(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    // Rust has the same shortest digits.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::printed;

    #[test]
    fn doubles_print_as_in_go() {
        for (value, text) in [
            (1e6, "1e+06"),
            (999_999.0, "999999"),
            (100_000.0, "100000"),
            (1_234_567.0, "1.234567e+06"),
            (12_345_678.5, "1.23456785e+07"),
            (-1e6, "-1e+06"),
            (1e22, "1e+22"),
            (1e100, "1e+100"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5, "1.5"),
            (7.0, "7"),
            (0.0, "0"),
            (-0.0, "-0"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(printed(value), text);
        }
    }
}
