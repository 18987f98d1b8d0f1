//! Why a bundle is not put into force: a leaf that everything that reads a bundle can name.

use crate::policy::diagnostic::Diagnostic;

/// Why a bundle is not put into force.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Its rules do not compile.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Diagnostics(Vec<Diagnostic>),
    /// It is older than what is in force.
    #[error(
        "the bundle has sequence {offered} but {in_force} is in force; an older bundle is never applied"
    )]
    Older {
        /// What came.
        offered: u64,
        /// The value found.
        in_force: u64,
    },
    /// It is for another server.
    #[error(
        "the bundle is for {offered} and this gateway is {own}'s; a bundle only applies to the server that it names"
    )]
    Foreign {
        /// Whom it is for.
        offered: String,
        /// Whose gateway this is.
        own: String,
    },
    /// A setting cannot be used here.
    #[error("{0}")]
    Setting(String),
}
