//! GET and DELETE: the stream of a session, and its end.

use http::header::ALLOW;
use http::{HeaderValue, Response, StatusCode};

use super::head::one;
use super::responses::{Answer, header_refusal, refuse, shown};
use super::{Exchange, SHORT_TIMEOUT};
use crate::gateway::body::empty;
use crate::gateway::body::message::{ContentType, RETRY_AFTER, content_type, json_response};
use crate::gateway::permit::Permit;
use crate::gateway::relay::Asked;
use crate::protocol::header::{Field, LAST_EVENT_ID};
use crate::protocol::version::Version;
use crate::protocol::{answer, header};

impl Exchange<'_> {
    pub(super) async fn get(&self) -> Result<Answer, Box<Answer>> {
        header::check_get_accept(&self.head.headers).map_err(header_refusal)?;
        let upstream = self.upstream()?;
        self.check_version()?;
        let session = self.session(None)?;
        let mut envelope = self.envelope(&session);
        let mut resumed = None;
        if self.head.headers.contains_key(LAST_EVENT_ID) {
            let token = one(Field::of(&self.head.headers, LAST_EVENT_ID));
            let opened = token
                .and_then(|token| session.open_event(&self.gateway.sessions, &self.grant, token));
            let (event, answers) = opened.ok_or_else(|| {
                let why = "Last-Event-ID was not issued by this gateway for this session";
                refuse(StatusCode::BAD_REQUEST, answer::invalid_request(None, why))
            })?;
            envelope.last_event_id = Some(event);
            resumed = answers.map(Asked::resumed);
        }
        if self.gateway.lifetime.is_closing() {
            let body = answer::error(
                None,
                answer::code::INTERNAL_ERROR,
                "The gateway is shutting down",
                None,
            );
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, body));
        }
        let permit = Permit::listen(envelope);
        let response = upstream
            .call(permit, SHORT_TIMEOUT)
            .await
            .map_err(|error| {
                refuse(
                    StatusCode::BAD_GATEWAY,
                    answer::upstream_down(None, &shown(&error), RETRY_AFTER),
                )
            })?;
        match response.status() {
            status
                if status.is_success()
                    && content_type(&response) == Some(ContentType::EventStream) =>
            {
                let mut relay = self.relay(session, upstream);
                relay.asked = resumed;
                Ok(relay.stream(response))
            }
            // Servers without a stream say so in many ways. A server that has forgotten the session
            // says it again to the next request, which can be answered.
            status
                if status.is_success()
                    || matches!(
                        status,
                        StatusCode::BAD_REQUEST
                            | StatusCode::NOT_FOUND
                            | StatusCode::METHOD_NOT_ALLOWED
                            | StatusCode::NOT_ACCEPTABLE
                            | StatusCode::NOT_IMPLEMENTED
                    ) =>
            {
                let body = answer::invalid_request(None, "the server offers no stream of its own");
                let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, body);
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
                Err(Box::new(response))
            }
            status => {
                let why = format!(
                    "it answered HTTP {} to a request for its stream",
                    status.as_u16()
                );
                Err(refuse(
                    StatusCode::BAD_GATEWAY,
                    answer::upstream_down(None, &why, RETRY_AFTER),
                ))
            }
        }
    }

    pub(super) async fn delete(&self) -> Result<Answer, Box<Answer>> {
        let upstream = self.upstream()?;
        self.check_version()?;
        let session = self.session(None)?;
        let grant = &self.grant.caller.grant;
        self.gateway.end_session(grant, &session.id);
        self.gateway.sessions.closed_upstream(grant, &session.id);
        // Its calls continue, and errors that the upstream answers from now on may be caused by
        // this.
        self.gateway.calls.mark_session(session.key());
        let permit = Permit::end(session.envelope());
        if let Err(error) = upstream.call(permit, SHORT_TIMEOUT).await {
            tracing::debug!(server = self.gateway.observe.server(), %error, "the end of a session was not delivered");
        }
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    fn check_version(&self) -> Result<(), Box<Answer>> {
        let named = header::protocol_version(&self.fields).map_err(|fault| {
            refuse(
                StatusCode::BAD_REQUEST,
                answer::invalid_request(None, &fault.to_string()),
            )
        })?;
        match named {
            // Stateless versions have no streams and no sessions (2026-07-28, Streamable HTTP).
            Some(name) if header::check_session_version(named).is_err() => {
                let body = answer::unsupported_version(None, &Version::SESSION, name);
                Err(refuse(StatusCode::BAD_REQUEST, body))
            }
            _ => Ok(()),
        }
    }
}
