//! From the upstream back to the client: every message is read strictly, filtered by the policy in
//! force at that moment, and written again. Streams go event by event, at the client's pace.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Response;
use jiff::Timestamp;

use crate::gateway::Gateway;
use crate::gateway::body::Body;
use crate::gateway::body::message::RETRY_AFTER;
use crate::gateway::enforce::request_ids::RequestIdGuard;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::grants::Grant;
use crate::gateway::permit::Permit;
use crate::gateway::sessions::{Resumed, Session};
use crate::gateway::upstream::{Upstream, UpstreamError};
use crate::json;
use crate::policy::Caller;
use crate::policy::inventory::Bound;
use crate::protocol::answer::{self, code};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{ErrorObject, Id, Message, Notification, Object, Outcome, Request};
use crate::protocol::list::{self, ListKind};
use crate::protocol::method::{self, Feature, Need};
use crate::protocol::replay::Replay;

mod ends;
mod events;
mod responses;
mod tell;
mod wait_progress;

use self::events::EventRelay;
pub use self::responses::{LostRequest, MAX_TIMEOUTS_PER_CALL};
pub use self::tell::{give_up, tell_upstream};
pub use self::wait_progress::WaitProgress;

/// Comments keep intermediaries from closing a quiet stream (gateway.md).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Whose messages are relayed.
pub struct Relay {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Who gets them.
    pub grant: Grant,
    /// In which session.
    pub session: Arc<Session>,
    /// Where that session is, with the caller's credential. A stream does not keep a server running
    /// that has been replaced.
    pub upstream: Weak<Upstream>,
    /// The request that is answered, if one is: under way until the answer has been relayed. No
    /// other answer passes.
    pub asked: Option<Asked>,
}

/// What the caller of a session may see now.
struct CallerView<'a> {
    bound: &'a Bound,
    caller: &'a Caller,
    session: &'a str,
    now: LazyCell<Timestamp>,
    /// Set when a tool is listed that is not in the inventory.
    unknown: &'a mut bool,
}

impl list::Visibility for CallerView<'_> {
    fn keep(&mut self, kind: ListKind, entry: &list::Entry<'_>) -> bool {
        let (bound, caller) = (self.bound, self.caller);
        match kind {
            ListKind::Tools => {
                *self.unknown |= bound.tool(&entry.name).is_none();
                bound.visible(&entry.name, caller, self.session, *self.now)
                    && bound.as_pinned(&entry.name, entry.raw.as_bytes())
            }
            ListKind::Prompts => bound.prompt_visible(&entry.name, caller),
            ListKind::Resources => bound.resource_visible(&entry.name, caller),
            ListKind::ResourceTemplates => bound.template_visible(&entry.name, caller),
        }
    }

    /// Of tools only: other names are words of every kind, and what is not listed hides nothing.
    fn may_mention(&mut self, text: &str) -> bool {
        let text = text.trim();
        self.bound.tool(text).is_none()
            || self
                .bound
                .visible(text, self.caller, self.session, *self.now)
    }
}

/// A request of the client to which an answer may come.
pub struct Asked {
    upstream: Id<'static>,
    client: Id<'static>,
    under_way: Option<RequestIdGuard>,
    /// What the answer lists, if the request asks for a list.
    lists: Option<ListKind>,
    /// The progress that the client got while the request waited for a person.
    told: Option<Arc<WaitProgress>>,
}

impl Asked {
    /// One that has just been forwarded, what its answer lists, and the progress that its client
    /// got.
    pub fn new(
        under_way: RequestIdGuard,
        lists: Option<ListKind>,
        told: Option<Arc<WaitProgress>>,
    ) -> Self {
        Asked {
            upstream: under_way.upstream(),
            client: under_way.client().clone(),
            under_way: Some(under_way),
            lists,
            told,
        }
    }

    /// One whose stream the client resumes.
    pub fn resumed((upstream, client): Resumed) -> Self {
        Asked {
            upstream,
            client,
            under_way: None,
            lists: None,
            told: None,
        }
    }

