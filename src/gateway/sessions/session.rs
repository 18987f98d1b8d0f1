//! Sessions as the gateway knows them: nothing is kept but what the client's own token holds,
//! sealed.
//!
//! Any replica with the same sealing keys opens it; another grant cannot. Only ended sessions are
//! remembered, until their tokens expire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use super::ClientSessions;
use super::remembered::Remembered;
use crate::gateway::enforce::request_ids::SessionKey;
use crate::gateway::grants::Grant;
use crate::gateway::permit::Envelope;
use crate::protocol::declared::Declared;
use crate::protocol::envelope::Id;
use crate::protocol::seal::{self, Binding, Purpose};
use crate::protocol::version::Version;

/// A session's token opens for this long; then the client initializes again.
const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// A connection's token is opened again after this long, so that it does not outlive its expiry by
/// more.
const OPEN_AGAIN: Duration = Duration::from_secs(30);
/// An event can be resumed from for this long.
const EVENT_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// A request of the server waits for the client's answer for this long.
const REQUEST_LIFE: Duration = Duration::from_secs(3_600);
/// Longer ids of requests of servers are not remembered.
const LONGEST_ID: usize = 256;

/// Longer session ids of upstreams are not kept.
const LONGEST_UPSTREAM_ID: usize = 1 << 10;

/// A request whose stream is resumed: its ids at the upstream and at the client.
pub type Resumed = (Id<'static>, Id<'static>);

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// Its name in limits, conditions and logs: random, and no secret.
    pub id: String,
    /// What `initialize` settled on.
    pub version: Version,
    /// What the client declared in `initialize`.
    pub declared: Declared,
    uuid: [u8; 16],
    upstream: Option<HeaderValue>,
}

/// The token does not open: unknown, expired, ended or another grant's, which is not told.
#[derive(Debug, thiserror::Error)]
#[error("no such session")]
pub struct NoSession;

impl Session {
    /// Whether the upstream keeps a session of its own for this one.
    pub fn is_upstreams(&self) -> bool {
        self.upstream.is_some()
    }

    /// The upstream's session that it stands for.
    pub fn upstream(&self) -> Option<&HeaderValue> {
        self.upstream.as_ref()
    }

    /// The same over a session that the upstream has opened in the place of the one that it does
    /// not know any more. None where that has no id that can be kept.
    pub fn succeeded_by(&self, upstream: HeaderValue) -> Option<Session> {
        let kept = upstream.to_str().is_ok() && upstream.len() <= LONGEST_UPSTREAM_ID;
        kept.then(|| self.over(upstream))
    }

    /// The same with another session at the upstream.
    pub fn over(&self, upstream: HeaderValue) -> Session {
        Session {
            id: self.id.clone(),
            version: self.version,
            declared: self.declared,
            uuid: self.uuid,
            upstream: Some(upstream),
        }
    }

    /// Opens the token of a request's `Mcp-Session-Id`.
    ///
    /// # Errors
    /// [`NoSession`].
    pub fn open(
        sessions: &ClientSessions,
        grant: &Grant,
        token: &str,
    ) -> Result<Session, NoSession> {
        let opened = sessions
            .sealer()
            .ok_or(NoSession)?
            .open_session(
                &sessions.server_uid,
                grant.bound(),
                token,
                seconds(Timestamp::now()),
            )
            .map_err(|_| NoSession)?;
        let session = Session::from_sealed(opened).ok_or(NoSession)?;
        if sessions.ended.contains(&session.id) {
            return Err(NoSession);
        }
        // The token holds the upstream's session that it began with.
        let now = sessions.renewals.of(&session.id);
        match now.and_then(|renewable| renewable.now()) {
            Some(now) => Ok(session.over(now)),
            None => Ok(session),
        }
    }

    /// [`Session::open`] for a connection: the token that its last request named is not opened
    /// again for a while.
    ///
    /// # Errors
    /// [`NoSession`].
    pub fn reopen(
        sessions: &ClientSessions,
        grant: &Grant,
        token: &str,
        last: &LastSession,
    ) -> Result<Arc<Session>, NoSession> {
        let renewed = sessions.renewals.count();
        let known = last.lock().as_ref().and_then(|last| {
            let same = last.token == token
                && last.server == sessions.server_uid
                && last.grant == grant.bound()
                && last.renewed == renewed
                && last.opened.elapsed() < OPEN_AGAIN;
            same.then(|| Arc::clone(&last.session))
        });
        match known {
            Some(session) if sessions.ended.contains(&session.id) => Err(NoSession),
            Some(session) => Ok(session),
            None => {
                let session = Arc::new(Session::open(sessions, grant, token)?);
                sessions.open.touch(&grant.caller.grant, &session);
                *last.lock() = Some(Last {
                    token: token.to_owned(),
                    server: sessions.server_uid.clone(),
                    grant: grant.bound().to_owned(),
                    renewed,
                    session: Arc::clone(&session),
                    opened: Instant::now(),
                });
                Ok(session)
            }
        }
    }

