//! A child for each session.
//!
//! In: one client's messages. Out: the same to its own child, ids kept, and the child's to the
//! client: answers and progress on the stream of their call, everything else on the GET stream or,
//! where the client waits for a call, on that call's stream. The session ends with its child, and
//! the child with its session.

mod relay;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::calls::{Unanswered, full, now, unavailable};
use super::credentials::{CredentialTable, Credentials};
use super::session::{BridgeSession, Full, makes_room, share};
use super::stream::{self, Accepts, Body, Event, Receiver, Sender, bare};
use super::wire::{self, Id, code};
use super::{CREDENTIAL_RETRY, Context, SESSION};
use crate::gateway::upstream::stdio::{Input, spawn};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Message, Object, Outcome, Request};

/// Requests of a child that its client has not answered; more are refused.
const MAX_QUESTIONS: usize = 256;

/// How long the exit status of a child that has not answered `initialize` is waited for: no call
/// waits, and the exit status is all that there is to say.
const FIRST_EXIT_WAIT: Duration = Duration::from_secs(2);

/// The mode itself.
#[derive(Debug)]
pub(super) struct PerSession {
    context: Context,
    credentials: Credentials,
    sessions: Mutex<HashMap<String, Arc<SessionChild>>>,
    /// One for each child until no process of it is left, which is later than the end of its
    /// session.
    slots: Arc<Semaphore>,
    /// Why the newest child did not start, until another one does.
    down: Mutex<Option<String>>,
}

/// A session and its child.
#[derive(Debug)]
struct SessionChild {
    session: BridgeSession,
    /// The name of what its child has beside what all have.
    credential: String,
    input: Input,
    table: Mutex<Table>,
    /// Ends the child, and with it the session.
    end: CancellationToken,
    /// It has answered something, and `initialize` comes first.
    started: AtomicBool,
    /// Why it ended before that.
    why: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Table {
    /// Calls that the child has not answered, newest last.
    calls: Vec<Call>,
    /// Requests that the client has not answered.
    asked: HashSet<Id>,
    ended: bool,
}

#[derive(Debug)]
struct Call {
    id: Id,
    token: Option<Id>,
    reply: Sender,
    /// Whether its client can take messages before the answer.
    streams: bool,
}

impl PerSession {
    pub(super) fn start(context: Context, credentials: Credentials) -> Arc<Self> {
        let mode = Arc::new(Self {
            credentials,
            slots: Arc::new(Semaphore::new(
                context.limits.max_sessions.min(Semaphore::MAX_PERMITS),
            )),
            context: context.clone(),
            sessions: Mutex::default(),
            down: Mutex::default(),
        });
        context.tasks.spawn(expire(Arc::clone(&mode)));
        mode
    }

    /// Why the newest child did not start, if that is so.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.down.lock().clone().map_or(Ok(()), Err)
    }

    fn session(&self, id: &str) -> Option<Arc<SessionChild>> {
        let own = self.sessions.lock().get(id).cloned()?;
        own.session.touch();
        Some(own)
    }

