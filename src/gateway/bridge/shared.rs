//! One child for all sessions.
//!
//! In: the messages of many clients. Out: the same, to one child, under ids and progress tokens of
//! ours; each answer goes back to the session that asked. The bridge initializes the child as
//! itself, without client capabilities, and answers every client's `initialize` from the child's
//! answer. One session must see nothing that belongs to another, and a client that reads slowly
//! must not hold up another.

mod pending;
mod subscribers;
mod supervise;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::calls::{Unanswered, at_once, full, now, unavailable};
use super::session::{BridgeSession, Full, MAX_ENDED, makes_room};
use super::stream::{self, Accepts, Body, Event, Receiver, bare};
use super::wire::{self, Id, code};
use super::{Context, SESSION, StartError, version};
use crate::gateway::enforce::request_ids::Numbers;
use crate::gateway::upstream::stdio::{Input, spawn};
use crate::json;
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{Message, Notification, Request};
use crate::protocol::version::Version;
use crate::recent::RecentSet;
use pending::{Origin, Pending, Refused};
use subscribers::{NoRoom, Subscribers};

/// Stands for the protocol version in the cached result of `initialize`; no server can write it
/// there, as JSON has no such string.
const VERSION_HERE: &str = "\u{0}version\u{0}";

/// A child that has been initialized.
#[derive(Debug)]
struct Live {
    input: Input,
    /// Counts children; calls remember theirs.
    generation: u64,
    /// The raw result of `initialize`, as clients get it but for the version.
    result: String,
    /// Those of tools, prompts and resources that it has.
    lists: Vec<&'static str>,
    version: Version,
}

#[derive(Debug, Clone)]
enum ServerState {
    Starting,
    Ready(Arc<Live>),
    Down { why: String, until: Instant },
    Stopped,
}

/// A child that has served and fails to start this many times in a row does not come up.
const STARTS_IN_A_ROW: u32 = 5;

/// The mode itself.
#[derive(Debug)]
pub(super) struct SharedServer {
    context: Context,
    sessions: Mutex<HashMap<String, Arc<BridgeSession>>>,
    /// Those that their clients ended.
    ended: Mutex<RecentSet<String>>,
    state: watch::Sender<ServerState>,
    pending: Mutex<Pending>,
    /// The ids of calls: what the child prints of one caller must not answer another's call.
    numbers: Numbers,
    subscribers: Mutex<Subscribers>,
    /// Held while a change of the above is queued for the child, so that both happen in the same
    /// order.
    subscribing: tokio::sync::Mutex<()>,
}

impl SharedServer {
    /// Starts the child and the task that keeps it running.
    pub(super) fn start(context: Context) -> Result<Arc<Self>, StartError> {
        let child = spawn(&context.child, &context.tasks)?;
        let tasks = context.tasks.clone();
        let (state, _) = watch::channel(ServerState::Starting);
        let shared = Arc::new(Self {
            context,
            sessions: Mutex::default(),
            ended: Mutex::new(RecentSet::new(MAX_ENDED)),
            state,
            pending: Mutex::default(),
            numbers: Numbers::default(),
            subscribers: Mutex::default(),
            subscribing: tokio::sync::Mutex::default(),
        });
        tasks.spawn(supervise::supervise(Arc::clone(&shared), child));
        tasks.spawn(expire(Arc::clone(&shared)));
        Ok(shared)
    }

    pub(super) async fn ready(&self) -> Result<(), String> {
        let mut state = self.state.subscribe();
        let decided = state
            .wait_for(|state| !matches!(state, ServerState::Starting))
            .await;
        match decided.as_deref() {
            Ok(ServerState::Ready(_)) => Ok(()),
            Ok(ServerState::Down { why, .. }) => Err(why.clone()),
            _ => Err("the server was stopped".to_owned()),
        }
    }

    /// Waits until the child does not come up: its first start failed, or [`STARTS_IN_A_ROW`] after
    /// it had served. Returns why.
    pub(super) async fn gives_up(&self) -> String {
        let mut state = self.state.subscribe();
        let (mut failed, mut served) = (0, false);
        loop {
            let decided = state.wait_for(|state| !matches!(state, ServerState::Starting));
            match decided.await.as_deref() {
                Ok(ServerState::Ready(_)) => (failed, served) = (0, true),
                Ok(ServerState::Down { why, .. }) => {
                    failed += 1;
                    if !served || failed > STARTS_IN_A_ROW {
                        return why.clone();
                    }
                }
                // It stops because it was asked to.
                _ => return std::future::pending().await,
            }
            let _ = state
                .wait_for(|state| matches!(state, ServerState::Starting | ServerState::Stopped))
                .await;
        }
    }

