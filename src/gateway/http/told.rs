//! What needs no answer: the client's notifications, and its answers to the upstream's own requests.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{Answer, Exchange, SHORT, accepted, refuse};
use crate::gateway::enforce::Permit;
use crate::gateway::relay::tell_upstream;
use crate::gateway::session::Session;
use crate::protocol::answer;
use crate::protocol::emit::Edits;
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
    pub(super) async fn response(
        &self,
        session: &Arc<Session>,
        response: &RpcResponse<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let opened = response
            .id
            .as_ref()
            .and_then(|id| session.open_request(self.gateway, &self.grant, id));
        // Sealed ids are never the same, so that each stands for one question.
        let first = || {
            let token = response.id.as_ref().map(Id::to_json);
            self.gateway.answered.insert(token.unwrap_or_default(), ())
        };
        let Some((method, id)) = opened.filter(|_| first()) else {
            let why = "this answers no request of the server, or one that was answered already";
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

    pub(super) async fn pass_on(
        &self,
        session: &Arc<Session>,
        body: Vec<u8>,
    ) -> Result<Answer, Box<Answer>> {
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
}