    pub(super) async fn initialize(
        self: &Arc<Self>,
        request: &Request<'_>,
        accepts: Accepts,
        caller: &str,
        credential: &str,
    ) -> Response<Body> {
        let id = &request.id.clone().into_owned();
        let limits = &self.context.limits;
        let (own, starting) = match self.open(id, caller, credential).await {
            Ok(opened) => opened,
            Err(response) => return response,
        };
        let answer = match self.call(&own, request, accepts).await {
            Ok(receiver) => timeout(limits.start_timeout, first_answer(&own, receiver)).await,
            // It takes no line: its input ends with its output, whichever is noticed first.
            Err(_) => Ok(None),
        };
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return self.not_started(id, own.why_not_started().await),
            Err(_) => {
                let seconds = limits.start_timeout.as_secs();
                let why = format!("it has not answered `initialize` within {seconds} s");
                return self.not_started(id, why);
            }
        };
        let accepted = match &answer {
            // The child went away: a session could not be opened.
            Event::Unserved(..) => {
                let text = answer.into_text();
                return stream::json(StatusCode::SERVICE_UNAVAILABLE, text);
            }
            Event::Answer(text) | Event::Message(text) => match envelope::parse(text) {
                Ok(Message::Response(response)) => matches!(response.outcome, Outcome::Result(_)),
                _ => false,
            },
        };
        let mut response = now(answer, accepts, limits.keep_alive);
        // Where the child refuses, the guard ends it.
        if accepted && let Ok(value) = HeaderValue::from_str(&own.session.id) {
            starting.disarm();
            *self.down.lock() = None;
            response.headers_mut().insert(SESSION, value);
        }
        response
    }

    /// The answer to an `initialize` whose child did not start.
    fn not_started(&self, id: &Id, why: String) -> Response<Body> {
        let text = not_started(&why);
        *self.down.lock() = Some(why);
        unavailable(id, &Unanswered::lost(text, None))
    }

    /// Starts a child for a new session. The guard ends both unless `initialize` succeeds.
    async fn open(
        self: &Arc<Self>,
        id: &Id,
        caller: &str,
        credential: &str,
    ) -> Result<(Arc<SessionChild>, DropGuard), Response<Body>> {
        if self.context.stop.is_cancelled() {
            let why = Unanswered::down("The bridge is shutting down.", Duration::from_secs(5));
            return Err(unavailable(id, &why));
        }
        self.make_room(caller)
            .map_err(|refused| full(id, refused))?;
        // Sessions that have just ended may still have a process.
        let slot = timeout(
            self.context.limits.start_wait,
            Arc::clone(&self.slots).acquire_owned(),
        );
        let Ok(Ok(slot)) = slot.await else {
            return Err(full(id, Full::All(self.context.limits.max_sessions)));
        };
        // While it waited, the caller may have got others. Nothing waits from here on.
        let mut sessions = self.sessions.lock();
        if let Ok(Some(_)) | Err(Full::Caller(_)) = self.room(&sessions, caller) {
            let share = share(self.context.limits.max_sessions);
            return Err(full(id, Full::Caller(share)));
        }
        // Under the lock: credentials that change from here on find this session and end it.
        let variables = self.credentials.of(credential, caller).map_err(|why| {
            let why = format!("This session cannot be opened: {why}.");
            unavailable(id, &Unanswered::down(why, CREDENTIAL_RETRY))
        })?;
        let mut config = self.context.child.clone();
        config.env.extend(variables);
        let child = spawn(&config, &self.context.tasks).map_err(|error| {
            tracing::error!(server = %self.context.child.name, "{error}");
            unavailable(
                id,
                &Unanswered::down(error.to_string(), Duration::from_secs(30)),
            )
        })?;
        let end = self.context.stop.child_token();
        let own = Arc::new(SessionChild {
            session: BridgeSession::new(caller),
            credential: credential.to_owned(),
            input: child.input.clone(),
            table: Mutex::default(),
            end: end.clone(),
            started: AtomicBool::new(false),
            why: watch::Sender::new(None),
        });
        sessions.insert(own.session.id.clone(), Arc::clone(&own));
        drop(sessions);
        let mode = Arc::clone(self);
        self.context
            .tasks
            .spawn(relay::relay(mode, Arc::clone(&own), child, slot));
        Ok((own, end.drop_guard()))
    }

    /// Ends idle sessions until there is room for another one of this caller.
    fn make_room(&self, caller: &str) -> Result<(), Full> {
        loop {
            let idle = self.room(&self.sessions.lock(), caller)?;
            let Some(idle) = idle else {
                return Ok(());
            };
            tracing::info!(server = %self.context.child.name, "the session idle for longest was ended to make room for another");
            self.delete(&idle);
        }
    }

    fn room(
        &self,
        sessions: &HashMap<String, Arc<SessionChild>>,
        caller: &str,
    ) -> Result<Option<String>, Full> {
        let all = sessions.values().map(|own| {
            let busy = own.session.has_reader() || own.awaited();
            (&own.session, busy)
        });
        makes_room(all, caller, self.context.limits.max_sessions)
    }

    /// A message within a session; `None` if there is no such session.
    pub(super) async fn message(
        &self,
        session: &str,
        message: Message<'_>,
        accepts: Accepts,
    ) -> Option<Response<Body>> {
        let own = self.session(session)?;
        let keep_alive = self.context.limits.keep_alive;
        match message {
            Message::Request(request) => {
                let called = self.call(&own, &request, accepts).await;
                Some(match called {
                    Ok(receiver) => {
                        let lost = || {
                            let why = "The answer was lost: this connection was read too slowly.";
                            let id = request.id.clone().into_owned();
                            Unanswered::lost(why, None).response(StatusCode::OK, &id)
                        };
                        stream::answer(receiver, accepts, keep_alive, lost).await
                    }
                    Err(answer) => now(answer, accepts, keep_alive),
                })
            }
            Message::Notification(notification) => {
                // Only what is under way can be given up, under this very id: servers differ in
                // which ids they take for one.
                if notification.method == "notifications/cancelled"
                    && !own.cancelled(notification.params.as_ref())
                {
                    return Some(bare(StatusCode::ACCEPTED));
                }
                let line = notification.emit(&Edits::new()).into();
                let sent = own.input.send(line).await;
                sent.is_ok().then(|| bare(StatusCode::ACCEPTED))
            }
            Message::Response(response) => {
                // Only what the child has asked, and once.
                let id = response.id.clone().map(envelope::Id::into_owned);
                let asked = id.is_some_and(|id| own.table.lock().asked.remove(&id));
                if asked {
                    let line = response.emit(&Edits::new()).into();
                    let sent = own.input.send(line).await;
                    return sent.is_ok().then(|| bare(StatusCode::ACCEPTED));
                }
                Some(bare(StatusCode::ACCEPTED))
            }
        }
    }

    /// Passes a call on; the answer comes on the receiver. The error is an answer already.
    async fn call(
        &self,
        own: &Arc<SessionChild>,
        request: &Request<'_>,
        accepts: Accepts,
    ) -> Result<Receiver, Event> {
        let limits = &self.context.limits;
        let id = &request.id.clone().into_owned();
        let (reply, receiver) = stream::channel(limits.stream());
        let params = request.params.as_ref();
        let token = params.and_then(|params| params.meta("progressToken"));
        let call = Call {
            id: id.clone(),
            token: token.and_then(|token| wire::id(token.raw)),
            reply,
            streams: accepts.sse,
        };
        own.register(call, limits.calls_per_session)?;
        // Until it is queued, a client that goes away takes its call with it.
        let mut unsent = Unsent { own, id: Some(id) };
        let line = request.emit(&Edits::new()).into();
        if own.input.send(line).await.is_err() {
            return Err(ended().event(id));
        }
        unsent.id = None;
        Ok(receiver)
    }

    pub(super) fn listen(&self, session: &str) -> Option<Receiver> {
        let own = self.session(session)?;
        Some(own.session.listen(self.context.limits.stream()))
    }

    /// The credential of a session, if there is such a session.
    pub(super) fn credential(&self, session: &str) -> Option<String> {
        let sessions = self.sessions.lock();
        sessions.get(session).map(|own| own.credential.clone())
    }

    /// Takes other credentials, and ends the sessions whose child has others than a new one would
    /// get.
    pub(super) fn use_credentials(&self, table: Option<CredentialTable>) {
        let Some(goes_on) = self.credentials.replace(table) else {
            return;
        };
        let ended: Vec<String> = {
            let sessions = self.sessions.lock();
            let goes_on = |own: &SessionChild| goes_on(&own.credential, &own.session.caller);
            let ended = sessions.values().filter(|own| !goes_on(own));
            ended.map(|own| own.session.id.clone()).collect()
        };
        for id in ended {
            tracing::info!(server = %self.context.child.name, "session ended: its caller's credential has changed");
            self.delete(&id);
        }
    }

    /// Ends all GET streams; sessions continue.
    pub(super) fn end_streams(&self) {
        for own in self.sessions.lock().values() {
            own.session.close();
        }
    }

    /// Ends a session and its child, in the background.
    pub(super) fn delete(&self, session: &str) -> bool {
        let found = self.remove(session);
        if let Some(own) = &found {
            own.end.cancel();
        }
        found.is_some()
    }

    fn remove(&self, session: &str) -> Option<Arc<SessionChild>> {
        self.sessions.lock().remove(session)
    }
}

