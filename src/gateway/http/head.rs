//! What the head of a request says.
//!
//! In: the head. Out: single values of it, and whether it names a host of this gateway. Must not
//! do: ask for a credential.

use http::StatusCode;
use http::request::Parts;

use super::responses::{Answer, refuse};
use crate::gateway::force::settings::Settings;
use crate::protocol::answer;
use crate::protocol::header::{Field, Fields};

/// Refuses a request that names a host which this gateway does not serve: a page of another site
/// could have a browser send it (DNS rebinding).
pub(super) fn check_host(
    head: &Parts,
    fields: &Fields<'_>,
    settings: &Settings,
) -> Result<(), Box<Answer>> {
    if host(head, fields).is_some_and(|host| settings.allowed_hosts.contains(host)) {
        return Ok(());
    }
    let why = "the Host header names a host that this gateway does not serve; add it to spec.gateway.allowedHosts";
    Err(refuse(
        StatusCode::FORBIDDEN,
        answer::invalid_request(None, why),
    ))
}

/// The host that a request names.
pub(super) fn host<'h>(head: &'h Parts, fields: &Fields<'h>) -> Option<&'h str> {
    head.uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| one(fields.host))
}

/// The value of a header that occurs exactly once.
pub(super) fn one(field: Field<'_>) -> Option<&str> {
    field.once()?.to_str().ok()
}