    /// The child, if it takes calls, or soon does.
    async fn live(&self) -> Result<Arc<Live>, Unanswered> {
        let mut state = self.state.subscribe();
        let wait = self.context.limits.start_wait;
        let decided = timeout(
            wait,
            state.wait_for(|state| !matches!(state, ServerState::Starting)),
        );
        match decided.await {
            Ok(Ok(state)) => match &*state {
                ServerState::Ready(live) => Ok(Arc::clone(live)),
                ServerState::Down { why, until } => {
                    let left = until.saturating_duration_since(Instant::now());
                    let why = format!("The server is not running ({why}); it is being restarted.");
                    Err(Unanswered::down(why, left + Duration::from_secs(1)))
                }
                ServerState::Starting | ServerState::Stopped => Err(stopping()),
            },
            Ok(Err(_)) => Err(stopping()),
            Err(_) => {
                let why = format!("The server is still starting after {} s.", wait.as_secs());
                Err(Unanswered::down(why, Duration::from_secs(5)))
            }
        }
    }

    /// The session of an id. One that ended because it was idle, or with the process before this
    /// one, is opened again: the child knows of no session, so nothing is lost but subscriptions.
    fn session(self: &Arc<Self>, id: &str) -> Option<Arc<BridgeSession>> {
        let known = self.sessions.lock().get(id).cloned();
        let session = match known {
            Some(session) => session,
            None if self.ended.lock().contains(id) => return None,
            None => self.admit(BridgeSession::again(id)?).ok()?,
        };
        session.touch();
        Some(session)
    }

    /// Makes room for a session, if need be at the cost of the one that is idle for longest.
    fn admit(self: &Arc<Self>, session: BridgeSession) -> Result<Arc<BridgeSession>, Full> {
        let session = Arc::new(session);
        loop {
            let idle = {
                let mut sessions = self.sessions.lock();
                match self.room(&sessions, &session.caller)? {
                    None => {
                        let same = sessions.entry(session.id.clone()).or_insert(session);
                        return Ok(Arc::clone(same));
                    }
                    Some(idle) => idle,
                }
            };
            tracing::info!(server = %self.context.child.name, "the session idle for longest was ended to make room for another");
            self.close(&idle);
        }
    }

    pub(super) async fn initialize(
        self: &Arc<Self>,
        request: &Request<'_>,
        accepts: Accepts,
        caller: &str,
    ) -> Response<Body> {
        let id = &request.id.clone().into_owned();
        let Some(asked) = wire::text(request.params.as_ref(), "protocolVersion") else {
            let why = "`initialize` needs a `protocolVersion`";
            let text = wire::error(Some(id), code::PARAMS, why, None);
            return at_once(text, accepts, self.context.limits.keep_alive);
        };
        let live = match self.live().await {
            Ok(live) => live,
            Err(error) => return unavailable(id, &error),
        };
        let session = match self.admit(BridgeSession::new(caller)) {
            Ok(session) => session,
            Err(refused) => return full(id, refused),
        };
        let version = version::negotiate(&asked, live.version);
        let text = wire::result(id, &live.result.replacen(VERSION_HERE, version.as_str(), 1));
        let mut response = at_once(text, accepts, self.context.limits.keep_alive);
        if let Ok(value) = HeaderValue::from_str(&session.id) {
            response.headers_mut().insert(SESSION, value);
        }
        response
    }

    fn room(
        &self,
        sessions: &HashMap<String, Arc<BridgeSession>>,
        caller: &str,
    ) -> Result<Option<String>, Full> {
        let pending = self.pending.lock();
        let all = sessions.values().map(|session| {
            let busy = session.has_reader() || pending.awaited(&session.id);
            (&**session, busy)
        });
        makes_room(all, caller, self.context.limits.max_sessions)
    }

    /// A message within a session; `None` if there is no such session.
    pub(super) async fn message(
        self: &Arc<Self>,
        session: &str,
        message: Message<'_>,
        accepts: Accepts,
    ) -> Option<Response<Body>> {
        let session = self.session(session)?;
        match message {
            Message::Request(request) => Some(self.request(&session, &request, accepts).await),
            Message::Notification(notification) => {
                if notification.method == "notifications/cancelled" {
                    self.cancel(&session, &notification).await;
                }
                // The others speak for a client that the child does not know of.
                Some(bare(StatusCode::ACCEPTED))
            }
            // No request of the child ever reached a client.
            Message::Response(_) => Some(bare(StatusCode::ACCEPTED)),
        }
    }

