//! `initialize`: what both sides can do is settled, and the client gets a sealed session.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};

use super::refusals::shown;
use super::{Answer, Exchange, SHORT, refuse};
use crate::gateway::enforce::Permit;
use crate::gateway::inventory::whole;
use crate::gateway::relay::{RETRY_AFTER, json_response};
use crate::gateway::session::Session;
use crate::gateway::trace;
use crate::gateway::upstream::Envelope;
use crate::protocol::emit::{self, Edits};
use crate::protocol::envelope::{self, Message, Outcome, Request as Rpc};
use crate::protocol::keys;
use crate::protocol::list::ListKind;
use crate::protocol::{answer, version};

/// What a server says of itself is not larger: anybody can have it said, and it is read whole.
const MAX_HANDSHAKE: usize = 1 << 20;

impl Exchange<'_> {
    /// The handshake: capabilities that the spec denies are taken out, and the client gets a sealed session.
    pub(super) async fn initialize(&self, request: &Rpc<'_>) -> Result<Answer, Box<Answer>> {
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
            let kept = emit::without(capabilities.raw, keys::CAPABILITIES, &stripped)
                .map_err(|fault| invalid(&format!("capabilities: {fault}")))?;
            edits = edits.set("capabilities", kept);
        }
        let permit = Permit::undecided(
            Method::POST,
            Envelope {
                trace: trace::context(&self.head.headers),
                caller: Some(self.grant.token()),
                hops: self.hops(),
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
        if response.status() == StatusCode::LOOP_DETECTED {
            // Told on, so that the gateway that began it can say what is wrong.
            let why = "its URL leads back to a gateway that this request came by";
            let body = answer::upstream_down(Some(&request.id), why, RETRY_AFTER);
            return Err(refuse(StatusCode::LOOP_DETECTED, body));
        }
        let answered = tokio::time::timeout(timeout, whole(response, &request.id, MAX_HANDSHAKE))
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
            let kept = emit::without(capabilities.raw, keys::CAPABILITIES, &["tasks"])
                .map_err(|fault| down(&format!("its capabilities: {fault}")))?;
            edits = edits.set("capabilities", kept);
        }
        let (session, token) =
            Session::start(self.gateway, &self.grant, chosen, answered.session.as_ref())
                .map_err(|why| down(&why))?;
        if self.snapshot.upstream.keeps_sessions() {
            Box::pin(self.make_room(Arc::new(session))).await;
        }
        let mut response = json_response(StatusCode::OK, message.emit(&edits));
        response
            .headers_mut()
            .insert(HeaderName::from_static("mcp-session-id"), token);
        Ok(response)
    }
    /// Takes note of a session at the server; where its caller has too many there, the one used longest ago is ended.
    async fn make_room(&self, session: Arc<Session>) {
        let grant = &self.grant.caller.grant;
        let Some(surplus) = self.gateway.opened.opened(grant, &session) else {
            return;
        };
        self.gateway.ended.insert(surplus.id, ());
        let permit = Permit::undecided(Method::DELETE, surplus.envelope, Bytes::new());
        if let Err(error) = self.snapshot.upstream.call(permit, SHORT).await {
            tracing::debug!(server = self.gateway.recorder.server(), %error, "the end of a session was not delivered");
        }
    }
}
