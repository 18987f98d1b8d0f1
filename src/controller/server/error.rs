//! Why a step of a server's reconciliation failed, one enum for each step.
//!
//! In: writes that failed. Out: the step's error, with its cause. Must not do: say what is retried
//! and when, which `reconcile` does.

use crate::controller::key::KeyError;
use crate::controller::runtime::kinds::NotJson;
use crate::controller::runtime::writer::WriteError;

/// Why the children could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("building children: {0}")]
    Json(#[from] NotJson),
}

/// Why the plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("writing children: {0}")]
    Child(#[source] WriteError),
    #[error("making keys: {0}")]
    Key(#[from] KeyError),
    #[error("writing Secrets: {0}")]
    Secret(#[source] WriteError),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
}

/// Why the bundle was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error("writing the bundle: {0}")]
    Write(#[source] WriteError),
    #[error("writing the bundle as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("writing the bundle: {0}")]
    Object(#[from] NotJson),
}

/// Why reported violations were not stored.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("reading the ledger: {0}")]
    Read(#[source] WriteError),
    #[error("writing the ledger: {0}")]
    Write(#[source] WriteError),
    #[error("writing the ledger as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("writing the ledger: {0}")]
    Object(#[from] NotJson),
}

/// Why the status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("writing the status: {0}")]
    Write(#[source] WriteError),
}

/// Why a server was not reconciled. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the operator has no key yet")]
    NoKey,
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl ApplyError {
    /// The request that failed, if it was one.
    pub fn write(&self) -> Option<&WriteError> {
        match self {
            ApplyError::Child(error)
            | ApplyError::Secret(error)
            | ApplyError::Deliver(DeliverError::Write(error)) => Some(error),
            ApplyError::Build(_) | ApplyError::Key(_) => None,
            ApplyError::Deliver(DeliverError::Json(_) | DeliverError::Object(_)) => None,
        }
    }
}

impl ServerError {
    /// The request that failed, if it was one.
    pub fn write(&self) -> Option<&WriteError> {
        match self {
            ServerError::Apply(error) => error.write(),
            ServerError::Account(AccountError::Read(error) | AccountError::Write(error))
            | ServerError::Status(StatusError::Write(error)) => Some(error),
            ServerError::Account(AccountError::Json(_) | AccountError::Object(_))
            | ServerError::NoKey => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_json() -> serde_json::Error {
        serde_json::from_str::<u8>("x").unwrap_err()
    }

    #[test]
    fn errors_say_what_was_done_and_only_requests_that_failed_are_writes() {
        let object = || NotJson {
            kind: "Role",
            name: "m".to_owned(),
            source: not_json(),
        };
        let conflict = || WriteError::Conflict {
            kind: "Role",
            name: "m".to_owned(),
        };
        let cases: [(ServerError, &str, bool); 9] = [
            (ServerError::NoKey, "the operator has no key yet", false),
            (
                ApplyError::Child(conflict()).into(),
                "writing children: Role m was changed",
                true,
            ),
            (
                ApplyError::Secret(conflict()).into(),
                "writing Secrets: Role m was changed",
                true,
            ),
            (
                ApplyError::Build(object().into()).into(),
                "building children: Role m cannot",
                false,
            ),
            (
                ApplyError::Deliver(DeliverError::Write(conflict())).into(),
                "writing the bundle: Role m was changed",
                true,
            ),
            (
                ApplyError::Deliver(not_json().into()).into(),
                "writing the bundle as JSON: expected",
                false,
            ),
            (
                AccountError::Read(conflict()).into(),
                "reading the ledger: Role m was changed",
                true,
            ),
            (
                AccountError::from(object()).into(),
                "writing the ledger: Role m cannot",
                false,
            ),
            (
                StatusError::Write(conflict()).into(),
                "writing the status: Role m was changed",
                true,
            ),
        ];
        for (error, said, write) in cases {
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.write().is_some(), write, "{error}");
        }
    }
}
