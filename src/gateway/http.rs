//! Streamable HTTP for clients: checks each request before the policy evaluates it, and routes it
//! by method.
//!
//! Sources: the transport pages of MCP 2025-03-26, 2025-06-18 and 2025-11-25; RFC 6750 for
//! credentials; gateway.md's table of answers. A refusal by policy is never an HTTP error: any 4xx
//! or 5xx on a call ends the whole session of common clients.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use tracing::Instrument as _;

use crate::gateway::Gateway;
use crate::gateway::body::{BoxError, ReadError, discard, holding, read_for};
use crate::gateway::fairness::floor::Seat;
use crate::gateway::fairness::offload::{is_small, offload};
use crate::gateway::force::credentials::NoCredential;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::Grant;
use crate::gateway::permit::Envelope;
use crate::gateway::relay::{MAX_TIMEOUTS_PER_CALL, Relay, WaitProgress};
use crate::gateway::sessions::{LastSession, Session};
use crate::gateway::upstream::Upstream;
use crate::protocol::answer;
use crate::protocol::envelope::{self, Id, Message, Refusal};
use crate::protocol::era::{self, Era};
use crate::protocol::header::{self, AcceptedTypes, Fields};
use crate::protocol::text::printable;
use crate::protocol::version::Version;

mod accept;
mod admit;
mod cors;
mod credentials;
mod handshake;
mod head;
mod held;
mod metadata;
mod notifications;
mod renewal;
mod requests;
mod responses;
mod streams;
mod trace;

use self::accept::in_accepted_type;
use self::admit::{admit, admit_with_newest_keys, share};
pub use self::metadata::{CREDENTIAL_HINT, WELL_KNOWN, protected_resource};
use self::responses::{Answer, header_refusal, method_not_allowed, refuse};

/// Between two pieces of a request's body.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For all of a request's body: one that trickles must not hold a connection for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// For what is not a tool call and has no time-out of its own in the spec: notifications, DELETE,
/// the head of a stream.
const SHORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of a method that a log line shows.
const MAX_LOGGED_METHOD: usize = 64;

/// Answers one request to the MCP endpoint of a gateway. Never fails: every error is an answer.
/// `seat` and `last_session` are those of the connection.
pub async fn handle<B>(
    gateway: &Arc<Gateway>,
    seat: &Seat,
    last_session: &LastSession,
    request: Request<B>,
) -> Answer
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let fields = Fields::of(&head.headers);
    if let Some(answer) = cors::preflight(gateway, &head, &fields) {
        return answer;
    }
    let admitted = admit_with_newest_keys(gateway, seat, &head, &fields).await;
    let admitted = admitted.and_then(|mut admitted| {
        let taken = share(gateway, seat, &head, &mut admitted.grant)?;
        Ok((admitted, taken))
    });
    let mut answer = match admitted {
        Err(refusal) => *refusal,
        Ok((admitted, taken)) => {
            let mut exchange = Exchange {
                gateway,
                snapshot: admitted.snapshot,
                upstream: admitted.upstream,
                grant: admitted.grant,
                head: &head,
                fields,
                last_session,
                trace_id: trace::id(fields.traceparent),
                hops: admitted.hops,
                takes_events: true,
                told: None,
            };
            let answer = exchange
                .run(seat, body)
                .await
                .unwrap_or_else(|refusal| *refusal);
            if http_body::Body::size_hint(answer.body()).exact().is_some() {
                answer
            } else {
                answer.map(|body| holding(body, taken))
            }
        }
    };
    cors::share(gateway, &fields, &mut answer);
    gateway
        .observe
        .request_duration
        .observe(started.elapsed().as_secs_f64());
    answer
}

struct Exchange<'a> {
    gateway: &'a Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    /// The upstream with the caller's credential; everything that is sent for it goes there.
    upstream: Result<Arc<Upstream>, NoCredential>,
    grant: Grant,
    head: &'a Parts,
    fields: Fields<'a>,
    last_session: &'a LastSession,
    /// The W3C trace id, if the caller sent one.
    trace_id: Option<String>,
    /// The gateways that the request passed through.
    hops: Option<HeaderValue>,
    /// The client takes a stream of events as the answer.
    takes_events: bool,
    /// The progress that the client got while its call waited for a person.
    told: Option<Arc<WaitProgress>>,
}

