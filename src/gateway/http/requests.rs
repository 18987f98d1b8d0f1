//! Requests of the client: decided, refused or forwarded, and answered.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use tokio::time::Instant;

use super::Exchange;
use super::held::progress_token;
use super::responses::{Answer, accepted, fault_text, refusal_body, refuse, shown, unrecorded};
use crate::gateway::body::message::{RETRY_AFTER, json_response};
use crate::gateway::enforce::request_ids::MAX_CLIENT_ID_BYTES;
use crate::gateway::enforce::{
    self, Admission, End, Forward, InFlight, Named, NamedCall, NamedRefusal, Refusal, ToolCall,
};
use crate::gateway::permit::Permit;
use crate::gateway::relay::{Asked, give_up};
use crate::gateway::sessions::Session;
use crate::gateway::upstream::UpstreamError;
use crate::json::{self, Kind};
use crate::protocol::answer::{self, To};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, CompletionRef, Id, Request as Rpc};
use crate::protocol::list::ListKind;
use crate::protocol::method::{self, Form, Method as Row, Need};

/// Names the decision on a request in its answer.
const DECISION_ID: HeaderName = HeaderName::from_static("portcullis-decision-id");

impl Exchange<'_> {
    pub(super) async fn request(
        &self,
        session: Arc<Session>,
        request: &Rpc<'_>,
        body: &Bytes,
    ) -> Result<Answer, Box<Answer>> {
        let id = &request.id;
        let ok = |body: Vec<u8>| refuse(StatusCode::OK, body);
        if matches!(id, Id::String(text) if text.len() > MAX_CLIENT_ID_BYTES) {
            let why = format!("id may have {MAX_CLIENT_ID_BYTES} bytes; use a shorter one");
            return Err(ok(answer::invalid_request(None, &why)));
        }
        let row = method::lookup(&request.method)
            .filter(|row| {
                row.form == Form::Request && row.to_server() && row.in_version(session.version)
            })
            .ok_or_else(|| ok(answer::method_not_found(id, &request.method)))?;
        let invalid = |fault: envelope::Fault| ok(answer::invalid_params(id, &fault_text(&fault)));
        let params = request.params.as_ref();
        let text = |key: &'static str| {
            params
                .ok_or(envelope::Fault::Params)
                .and_then(|params| params.required_string(key))
        };
        let forward = match row.need {
            Need::ToolCall => return self.tool_call(session, row, request, body).await,
            Need::Prompt => {
                let name = text("name").map_err(invalid)?;
                self.named(&session, row, request, Named::Prompt(&name), Edits::new())
                    .await?
            }
            Need::Resource => {
                let uri = text("uri").map_err(invalid)?;
                self.named(&session, row, request, Named::Resource(&uri), Edits::new())
                    .await?
            }
            Need::Completion => {
                let reference = request.completion_ref().map_err(invalid)?;
                let (named, kind, key, name) = match &reference {
                    CompletionRef::Prompt(name) => {
                        (Named::Prompt(name), "ref/prompt", "name", name)
                    }
                    CompletionRef::Resource(uri) => {
                        (Named::Template(uri), "ref/resource", "uri", uri)
                    }
                };
                // Written again: a server might read another member than the one that was decided
                // on.
                let only = format!(r#"{{"type":"{kind}","{key}":{}}}"#, json::quoted(name));
                let edits = Edits::new().set("ref", only);
                self.named(&session, row, request, named, edits).await?
            }
            _ => {
                // Tasks are not declared, so no client has one; the rest is not for clients to
                // send.
                let undecided = row
                    .undecided(|feature| self.snapshot.settings.allows(feature))
                    .ok_or_else(|| ok(answer::method_not_found(id, &request.method)))?;
                let edits = match params.and_then(|params| params.get("cursor")) {
                    Some(cursor) if row.need == Need::List && cursor.kind != Kind::Null => {
                        let cursor = json::decode_string(cursor.raw).ok().and_then(|cursor| {
                            session.open_cursor(&self.gateway.sessions, &self.grant, &cursor)
                        });
                        let why = "the cursor was not issued in this session, or is too old; list again from the start";
                        let cursor = cursor.ok_or_else(|| ok(answer::invalid_params(id, why)))?;
                        Edits::new().set_string("cursor", &cursor)
                    }
                    _ => Edits::new(),
                };
                let under_way = self.gateway.calls.start(session.key(), id);
                let permit = Permit::request(
                    undecided,
                    self.envelope(&session),
                    &under_way.upstream(),
                    params,
                    edits,
                );
                Forward {
                    permit,
                    under_way,
                    decision: None,
                    in_flight: None,
                    lists: ListKind::of_method(row.name),
                }
            }
        };
        self.forward(session, forward).await
    }

    pub(super) async fn tool_call(
        &self,
        session: Arc<Session>,
        row: &'static Row,
        request: &Rpc<'_>,
        body: &Bytes,
    ) -> Result<Answer, Box<Answer>> {
        let id = &request.id;
        let ok = |body: Vec<u8>| refuse(StatusCode::OK, body);
        let call = request
            .tool_call()
            .map_err(|fault| ok(answer::invalid_params(id, &fault_text(&fault))))?;
        let asked = self.asked(&session, row, request, &call, body);
        let envelope = || self.envelope(&session);
        // Clients ask for progress by a token, and then read the message that tells of it.
        let tells = self.takes_events && progress_token(request).is_some();
        match enforce::tool_call(self.gateway, &self.snapshot, &asked, &envelope, tells).await {
            Admission::Ask(decision, at) => {
                Ok(Box::pin(self.hold(session, request, body, (decision, at))).await)
            }
            admission => self.admitted(session, (id, &call.name), admission).await,
        }
    }

    /// What is decided on of a call in `body`.
    pub(super) fn asked<'a>(
        &'a self,
        session: &'a Session,
        row: &'static Row,
        request: &'a Rpc<'a>,
        call: &'a envelope::ToolCall<'_>,
        body: &Bytes,
    ) -> ToolCall<'a> {
        let arguments = call.arguments.map(|raw| body.slice_ref(raw.as_bytes()));
        ToolCall {
            row,
            request,
            tool: &call.name,
            arguments: arguments.unwrap_or_default(),
            grant: &self.grant,
            session: &session.id,
            session_key: session.key(),
            trace_id: self.trace_id.as_deref(),
        }
    }

    /// Sends a call, or says why not.
    pub(super) async fn admitted(
        &self,
        session: Arc<Session>,
        (id, tool): (&Id<'_>, &str),
        admission: Admission,
    ) -> Result<Answer, Box<Answer>> {
        match admission {
            Admission::Forward(forward) => self.forward(session, forward).await,
            // One that is held here is never given back.
            Admission::Refuse(Refusal::Cancelled, _) | Admission::Ask(..) => Ok(accepted()),
            Admission::Refuse(refusal, number) => {
                let decision = number.map(|number| self.gateway.observe.id(number).to_string());
                let to = To {
                    version: session.version,
                    id,
                    decision: decision.as_deref(),
                };
                let body = refusal_body(to, tool, &refusal);
                let answer = refuse(StatusCode::OK, body);
                Err(Box::new(self.naming(number, *answer)))
            }
        }
    }

    /// The answer with the id of its decision, as the audit log has it.
    pub(super) fn naming(&self, number: Option<u64>, mut answer: Answer) -> Answer {
        let id = number.map(|number| self.gateway.observe.id(number));
        if let Some(id) = id.and_then(|id| id.to_header()) {
            answer.headers_mut().insert(DECISION_ID, id);
        }
        answer
    }

    /// What names a prompt or a resource, decided; the error is the answer.
    async fn named(
        &self,
        session: &Session,
        row: &'static Row,
        request: &Rpc<'_>,
        named: Named<'_>,
        edits: Edits<'_>,
    ) -> Result<Forward, Box<Answer>> {
        let call = NamedCall {
            row,
            request,
            named,
            grant: &self.grant,
            session: &session.id,
            session_key: session.key(),
            trace_id: self.trace_id.as_deref(),
        };
        let envelope = || self.envelope(session);
        let decided = enforce::named(self.gateway, &self.snapshot, &call, envelope, edits).await;
        decided.map_err(|(refusal, number)| {
            let id = &request.id;
            let body = match (refusal, named) {
                (NamedRefusal::Malformed(why), _) => answer::invalid_params(id, &why),
                (NamedRefusal::Unrecorded(why), _) => {
                    let code = answer::code::INTERNAL_ERROR;
                    answer::error(Some(id), code, &unrecorded(&why), None)
                }
                (NamedRefusal::Unknown, Named::Prompt(name)) => answer::unknown_prompt(id, name),
                (NamedRefusal::Unknown, Named::Resource(uri) | Named::Template(uri)) => {
                    answer::unknown_resource(id, uri)
                }
            };
            Box::new(self.naming(Some(number), json_response(StatusCode::OK, body)))
        })
    }

    /// Sends a permitted request and relays its answer, which names the decision. From here on
    /// every failure is a JSON-RPC error under 200.
    async fn forward(
        &self,
        session: Arc<Session>,
        forward: Forward,
    ) -> Result<Answer, Box<Answer>> {
        let Forward {
            permit,
            under_way,
            decision: number,
            in_flight,
            lists,
        } = forward;
        let upstream = match self.upstream() {
            Ok(upstream) => upstream,
            Err(answer) => return Err(Box::new(self.naming(number, *answer))),
        };
        let timeout = self.snapshot.settings.timeout;
        let sent = Instant::now();
        let spare = permit.spare();
        let answer = match upstream.call(permit, timeout).await {
            Ok(response) => {
                let mut relay = self.relay(session, upstream);
                relay.asked = Some(Asked::new(under_way, lists, self.told.clone()));
                match relay.answer(in_flight, response, timeout, sent).await {
                    Ok(answer) => answer,
                    // Rare, so boxed to keep the futures of calls small.
                    Err(lost) => Box::pin(self.send_again(lost, spare, upstream, sent)).await,
                }
            }
            Err(error) => {
                if matches!(error, UpstreamError::Timeout(_)) {
                    give_up(self.gateway, upstream, &session, &under_way);
                }
                self.failed(&error, in_flight, Some(under_way.client()))
            }
        };
        Ok(self.naming(number, answer))
    }

    /// The answer to a request that got none.
    pub(super) fn failed(
        &self,
        error: &UpstreamError,
        in_flight: Option<Box<InFlight>>,
        id: Option<&Id<'_>>,
    ) -> Answer {
        if let Some(in_flight) = in_flight {
            in_flight.finish(end_of_failure(error));
        }
        tracing::warn!(server = self.gateway.observe.server(), %error, "a request to the upstream failed");
        // The report shows the reason soon, not only after the next regular listing.
        self.gateway.inventory.nudge();
        let body = answer::upstream_down(id, &shown(error), RETRY_AFTER);
        json_response(StatusCode::OK, body)
    }
}

/// How a call ended that got no answer.
fn end_of_failure(error: &UpstreamError) -> End {
    match error {
        UpstreamError::NotSent(_) => End::Unreachable,
        UpstreamError::Timeout(_) => End::Timeout,
        UpstreamError::Broken(_) | UpstreamError::Unacceptable(_) => End::Broken,
    }
}
