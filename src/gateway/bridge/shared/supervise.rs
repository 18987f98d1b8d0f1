//! Keeps the shared child running, and takes what it says apart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::pending::Origin;
use super::{Live, ServerState, SharedServer, VERSION_HERE, version};
use crate::gateway::bridge::calls::{Unanswered, backoff, unreadable};
use crate::gateway::bridge::stream::Event;
use crate::gateway::bridge::wire::{self, Id, code};
use crate::gateway::upstream::stdio::{Child, Input, Piece, printable, spawn};
use crate::protocol::emit::Edits;
use crate::protocol::envelope::{self, Message, Notification, Object, Outcome};
use crate::protocol::keys;
use crate::protocol::version::Version;

/// How long the exit status of a child that fell silent is waited for, for the sake of a better
/// message.
const EXIT_WAIT: Duration = Duration::from_millis(200);
/// The same for a child that has not answered `initialize`: no call waits, and the exit status is
/// all that there is to say.
const FIRST_EXIT_WAIT: Duration = Duration::from_secs(2);

/// Runs until the bridge stops.
pub(super) async fn supervise(shared: Arc<SharedServer>, first: Child) {
    let limits = shared.context.limits.clone();
    let stop = shared.context.stop.clone();
    let mut next = Some(Ok(first));
    let mut generation = 0;
    let mut failures = 0;
    loop {
        generation += 1;
        let started = Instant::now();
        let spawned = match next.take() {
            Some(child) => child,
            None => spawn(&shared.context.child, &shared.context.tasks),
        };
        let why = match spawned {
            Err(error) => error.to_string(),
            Ok(child) => life(&shared, child, generation, failures).await,
        };
        if stop.is_cancelled() {
            break;
        }
        if started.elapsed() >= limits.healthy_after {
            failures = 0;
        }
        let delay = backoff(failures, limits.restart_first, limits.restart_max);
        failures += 1;
        tracing::warn!(
            server = %shared.context.child.name,
            delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "server is down ({why}); it will be restarted"
        );
        shared.state.send_replace(ServerState::Down {
            why,
            until: Instant::now() + delay,
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => break,
        }
        shared.state.send_replace(ServerState::Starting);
    }
    shared.state.send_replace(ServerState::Stopped);
    let sessions = std::mem::take(&mut *shared.sessions.lock());
    for session in sessions.into_values() {
        session.close();
    }
}

/// One child, from its first line until no process of it is left. Says why it ended.
async fn life(shared: &SharedServer, mut child: Child, generation: u64, failures: u32) -> String {
    let stop = shared.context.stop.clone();
    let limits = &shared.context.limits;
    let greeting = timeout(limits.start_timeout, greet(shared, &mut child, generation));
    let greeted = tokio::select! {
        greeted = greeting => greeted.unwrap_or_else(|_| {
            Err(format!("it has not answered `initialize` within {} s", limits.start_timeout.as_secs()))
        }),
        () = stop.cancelled() => Err("the bridge is shutting down".to_owned()),
    };
    let mut why = None;
    match greeted {
        Err(error) => why = Some(error),
        Ok(live) => {
            let live = Arc::new(live);
            shared
                .state
                .send_replace(ServerState::Ready(Arc::clone(&live)));
            if generation > 1 {
                renew(shared, &live).await;
            }
            loop {
                let piece = tokio::select! {
                    piece = child.lines.recv() => piece,
                    () = stop.cancelled() => break,
                };
                match piece {
                    Some(piece) => take(shared, &live.input, &piece),
                    None => break,
                }
            }
        }
    }
    child.handle.stop();
    if why.is_none() && !stop.is_cancelled() {
        let exit = timeout(EXIT_WAIT, child.handle.ended()).await;
        why = Some(match exit {
            Ok(Some(exit)) => format!("it {}", exit.how),
            _ => "it closed its output".to_owned(),
        });
    }
    let why = why.unwrap_or_else(|| "the bridge is shutting down".to_owned());
    // Before the calls fail, so that a client that retries at once learns when to.
    let delay = limits
        .restart_first
        .saturating_mul(1 << failures.min(16))
        .min(limits.restart_max);
    if !stop.is_cancelled() {
        shared.state.send_replace(ServerState::Down {
            why: why.clone(),
            until: Instant::now() + delay,
        });
    }
    let unanswered = shared.pending.lock().end(generation);
    for origin in unanswered {
        let text = format!(
            "The server ended before it answered ({why}). It is not known whether the call took effect."
        );
        let retry_after = Some(delay + Duration::from_secs(1));
        shared.answer(&origin, Unanswered::lost(text, retry_after));
    }
    child.handle.gone().await;
    why
}

/// `initialize` as the bridge itself (MCP, "Lifecycle"): no client capabilities.
async fn greet(shared: &SharedServer, child: &mut Child, generation: u64) -> Result<Live, String> {
    let params = format!(
        r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"portcullis","version":"{}"}}}}"#,
        Version::LATEST_SESSION,
        env!("CARGO_PKG_VERSION")
    );
    let ours = Id::Integer(0);
    let line = wire::request(&ours, "initialize", &params);
    if child.input.send(line).await.is_err() {
        return Err(unread(child).await);
    }
    while let Some(piece) = child.lines.recv().await {
        let parsed = match &piece {
            Piece::Line(line) => Some(envelope::parse(line)),
            Piece::TooLong { .. } => None,
        };
        let outcome = match parsed {
            Some(Ok(Message::Response(response))) if response.id.as_ref() == Some(&ours) => {
                response.outcome
            }
            Some(Ok(_)) => {
                take(shared, &child.input, &piece);
                continue;
            }
            refused => {
                let refusal = refused.and_then(Result::err);
                let broken = unreadable(&piece, refusal.as_ref(), 200);
                if broken.answers.contains(&ours) {
                    return Err(format!(
                        "its answer to `initialize` is unreadable: {}",
                        broken.why
                    ));
                }
                take(shared, &child.input, &piece);
                continue;
            }
        };
        let result = match outcome {
            Outcome::Result(result) => result,
            Outcome::Error(error) => {
                let said = printable(error.message.as_bytes(), 200);
                return Err(format!("it refused `initialize`: {said} ({})", error.code));
            }
        };
        let spoken = wire::text(Some(&result), "protocolVersion").unwrap_or_default();
        let Some(version) = version::of_child(&spoken) else {
            let spoken = printable(spoken.as_bytes(), 40);
            return Err(format!(
                "it speaks protocol version `{spoken}`, which the bridge does not know"
            ));
        };
        let (result, lists) = as_served(&result)
            .map_err(|fault| format!("its answer to `initialize` is not valid: {fault}"))?;
        let live = Live {
            input: child.input.clone(),
            generation,
            result,
            lists,
            version,
        };
        let line = wire::notification("notifications/initialized", None);
        if child.input.send(line).await.is_err() {
            return Err(unread(child).await);
        }
        return Ok(live);
    }
    Err(unanswered(child, "closed its output").await)
}