    async fn request(
        &self,
        session: &Arc<BridgeSession>,
        request: &Request<'_>,
        accepts: Accepts,
    ) -> Response<Body> {
        let keep_alive = self.context.limits.keep_alive;
        let id = request.id.clone().into_owned();
        let empty = || at_once(wire::result(&id, "{}"), accepts, keep_alive);
        let answered = match &*request.method {
            // One client's choice must not change what the others' child does.
            "ping" | "logging/setLevel" => return empty(),
            method if method.starts_with("tasks/") => {
                let why = "Method not found: tasks are not offered by a shared server";
                let text = wire::error(Some(&id), code::METHOD, why, None);
                return at_once(text, accepts, keep_alive);
            }
            method @ ("resources/subscribe" | "resources/unsubscribe") => {
                let Some(uri) = wire::text(request.params.as_ref(), "uri") else {
                    let text = wire::error(Some(&id), code::PARAMS, "`uri` is missing", None);
                    return at_once(text, accepts, keep_alive);
                };
                let order = self.subscribing.lock().await;
                let mut fresh = None;
                if method == "resources/unsubscribe" {
                    if !self.unsubscribe(session, &uri) {
                        return empty();
                    }
                } else {
                    match self.subscribe(session, &uri) {
                        Ok(true) => fresh = Some(uri.clone()),
                        Ok(false) => {}
                        Err(full) => {
                            let text =
                                wire::error(Some(&id), code::INVALID, &full.to_string(), None);
                            return at_once(text, accepts, keep_alive);
                        }
                    }
                }
                let undo = fresh.is_some();
                let call = self.call(session, request, fresh).await;
                if undo && call.is_err() {
                    self.unsubscribe(session, &uri);
                }
                drop(order);
                call
            }
            _ => self.call(session, request, None).await,
        };
        match answered {
            Ok(receiver) => {
                let lost = || {
                    let why = "The answer was lost: this connection was read too slowly.";
                    Unanswered::lost(why, None).response(StatusCode::OK, &id)
                };
                stream::answer(receiver, accepts, keep_alive, lost).await
            }
            Err(answer) => now(answer, accepts, keep_alive),
        }
    }

    /// Passes a call on; the answer comes on the receiver. The error is an answer already.
    async fn call(
        &self,
        session: &Arc<BridgeSession>,
        request: &Request<'_>,
        subscribes: Option<String>,
    ) -> Result<Receiver, Event> {
        let id = &request.id.clone().into_owned();
        let live = self.live().await.map_err(|error| error.event(id))?;
        let ours = self.numbers.next();
        let (sender, receiver) = stream::channel(self.context.limits.stream());
        // The bridge declares no tasks: a server that does not must process such a call as an
        // ordinary one (MCP 2025-11-25, "Tasks").
        let mut edits = Edits::new().id(Id::Integer(ours)).remove("task");
        let params = request.params.as_ref();
        let token = params.and_then(|params| params.meta("progressToken"));
        if token.is_some() {
            edits = edits.set_meta("progressToken", ours.to_string());
        }
        let origin = Origin::Client {
            session: Arc::clone(session),
            id: id.clone(),
            token: token.map(|token| token.raw.to_owned()),
            reply: sender,
            subscribes,
        };
        let most = self.context.limits.calls_per_session;
        self.pending
            .lock()
            .insert(ours, live.generation, origin, most)
            .map_err(|refused| match refused {
                Refused::Duplicate => {
                    let why = "this id is in use by a call that is not answered yet";
                    Event::Answer(wire::error(Some(id), code::INVALID, why, None))
                }
                Refused::TooMany => {
                    let why = format!("{most} calls of this session are not answered yet.");
                    Unanswered::down(why, Duration::from_secs(1)).event(id)
                }
                Refused::Gone => gone(&self.state).event(id),
            })?;
        // Until it is queued, a client that goes away takes its call with it.
        let mut unsent = Unsent {
            shared: self,
            ours: Some(ours),
        };
        let line = bytes::Bytes::from(request.emit(&edits));
        if live.input.send(line).await.is_err() {
            return Err(gone(&self.state).event(id));
        }
        unsent.ours = None;
        Ok(receiver)
    }

    async fn cancel(&self, session: &BridgeSession, notification: &Notification<'_>) {
        let Some(id) = wire::id_member(notification.params.as_ref(), "requestId") else {
            return;
        };
        let Some((ours, origin)) = self.pending.lock().take_of(&session.id, &id) else {
            return;
        };
        // Whether the child still answers is up to it, and the client no longer cares (MCP,
        // "Cancellation").
        self.answer(&origin, Unanswered::lost("Cancelled by the client.", None));
        let ServerState::Ready(live) = self.state.borrow().clone() else {
            return;
        };
        let edits = Edits::new().set("requestId", ours.to_string());
        let line = notification.emit(&edits).into();
        let _ = live.input.send(line).await;
    }

