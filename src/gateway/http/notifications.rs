//! Messages without an answer: the client's notifications, and its answers to requests of the
//! upstream.

use std::sync::Arc;

use http::StatusCode;

use super::responses::{Answer, accepted, refuse};
use super::{Exchange, SHORT_TIMEOUT};
use crate::gateway::permit::Permit;
use crate::gateway::relay::tell_upstream;
use crate::gateway::sessions::Session;
use crate::json::Kind;
use crate::protocol::answer;
use crate::protocol::envelope::{Id, Notification, Response as RpcResponse};
use crate::protocol::method::{self, Form, Need};

impl Exchange<'_> {
    pub(super) async fn notification(
        &self,
        session: &Arc<Session>,
        notification: &Notification<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let row = method::lookup(&notification.method).filter(|row| {
            row.form == Form::Notification && row.to_server() && row.in_version(session.version)
        });
        if row.is_some_and(|row| row.need == Need::Cancel) {
            return self.cancelled(session, notification).await;
        }
        let undecided =
            row.and_then(|row| row.undecided(|feature| self.snapshot.settings.allows(feature)));
        let Some(undecided) = undecided else {
            // Nothing answers a notification, and an HTTP error would end the session of common
            // clients.
            tracing::debug!(
                server = self.gateway.observe.server(),
                "a notification that is not for the server was dropped"
            );
            return Ok(accepted());
        };
        let envelope = self.envelope(session);
        let params = notification.params.as_ref();
        self.pass_on(session, Permit::notification(undecided, envelope, params))
            .await
    }

    /// A client cancels a request. Only a request of its own session with exactly this id, in
    /// progress or held, is cancelled: servers differ in which ids they treat as equal, and a
    /// server without sessions would cancel another caller's request.
    async fn cancelled(
        &self,
        session: &Arc<Session>,
        notification: &Notification<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let params = notification.params.as_ref();
        let id = params
            .and_then(|params| params.get("requestId"))
            .and_then(|id| Id::from_json(id.raw));
        let Some(id) = id else {
            return Ok(accepted());
        };
        if self.gateway.calls.cancel_held(&session.id, &id.to_json()) {
            return Ok(accepted());
        }
        let reason = params
            .and_then(|params| params.get("reason"))
            .filter(|reason| reason.kind == Kind::String)
            .map(|reason| reason.raw);
        for cancelled in self.gateway.calls.cancel(session.key(), &id) {
            let permit = Permit::cancel(&cancelled, self.envelope(session), reason);
            self.pass_on(session, permit).await?;
        }
        Ok(accepted())
    }

    /// The client's answer to a request of the upstream.
    pub(super) async fn response(
        &self,
        session: &Arc<Session>,
        response: &RpcResponse<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let opened = response
            .id
            .as_ref()
            .and_then(|id| session.open_request(&self.gateway.sessions, &self.grant, id));
        let Some((method, id)) = opened else {
            // Late or repeated. An HTTP error would end the session of common clients.
            tracing::debug!(
                server = self.gateway.observe.server(),
                "an answer to no open request of the server was dropped"
            );
            return Ok(accepted());
        };
        let question = method::lookup(&method)
            .and_then(|row| row.undecided(|feature| self.snapshot.settings.allows(feature)));
        let envelope = self.envelope(session);
        match question {
            Some(question) => {
                let permit = Permit::answer(question, envelope, response, id);
                self.pass_on(session, permit).await
            }
            None => {
                // Allowed when it was asked and not any more: the server must not wait for an
                // answer that never comes.
                let refusal = Permit::refusal(envelope, &id, &method);
                tell_upstream(self.gateway, self.upstream()?, refusal);
                Ok(accepted())
            }
        }
    }

    async fn pass_on(&self, session: &Session, permit: Permit) -> Result<Answer, Box<Answer>> {
        match self.upstream()?.call(permit, SHORT_TIMEOUT).await {
            // What it was about has gone with the session. The next request opens another one.
            Ok(response)
                if response.status() == StatusCode::NOT_FOUND
                    && self.gateway.sessions.renewable(&session.id).is_some() =>
            {
                Ok(accepted())
            }
            Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                Err(refuse(StatusCode::NOT_FOUND, answer::session_unknown(None)))
            }
            Ok(_) => Ok(accepted()),
            Err(error) => {
                // A notification has no answer to carry an error, and an HTTP error would end the
                // session.
                tracing::warn!(server = self.gateway.observe.server(), %error, "a notification was not delivered");
                Ok(accepted())
            }
        }
    }
}