/// Why a child takes no line: its input ends with its output, whichever of them is noticed first.
async fn unread(child: &mut Child) -> String {
    let how = match child.lines.is_closed() {
        true => "closed its output",
        false => "does not read its input",
    };
    unanswered(child, how).await
}

/// Why a child has not answered `initialize`: how it exited, or what else happened.
async fn unanswered(child: &mut Child, otherwise: &str) -> String {
    let exit = timeout(FIRST_EXIT_WAIT, child.handle.ended()).await;
    let how = match &exit {
        Ok(Some(exit)) => &*exit.how,
        _ => otherwise,
    };
    format!("it {how} before it answered `initialize`")
}

/// The child's result as the bridge offers it, and the lists that it has. Lists can change whenever
/// the child is restarted, whatever it says itself, and tasks would be seen across sessions. Log
/// messages name no session, so no client gets them, and the answer does not say that it would.
fn as_served(result: &Object<'_>) -> Result<(String, Vec<&'static str>), envelope::Fault> {
    let offered = result.object("capabilities", keys::CAPABILITIES)?;
    let offered = offered.unwrap_or_default();
    let mut edits = Edits::new().remove("tasks").remove("logging");
    let mut lists = Vec::new();
    for list in ["tools", "prompts", "resources"] {
        if let Some(capability) = offered.object(list, &["listChanged", "subscribe"])? {
            let changing = Edits::new().set("listChanged", "true");
            edits = edits.set(list, capability.to_text(&changing));
            lists.push(list);
        }
    }
    let edits = Edits::new()
        .set("protocolVersion", format!("\"{VERSION_HERE}\""))
        .set("capabilities", offered.to_text(&edits));
    Ok((result.to_text(&edits), lists))
}

/// After a restart: the child knows nothing of the subscriptions, and its lists may differ.
async fn renew(shared: &SharedServer, live: &Live) {
    let uris = shared.subscribers.lock().uris();
    for uri in uris {
        shared.tell("resources/subscribe", &uri).await;
    }
    for list in &live.lists {
        spread(
            shared,
            wire::notification(&format!("notifications/{list}/list_changed"), None),
        );
    }
}

fn spread(shared: &SharedServer, text: Bytes) {
    for session in shared.sessions.lock().values() {
        session.deliver(text.clone());
    }
}