    /// Answers a call in the child's place, or wakes the waiter if the call is the bridge's own.
    fn answer(&self, origin: &Origin, why: Unanswered) {
        match origin {
            Origin::Client {
                session,
                id,
                reply,
                subscribes,
                ..
            } => {
                if let Some(uri) = subscribes {
                    self.unsubscribe(session, uri);
                }
                reply.push(why.event(id));
            }
            Origin::Bridge => {}
        }
    }

    /// Whether that is new for the session.
    fn subscribe(&self, session: &BridgeSession, uri: &str) -> Result<bool, NoRoom> {
        let fresh = self.subscribers.lock().subscribe(session, uri)?;
        // It may have been ended meanwhile, and then this would never be taken back.
        if fresh && !self.sessions.lock().contains_key(&session.id) {
            self.unsubscribe(session, uri);
        }
        Ok(fresh)
    }

    /// Whether that was the last one: only then does the child get the message.
    fn unsubscribe(&self, session: &BridgeSession, uri: &str) -> bool {
        self.subscribers.lock().unsubscribe(session, uri)
    }

    pub(super) fn listen(self: &Arc<Self>, session: &str) -> Option<Receiver> {
        let session = self.session(session)?;
        Some(session.listen(self.context.limits.stream()))
    }

    /// Ends all GET streams; sessions continue.
    pub(super) fn end_streams(&self) {
        for session in self.sessions.lock().values() {
            session.close();
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&*self.state.borrow(), ServerState::Ready(_))
    }

    /// Ends a session for good.
    pub(super) fn delete(self: &Arc<Self>, session: &str) -> bool {
        let known = self.close(session);
        if known {
            self.ended.lock().insert(session.to_owned());
        }
        known
    }

    /// Ends a session until it is used again. The child continues with its calls, as they were not
    /// cancelled, but they are answered now.
    fn close(self: &Arc<Self>, session: &str) -> bool {
        let Some(session) = self.sessions.lock().remove(session) else {
            return false;
        };
        session.close();
        // Kept, they would pile up where a child never answers.
        let unanswered = self.pending.lock().take_all_of(&session.id);
        for origin in unanswered {
            let why = "The session was ended before the answer.";
            self.answer(&origin, Unanswered::lost(why, None));
        }
        let uris = self.subscribers.lock().of(&session.id);
        if !uris.is_empty() {
            let shared = Arc::clone(self);
            self.context.tasks.spawn(async move {
                let _order = shared.subscribing.lock().await;
                for uri in uris {
                    if shared.unsubscribe(&session, &uri) {
                        shared.tell("resources/unsubscribe", &uri).await;
                    }
                }
            });
        }
        true
    }

    /// A request of our own about a resource; the answer does not matter.
    async fn tell(&self, method: &str, uri: &str) {
        let ServerState::Ready(live) = self.state.borrow().clone() else {
            return;
        };
        let ours = self.numbers.next();
        let params = format!(r#"{{"uri":{}}}"#, json::quoted(uri));
        let noted = self
            .pending
            .lock()
            .insert(ours, live.generation, Origin::Bridge, usize::MAX);
        if noted.is_ok() {
            let line = wire::request(&Id::Integer(ours), method, &params);
            let _ = live.input.send(line).await;
        }
    }
}

/// Takes back a call that was not queued.
struct Unsent<'a> {
    shared: &'a SharedServer,
    ours: Option<i64>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        let taken = self
            .ours
            .and_then(|ours| self.shared.pending.lock().take(ours));
        if let Some(Origin::Client {
            session,
            subscribes: Some(uri),
            ..
        }) = taken
        {
            self.shared.unsubscribe(&session, &uri);
        }
    }
}

fn stopping() -> Unanswered {
    Unanswered::down("The bridge is shutting down.", Duration::from_secs(5))
}

fn gone(state: &watch::Sender<ServerState>) -> Unanswered {
    match &*state.borrow() {
        ServerState::Stopped => stopping(),
        _ => Unanswered::down(
            "The server has just ended; it is being restarted.",
            Duration::from_secs(1),
        ),
    }
}

/// Ends sessions that are not used any more.
async fn expire(shared: Arc<SharedServer>) {
    let idle = shared.context.limits.session_idle;
    let mut tick = tokio::time::interval((idle / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.context.stop.cancelled() => return,
        }
        let ended: Vec<String> = {
            let sessions = shared.sessions.lock();
            let pending = shared.pending.lock();
            sessions
                .values()
                .filter(|session| session.idle_for() > idle && !session.has_reader())
                .filter(|session| !pending.awaited(&session.id))
                .map(|session| session.id.clone())
                .collect()
        };
        for id in ended {
            shared.close(&id);
        }
    }
}
