//! Requests of the client: decided, refused or forwarded, and answered.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::refusals::{fault_text, refusal_body, shown, unrecorded};
use super::{Answer, Exchange, accepted, refuse};
use crate::gateway::enforce::{self, Admission, End, Named, Permit, Refusal, ToolCall};
use crate::gateway::relay::{RETRY_AFTER, give_up};
use crate::gateway::session::Session;
use crate::gateway::trace;
use crate::gateway::upstream::UpstreamError;
use crate::protocol::answer;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, CompletionRef, Id, Request as Rpc};
use crate::protocol::method::{self, Form, Need};

/// Names the decision on a call in its answer.
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
                if !self
                    .decide_named(&session, row.name, Named::Prompt(&name), id)
                    .await?
                {
                    return Err(ok(answer::unknown_prompt(id, &name)));
                }
            }
            Need::Resource => {
                let uri = params
                    .ok_or(envelope::Fault::Params)
                    .and_then(|params| params.required_string("uri"));
                let uri = uri.map_err(invalid)?;
                if !self
                    .decide_named(&session, row.name, Named::Resource(&uri), id)
                    .await?
                {
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
                if !self.decide_named(&session, row.name, named, id).await? {
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

    pub(super) async fn tool_call(
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
                let number = in_flight.decision();
                let answer = self.forward(session, id, permit, Some(in_flight)).await;
                match answer {
                    Ok(answer) => Ok(self.naming(number, answer)),
                    Err(answer) => Err(Box::new(self.naming(number, *answer))),
                }
            }
            Admission::Refuse(Refusal::Cancelled, _) => Ok(accepted()),
            Admission::Refuse(refusal, number) => {
                let answer = ok(refusal_body(session.version, id, &call.name, &refusal));
                Err(Box::new(self.naming(number, *answer)))
            }
        }
    }

    /// The answer with the id of its decision, as the audit log has it.
    fn naming(&self, number: Option<u64>, mut answer: Answer) -> Answer {
        let id = number.map(|number| self.gateway.recorder.id(number).to_string());
        if let Some(Ok(id)) = id.map(HeaderValue::try_from) {
            answer.headers_mut().insert(DECISION_ID, id);
        }
        answer
    }

    /// Sends a permitted request and relays its answer. From here on every failure is a JSON-RPC error under 200.
    pub(super) async fn forward(
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
                    give_up(self.gateway, &session, id);
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
        let mut relay = self.relay(session);
        relay.id_use = Some(Arc::new(id_use));
        Ok(relay
            .answer(id.clone().into_owned(), in_flight, response, timeout, sent)
            .await)
    }

    pub(super) async fn decide_named(
        &self,
        session: &Session,
        method: &'static str,
        named: Named<'_>,
        id: &Id<'_>,
    ) -> Result<bool, Box<Answer>> {
        let trace_id = trace::id(&self.head.headers);
        let decided = enforce::named(
            self.gateway,
            &self.snapshot,
            &self.grant,
            &session.id,
            method,
            named,
            trace_id.as_deref(),
        );
        decided.await.map_err(|unwritten| {
            let code = answer::code::INTERNAL_ERROR;
            let body = answer::error(Some(id), code, &unrecorded(&unwritten.to_string()), None);
            refuse(StatusCode::OK, body)
        })
    }
}