impl Exchange<'_> {
    async fn run<B>(&mut self, seat: &Seat, mut body: B) -> Result<Answer, Box<Answer>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        match self.head.method {
            Method::POST => {
                let accepted = self.check_post_headers()?;
                self.takes_events = accepted != AcceptedTypes::Json;
                let limit = self.snapshot.settings.max_request_bytes;
                let share = self.grant.share.clone();
                let read = read_for(
                    share.as_ref(),
                    &mut body,
                    limit,
                    BODY_IDLE_TIMEOUT,
                    BODY_TIMEOUT,
                )
                .await;
                if matches!(read, Err(ReadError::TooLarge { .. } | ReadError::Spent(_))) {
                    discard(&mut body).await;
                }
                let (body, _room) = read.map_err(|error| {
                    let status = match error {
                        ReadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                        ReadError::Stalled => StatusCode::REQUEST_TIMEOUT,
                        ReadError::Broken(_) => StatusCode::BAD_REQUEST,
                        ReadError::Spent(_) => StatusCode::SERVICE_UNAVAILABLE,
                    };
                    refuse(status, answer::invalid_request(None, &error.to_string()))
                })?;
                self.gateway.observe.room().await;
                // While the body came, a policy or a credential may have been withdrawn: a slow
                // request is decided by what is in force now, not by what was when it began.
                let unchanged = self
                    .gateway
                    .snapshot()
                    .is_some_and(|now| Arc::ptr_eq(&now, &self.snapshot));
                if !unchanged {
                    let admitted = admit(self.gateway, self.head, &self.fields)
                        .map_err(|refused| refused.recorded(self.gateway, seat))?;
                    (self.snapshot, self.grant) = (admitted.snapshot, admitted.grant);
                    self.upstream = admitted.upstream;
                    self.grant.share = share;
                }
                let answer = self.post(&body).await;
                if accepted == AcceptedTypes::Both {
                    return answer;
                }
                let answer = answer.unwrap_or_else(|refusal| *refusal);
                let within = self.snapshot.settings.timeout * MAX_TIMEOUTS_PER_CALL;
                let answer = in_accepted_type(answer, accepted, &self.grant, within);
                Ok(Box::pin(answer).await)
            }
            // Rare requests are boxed, so that the futures of calls stay small.
            Method::GET => Box::pin(self.get()).await,
            Method::DELETE => Box::pin(self.delete()).await,
            _ => Err(method_not_allowed(
                "POST, GET, DELETE",
                "only POST, GET and DELETE are answered here",
            )),
        }
    }

    fn check_post_headers(&self) -> Result<AcceptedTypes, Box<Answer>> {
        header::check_post_content(&self.fields)
            .and_then(|()| header::accepted_types(&self.fields))
            .map_err(header_refusal)
    }

    async fn post(&self, body: &Bytes) -> Result<Answer, Box<Answer>> {
        let message = if is_small(body.len()) {
            envelope::parse(body)
        } else {
            let share = self.grant.share.as_ref();
            Box::pin(offload(share, || envelope::parse(body))).await
        };
        let message = message.map_err(|refusal| self.refused_body(&refusal))?;
        if let Message::Request(request) = &message
            && request.method == "initialize"
        {
            // Its body negotiates the version, whatever the header says.
            return match &self.upstream {
                Ok(_) => Box::pin(self.initialize(request)).await,
                Err(missing) => self.without_credential(missing, &message),
            };
        }
        let named = match header::protocol_version(&self.fields) {
            Ok(named) => named,
            Err(fault) => {
                return Err(refuse(
                    StatusCode::BAD_REQUEST,
                    answer::invalid_request(message.id(), &fault.to_string()),
                ));
            }
        };
        if let Era::Stateless(requested) = era::era(named, &message) {
            let body = answer::unsupported_version(message.id(), &Version::SESSION, &requested);
            return Err(refuse(StatusCode::BAD_REQUEST, body));
        }
        if let Err(missing) = &self.upstream {
            return self.without_credential(missing, &message);
        }
        let session = self.session(message.id())?;
        match &message {
            Message::Request(request) => {
                // At debug only, as a span that is recorded would cost every call.
                let span = tracing::debug_span!(
                    "request",
                    server = self.gateway.observe.server(),
                    session = session.id,
                    method = printable(&request.method, MAX_LOGGED_METHOD)
                );
                // Pinned, as every move of a future copies it.
                let answer = pin!(self.request(session, request, body));
                match span.is_disabled() {
                    true => answer.await,
                    false => answer.instrument(span).await,
                }
            }
            Message::Notification(notification) => {
                Box::pin(self.notification(&session, notification)).await
            }
            Message::Response(response) => Box::pin(self.response(&session, response)).await,
        }
    }

    /// A body that cannot be read as a message. Within a session the answer is an HTTP success if
    /// the request's id is known: the Python SDK ends a session on an HTTP error.
    fn refused_body(&self, refusal: &Refusal) -> Box<Answer> {
        let in_session = refusal.id.is_some() && self.session(refusal.id.as_ref()).is_ok();
        let status = if in_session {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        refuse(status, answer::refusal(refusal))
    }

    /// The session that the request's headers name. Whichever version a request names, the session
    /// knows its own, and upstream goes only that.
    fn session(&self, id: Option<&Id<'_>>) -> Result<Arc<Session>, Box<Answer>> {
        let unknown = || refuse(StatusCode::NOT_FOUND, answer::session_unknown(id));
        let token = header::session_id(&self.fields)
            .map_err(|_| unknown())?
            .ok_or_else(|| {
                let why = "the Mcp-Session-Id header is missing; send initialize first";
                refuse(StatusCode::BAD_REQUEST, answer::invalid_request(id, why))
            })?;
        Session::reopen(
            &self.gateway.sessions,
            &self.grant,
            token,
            self.last_session,
        )
        .map_err(|_| unknown())
    }

    fn relay(&self, session: Arc<Session>, upstream: &Arc<Upstream>) -> Relay {
        Relay {
            gateway: Arc::clone(self.gateway),
            grant: self.grant.clone(),
            session,
            upstream: Arc::downgrade(upstream),
            asked: None,
        }
    }

    fn envelope(&self, session: &Session) -> Envelope {
        Envelope {
            trace: trace::context(&self.head.headers, self.trace_id.as_deref()),
            hops: self.hops.clone(),
            ..session.envelope()
        }
    }
}
