//! The right to send one message upstream.
//!
//! In: a decision that allows a call, or a row of the method table that needs none. Out: a
//! [`Permit`], which holds the whole message as it goes out. This is a leaf: it knows decisions,
//! the method table and nothing of the rest of the gateway, and its fields are private, so that
//! every permit comes from one of the functions below. A permit for a tool, a prompt, a resource or
//! a completion needs a [`Granted`]. Must not do: accept a message as bytes.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

use crate::gateway::approvals::Consumed;
use crate::gateway::enforce::request_ids::{Cancelled, RequestIdGuard};
use crate::gateway::lost_session::Unexecuted;
use crate::policy::{Decision, Outcome};
use crate::protocol::answer;
use crate::protocol::emit::{self, Edits};
use crate::protocol::envelope::{Id, Object, Response};
use crate::protocol::forward;
use crate::protocol::method::{self, Undecided};

/// What a request to the upstream is made of, beside its message.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// The upstream's own session id, unsealed.
    pub session: Option<HeaderValue>,
    /// The negotiated protocol version, from the request after `initialize` on.
    pub version: Option<HeaderValue>,
    /// The upstream's own id of the last event seen, unsealed.
    pub last_event_id: Option<HeaderValue>,
    /// Whose session it opens; for bridges only.
    pub caller: Option<HeaderValue>,
    /// The gateways that the request came by before this one.
    pub hops: Option<HeaderValue>,
    /// W3C trace context headers of the caller, checked.
    pub trace: Vec<(HeaderName, HeaderValue)>,
}

/// Proof of a decision that lets a call pass. A permit consumes it.
#[derive(Debug)]
pub struct Granted(());

impl Granted {
    /// By a decision that allows it outright.
    pub fn allowed(decision: &Decision) -> Option<Granted> {
        (decision.outcome == Outcome::Allow).then_some(Granted(()))
    }

    /// By a decision that asks for an approval, which this call alone has used up.
    pub fn approved(decision: &Decision, _used_up: Consumed) -> Option<Granted> {
        (decision.outcome == Outcome::RequireApproval).then_some(Granted(()))
    }
}

/// The right to send one request upstream.
#[derive(Debug)]
pub struct Permit {
    method: Method,
    envelope: Envelope,
    body: Bytes,
}

impl Permit {
    /// A client's request that was decided on, with changes to its `params`. Only parameters of its
    /// method are sent.
    pub fn decided(
        _granted: Granted,
        row: &'static method::Method,
        envelope: Envelope,
        params: Option<&Object<'_>>,
        under_way: &RequestIdGuard,
        edits: Edits<'_>,
    ) -> Permit {
        let id = under_way.upstream();
        let body = emit::call(Some(&id), row.name, params, &edits.only(row.params));
        Permit::post(envelope, body)
    }

    /// A request of a method that needs no decision. Only parameters of its method are sent.
    pub fn request(
        row: Undecided,
        envelope: Envelope,
        id: &Id<'_>,
        params: Option<&Object<'_>>,
        edits: Edits<'_>,
    ) -> Permit {
        let row = row.row();
        let body = emit::call(Some(id), row.name, params, &edits.only(row.params));
        Permit::post(envelope, body)
    }

    /// A notification of a method that needs no decision. Only parameters of its method are sent.
    pub fn notification(row: Undecided, envelope: Envelope, params: Option<&Object<'_>>) -> Permit {
        let row = row.row();
        let body = emit::call(None, row.name, params, &Edits::new().only(row.params));
        Permit::post(envelope, body)
    }

    /// Cancels a request in progress. `reason` is JSON.
    pub fn cancel(cancelled: &Cancelled, envelope: Envelope, reason: Option<&str>) -> Permit {
        let id = cancelled.upstream().to_json();
        let edits = Edits::new().set("requestId", id);
        let edits = match reason {
            Some(reason) => edits.set("reason", reason),
            None => edits,
        };
        let body = emit::call(None, "notifications/cancelled", None, &edits);
        Permit::post(envelope, body)
    }

    /// A client's answer to a request of the upstream, under the upstream's id of that. `question`
    /// is the row of the request.
    pub fn answer(
        question: Undecided,
        envelope: Envelope,
        response: &Response<'_>,
        id: Id<'_>,
    ) -> Permit {
        let edits = Edits::new()
            .id(id)
            .only(forward::result_members(question.row().name));
        Permit::post(envelope, response.emit(&edits))
    }

    /// The gateway's own refusal of a request of the upstream.
    pub fn refusal(envelope: Envelope, id: &Id<'_>, method: &str) -> Permit {
        Permit::post(envelope, answer::method_not_found(id, method))
    }

    /// A stream of the session: what comes on it is filtered.
    pub fn listen(envelope: Envelope) -> Permit {
        Permit {
            method: Method::GET,
            envelope,
            body: Bytes::new(),
        }
    }

    /// The end of the session.
    pub fn end(envelope: Envelope) -> Permit {
        Permit {
            method: Method::DELETE,
            envelope,
            body: Bytes::new(),
        }
    }

    fn post(envelope: Envelope, body: Vec<u8>) -> Permit {
        Permit {
            method: Method::POST,
            envelope,
            body: body.into(),
        }
    }

    /// Keeps the message, for the case that the server does not know the session.
    pub fn spare(&self) -> Spare {
        Spare(self.body.clone())
    }

    /// What goes out.
    pub(super) fn into_parts(self) -> (Method, Envelope, Bytes) {
        (self.method, self.envelope, self.body)
    }
}

/// A message that was permitted once and has gone out. It is not a permit: only proof that the
/// server did not read it makes it one, for the same bytes, once.
#[derive(Debug)]
pub struct Spare(Bytes);

impl Spare {
    /// Sends the same message in the session's successor.
    pub fn again(self, _unexecuted: Unexecuted, envelope: Envelope) -> Permit {
        Permit {
            method: Method::POST,
            envelope,
            body: self.0,
        }
    }
}
