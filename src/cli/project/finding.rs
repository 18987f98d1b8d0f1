//! A mistake in a file, with its place.

use std::fmt;

use serde::Serialize;

use crate::manifest::ManifestError;
use crate::policy::diagnostic::Level;

/// A mistake, or a probable mistake.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Error or warning.
    pub level: Level,
    /// The file.
    pub file: String,
    /// Line, from 1; 0 for the whole file.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Kind and name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The rule, inside a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Line and column inside a CEL expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<crate::policy::diagnostic::Position>,
    /// What is wrong and what to do next.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {level}: ")?;
        if !self.object.is_empty() {
            write!(f, "{}", self.object)?;
            if let Some(rule) = &self.rule {
                write!(f, ", rule {rule}")?;
            }
            write!(f, ": ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}", self.path)?;
            if let Some(at) = self.expression {
                write!(
                    f,
                    " (line {} column {} of the expression)",
                    at.line, at.column
                )?;
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.message)
    }
}

impl From<ManifestError> for Finding {
    fn from(error: ManifestError) -> Self {
        Finding {
            level: Level::Error,
            file: error.file,
            line: error.at.line,
            column: error.at.column,
            object: String::new(),
            rule: None,
            path: error.path,
            expression: None,
            message: error.message,
        }
    }
}