/// Handles one line of the child. Never waits: a reader that is too slow is left behind.
fn take(shared: &SharedServer, input: &Input, piece: &Piece) {
    let name = &shared.context.child.name;
    let refusal = match piece {
        Piece::Line(line) if line.iter().all(u8::is_ascii_whitespace) => return,
        Piece::Line(line) => match envelope::parse(line) {
            Ok(Message::Response(answer)) => return response(shared, &answer),
            Ok(Message::Notification(message)) => return notification(shared, &message),
            Ok(Message::Request(request)) => {
                let id = request.id.into_owned();
                let answer = if request.method == "ping" {
                    wire::result(&id, "{}")
                } else {
                    let why = "Method not found: the bridge has no client capabilities";
                    wire::error(Some(&id), code::METHOD, why, None)
                };
                if input.try_send(answer).is_err() {
                    tracing::debug!(server = %name, "no room to answer a request of the server");
                }
                return;
            }
            Err(refusal) => Some(refusal),
        },
        Piece::TooLong { .. } => None,
    };
    let broken = unreadable(piece, refusal.as_ref(), 200);
    if refusal.is_some()
        && let Some(withheld) = shared.context.child.chatter.garbage.passes()
    {
        tracing::warn!(server = %name, line = broken.excerpt, withheld, "server wrote a line that is not a valid message: {}", broken.why);
    }
    for id in &broken.answers {
        let waiting = ours(id).and_then(|ours| shared.pending.lock().take(ours));
        let Some(origin) = waiting else {
            continue;
        };
        let text = format!("The server's answer cannot be passed on: {}.", broken.why);
        shared.answer(&origin, Unanswered::lost(text, None));
    }
}

/// The bridge's own id of a call, which some servers turn into a text.
fn ours(id: &envelope::Id<'_>) -> Option<i64> {
    match id {
        envelope::Id::Integer(number) => Some(*number),
        envelope::Id::String(text) => match envelope::Id::from_json(text) {
            Some(envelope::Id::Integer(number)) => Some(number),
            _ => None,
        },
    }
}

fn response(shared: &SharedServer, answer: &envelope::Response<'_>) {
    let Some(ours) = answer.id.as_ref().and_then(ours) else {
        let name = &shared.context.child.name;
        tracing::debug!(server = %name, "server sent an answer that matches no request");
        return;
    };
    // One that is not there was cancelled, or its client has gone.
    let waiting = shared.pending.lock().take(ours);
    let Some(Origin::Client {
        session,
        id,
        reply,
        subscribes,
        ..
    }) = waiting
    else {
        return;
    };
    if let (Outcome::Error(_), Some(uri)) = (&answer.outcome, subscribes) {
        shared.unsubscribe(&session, &uri);
    }
    session.touch();
    reply.push(Event::Answer(answer.emit(&Edits::new().id(id)).into()));
}

fn notification(shared: &SharedServer, message: &Notification<'_>) {
    let name = &shared.context.child.name;
    let params = message.params.as_ref();
    match &*message.method {
        "notifications/progress" => {
            let Some(Id::Integer(ours)) = wire::id_member(params, "progressToken") else {
                return;
            };
            let pending = shared.pending.lock();
            if let Some(Origin::Client {
                token: Some(token),
                reply,
                session,
                ..
            }) = pending.get(ours)
            {
                session.touch();
                let text = message.emit(&Edits::new().set("progressToken", token.as_str()));
                reply.push(Event::Message(text.into()));
            }
        }
        "notifications/message" => {
            let Some(withheld) = shared.context.child.chatter.messages.passes() else {
                return;
            };
            let level = wire::text(params, "level").unwrap_or_default();
            let data = params.and_then(|params| params.get("data"));
            let data = data.map_or("", |data| data.raw);
            let cap = shared.context.limits.child.log_line_bytes;
            let (level, data) = (
                printable(level.as_bytes(), 20),
                printable(data.as_bytes(), cap),
            );
            tracing::info!(server = %name, level, withheld, "server says: {data}");
        }
        "notifications/tools/list_changed"
        | "notifications/prompts/list_changed"
        | "notifications/resources/list_changed" => {
            spread(shared, message.emit(&Edits::new()).into())
        }
        "notifications/resources/updated" => {
            let Some(uri) = wire::text(params, "uri") else {
                return;
            };
            let text = Bytes::from(message.emit(&Edits::new()));
            let subscribers = shared.subscribers.lock().to(&uri);
            let sessions = shared.sessions.lock();
            for id in subscribers {
                if let Some(session) = sessions.get(&id) {
                    session.deliver(text.clone());
                }
            }
        }
        other => {
            let method = printable(other.as_bytes(), 80);
            tracing::debug!(server = %name, method, "notification dropped");
        }
    }
}
