//! Checks that apply to every request.
//!
//! In: the head of a request. Out: the snapshot it is answered by, who calls, and what it takes of
//! that caller's share; or the refusal. Must not do: read the body.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use super::head::{check_host, one};
use super::metadata;
use super::responses::{Answer, refuse};
use crate::gateway::Gateway;
use crate::gateway::body::message::json_response;
use crate::gateway::fairness::budget::{Kind, Taken};
use crate::gateway::fairness::floor::Seat;
use crate::gateway::force::credentials::NoCredential;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::{Grant, Unauthorized};
use crate::gateway::hops;
use crate::gateway::observe::authentication_failure::AuthenticationFailure;
use crate::gateway::tokens::RemoteKeys;
use crate::gateway::upstream::Upstream;
use crate::protocol::header::Fields;
use crate::protocol::{answer, header};

/// Checks that apply to every request: a bundle in force, an allowed Host and Origin, a credential.
pub(super) fn admit(
    gateway: &Gateway,
    head: &Parts,
    fields: &Fields<'_>,
) -> Result<Admitted, NotAdmitted> {
    let Some(snapshot) = gateway.snapshot() else {
        let body = answer::error(
            None,
            answer::code::INTERNAL_ERROR,
            "The gateway has no policy in force yet",
            None,
        );
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, body).into());
    };
    let settings = &snapshot.settings;
    check_host(head, fields, settings)
        .map_err(|answer| NotAdmitted::because(AuthenticationFailure::Host, answer))?;
    if !fields.origin.is_absent() {
        let origin = one(fields.origin);
        if !origin.is_some_and(|origin| header::origin_allowed(origin, &settings.allowed_origins)) {
            let why = "the Origin is not allowed; add it to spec.gateway.allowedOrigins";
            let body = answer::invalid_request(None, why);
            let answer = refuse(StatusCode::FORBIDDEN, body);
            return Err(NotAdmitted::because(AuthenticationFailure::Origin, answer));
        }
    }
    let hops::Way::Straight(hops) = hops::way(fields, &gateway.hop) else {
        let why = format!(
            "this request comes from this very gateway: the URL of McpServer {} leads back to it; correct spec.upstream.http.url",
            gateway.observe.server()
        );
        let body = answer::invalid_request(None, &why);
        return Err(refuse(StatusCode::LOOP_DETECTED, body).into());
    };
    match snapshot.grants.authorize(fields.authorization) {
        Ok(mut grant) => {
            let reached = snapshot.upstreams.of(&grant.caller.grant);
            let upstream = reached.map(|reached| {
                grant.binding = reached.binding;
                reached.upstream
            });
            Ok(Admitted {
                snapshot,
                upstream,
                grant,
                hops,
            })
        }
        Err(unauthorized) => Err(NotAdmitted::unauthorized(
            &snapshot,
            head,
            fields,
            unauthorized,
        )),
    }
}

/// [`admit`]; where a token is signed with a key that is not known, once more with the newest keys.
pub(super) async fn admit_with_newest_keys(
    gateway: &Arc<Gateway>,
    seat: &Seat,
    head: &Parts,
    fields: &Fields<'_>,
) -> Result<Admitted, Box<Answer>> {
    let admitted = match admit(gateway, head, fields) {
        Err(NotAdmitted {
            newer_keys: Some(keys),
            ..
        }) => {
            keys.refetch().await;
            admit(gateway, head, fields)
        }
        admitted => admitted,
    };
    admitted.map_err(|refused| refused.recorded(gateway, seat))
}

/// A refusal, which newer keys of an issuer may overcome.
pub(super) struct NotAdmitted {
    answer: Box<Answer>,
    newer_keys: Option<Arc<RemoteKeys>>,
    /// Why, if it counts as a failed login.
    failure: Option<AuthenticationFailure>,
}

impl From<Box<Answer>> for NotAdmitted {
    fn from(answer: Box<Answer>) -> Self {
        NotAdmitted {
            answer,
            newer_keys: None,
            failure: None,
        }
    }
}

impl NotAdmitted {
    fn because(failure: AuthenticationFailure, answer: Box<Answer>) -> Self {
        NotAdmitted {
            failure: Some(failure),
            ..answer.into()
        }
    }

    /// The answer, once the failure has been counted.
    pub(super) fn recorded(self, gateway: &Arc<Gateway>, seat: &Seat) -> Box<Answer> {
        if let Some(failure) = self.failure {
            gateway.failed_login(failure, Some(seat.address()));
        }
        self.answer
    }

    /// 401 or 403 with a challenge (RFC 6750 section 3, RFC 9728 section 5.1).
    fn unauthorized(
        snapshot: &Snapshot,
        head: &Parts,
        fields: &Fields<'_>,
        unauthorized: Unauthorized,
    ) -> Self {
        let mut challenge = "Bearer realm=\"portcullis\"".to_owned();
        let mut status = StatusCode::UNAUTHORIZED;
        match &unauthorized {
            Unauthorized::Missing => {}
            Unauthorized::Refused(_) | Unauthorized::UnknownKey(_) => {
                challenge.push_str(", error=\"invalid_token\"");
            }
            Unauthorized::Scopes(scopes) => {
                status = StatusCode::FORBIDDEN;
                challenge.push_str(", error=\"insufficient_scope\", scope=\"");
                challenge.push_str(&scopes.join(" "));
                challenge.push('"');
            }
        }
        if let Some(url) = metadata::url(snapshot, head, fields) {
            challenge.push_str(", resource_metadata=\"");
            challenge.push_str(&url);
            challenge.push('"');
        }
        let why = match &unauthorized {
            Unauthorized::Scopes(_) => unauthorized.to_string(),
            _ => format!("{unauthorized}; {}", metadata::CREDENTIAL_HINT),
        };
        let body = answer::invalid_request(None, &why);
        let mut response = json_response(status, body);
        let challenge = HeaderValue::try_from(challenge);
        let plain = HeaderValue::from_static("Bearer realm=\"portcullis\"");
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, challenge.unwrap_or(plain));
        NotAdmitted {
            answer: Box::new(response),
            failure: Some(unauthorized.reason()),
            newer_keys: match unauthorized {
                Unauthorized::UnknownKey(keys) => Some(keys),
                _ => None,
            },
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

/// A request that passed these checks.
pub(super) struct Admitted {
    pub(super) snapshot: Arc<Snapshot>,
    /// The upstream with the caller's credential.
    pub(super) upstream: Result<Arc<Upstream>, NoCredential>,
    pub(super) grant: Grant,
    pub(super) hops: Option<HeaderValue>,
}