    /// Starts a session over the upstream's; returns it with the token for the client.
    ///
    /// # Errors
    /// When it cannot be sealed: the upstream's id is too long, or the system has no random bytes.
    pub fn start(
        sessions: &ClientSessions,
        grant: &Grant,
        version: Version,
        declared: Declared,
        upstream: Option<&HeaderValue>,
    ) -> Result<(Session, HeaderValue), String> {
        let upstream = upstream
            .map(|id| {
                id.to_str()
                    .map_err(|_| "the upstream's session id is not visible ASCII".to_owned())
            })
            .transpose()?;
        let sealer = sessions
            .sealer()
            .ok_or("the gateway has no policy in force")?;
        let sealed = sealer
            .new_session(version, declared, upstream)
            .map_err(|error| error.to_string())?;
        let token = sealer
            .seal_session(
                &sessions.server_uid,
                grant.bound(),
                &sealed,
                expiry(SESSION_LIFE),
            )
            .map_err(|error| error.to_string())?;
        let token = HeaderValue::from_str(&token).map_err(|error| error.to_string())?;
        let session =
            Session::from_sealed(sealed).ok_or("the upstream's session id cannot be a header")?;
        Ok((session, token))
    }

    fn from_sealed(sealed: seal::Session) -> Option<Session> {
        let upstream = match sealed.upstream {
            Some(id) => Some(HeaderValue::from_str(&id).ok()?),
            None => None,
        };
        Some(Session {
            id: uuid::Uuid::from_bytes(sealed.uuid).to_string(),
            version: sealed.version,
            declared: sealed.declared,
            uuid: sealed.uuid,
            upstream,
        })
    }

    /// What identifies the session to the upstream.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            session: self.upstream.clone(),
            version: self
                .version
                .has_header()
                .then(|| HeaderValue::from_static(self.version.as_str())),
            ..Envelope::default()
        }
    }

    fn binding<'a>(&'a self, sessions: &'a ClientSessions, grant: &'a Grant) -> Binding<'a> {
        Binding {
            server_uid: &sessions.server_uid,
            grant: grant.bound(),
            session: &self.uuid,
            ..Binding::default()
        }
    }

    /// The session as a key.
    pub fn key(&self) -> SessionKey {
        self.uuid
    }

    /// The upstream's event id, for the client. Where its stream answers a request, that goes along
    /// (as its ids at the upstream and at the client): only its answer may come on a stream that
    /// continues from there.
    pub fn seal_event(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        id: &str,
        answers: Option<(&Id<'_>, &Id<'_>)>,
    ) -> Option<String> {
        let binding = self.binding(sessions, grant);
        // JSON on one line has no line feed, and neither has an event id.
        let value = match answers {
            Some((upstream, client)) => {
                format!("{}\n{}\n{id}", upstream.to_json(), client.to_json())
            }
            None => format!("\n\n{id}"),
        };
        sessions
            .sealer()?
            .seal_text(Purpose::Event, &binding, &value, expiry(EVENT_LIFE))
            .ok()
    }

    /// The upstream's event id that a `Last-Event-ID` stands for, and the request that its stream
    /// answers.
    pub fn open_event(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        token: &str,
    ) -> Option<(HeaderValue, Option<Resumed>)> {
        let binding = self.binding(sessions, grant);
        let value = sessions
            .sealer()?
            .open_text(Purpose::Event, &binding, token, seconds(Timestamp::now()))
            .ok()?;
        let mut parts = value.splitn(3, '\n');
        let (upstream, client, id) = (parts.next()?, parts.next()?, parts.next()?);
        let owned = |raw| Id::from_json(raw).map(Id::into_owned);
        let answers = owned(upstream).zip(owned(client));
        Some((HeaderValue::from_str(id).ok()?, answers))
    }

    /// The upstream's cursor, for the client. Servers write the names of what they list last into
    /// it.
    pub fn seal_cursor(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        cursor: &str,
    ) -> Option<String> {
        let binding = self.binding(sessions, grant);
        sessions
            .sealer()?
            .seal_text(Purpose::Cursor, &binding, cursor, expiry(EVENT_LIFE))
            .ok()
    }

    /// The upstream's cursor that a client's stands for.
    pub fn open_cursor(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        token: &str,
    ) -> Option<String> {
        let binding = self.binding(sessions, grant);
        sessions
            .sealer()?
            .open_text(Purpose::Cursor, &binding, token, seconds(Timestamp::now()))
            .ok()
    }

    /// The id of an upstream's request, for the client. The method goes along, so that an answer
    /// can be held to the policy at that time.
    pub fn seal_request(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        method: &str,
        id: &str,
    ) -> Option<String> {
        let binding = self.binding(sessions, grant);
        let value = format!("{} {method} {id}", self.upstreams_name());
        sessions
            .sealer()?
            .seal_text(
                Purpose::ServerRequest,
                &binding,
                &value,
                expiry(REQUEST_LIFE),
            )
            .ok()
    }

    /// Tells the upstream's sessions apart that one session has one after the other.
    fn upstreams_name(&self) -> String {
        let id = self
            .upstream
            .as_ref()
            .map_or(&[][..], HeaderValue::as_bytes);
        let digest = ring::digest::digest(&ring::digest::SHA256, id);
        hex::encode(&digest.as_ref()[..8])
    }

    /// The method and id of the upstream's request that a client answers, for the first time.
    pub fn open_request(
        &self,
        sessions: &ClientSessions,
        grant: &Grant,
        token: &Id<'_>,
    ) -> Option<(String, Id<'static>)> {
        let Id::String(token) = token else {
            return None;
        };
        let binding = self.binding(sessions, grant);
        let value = sessions
            .sealer()?
            .open_text(
                Purpose::ServerRequest,
                &binding,
                token,
                seconds(Timestamp::now()),
            )
            .ok()?;
        let (asked_in, question) = value.split_once(' ')?;
        // A server that has forgotten the session may ask something else under the same id.
        if asked_in != self.upstreams_name() {
            return None;
        }
        let (method, id) = question.split_once(' ')?;
        let id = Id::from_json(id)?.into_owned();
        sessions
            .requests
            .answer(&grant.caller.grant, &self.id, &id, token)
            .then(|| (method.to_owned(), id))
    }
}

