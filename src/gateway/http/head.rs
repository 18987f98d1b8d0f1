//! What the head of a request says.
//!
//! In: the head. Out: single values of it, and whether it names a host of this gateway. Must not
//! do: ask for a credential.

use http::request::Parts;
use http::{HeaderName, StatusCode};

use super::responses::{Answer, refuse};
use crate::gateway::force::settings::Settings;
use crate::protocol::{answer, header};

/// Refuses a request that names a host which this gateway does not serve: a page of another site
/// could have a browser send it (DNS rebinding).
pub(super) fn check_host(head: &Parts, settings: &Settings) -> Result<(), Box<Answer>> {
    if host(head).is_some_and(|host| header::host_allowed(host, &settings.allowed_hosts)) {
        return Ok(());
    }
    let why = "the Host header names a host that this gateway does not serve; add it to spec.gateway.allowedHosts";
    Err(refuse(
        StatusCode::FORBIDDEN,
        answer::invalid_request(None, why),
    ))
}

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
