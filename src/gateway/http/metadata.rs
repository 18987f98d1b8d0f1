//! Where clients learn how to get a token: OAuth 2.0 Protected Resource Metadata (RFC 9728), as MCP
//! 2025-06-18 and later demand it ("Authorization").
//!
//! In: the head of a request. Out: the document, or its URL for a challenge. Only where
//! `spec.authentication.jwt` names an issuer: API keys and service account tokens come by other
//! ways. Must not do: demand a credential.

use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde_json::json;

use super::cors;
use super::head::{check_host, host};
use super::responses::{Answer, method_not_allowed};
use crate::gateway::Gateway;
use crate::gateway::body::message::json_response;
use crate::gateway::fairness::floor::Seat;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::observe::authentication_failure::AuthenticationFailure;
use crate::protocol::answer;
use crate::protocol::header::Fields;

/// The well-known path; the path of the resource follows (RFC 9728 section 3.1).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What a caller without a credential can do. Clients show it to people who forgot the API key.
pub const CREDENTIAL_HINT: &str = "have your client send the header `Authorization: Bearer KEY` with the API key or token that the operator of this gateway gave you";

/// The URL of the document, for a challenge to the request. None where there is no document.
pub(super) fn url(snapshot: &Snapshot, head: &Parts, fields: &Fields<'_>) -> Option<String> {
    if snapshot.grants.authorization_servers().is_empty() {
        return None;
    }
    let resource = resource(snapshot, head, fields, head.uri.path())?;
    let uri: Uri = resource.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let path = uri.path().trim_end_matches('/');
    Some(format!("{scheme}://{authority}{WELL_KNOWN}{path}"))
}

/// The URL of the MCP endpoint as the client knows it.
fn resource(snapshot: &Snapshot, head: &Parts, fields: &Fields<'_>, path: &str) -> Option<String> {
    if let Some(public) = &snapshot.settings.public_url {
        let public = public.trim_end_matches('/');
        let uri: Uri = public.parse().ok()?;
        // A public URL without a path is the address in front of the gateway's own path.
        return Some(match uri.path() {
            "" | "/" => format!("{public}{path}"),
            _ => public.to_owned(),
        });
    }
    let scheme = if snapshot.secure { "https" } else { "http" };
    let host = host(head, fields).filter(|host| is_plain(host))?;
    Some(format!("{scheme}://{host}{path}"))
}

/// Whether a host can stand in a quoted string.
fn is_plain(host: &str) -> bool {
    host.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

/// Answers a request for the document of the endpoint at `path`.
pub fn protected_resource(gateway: &Arc<Gateway>, seat: &Seat, head: &Parts, path: &str) -> Answer {
    let fields = Fields::of(&head.headers);
    if let Some(answer) = cors::preflight(gateway, head, &fields) {
        return answer;
    }
    let mut answer = document(gateway, seat, head, &fields, path);
    cors::share(gateway, &fields, &mut answer);
    answer
}

fn document(
    gateway: &Arc<Gateway>,
    seat: &Seat,
    head: &Parts,
    fields: &Fields<'_>,
    path: &str,
) -> Answer {
    let not_found =
        |why: &str| json_response(StatusCode::NOT_FOUND, answer::invalid_request(None, why));
    let Some(snapshot) = gateway.snapshot() else {
        return not_found("the gateway has no policy in force yet");
    };
    if let Err(refusal) = check_host(head, fields, &snapshot.settings) {
        gateway.failed_login(AuthenticationFailure::Host, Some(seat.address()));
        return *refusal;
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        return *method_not_allowed("GET, HEAD", "only GET is answered here");
    }
    let servers = snapshot.grants.authorization_servers();
    let (Some(resource), false) = (resource(&snapshot, head, fields, path), servers.is_empty())
    else {
        let why = format!("this MCP server has no authorization server: {CREDENTIAL_HINT}");
        return not_found(&why);
    };
    let mut document = json!({
        "resource": resource,
        "authorization_servers": servers,
        "bearer_methods_supported": ["header"],
        "resource_name": gateway.served().name,
    });
    let scopes = snapshot.grants.scopes();
    if !scopes.is_empty() {
        document["scopes_supported"] = json!(scopes);
    }
    let mut response = json_response(StatusCode::OK, document.to_string().into_bytes());
    let short = HeaderValue::from_static("max-age=300");
    response.headers_mut().insert(CACHE_CONTROL, short);
    response
}
