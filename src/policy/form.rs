//! Canonical forms of arguments: one spelling for one meaning.
//!
//! In: a form for an argument, from the catalogue or the server's spec, and the argument. Out:
//! whether it has that form. An application accepts several spellings: `int()` reads `07` and `７`
//! as 7, a database compares without regard to case. A rule that compares text would see another
//! value, so an argument that a rule reads must have the canonical form.

use super::check::{EvalError, Fuel, Pattern, Patterns};
use super::misfit::{Misfit, Off};
use crate::catalog::Form as Known;
use crate::json;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The form of one argument of one tool.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// The argument.
    pub name: String,
    /// None where the pattern could not be compiled: then nothing has this form.
    pattern: Option<Pattern>,
    says: String,
}

static KNOWN: LazyLock<HashMap<Known, Pattern>> = LazyLock::new(|| {
    let mut patterns = Patterns::default();
    let compiled = |form: &Known| Some((*form, patterns.compile_whole(form.pattern()).ok()?));
    Known::ALL.iter().filter_map(compiled).collect()
});

impl Form {
    /// A form of the catalogue.
    pub fn known(name: &str, form: Known) -> Self {
        Self {
            name: name.to_owned(),
            pattern: KNOWN.get(&form).cloned(),
            says: format!("{} ({})", form.what(), form.pattern()),
        }
    }

    /// A form of the server's spec.
    pub fn stated(name: &str, text: &str, patterns: &mut Patterns) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            pattern: Some(patterns.compile_whole(text)?),
            says: text.to_owned(),
        })
    }

    /// Whether the value is written so; of lists and objects, every text and number in them. Null
    /// and booleans have one spelling.
    pub fn fits(&self, value: &json::Value<'_>, fuel: &Fuel) -> Result<bool, EvalError> {
        fuel.burn(1)?;
        let text = match value {
            json::Value::Null | json::Value::Bool(_) => return Ok(true),
            json::Value::Number(token) => token,
            json::Value::String(text) => &**text,
            json::Value::Array(items) => {
                for item in items {
                    if !self.fits(item, fuel)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            json::Value::Object(members) => {
                for (_, item) in members {
                    if !self.fits(item, fuel)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
        };
        self.takes(text, fuel)
    }

    /// Whether a text is written so.
    pub fn takes(&self, text: &str, fuel: &Fuel) -> Result<bool, EvalError> {
        match &self.pattern {
            Some(pattern) => pattern.search(text, fuel),
            None => Ok(false),
        }
    }

    /// What to write.
    pub fn off(&self) -> Off<'_> {
        Off {
            name: (&*self.name).into(),
            misfit: Misfit(format!(
                "write the argument `{}` in its canonical form, {}, as a rule reads it",
                self.name, self.says
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_catalogue_compiles() {
        assert_eq!(KNOWN.len(), Known::ALL.len());
    }
}