/// The answer to a client whose child did not start.
fn not_started(why: &str) -> String {
    format!("The server did not start: {why}.")
}

impl SessionChild {
    /// Why it does not answer `initialize`, once that is known.
    async fn why_not_started(&self) -> String {
        let mut why = self.why.subscribe();
        // Its end is noticed first, and its exit status within this time.
        let known = timeout(FIRST_EXIT_WAIT * 2, why.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(why)) => why.clone().unwrap_or_default(),
            _ => "it does not read its input".to_owned(),
        }
    }

    fn register(&self, call: Call, most: usize) -> Result<(), Event> {
        let mut table = self.table.lock();
        if table.ended {
            return Err(ended().event(&call.id));
        }
        // One whose client no longer reads is over for that client, which may use its id again.
        table
            .calls
            .retain(|other| other.id != call.id || !other.reply.is_closed());
        if table.calls.iter().any(|other| other.id == call.id) {
            let why = "this id is in use by a call that is not answered yet";
            let text = wire::error(Some(&call.id), code::INVALID, why, None);
            return Err(Event::Answer(text));
        }
        if table.calls.len() >= most {
            // The oldest whose client no longer reads: its answer would go nowhere.
            let unread = table.calls.iter().position(|other| other.reply.is_closed());
            let Some(unread) = unread else {
                let why = format!("{most} calls of this session are not answered yet.");
                return Err(Unanswered::down(why, Duration::from_secs(1)).event(&call.id));
            };
            table.calls.remove(unread);
        }
        table.calls.push(call);
        Ok(())
    }

    fn take(&self, id: &Id) -> Option<Call> {
        let mut table = self.table.lock();
        let at = table.calls.iter().position(|call| call.id == *id)?;
        Some(table.calls.remove(at))
    }

    /// The call that an answer under this id is meant for: some servers turn a number into a text.
    fn answered(&self, id: &Id) -> Option<Call> {
        self.take(id).or_else(|| {
            let mut table = self.table.lock();
            let at = table.calls.iter().position(|call| id.answers(&call.id))?;
            Some(table.calls.remove(at))
        })
    }

    /// The child may still answer, but the client no longer cares (MCP, "Cancellation").
    /// Says whether the child has such a call.
    fn cancelled(&self, params: Option<&Object<'_>>) -> bool {
        let id = wire::id_member(params, "requestId");
        let Some(call) = id.and_then(|id| self.take(&id)) else {
            return false;
        };
        let lost = Unanswered::lost("Cancelled by the client.", None);
        call.reply.push(lost.event(&call.id));
        true
    }

    fn awaited(&self) -> bool {
        self.table
            .lock()
            .calls
            .iter()
            .any(|call| !call.reply.is_closed())
    }
}

