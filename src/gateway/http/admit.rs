//! Checks that apply to every request.
//!
//! In: the head of a request. Out: the snapshot it is answered by, who calls, and what it takes of
//! that caller's share; or the refusal. Must not do: read the body.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::responses::{Answer, refuse};
use crate::gateway::Gateway;
use crate::gateway::body::message::json_response;
use crate::gateway::fairness::budget::{Kind, Taken};
use crate::gateway::fairness::floor::Seat;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::Grant;
use crate::gateway::hops;
use crate::protocol::{answer, header};

/// Checks that apply to every request: a bundle in force, an allowed Host and Origin, a credential.
pub(super) fn admit(gateway: &Gateway, head: &Parts) -> Result<Admitted, Box<Answer>> {
    let Some(snapshot) = gateway.snapshot() else {
        let body = answer::error(
            None,
            answer::code::INTERNAL_ERROR,
            "The gateway has no policy in force yet",
            None,
        );
        return Err(Box::new(json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            body,
        )));
    };
    let settings = &snapshot.settings;
    let forbidden = |why: &str| {
        Box::new(json_response(
            StatusCode::FORBIDDEN,
            answer::invalid_request(None, why),
        ))
    };
    let host = head
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| one(head, http::header::HOST));
    if !host.is_some_and(|host| header::host_allowed(host, &settings.allowed_hosts)) {
        return Err(forbidden(
            "the Host header names a host that this gateway does not serve; add it to spec.gateway.allowedHosts",
        ));
    }
    if head.headers.contains_key(http::header::ORIGIN) {
        let origin = one(head, http::header::ORIGIN);
        if !origin.is_some_and(|origin| header::origin_allowed(origin, &settings.allowed_origins)) {
            return Err(forbidden(
                "the Origin is not allowed; add it to spec.gateway.allowedOrigins",
            ));
        }
    }
    let hops::Way::Straight(hops) = hops::way(&head.headers, &gateway.hop) else {
        let why = format!(
            "this request comes from this very gateway: the URL of McpServer {} leads back to it; correct spec.upstream.http.url",
            gateway.observe.server()
        );
        let body = answer::invalid_request(None, &why);
        return Err(refuse(StatusCode::LOOP_DETECTED, body));
    };
    match snapshot.grants.authenticate(&head.headers) {
        Ok(grant) => Ok(Admitted {
            snapshot,
            grant,
            hops,
        }),
        Err(unauthorized) => {
            let body = answer::invalid_request(None, &unauthorized.to_string());
            let mut response = json_response(StatusCode::UNAUTHORIZED, body);
            let challenge = HeaderValue::from_static("Bearer realm=\"portcullis\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            Err(Box::new(response))
        }
    }
}

/// Takes what every request needs of the caller's share: a connection, and a stream or a place
/// among the requests under way.
pub(super) fn share(
    gateway: &Gateway,
    seat: &Seat,
    head: &Parts,
    grant: &mut Grant,
) -> Result<Taken, Box<Answer>> {
    let busy = |why: &dyn std::fmt::Display, close: bool| {
        let mut response = refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            answer::error(None, answer::code::INTERNAL_ERROR, &why.to_string(), None),
        );
        let headers = response.headers_mut();
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
        if close {
            headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    let share = seat
        .known(&gateway.served().uid, grant)
        .map_err(|crowded| busy(&crowded, true))?;
    let kind = match head.method {
        Method::GET => Kind::Stream,
        _ => Kind::Request,
    };
    let taken = share.take(kind).map_err(|spent| busy(&spent, false))?;
    grant.share = Some(share);
    Ok(taken)
}

/// The value of a header that occurs exactly once.
pub(super) fn one(head: &Parts, name: HeaderName) -> Option<&str> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// A request that passed these checks.
pub(super) struct Admitted {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) grant: Grant,
    pub(super) hops: Option<HeaderValue>,
}
