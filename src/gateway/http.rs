//! Streamable HTTP towards clients: what a request must be before policy looks at it, and which way it then takes.
//!
//! Sources: the transport pages of MCP 2025-03-26, 2025-06-18 and 2025-11-25; RFC 6750 for credentials; gateway.md's table
//! of answers. A refusal by policy is never an HTTP error: any 4xx or 5xx on a call ends the whole session of common clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::Gateway;
use super::body::{Body, BoxError, ReadError, discard, empty, read};
use super::enforce::{self, Admission, End, Named, Permit, Refusal, ToolCall};
use super::grants::Grant;
use super::inventory::whole;
use super::relay::{ContentType, RETRY_AFTER, Relay, content_type, json_response, tell_upstream};
use super::session::{LastSession, Session};
use super::snapshot::Snapshot;
use super::trace;
use super::upstream::{Envelope, UpstreamError};
use crate::protocol::answer;
use crate::protocol::emit::{self, Edits};
use crate::protocol::envelope::{
    self, CompletionRef, Id, Message, Notification, Outcome, Request as Rpc,
    Response as RpcResponse,
};
use crate::protocol::header::{self, HeaderFault};
use crate::protocol::list::ListKind;
use crate::protocol::method::{self, Form, Need};
use crate::protocol::version::{self, Era, Version};

const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// Between two pieces of a request's body.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// For all of a request's body: one that trickles must not hold a connection for ever.
const BODY_WITHIN: Duration = Duration::from_secs(120);
/// For what is not a tool call and has no time-out of its own in the spec: notifications, DELETE, the head of a stream.
const SHORT: Duration = Duration::from_secs(30);

type Answer = Response<Body>;

/// Answers one request to the MCP endpoint of a gateway. Never fails: every error is an answer. `last_session` is that of
/// the connection.
pub async fn handle<B>(
    gateway: &Arc<Gateway>,
    last_session: &LastSession,
    request: Request<B>,
) -> Answer
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let answer = match admit(gateway, &head) {
        Err(refusal) => *refusal,
        Ok((snapshot, grant)) => {
            let mut exchange = Exchange {
                gateway,
                snapshot,
                grant,
                head: &head,
                last_session,
            };
            exchange.run(body).await.unwrap_or_else(|refusal| *refusal)
        }
    };
    gateway
        .recorder
        .request_duration
        .observe(started.elapsed().as_secs_f64());
    answer
}

/// What must hold for every request, whatever it says: a bundle, a Host and an Origin that are ours, a credential.
fn admit(gateway: &Gateway, head: &Parts) -> Result<(Arc<Snapshot>, Grant), Box<Answer>> {
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
    match snapshot.grants.authenticate(&head.headers) {
        Ok(grant) => Ok((snapshot, grant)),
        Err(unauthorized) => {
            let body = answer::invalid_request(None, &unauthorized.to_string());
            let mut response = json_response(StatusCode::UNAUTHORIZED, body);
            let challenge = HeaderValue::from_static("Bearer realm=\"portcullis\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            Err(Box::new(response))
        }
    }
}

/// The value of a header that stands exactly once.
fn one(head: &Parts, name: HeaderName) -> Option<&str> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

struct Exchange<'a> {
    gateway: &'a Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    grant: Grant,
    head: &'a Parts,
    last_session: &'a LastSession,
}

fn refuse(status: StatusCode, body: Vec<u8>) -> Box<Answer> {
    Box::new(json_response(status, body))
}