    fn ids(&self) -> (&Id<'_>, &Id<'_>) {
        (&self.upstream, &self.client)
    }
}

/// What becomes of one message.
enum RelayedMessage {
    Send(Vec<u8>),
    Drop,
}

impl Relay {
    /// The id that the client gave the request that is answered.
    pub fn client_id(&self) -> Option<&Id<'static>> {
        self.asked.as_ref().map(|asked| &asked.client)
    }

    /// Whether a message is the answer that is relayed here.
    fn is_answer(&self, message: &Message<'_>) -> bool {
        let asked = self.asked.as_ref().map(|asked| &asked.upstream);
        matches!(message, Message::Response(_))
            && asked.is_some_and(|asked| message.id().is_some_and(|id| id.answers(asked)))
    }

    /// The upstream mentions the request before it answers: it is working on it.
    fn heard(&self) {
        if let Some(under_way) = self
            .asked
            .as_ref()
            .and_then(|asked| asked.under_way.as_ref())
        {
            under_way.ambiguity().mark();
        }
    }

    /// Where the session is now: what is in force, such as the bearer of a server's pod, may have
    /// changed, but the caller's credential must be the one that the session was opened with. None
    /// once that is gone.
    fn reached(&self) -> Option<Arc<Upstream>> {
        let snapshot = self.gateway.snapshot();
        let now = snapshot.and_then(|now| now.upstreams.of(&self.grant.caller.grant).ok());
        now.filter(|now| now.binding == self.grant.binding)
            .map_or_else(|| self.upstream.upgrade(), |now| Some(now.upstream))
    }

    /// The gateway stops waiting for the answer.
    fn give_up(&self) {
        let asked = self.asked.as_ref();
        if let Some(under_way) = asked.and_then(|asked| asked.under_way.as_ref())
            && let Some(upstream) = self.reached()
        {
            give_up(&self.gateway, &upstream, &self.session, under_way);
        }
    }

    /// No answer comes: where the upstream took too long, the request is cancelled there.
    pub fn gave_up_on(&self, error: &UpstreamError) {
        if matches!(error, UpstreamError::Timeout(_)) {
            self.give_up();
        }
    }

    /// What the client gets for an answer, if it is the list that this caller was last given under
    /// the policy in force, byte for byte but for the id of the request.
    fn replayed(&self, body: &[u8]) -> Option<Vec<u8>> {
        let asked = self.asked.as_ref()?;
        let kind = asked.lists?;
        let snapshot = self.gateway.snapshot()?;
        let replay = snapshot.replays.of(&self.grant.caller, kind)?;
        replay.answer(body, &asked.upstream, &asked.client)
    }

    /// Keeps what the client gets for an answer, until the policy or the tools change. `body` is
    /// what `message` was read from.
    fn keep(&self, snapshot: &Snapshot, body: &[u8], message: &Message<'_>, sent: &[u8]) {
        let (Some(asked), Message::Response(response)) = (&self.asked, message) else {
            return;
        };
        let (Some(kind), Outcome::Result(result)) = (asked.lists, &response.outcome) else {
            return;
        };
        // The client's cursor is sealed for its session, and a result that says that it is an
        // error is none.
        let only_lists = ["nextCursor", "isError"]
            .into_iter()
            .all(|key| result.get(key).is_none());
        if only_lists
            && snapshot.replays.takes(body.len() + sent.len())
            && let Some(replay) = Replay::of(body, response, sent, &asked.client)
        {
            snapshot.replays.keep(&self.grant.caller, kind, replay);
        }
    }

    /// The client's copy of a message, filtered for this caller. A response must be one that
    /// [`Self::is_answer`]. `body` is what the message was read from.
    async fn pass(&self, message: &Message<'_>, body: &[u8]) -> RelayedMessage {
        match message {
            Message::Response(response) => {
                if let Outcome::Error(error) = &response.outcome {
                    return self.error(error);
                }
                let (passed, unknown) = self.filtered(message, body);
                if !unknown {
                    return passed;
                }
                // Rare, so boxed to keep the futures of calls small.
                Box::pin(self.gateway.inventory.catch_up()).await;
                self.filtered(message, body).0
            }
            Message::Notification(notification) => self.notification(message, notification),
            Message::Request(request) => self.request(request),
        }
    }

    /// An error of the upstream. Its `data` must not read as if the gateway or a bridge had spoken,
    /// and one that sends the user to a page counts as a question to the client.
    fn error(&self, error: &ErrorObject<'_>) -> RelayedMessage {
        let id = self.client_id();
        let pages = self.allows(Feature::Elicitation) && self.session.declared.url_elicitation();
        if error.code == code::URL_ELICITATION_REQUIRED && !pages {
            let why = "The server asks the user to open a page first; spec.clientFeatures.elicitation, or the client, does not allow that";
            return RelayedMessage::Send(answer::error(id, code::INTERNAL_ERROR, why, None));
        }
        let data = error.data.map(|raw| match Object::from_raw(raw, &[]) {
            Ok(data) if data.string("source").ok().flatten().as_deref() == Some("bridge") => {
                let edits = OURS
                    .iter()
                    .fold(Edits::new(), |edits, key| edits.remove(key));
                Cow::Owned(data.to_text(&edits))
            }
            _ => Cow::Borrowed(raw),
        });
        RelayedMessage::Send(answer::error(
            id,
            error.code,
            &error.message,
            data.as_deref(),
        ))
    }

    /// The message without what the caller may not see, and whether it lists a tool that is not in
    /// the inventory.
    fn filtered(&self, message: &Message<'_>, body: &[u8]) -> (RelayedMessage, bool) {
        let Some(snapshot) = self.gateway.snapshot() else {
            return (RelayedMessage::Drop, false);
        };
        let mut unknown = false;
        let mut edits = Edits::new();
        if let Some(id) = self.client_id() {
            edits = edits.id(id.borrowed());
        }
        let result = match message {
            Message::Response(response) => match &response.outcome {
                Outcome::Result(result) => Some(result),
                Outcome::Error(_) => None,
            },
            Message::Request(_) | Message::Notification(_) => None,
        };
        if let Some(result) = result {
            // No session version has these: a client that knows them anyway would be asked past
            // `clientFeatures`.
            for key in ["inputRequests", "requestState", "resultType"] {
                if result.get(key).is_some() {
                    edits = edits.remove(key);
                }
            }
            if result.get("nextCursor").is_some() {
                let sealed = list::next_cursor(result).map(|cursor| {
                    self.session
                        .seal_cursor(&self.gateway.sessions, &self.grant, &cursor)
                });
                match sealed {
                    Some(Some(sealed)) => edits = edits.set_string("nextCursor", &sealed),
                    // Without the cursor the list would look complete.
                    Some(None) => {
                        let why = "its cursor cannot be sealed";
                        let body = answer::upstream_down(self.client_id(), why, RETRY_AFTER);
                        return (RelayedMessage::Send(body), false);
                    }
                    None => edits = edits.remove("nextCursor"),
                }
            }
        }
        let visibility = CallerView {
            bound: &snapshot.bound,
            caller: &self.grant.caller,
            session: &self.session.id,
            now: LazyCell::new(Timestamp::now),
            unknown: &mut unknown,
        };
        let filtered = list::filter_by(message, &edits, visibility);
        let passed = match filtered.map(|bytes| bytes.unwrap_or_else(|| message.emit(&edits))) {
            Ok(bytes) => {
                if !unknown {
                    self.keep(&snapshot, body, message, &bytes);
                }
                RelayedMessage::Send(bytes)
            }
            Err(error) => {
                tracing::warn!(server = self.gateway.observe.server(), %error, "an answer of the upstream was replaced");
                RelayedMessage::Send(answer::upstream_down(
                    self.client_id(),
                    &error.to_string(),
                    RETRY_AFTER,
                ))
            }
        };
        (passed, unknown)
    }

    fn notification(
        &self,
        message: &Message<'_>,
        notification: &Notification<'_>,
    ) -> RelayedMessage {
        let Some(row) = method::lookup(&notification.method)
            .filter(|row| row.to_client() && row.in_version(self.session.version))
        else {
            return RelayedMessage::Drop;
        };
        match row.need {
            Need::Nothing => {
                let told = self.asked.as_ref().and_then(|asked| asked.told.as_ref());
                if told.is_some_and(|told| told.is_behind(notification)) {
                    return RelayedMessage::Drop;
                }
                if row.name == "notifications/tools/list_changed" {
                    self.gateway.inventory.nudge();
                }
                RelayedMessage::Send(message.emit(&Edits::new()))
            }
            Need::Resource => {
                let uri = notification
                    .params
                    .as_ref()
                    .and_then(|params| params.required_string("uri").ok());
                let listed = uri.is_some_and(|uri| {
                    self.gateway.snapshot().is_some_and(|snapshot| {
                        snapshot.bound.resource_visible(&uri, &self.grant.caller)
                    })
                });
                if listed {
                    RelayedMessage::Send(message.emit(&Edits::new()))
                } else {
                    RelayedMessage::Drop
                }
            }
            Need::Feature(feature) if self.allows(feature) => {
                RelayedMessage::Send(message.emit(&Edits::new()))
            }
            Need::Cancel => self.cancelled_by_server(message, notification),
            _ => RelayedMessage::Drop,
        }
    }

    /// The upstream gives up a request of its own: the client knows it under the sealed id.
    fn cancelled_by_server(
        &self,
        message: &Message<'_>,
        notification: &Notification<'_>,
    ) -> RelayedMessage {
        let sealed = notification
            .params
            .as_ref()
            .and_then(|params| params.get("requestId"))
            .and_then(|member| Id::from_json(member.raw))
            .and_then(|id| self.gateway.sessions.cancel_request(&self.session.id, &id));
        match sealed {
            Some(sealed) => RelayedMessage::Send(
                message.emit(&Edits::new().set("requestId", json::quoted(&sealed))),
            ),
            None => RelayedMessage::Drop,
        }
    }

    /// A request of the upstream to the client: as `clientFeatures` says, under a sealed id; else
    /// refused right here.
    fn request(&self, request: &Request<'_>) -> RelayedMessage {
        let row = method::lookup(&request.method)
            .filter(|row| row.to_client() && row.in_version(self.session.version));
        let allowed = match row.map(|row| row.need) {
            Some(Need::Nothing) => true,
            Some(Need::Feature(feature)) => self.allows(feature),
            _ => false,
        };
        let admitted = self.session.declared.admits(request).filter(|_| allowed);
        let Some(edits) = admitted else {
            let envelope = self.session.envelope();
            let permit = Permit::refusal(envelope, &request.id, &request.method);
            if let Some(upstream) = self.reached() {
                tell_upstream(&self.gateway, &upstream, permit);
            }
            return RelayedMessage::Drop;
        };
        // The upstream is working on one of the session's calls, whichever it is.
        self.gateway.calls.mark_session(self.session.key());
        let raw = request.id.to_json();
        let sealed =
            self.session
                .seal_request(&self.gateway.sessions, &self.grant, &request.method, &raw);
        match sealed {
            Some(sealed) => {
                self.gateway.sessions.remember_request(
                    &self.grant.caller.grant,
                    &self.session.id,
                    &request.id,
                    &sealed,
                );
                RelayedMessage::Send(request.emit(&edits.id(Id::String(sealed.into()))))
            }
            None => RelayedMessage::Drop,
        }
    }

    fn allows(&self, feature: Feature) -> bool {
        self.gateway
            .snapshot()
            .is_some_and(|snapshot| snapshot.settings.allows(feature))
    }

    /// A stream that the client opened with GET.
    pub fn stream(self, response: Response<Body>) -> Response<Body> {
        EventRelay::new(self, response.into_body())
            .tells_changes()
            .into_response()
    }
}

/// Members by which an error's `data` once marked it as made by a bridge: no server may set them.
const OURS: [&str; 2] = ["source", "delivered"];
