//! `initialize`: negotiates capabilities, and gives the client a sealed session.

use std::sync::Arc;

use http::{HeaderName, StatusCode};
use jiff::Timestamp;

use super::responses::{Answer, refuse, shown};
use super::trace;
use super::{Exchange, SHORT_TIMEOUT};
use crate::gateway::body::message::read_answer;
use crate::gateway::body::message::{RETRY_AFTER, json_response};
use crate::gateway::permit::{Envelope, Permit};
use crate::gateway::sessions::{Opening, Session};
use crate::gateway::upstream::Upstream;
use crate::protocol::declared::Declared;
use crate::protocol::emit::{self, Edits};
use crate::protocol::envelope::{self, Message, Outcome, Request as Rpc};
use crate::protocol::keys;
use crate::protocol::method;
use crate::protocol::{answer, refused, version};

/// An answer to `initialize` is not larger: every caller can request one, and it is read whole.
pub(super) const MAX_HANDSHAKE: usize = 1 << 20;

/// What the result of `initialize` has (2025-11-25, schema, `InitializeResult`).
const HANDSHAKE_MEMBERS: [&str; 4] = [
    "protocolVersion",
    "capabilities",
    "serverInfo",
    "instructions",
];

impl Exchange<'_> {
    /// The handshake: capabilities that the spec denies are taken out, and the client gets a sealed
    /// session.
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
        let mut declared = Declared::default();
        let mut opening = Opening {
            capabilities: None,
            client_info: params.get("clientInfo").map(|info| info.raw.to_owned()),
        };
        if let Some(capabilities) = params.get("capabilities") {
            let kept = emit::without(capabilities.raw, keys::CAPABILITIES, &stripped)
                .map_err(|fault| invalid(&format!("capabilities: {fault}")))?;
            declared = Declared::read(&kept);
            opening.capabilities = Some(kept.clone());
            edits = edits.set("capabilities", kept);
        }
        let envelope = Envelope {
            trace: trace::context(&self.head.headers, self.trace_id.as_deref()),
            caller: Some(self.grant.token()),
            hops: self.hops.clone(),
            ..Envelope::default()
        };
        let row = method::lookup("initialize")
            .and_then(|row| row.undecided(|_| false))
            .ok_or_else(|| {
                refuse(
                    StatusCode::OK,
                    answer::method_not_found(&request.id, &request.method),
                )
            })?;
        let permit = Permit::request(row, envelope, &request.id, Some(params), edits);
        let timeout = self.snapshot.settings.timeout;
        let down = |why: &str| {
            refuse(
                StatusCode::BAD_GATEWAY,
                answer::upstream_down(Some(&request.id), why, RETRY_AFTER),
            )
        };
        let upstream = self.upstream()?;
        let response = upstream
            .call(permit, timeout)
            .await
            .map_err(|error| down(&shown(&error)))?;
        if response.status() == StatusCode::LOOP_DETECTED {
            // Passed on, so that the first gateway in the loop can report what is wrong.
            let why = "its URL leads back to a gateway that this request came by";
            let body = answer::upstream_down(Some(&request.id), why, RETRY_AFTER);
            return Err(refuse(StatusCode::LOOP_DETECTED, body));
        }
        let answered =
            tokio::time::timeout(timeout, read_answer(response, &request.id, MAX_HANDSHAKE))
                .await
                .map_err(|_| down("it did not answer in time"))?
                .map_err(|why| down(&why))?;
        let message =
            envelope::parse(&answered.body).map_err(|refusal| down(&refusal.to_string()))?;
        let Message::Response(response) = &message else {
            return Err(down("its answer is not a response"));
        };
        let result = match &response.outcome {
            Outcome::Error(error) => {
                if let Some(unsupported) = refused::unsupported_version(error) {
                    return Err(down(&unsupported.to_string()));
                }
                // The client has agreed on nothing yet, so the error may ask it for nothing, and
                // carries no data.
                let body = match error.code {
                    answer::code::URL_ELICITATION_REQUIRED => {
                        let why = "the server asks the user to open a page before it is initialized, which no client can do";
                        answer::error(Some(&request.id), answer::code::INTERNAL_ERROR, why, None)
                    }
                    code => answer::error(Some(&request.id), code, &error.message, None),
                };
                return Ok(json_response(StatusCode::OK, body));
            }
            Outcome::Result(result) => result,
        };
        let answered_version = result
            .required_string("protocolVersion")
            .map_err(|fault| down(&format!("its answer to initialize: {fault}")))?;
        let chosen =
            version::chosen(&answered_version).map_err(|error| down(&error.to_string()))?;
        // What else a result may have asks the client for something, or shows what lists hide.
        let mut edits = Edits::new()
            .only(&HANDSHAKE_MEMBERS)
            .set_string("protocolVersion", chosen.as_str());
        if result.get("instructions").is_some() {
            let offers = |list: &str| {
                let capabilities = result.object("capabilities", keys::CAPABILITIES);
                capabilities.map_or(true, |all| all.is_none_or(|all| all.get(list).is_some()))
            };
            let settings = &self.snapshot.settings;
            if !settings.passes_instructions(|| self.hides_something(offers)) {
                edits = edits.remove("instructions");
            }
        }
        if let Some(capabilities) = result.get("capabilities") {
            // Capabilities that the gateway does not support are removed.
            let kept = emit::without(capabilities.raw, keys::CAPABILITIES, &["tasks"])
                .map_err(|fault| down(&format!("its capabilities: {fault}")))?;
            edits = edits.set("capabilities", kept);
        }
        let (session, token) = Session::start(
            &self.gateway.sessions,
            &self.grant,
            chosen,
            declared,
            answered.session.as_ref(),
        )
        .map_err(|why| down(&why))?;
        if upstream.keeps_sessions() {
            Box::pin(self.make_room(Arc::new(session), upstream, opening)).await;
        }
        let mut response = json_response(StatusCode::OK, message.emit(&edits));
        response
            .headers_mut()
            .insert(HeaderName::from_static("mcp-session-id"), token);
        Ok(response)
    }
    /// Whether anything of the server may be hidden from the caller, who has no session yet.
    /// `offers` is whether the server has such a list.
    fn hides_something(&self, offers: impl Fn(&str) -> bool) -> bool {
        let (bound, caller) = (&self.snapshot.bound, &self.grant.caller);
        let now = Timestamp::now();
        !self.snapshot.listed
            || bound
                .tools()
                .iter()
                .any(|tool| !bound.visible(&tool.name, caller, "", now))
            || offers("prompts") && !bound.shows_every_prompt(caller)
            || offers("resources") && !bound.shows_every_resource(caller)
    }

    /// Records a session at the server; if its caller has too many there, the least recently used
    /// one is ended.
    async fn make_room(&self, session: Arc<Session>, upstream: &Arc<Upstream>, opening: Opening) {
        let grant = &self.grant.caller.grant;
        let opened = &self.gateway.sessions;
        let Some(surplus) = opened.opened_upstream(grant, &session, upstream, opening) else {
            return;
        };
        self.gateway.end_session(grant, &surplus.id);
        let Some(upstream) = surplus.upstream else {
            return;
        };
        let permit = Permit::end(surplus.envelope);
        if let Err(error) = upstream.call(permit, SHORT_TIMEOUT).await {
            tracing::debug!(server = self.gateway.observe.server(), %error, "the end of a session was not delivered");
        }
    }
}