fn header_refusal(fault: HeaderFault) -> Box<Answer> {
    let status = match fault {
        HeaderFault::AcceptPost | HeaderFault::AcceptGet => StatusCode::NOT_ACCEPTABLE,
        HeaderFault::ContentType | HeaderFault::ContentEncoding => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    refuse(status, answer::invalid_request(None, &fault.to_string()))
}

fn accepted() -> Answer {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

impl Exchange<'_> {
    async fn run<B>(&mut self, mut body: B) -> Result<Answer, Box<Answer>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        match self.head.method {
            Method::POST => {
                self.check_post_headers()?;
                let limit = self.snapshot.settings.max_request_bytes;
                let read = read(&mut body, limit, BODY_IDLE, BODY_WITHIN).await;
                if matches!(read, Err(ReadError::TooLarge { .. })) {
                    discard(&mut body).await;
                }
                let body = read.map_err(|error| {
                    let status = match error {
                        ReadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                        ReadError::Stalled => StatusCode::REQUEST_TIMEOUT,
                        ReadError::Broken(_) => StatusCode::BAD_REQUEST,
                    };
                    refuse(status, answer::invalid_request(None, &error.to_string()))
                })?;
                self.gateway.recorder.room().await;
                // While the body came, a policy or a credential may have been withdrawn: a client that takes its time over it
                // must not be decided on by what was in force when it began.
                let unchanged = self
                    .gateway
                    .snapshot()
                    .is_some_and(|now| Arc::ptr_eq(&now, &self.snapshot));
                if !unchanged {
                    (self.snapshot, self.grant) = admit(self.gateway, self.head)?;
                }
                self.post(&body).await
            }
            // What is rare is boxed, so that calls do not carry room for it along.
            Method::GET => Box::pin(self.get()).await,
            Method::DELETE => Box::pin(self.delete()).await,
            _ => {
                let body =
                    answer::invalid_request(None, "only POST, GET and DELETE are answered here");
                let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, body);
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
                Err(Box::new(response))
            }
        }
    }

    fn check_post_headers(&self) -> Result<(), Box<Answer>> {
        header::check_post_content(&self.head.headers)
            .and_then(|()| header::check_post_accept(&self.head.headers))
            .map_err(header_refusal)
    }

    async fn post(&self, body: &Bytes) -> Result<Answer, Box<Answer>> {
        let message = envelope::parse(body)
            .map_err(|refusal| refuse(StatusCode::BAD_REQUEST, answer::refusal(&refusal)))?;
        let named = match header::single(&self.head.headers, PROTOCOL_VERSION) {
            Ok(named) => named,
            Err(fault) => {
                return Err(refuse(
                    StatusCode::BAD_REQUEST,
                    answer::invalid_request(message.id(), &fault.to_string()),
                ));
            }
        };
        if let Era::Stateless(requested) = version::era(named, &message) {
            let body = answer::unsupported_version(message.id(), &Version::SESSION, &requested);
            return Err(refuse(StatusCode::BAD_REQUEST, body));
        }
        if let Message::Request(request) = &message
            && request.method == "initialize"
        {
            return Box::pin(self.initialize(request)).await;
        }
        let session = self.session(message.id(), named)?;
        match &message {
            Message::Request(request) => self.request(session, request, body).await,
            Message::Notification(notification) => {
                Box::pin(self.notification(&session, notification)).await
            }
            Message::Response(response) => Box::pin(self.response(&session, response)).await,
        }
    }

    /// The session that the request's headers name.
    fn session(
        &self,
        id: Option<&Id<'_>>,
        named: Option<&str>,
    ) -> Result<Arc<Session>, Box<Answer>> {
        let unknown = || refuse(StatusCode::NOT_FOUND, answer::session_unknown(id));
        let token = header::session_id(&self.head.headers)
            .map_err(|_| unknown())?
            .ok_or_else(|| {
                let why = "the Mcp-Session-Id header is missing; send initialize first";
                refuse(StatusCode::BAD_REQUEST, answer::invalid_request(id, why))
            })?;
        let session = Session::reopen(self.gateway, &self.grant, token, self.last_session)
            .map_err(|_| unknown())?;
        if named
            .is_some_and(|named| session.version.has_header() && named != session.version.as_str())
        {
            let why = format!("this session speaks protocol version {}", session.version);
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                answer::invalid_request(id, &why),
            ));
        }
        Ok(session)
    }

    fn relay(&self, session: Arc<Session>) -> Relay {
        Relay {
            gateway: Arc::clone(self.gateway),
            grant: self.grant.clone(),
            session,
            id_use: None,
        }
    }

    fn envelope(&self, session: &Session) -> Envelope {
        Envelope {
            trace: trace::context(&self.head.headers),
            ..session.envelope()
        }
    }

    // ---- initialize ----

    /// The handshake: capabilities that the spec denies are taken out, and the client gets a sealed session.
    async fn initialize(&self, request: &Rpc<'_>) -> Result<Answer, Box<Answer>> {
        let invalid = |why: &str| refuse(StatusCode::OK, answer::invalid_params(&request.id, why));
        let params = request
            .params
            .as_ref()
            .ok_or_else(|| invalid("params must be an object"))?;
        let requested = params
            .required_string("protocolVersion")
            .map_err(|fault| invalid(&fault.to_string()))?;
        let offered = version::offer(&requested);
        let stripped = self.snapshot.settings.stripped_capabilities();
        let mut edits = Edits::new().set_string("protocolVersion", offered.as_str());
        if let Some(capabilities) = params.get("capabilities") {
            let kept = emit::without(capabilities.raw, CAPABILITIES, &stripped)
                .map_err(|fault| invalid(&format!("capabilities: {fault}")))?;
            edits = edits.set("capabilities", kept);
        }
        let permit = Permit::undecided(
            Method::POST,
            Envelope {
                trace: trace::context(&self.head.headers),
                ..Envelope::default()
            },
            request.emit(&edits).into(),
        );
        let timeout = self.snapshot.settings.timeout;
        let down = |why: &str| {
            refuse(
                StatusCode::BAD_GATEWAY,
                answer::upstream_down(Some(&request.id), why, RETRY_AFTER),
            )
        };
        let response = self
            .snapshot
            .upstream
            .call(permit, timeout)
            .await
            .map_err(|error| down(&shown(&error)))?;
        let answered = tokio::time::timeout(timeout, whole(response, &request.id))
            .await
            .map_err(|_| down("it did not answer in time"))?
            .map_err(|why| down(&why))?;
        let message =
            envelope::parse(&answered.body).map_err(|refusal| down(&refusal.to_string()))?;
        let Message::Response(response) = &message else {
            return Err(down("its answer is no response"));
        };
        let result = match &response.outcome {
            Outcome::Error(_) => {
                return Ok(json_response(StatusCode::OK, message.emit(&Edits::new())));
            }
            Outcome::Result(result) => result,
        };
        let answered_version = result
            .required_string("protocolVersion")
            .map_err(|fault| down(&format!("its answer to initialize: {fault}")))?;
        let chosen =
            version::chosen(&answered_version).map_err(|error| down(&error.to_string()))?;
        // Lists are filtered in every answer; this one has none by rights.
        let lists = ListKind::ALL.map(ListKind::key);
        let mut edits = lists
            .into_iter()
            .chain(["result"])
            .fold(Edits::new(), Edits::remove);
        if let Some(capabilities) = result.get("capabilities") {
            // What the gateway does not carry is not promised.
            let kept = emit::without(capabilities.raw, CAPABILITIES, &["tasks"])
                .map_err(|fault| down(&format!("its capabilities: {fault}")))?;
            edits = edits.set("capabilities", kept);
        }
        let (_, token) =
            Session::start(self.gateway, &self.grant, chosen, answered.session.as_ref())
                .map_err(|why| down(&why))?;
        let mut response = json_response(StatusCode::OK, message.emit(&edits));
        response
            .headers_mut()
            .insert(HeaderName::from_static("mcp-session-id"), token);
        Ok(response)
    }

    // ---- requests ----

    async fn request(
        &self,
        session: Arc<Session>,
        request: &Rpc<'_>,
        body: &Bytes,
    ) -> Result<Answer, Box<Answer>> {
        let id = &request.id;
        let ok = |body: Vec<u8>| refuse(StatusCode::OK, body);
        let row = method::lookup(&request.method)
            .filter(|row| {
                row.form == Form::Request && row.to_server() && row.in_version(session.version)
            })
            .ok_or_else(|| ok(answer::method_not_found(id, &request.method)))?;
        let invalid = |fault: envelope::Fault| ok(answer::invalid_params(id, &fault_text(&fault)));
        let params = request.params.as_ref();
        match row.need {
            Need::Nothing | Need::List => {}
            Need::ToolCall => return self.tool_call(session, request, body).await,
            Need::Prompt => {
                let name = params
                    .ok_or(envelope::Fault::Params)
                    .and_then(|params| params.required_string("name"));
                let name = name.map_err(invalid)?;
                if !self.decide_named(&session, row.name, Named::Prompt(&name)) {
                    return Err(ok(answer::unknown_prompt(id, &name)));
                }
            }
            Need::Resource => {
                let uri = params
                    .ok_or(envelope::Fault::Params)
                    .and_then(|params| params.required_string("uri"));
                let uri = uri.map_err(invalid)?;
                if !self.decide_named(&session, row.name, Named::Resource(&uri)) {
                    return Err(ok(answer::unknown_resource(id, &uri)));
                }
            }
            Need::Completion => {
                let reference = request.completion_ref().map_err(invalid)?;
                let (named, refusal) = match &reference {
                    CompletionRef::Prompt(name) => {
                        (Named::Prompt(name), answer::unknown_prompt(id, name))
                    }
                    CompletionRef::Resource(uri) => {
                        (Named::Template(uri), answer::unknown_resource(id, uri))
                    }
                };
                if !self.decide_named(&session, row.name, named) {
                    return Err(ok(refusal));
                }
            }
            // Tasks are not declared, so nobody has one; the rest is not for clients to send.
            _ => return Err(ok(answer::method_not_found(id, &request.method))),
        }
        let permit = Permit::undecided(
            Method::POST,
            self.envelope(&session),
            request.emit(&Edits::new()).into(),
        );
        self.forward(session, id, permit, None).await
    }

    async fn tool_call(
        &self,
        session: Arc<Session>,
        request: &Rpc<'_>,
        body: &Bytes,
    ) -> Result<Answer, Box<Answer>> {
        let id = &request.id;
        let ok = |body: Vec<u8>| refuse(StatusCode::OK, body);
        let call = request
            .tool_call()
            .map_err(|fault| ok(answer::invalid_params(id, &fault_text(&fault))))?;
        let trace_id = trace::id(&self.head.headers);
        let asked = ToolCall {
            tool: &call.name,
            arguments: call
                .arguments
                .map(|raw| body.slice_ref(raw.as_bytes()))
                .unwrap_or_default(),
            grant: &self.grant,
            session: &session.id,
            id: &id.to_json(),
            trace_id: trace_id.as_deref(),
        };
        // A call is never run as a task: the capability is not declared, and then the field is to be ignored
        // (2025-11-25, Tasks, "Task Support Is Optional").
        let sent = || {
            let body = request.emit(&Edits::new().remove("task"));
            (self.envelope(&session), body.into())
        };
        let admission = enforce::tool_call(self.gateway, &self.snapshot, &asked, sent).await;
        match admission {
            Admission::Forward(permit, in_flight) => {
                self.forward(session, id, permit, Some(in_flight)).await
            }
            Admission::Refuse(Refusal::Cancelled) => Ok(accepted()),
            Admission::Refuse(refusal) => {
                Err(ok(refusal_body(session.version, id, &call.name, &refusal)))
            }
        }
    }

    /// Sends a permitted request and relays its answer. From here on every failure is a JSON-RPC error under 200.
    async fn forward(
        &self,
        session: Arc<Session>,
        id: &Id<'_>,
        permit: Permit,
        mut in_flight: Option<Box<enforce::InFlight>>,
    ) -> Result<Answer, Box<Answer>> {
        let id_use = self
            .gateway
            .in_use
            .enter(&session.envelope(), &id.to_json());
        if let Some(in_flight) = &mut in_flight {
            in_flight.watch(id_use.dispute());
        }
        let timeout = self.snapshot.settings.timeout;
        let sent = Instant::now();
        let response = match self.snapshot.upstream.call(permit, timeout).await {
            Ok(response) => response,
            Err(error) => {
                let end = match &error {
                    UpstreamError::NotSent(_) => End::Unreachable,
                    UpstreamError::Timeout(_) => End::Timeout,
                    UpstreamError::Broken(_) | UpstreamError::Unacceptable(_) => End::Broken,
                };
                if let Some(in_flight) = in_flight {
                    in_flight.finish(end);
                }
                tracing::warn!(server = self.gateway.recorder.server(), %error, "a request to the upstream failed");
                if end == End::Timeout {
                    self.give_up(&session, id);
                }
                return Err(refuse(
                    StatusCode::OK,
                    answer::upstream_down(Some(id), &shown(&error), RETRY_AFTER),
                ));
            }
        };
        if response.status() == StatusCode::NOT_FOUND {
            // The upstream has forgotten the session: the client has to initialize again.
            if let Some(in_flight) = in_flight {
                in_flight.finish(End::Broken);
            }
            return Err(refuse(
                StatusCode::NOT_FOUND,
                answer::session_unknown(Some(id)),
            ));
        }
        let within = timeout.saturating_sub(sent.elapsed());
        let mut relay = self.relay(session);
        relay.id_use = Some(Arc::new(id_use));
        Ok(relay
            .answer(id.clone().into_owned(), in_flight, response, within)
            .await)
    }

    /// Tells the upstream that nobody waits any more (Cancellation: "SHOULD issue a cancellation notification").
    fn give_up(&self, session: &Arc<Session>, id: &Id<'_>) {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{},\"reason\":\"timeout\"}}}}",
            id.to_json()
        );
        tell_upstream(self.gateway, session, body.into_bytes());
    }

    fn decide_named(&self, session: &Session, method: &'static str, named: Named<'_>) -> bool {
        let trace_id = trace::id(&self.head.headers);
        enforce::named(
            self.gateway,
            &self.snapshot,
            &self.grant,
            &session.id,
            method,
            named,
            trace_id.as_deref(),
        )
    }

    // ---- notifications and responses ----

    async fn notification(
        &self,
        session: &Arc<Session>,
        notification: &Notification<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let row = method::lookup(&notification.method).filter(|row| {
            row.form == Form::Notification && row.to_server() && row.in_version(session.version)
        });
        let allowed = match row.map(|row| row.need) {
            Some(Need::Nothing) => true,
            Some(Need::Cancel) => {
                let id = notification
                    .params
                    .as_ref()
                    .and_then(|params| params.get("requestId"))
                    .and_then(|id| Id::from_json(id.raw));
                if let Some(id) = id {
                    let id = id.to_json();
                    if self.gateway.holds.cancel(&session.id, &id) {
                        return Ok(accepted());
                    }
                    // Whatever the upstream makes of it, a call that was made keeps its units.
                    let _id_use = self.gateway.in_use.enter(&session.envelope(), &id);
                    return self
                        .pass_on(session, notification.emit(&Edits::new()))
                        .await;
                }
                true
            }
            Some(Need::Feature(feature)) => self.snapshot.settings.allows(feature),
            _ => false,
        };
        if !allowed {
            // Nothing answers a notification, and an HTTP error would end the session of common clients.
            tracing::debug!(
                server = self.gateway.recorder.server(),
                "a notification that is not for the server was dropped"
            );
            return Ok(accepted());
        }
        self.pass_on(session, notification.emit(&Edits::new()))
            .await
    }

    /// The client's answer to a request of the upstream.
    async fn response(
        &self,
        session: &Arc<Session>,
        response: &RpcResponse<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let opened = response
            .id
            .as_ref()
            .and_then(|id| session.open_request(self.gateway, &self.grant, id));
        let Some((method, id)) = opened else {
            let why = "this answers no request of the server";
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                answer::invalid_request(None, why),
            ));
        };
        let allowed = match method::lookup(&method).map(|row| row.need) {
            Some(Need::Feature(feature)) => self.snapshot.settings.allows(feature),
            Some(Need::Nothing) => true,
            _ => false,
        };
        if allowed {
            self.pass_on(session, response.emit(&Edits::new().id(id)))
                .await
        } else {
            // Allowed when it was asked and not any more: the server must not wait for an answer that never comes.
            tell_upstream(
                self.gateway,
                session,
                answer::method_not_found(&id, &method),
            );
            Ok(accepted())
        }
    }

    async fn pass_on(&self, session: &Arc<Session>, body: Vec<u8>) -> Result<Answer, Box<Answer>> {
        let permit = Permit::undecided(Method::POST, self.envelope(session), body.into());
        match self.snapshot.upstream.call(permit, SHORT).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                Err(refuse(StatusCode::NOT_FOUND, answer::session_unknown(None)))
            }
            Ok(_) => Ok(accepted()),
            Err(error) => {
                // A notification has no answer to carry an error, and an HTTP error would end the session.
                tracing::warn!(server = self.gateway.recorder.server(), %error, "a notification was not delivered");
                Ok(accepted())
            }
        }
    }

    // ---- GET and DELETE ----

    async fn get(&self) -> Result<Answer, Box<Answer>> {
        header::check_get_accept(&self.head.headers).map_err(header_refusal)?;
        let session = self.session(None, self.named_version()?)?;
        let mut envelope = self.envelope(&session);
        if self.head.headers.contains_key("last-event-id") {
            let token = one(self.head, HeaderName::from_static("last-event-id"));
            let opened =
                token.and_then(|token| session.open_event(self.gateway, &self.grant, token));
            envelope.last_event_id = Some(opened.ok_or_else(|| {
                let why = "Last-Event-ID was not issued by this gateway for this session";
                refuse(StatusCode::BAD_REQUEST, answer::invalid_request(None, why))
            })?);
        }
        if self.gateway.closing.is_cancelled() {
            let body = answer::error(
                None,
                answer::code::INTERNAL_ERROR,
                "The gateway is shutting down",
                None,
            );
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, body));
        }
        let permit = Permit::undecided(Method::GET, envelope, Bytes::new());
        let response = self
            .snapshot
            .upstream
            .call(permit, SHORT)
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
                Ok(self.relay(session).stream(response))
            }
            StatusCode::NOT_FOUND => {
                Err(refuse(StatusCode::NOT_FOUND, answer::session_unknown(None)))
            }
            StatusCode::METHOD_NOT_ALLOWED => {
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

    async fn delete(&self) -> Result<Answer, Box<Answer>> {
        let session = self.session(None, self.named_version()?)?;
        self.gateway.ended.insert(session.id.clone(), ());
        let permit = Permit::undecided(Method::DELETE, session.envelope(), Bytes::new());
        if let Err(error) = self.snapshot.upstream.call(permit, SHORT).await {
            tracing::debug!(server = self.gateway.recorder.server(), %error, "the end of a session was not delivered");
        }
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    fn named_version(&self) -> Result<Option<&str>, Box<Answer>> {
        let named = header::single(&self.head.headers, PROTOCOL_VERSION).map_err(|fault| {
            refuse(
                StatusCode::BAD_REQUEST,
                answer::invalid_request(None, &fault.to_string()),
            )
        })?;
        match named {
            // Stateless versions have no streams and no sessions (2026-07-28, Streamable HTTP).
            Some(name) if Version::parse(name).is_none_or(Version::is_stateless) => {
                let body = answer::unsupported_version(None, &Version::SESSION, name);
                Err(refuse(StatusCode::BAD_REQUEST, body))
            }
            named => Ok(named),
        }
    }
}

/// Keys of capability objects, so that no case variant of one is left in.
const CAPABILITIES: &[&str] = &[
    "completions",
    "elicitation",
    "experimental",
    "logging",
    "prompts",
    "resources",
    "roots",
    "sampling",
    "tasks",
    "tools",
];

/// A fault in `params` without its own prefix, which the answer adds.
fn fault_text(fault: &envelope::Fault) -> String {
    let text = fault.to_string();
    match text.strip_prefix("Invalid params: ") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// An upstream error as an agent may know it: no address, no cause.
fn shown(error: &UpstreamError) -> String {
    error.to_string()
}

fn refusal_body(version: Version, id: &Id<'_>, tool: &str, refusal: &Refusal) -> Vec<u8> {
    match refusal {
        Refusal::Unknown | Refusal::Cancelled => answer::unknown_tool(id, tool),
        Refusal::Denied { by, reason } => answer::denied(
            version,
            id,
            &by.policy_label(),
            &by.rule,
            reason.as_deref().unwrap_or(""),
        ),
        Refusal::BadArguments(why) => answer::tool_refused(
            version,
            id,
            &format!("Invalid arguments: {why}. Correct it and call again."),
            None,
        ),
        Refusal::Limited {
            by,
            max,
            window,
            retry_after: Some(wait),
        } => answer::limited(version, id, *max, window, &by.rule, *wait),
        Refusal::Limited {
            by,
            max,
            window,
            retry_after: None,
        } => {
            let text = format!(
                "This call costs more than the limit of {max} per {window} (rule {}) ever allows. Do not retry.",
                by.rule
            );
            answer::tool_refused(version, id, &text, None)
        }
        Refusal::CounterCapacity { by } => answer::limit_unavailable(
            version,
            id,
            &by.rule,
            "too many callers are being counted",
            Duration::from_secs(60),
        ),
        Refusal::Pending { name } => answer::approval(version, id, name, answer::Approval::Pending),
        Refusal::ApprovalDenied { name, reason } => answer::approval(
            version,
            id,
            name,
            answer::Approval::Denied(reason.as_deref().unwrap_or("")),
        ),
        Refusal::ApprovalGone { name } => {
            answer::approval(version, id, name, answer::Approval::Expired)
        }
        Refusal::ApprovalRefused { by, why } => {
            answer::denied(version, id, &by.policy_label(), &by.rule, why)
        }
        Refusal::Unavailable => {
            answer::upstream_down(Some(id), "its tools have not been listed yet", RETRY_AFTER)
        }
    }
}