/// Takes back a call that was not queued.
struct Unsent<'a> {
    own: &'a SessionChild,
    id: Option<&'a Id>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.own.take(id);
        }
    }
}

fn ended() -> Unanswered {
    let why = "The server of this session has ended; send `initialize` again.";
    Unanswered::down(why, Duration::from_secs(1))
}

/// The answer to `initialize`; what comes before it waits for a GET stream.
async fn first_answer(own: &SessionChild, mut receiver: Receiver) -> Option<Event> {
    loop {
        match receiver.next().await {
            Ok(Some(Event::Message(text))) => own.session.deliver(text),
            Ok(Some(answer)) => return Some(answer),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Ends sessions that have not been used for too long. An open stream alone does not count as use:
/// it may be long dead.
async fn expire(mode: Arc<PerSession>) {
    let idle = mode.context.limits.session_idle;
    let mut tick = tokio::time::interval((idle / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = mode.context.stop.cancelled() => return,
        }
        let ended: Vec<String> = {
            let sessions = mode.sessions.lock();
            let idle = sessions
                .values()
                .filter(|own| own.session.idle_for() > idle && !own.awaited());
            idle.map(|own| own.session.id.clone()).collect()
        };
        for id in ended {
            tracing::info!(server = %mode.context.child.name, "session ended: not used for too long");
            mode.delete(&id);
        }
    }
}
