//! What the head of a request says.
//!
//! In: the head. Out: single values of it. Must not do: judge them.

use http::HeaderName;
use http::request::Parts;

/// The host that a request names.
pub(super) fn host(head: &Parts) -> Option<&str> {
    head.uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| one(head, http::header::HOST))
}

/// The value of a header that occurs exactly once.
pub(super) fn one(head: &Parts, name: HeaderName) -> Option<&str> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
