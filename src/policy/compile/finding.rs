//! Findings about a server's spec.

use crate::policy::diagnostic::{Diagnostic, Level};

pub(super) fn finding(
    level: Level,
    path: impl Into<String>,
    message: impl Into<String>,
) -> Diagnostic {
    Diagnostic {
        level,
        policy: None,
        rule: None,
        path: path.into(),
        position: None,
        message: message.into(),
    }
}
