//! What the child of one session says, and its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::{FIRST_EXIT_WAIT, MAX_QUESTIONS, PerSession, SessionChild, not_started};
use crate::gateway::bridge::calls::{Unanswered, unreadable};
use crate::gateway::bridge::stream::Event;
use crate::gateway::bridge::wire::{self, code};
use crate::gateway::upstream::stdio::{Child, Piece};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Message, Notification, Request};

/// How long the exit status of a child that fell silent is waited for, for the sake of a better
/// message.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// Passes the child's messages on until it ends or the session does, and leaves nothing behind.
pub(super) async fn relay(
    mode: Arc<PerSession>,
    own: Arc<SessionChild>,
    mut child: Child,
    slot: OwnedSemaphorePermit,
) {
    loop {
        let piece = tokio::select! {
            piece = child.lines.recv() => piece,
            () = own.end.cancelled() => break,
        };
        match piece {
            Some(piece) => take(&mode, &own, &piece),
            None => break,
        }
    }
    child.handle.stop();
    // From here on the session is unknown (404), so that its client initializes again.
    mode.remove(&own.session.id);
    let started = own.started.load(Ordering::Acquire);
    let why = if mode.context.stop.is_cancelled() {
        "the bridge is shutting down".to_owned()
    } else if own.end.is_cancelled() {
        "the session was ended".to_owned()
    } else {
        let (wait, when) = match started {
            true => (EXIT_WAIT, ""),
            false => (FIRST_EXIT_WAIT, " before it answered `initialize`"),
        };
        match timeout(wait, child.handle.ended()).await {
            Ok(Some(exit)) => format!("it {}{when}", exit.how),
            _ => format!("it closed its output{when}"),
        }
    };
    if !started {
        if !own.end.is_cancelled() {
            *mode.down.lock() = Some(why.clone());
        }
        own.why.send_replace(Some(why.clone()));
    }
    let calls = {
        let mut table = own.table.lock();
        table.ended = true;
        table.asked.clear();
        std::mem::take(&mut table.calls)
    };
    if !own.end.is_cancelled() {
        tracing::warn!(server = %mode.context.child.name, unanswered = calls.len(), "the server of a session is gone ({why})");
    }
    for call in calls {
        let text = match started {
            true => format!(
                "The server ended before it answered ({why}). It is not known whether the call took effect."
            ),
            false => not_started(&why),
        };
        let lost = Unanswered::lost(text, Some(Duration::from_secs(1)));
        call.reply.push(lost.event(&call.id));
    }
    own.session.close();
    child.handle.gone().await;
    drop(slot);
}

/// Handles one line of the child. Never waits.
fn take(mode: &PerSession, own: &SessionChild, piece: &Piece) {
    let name = &mode.context.child.name;
    let refusal = match piece {
        Piece::Line(line) if line.iter().all(u8::is_ascii_whitespace) => return,
        Piece::Line(line) => match envelope::parse(line) {
            Ok(Message::Response(response)) => {
                let id = response.id.clone().map(envelope::Id::into_owned);
                // One that is not there was cancelled, or its client has gone.
                if let Some(call) = id.and_then(|id| own.answered(&id)) {
                    own.session.touch();
                    own.started.store(true, Ordering::Release);
                    let text = response.emit(&Edits::new().id(call.id.clone()));
                    call.reply.push(Event::Answer(text.into()));
                }
                return;
            }
            Ok(Message::Notification(message)) => return notification(own, &message),
            Ok(Message::Request(request)) => return ask(own, &request),
            Err(refusal) => Some(refusal),
        },
        Piece::TooLong { .. } => None,
    };
    let broken = unreadable(piece, refusal.as_ref(), 200);
    if refusal.is_some()
        && let Some(withheld) = mode.context.child.chatter.garbage.passes()
    {
        tracing::warn!(server = %name, line = broken.excerpt, withheld, "server wrote a line that is not a valid message: {}", broken.why);
    }
    for call in broken.answers.iter().filter_map(|id| own.answered(id)) {
        let text = format!("The server's answer cannot be passed on: {}.", broken.why);
        let lost = Unanswered::lost(text, None);
        call.reply.push(lost.event(&call.id));
    }
}

fn notification(own: &SessionChild, message: &Notification<'_>) {
    let text = bytes::Bytes::from(message.emit(&Edits::new()));
    match &*message.method {
        // The child gives up a request of its own, which must be one that its client has not
        // answered.
        "notifications/cancelled" => {
            let id = wire::id_member(message.params.as_ref(), "requestId");
            if id.is_some_and(|id| own.table.lock().asked.remove(&id)) {
                beside_a_call(own, text);
            }
        }
        "notifications/progress" => {
            let token = wire::id_member(message.params.as_ref(), "progressToken");
            let table = own.table.lock();
            let mut calls = table.calls.iter();
            let call = calls.find(|call| token.is_some() && call.token == token);
            if let Some(call) = call {
                own.session.touch();
                if call.streams {
                    call.reply.push(Event::Message(text));
                }
                return;
            }
            drop(table);
            own.session.deliver(text);
        }
        // About no call in particular.
        "notifications/tools/list_changed"
        | "notifications/prompts/list_changed"
        | "notifications/resources/list_changed"
        | "notifications/resources/updated" => own.session.deliver(text),
        _ => beside_a_call(own, text),
    }
}

fn ask(own: &SessionChild, request: &Request<'_>) {
    let id = request.id.clone().into_owned();
    let noted = {
        let mut table = own.table.lock();
        let room = table.asked.len() < MAX_QUESTIONS || table.asked.contains(&id);
        room && {
            table.asked.insert(id.clone());
            true
        }
    };
    if noted {
        return beside_a_call(own, request.emit(&Edits::new()).into());
    }
    let why = "the client has not answered the requests before this one";
    let text = wire::error(Some(&id), code::INTERNAL, why, None);
    // A child that does not read either learns nothing, and needs nothing.
    let _ = own.input.try_send(text);
}

/// Over stdio nothing tells which call a message belongs to: the newest that streams is the best
/// guess, and it is read for certain, where a client need not have a GET stream.
fn beside_a_call(own: &SessionChild, text: bytes::Bytes) {
    let reply = {
        let table = own.table.lock();
        let mut newest = table.calls.iter().rev();
        let open = newest.find(|call| call.streams && !call.reply.is_closed());
        open.map(|call| call.reply.clone())
    };
    if !reply.is_some_and(|reply| reply.push(Event::Message(text.clone()))) {
        own.session.deliver(text);
    }
}
