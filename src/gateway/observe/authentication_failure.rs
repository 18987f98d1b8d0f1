//! Why a request was refused before its caller was known: a leaf that the checks, the audit log and
//! the metrics share.
//!
//! In: nothing. Out: one of a fixed number of reasons. Must not do: hold anything that the client
//! sent. The answer says none of it either, as it would help only a guesser.

/// Why a request was refused with 401 or 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthenticationFailure {
    /// No credential, where anonymous callers are not admitted.
    Missing,
    /// More than one `Authorization` header, another scheme than Bearer, or nothing behind it.
    Malformed,
    /// Neither an accepted API key nor a token of an accepted issuer.
    UnknownCredential,
    /// A token that names an accepted issuer and is not valid: its signature, audience, caller or
    /// form.
    InvalidToken,
    /// A token with the signature of an accepted issuer whose time is over.
    ExpiredToken,
    /// A token that names an accepted issuer and a key that this issuer does not publish.
    UnknownSigningKey,
    /// A valid token without a scope that the server requires.
    MissingScope,
    /// The `Host` header names another host.
    Host,
    /// The `Origin` header names a page that is not allowed.
    Origin,
    /// Not the bearer that may read the report.
    ReportBearer,
}

impl AuthenticationFailure {
    /// All of them.
    pub const ALL: [AuthenticationFailure; 10] = [
        AuthenticationFailure::Missing,
        AuthenticationFailure::Malformed,
        AuthenticationFailure::UnknownCredential,
        AuthenticationFailure::InvalidToken,
        AuthenticationFailure::ExpiredToken,
        AuthenticationFailure::UnknownSigningKey,
        AuthenticationFailure::MissingScope,
        AuthenticationFailure::Host,
        AuthenticationFailure::Origin,
        AuthenticationFailure::ReportBearer,
    ];

    /// The name in the audit log and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthenticationFailure::Missing => "missing",
            AuthenticationFailure::Malformed => "malformed",
            AuthenticationFailure::UnknownCredential => "unknownCredential",
            AuthenticationFailure::InvalidToken => "invalidToken",
            AuthenticationFailure::ExpiredToken => "expiredToken",
            AuthenticationFailure::UnknownSigningKey => "unknownSigningKey",
            AuthenticationFailure::MissingScope => "missingScope",
            AuthenticationFailure::Host => "host",
            AuthenticationFailure::Origin => "origin",
            AuthenticationFailure::ReportBearer => "reportBearer",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            AuthenticationFailure::MissingScope
            | AuthenticationFailure::Host
            | AuthenticationFailure::Origin => 403,
            _ => 401,
        }
    }
}
