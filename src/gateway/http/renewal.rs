//! A server that has forgotten a client's session: another one is opened there, and the client's
//! continues.
//!
//! In: a request that the server refused unread, as of a session that it does not know. Out: the
//! answer to the same request in a new session of the server, or HTTP 404, with which the client
//! initializes again. Must not do: send a request again that may have been carried out, or send
//! one more than twice.

use std::sync::Arc;
use std::time::Instant as Moment;

use http::StatusCode;
use tokio::time::{Instant, timeout};

use super::handshake::MAX_HANDSHAKE;
use super::responses::Answer;
use super::{Exchange, trace};
use crate::gateway::body::message::read_answer;
use crate::gateway::inventory::ONE_REPLICA;
use crate::gateway::permit::{Envelope, Permit, Spare};
use crate::gateway::relay::{LostRequest, tell_upstream};
use crate::gateway::sessions::{Opening, Session};
use crate::gateway::upstream::Upstream;
use crate::protocol::emit::{self, Edits};
use crate::protocol::envelope::{self, Id, Message, Outcome};
use crate::protocol::{keys, method, version};

/// The only request of a handshake.
const HANDSHAKE_ID: Id<'static> = Id::Integer(1);

impl Exchange<'_> {
    /// Sends a request again whose session the server does not know. `sent` is when it was sent
    /// first: both together have the time of one call.
    pub(super) async fn send_again(
        &self,
        mut lost: Box<LostRequest>,
        spare: Spare,
        upstream: &Arc<Upstream>,
        sent: Instant,
    ) -> Answer {
        let all = self.snapshot.settings.timeout;
        let within = || all.saturating_sub(sent.elapsed());
        let Some(unexecuted) = lost.unexecuted.take() else {
            return lost.told();
        };
        let renewed = timeout(within(), self.renew(lost.session(), upstream)).await;
        let Ok(Some(session)) = renewed else {
            return lost.told();
        };
        // In the meantime the client may have cancelled the request, or ended the session.
        if lost.is_ambiguous() {
            return lost.told();
        }
        // The handshake took its time.
        if !self.is_still_decided() {
            return lost.told();
        }
        let permit = spare.again(unexecuted, self.envelope(&session));
        let response = upstream.call(permit, within()).await;
        let id = session.id.clone();
        let (relay, in_flight) = lost.again(session);
        match response {
            Ok(response) => match relay.answer(in_flight, response, all, sent).await {
                Ok(answer) => answer,
                Err(lost) => {
                    self.gateway.sessions.not_renewable(&id);
                    // One that its client has ended meanwhile is rightly unknown.
                    if !self.gateway.sessions.has_ended(&id) {
                        self.finds_replicas();
                    }
                    lost.told()
                }
            },
            Err(error) => {
                relay.gave_up_on(&error);
                let id = relay.client_id().cloned();
                self.failed(&error, in_flight, id.as_ref())
            }
        }
    }

    /// Whether the rules, the server, its tools and the caller's credentials are those that the
    /// request was decided by.
    fn is_still_decided(&self) -> bool {
        let (then, now) = (&self.snapshot, self.gateway.snapshot());
        now.is_some_and(|now| {
            now.revision == then.revision
                && now.carries_on(&self.grant)
                && now.bound.has_tools_of(&then.bound)
        })
    }

    /// The session with another one at the server: one that is opened now, unless another request
    /// has done so since this one was sent.
    async fn renew(&self, session: &Session, upstream: &Arc<Upstream>) -> Option<Arc<Session>> {
        let sessions = &self.gateway.sessions;
        let renewable = sessions.renewable(&session.id)?;
        let mut turn = renewable.turn().await;
        if let Some(now) = renewable.now()
            && session.upstream() != Some(&now)
        {
            return Some(Arc::new(session.over(now)));
        }
        let server = self.gateway.observe.server();
        if !turn.takes(Moment::now()) {
            // Said once: its later requests are answered 404 without an attempt.
            sessions.not_renewable(&session.id);
            tracing::warn!(
                server,
                "the upstream has forgotten a session three times within a minute; the client has to initialize again"
            );
            return None;
        }
        let opened = self.open_again(session, &renewable.opening, upstream).await;
        let session = opened
            .inspect_err(|why| {
                tracing::warn!(
                    server,
                    "the upstream has forgotten a session and opens no other one: {why}"
                );
            })
            .ok()?;
        // Ended in the meantime: nothing is to be sent in it, and the client has ended only the
        // one before.
        if sessions.has_ended(&session.id) {
            tell_upstream(self.gateway, upstream, Permit::end(session.envelope()));
            return None;
        }
        let session = Arc::new(session);
        sessions.renewed(&self.grant.caller.grant, &renewable, &session);
        tracing::info!(
            server,
            "the upstream had forgotten a session; another one was opened there"
        );
        Some(session)
    }

    /// The handshake of the client once more, in its name.
    async fn open_again(
        &self,
        session: &Session,
        opening: &Opening,
        upstream: &Arc<Upstream>,
    ) -> Result<Session, String> {
        let undecided = |name| {
            let row = method::lookup(name).and_then(|row| row.undecided(|_| false));
            row.ok_or_else(|| format!("`{name}` is not known"))
        };
        let mut edits = Edits::new().set_string("protocolVersion", session.version.as_str());
        if let Some(capabilities) = &opening.capabilities {
            // The spec may deny more than it did then.
            let stripped = self.snapshot.settings.stripped_capabilities();
            let kept = emit::without(capabilities, keys::CAPABILITIES, &stripped)
                .map_err(|fault| fault.to_string())?;
            edits = edits.set("capabilities", kept);
        }
        if let Some(client_info) = &opening.client_info {
            edits = edits.set("clientInfo", client_info.as_str());
        }
        let envelope = Envelope {
            trace: trace::context(&self.head.headers, self.trace_id.as_deref()),
            hops: self.hops.clone(),
            ..Envelope::default()
        };
        let row = undecided("initialize")?;
        let permit = Permit::request(row, envelope, &HANDSHAKE_ID, None, edits);
        let within = self.snapshot.settings.timeout;
        let response = upstream.call(permit, within).await;
        let response = response.map_err(|error| error.to_string())?;
        let answered = read_answer(response, &HANDSHAKE_ID, MAX_HANDSHAKE).await?;
        let message = envelope::parse(&answered.body).map_err(|refusal| refusal.to_string())?;
        let Message::Response(response) = &message else {
            return Err("its answer to initialize is not a response".to_owned());
        };
        let Outcome::Result(result) = &response.outcome else {
            return Err("it refuses initialize".to_owned());
        };
        let named = result
            .required_string("protocolVersion")
            .map_err(|fault| fault.to_string())?;
        let chosen = version::chosen(&named).map_err(|error| error.to_string())?;
        if chosen != session.version {
            return Err(format!(
                "it speaks protocol version {chosen} now, and the session {}",
                session.version,
            ));
        }
        let upstreams = answered.session.ok_or("it gives no session id any more")?;
        let renewed = session
            .succeeded_by(upstreams)
            .ok_or("its session id cannot be used")?;
        let row = undecided("notifications/initialized")?;
        let permit = Permit::notification(row, self.envelope(&renewed), None);
        let told = upstream.call(permit, within).await;
        match told.map_err(|error| error.to_string())?.status() {
            status if status.is_success() => Ok(renewed),
            StatusCode::NOT_FOUND => {
                self.finds_replicas();
                Err(ONE_REPLICA.to_owned())
            }
            status => Err(format!(
                "it answers HTTP {status} to notifications/initialized"
            )),
        }
    }

    /// The server does not know a session that it has just opened.
    fn finds_replicas(&self) {
        let server = self.gateway.observe.server();
        tracing::warn!(server, "{ONE_REPLICA}");
        self.gateway.inventory.found_replicas();
    }
}