/// The session that the last request of a connection named: most connections carry one session
/// only.
#[derive(Default)]
pub struct LastSession(Mutex<Option<Last>>);

struct Last {
    token: String,
    server: String,
    grant: String,
    /// How many sessions had been renewed then: another renewal may have been of this one.
    renewed: u64,
    session: Arc<Session>,
    opened: Instant,
}

impl LastSession {
    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        self.0.lock()
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

fn expiry(life: Duration) -> u64 {
    seconds(Timestamp::now()) + life.as_secs()
}

/// Requests that upstreams have sent to clients: an upstream can cancel its own, and a client can
/// answer each once.
#[derive(Default)]
pub struct ServerRequests {
    /// Their sealed ids, by session and the upstream's id as JSON, until they are answered or
    /// cancelled.
    open: Remembered<String>,
    /// The ends of the sealed ids of those that were answered. They end in a tag of their own.
    answered: Remembered<()>,
}

impl ServerRequests {
    /// Remembers what the client knows the request as.
    pub fn remember(&self, grant: &str, session: &str, id: &Id<'_>, sealed: &str) {
        let raw = id.to_json();
        // Ids are chosen by the upstream, and many are remembered; one of this length cannot be
        // cancelled by it.
        if raw.len() > LONGEST_ID {
            return;
        }
        self.open
            .insert(grant, format!("{session} {raw}"), sealed.to_owned());
    }

    /// The upstream cancels its request of that very id: what the client knows it as, if it is
    /// open.
    pub fn cancel(&self, session: &str, id: &Id<'_>) -> Option<String> {
        self.open.remove(&format!("{session} {}", id.to_json()))
    }

    /// The client answers the request of that id, which it knows as `sealed`; false if it has done
    /// so before.
    fn answer(&self, grant: &str, session: &str, id: &Id<'_>, sealed: &str) -> bool {
        self.cancel(session, id);
        let tag = sealed.len().saturating_sub(TAG_CHARS);
        let end = sealed.get(tag..).unwrap_or(sealed);
        self.answered.insert(grant, end.to_owned(), ())
    }
}

/// Characters of a token's end that hold its whole tag.
const TAG_CHARS: usize = 24;
