//! Sessions as the gateway knows them: nothing is kept but what the client's own token holds, sealed.
//!
//! Any replica with the same sealing keys opens it; another grant cannot. Only ended sessions are remembered, until their
//! tokens expire.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use jiff::Timestamp;

use super::Gateway;
use super::grants::Grant;
use super::upstream::Envelope;
use crate::protocol::envelope::Id;
use crate::protocol::seal::{self, Binding, Purpose};
use crate::protocol::version::Version;

/// A session's token opens for this long; then the client initializes again.
const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// A connection's token is opened again after this long, so that it does not outlive its expiry by more.
const OPEN_AGAIN: Duration = Duration::from_secs(30);
/// An event can be resumed from for this long.
const EVENT_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// A request of the server waits for the client's answer for this long.
const REQUEST_LIFE: Duration = Duration::from_secs(3_600);
/// As many ended sessions, and open requests of servers, are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 10_000;

/// Longer ids of requests of servers are not remembered.
const LONGEST_ID: usize = 256;

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// Its name in limits, conditions and logs: random, and no secret.
    pub id: String,
    /// What `initialize` settled on.
    pub version: Version,
    uuid: [u8; 16],
    upstream: Option<HeaderValue>,
}

/// The token does not open: unknown, expired, ended or another grant's, which is not told.
#[derive(Debug, thiserror::Error)]
#[error("no such session")]
pub struct NoSession;

impl Session {
    /// Opens the token of a request's `Mcp-Session-Id`.
    ///
    /// # Errors
    /// [`NoSession`].
    pub fn open(gateway: &Gateway, grant: &Grant, token: &str) -> Result<Session, NoSession> {
        let opened = gateway
            .sealer()
            .ok_or(NoSession)?
            .open_session(
                &gateway.uid,
                &grant.caller.grant,
                token,
                seconds(Timestamp::now()),
            )
            .map_err(|_| NoSession)?;
        let session = Session::from_sealed(opened).ok_or(NoSession)?;
        if gateway.ended.contains(&session.id) {
            Err(NoSession)
        } else {
            Ok(session)
        }
    }

    /// [`Session::open`] for a connection: the token that its last request named is not opened again for a while.
    ///
    /// # Errors
    /// [`NoSession`].
    pub fn reopen(
        gateway: &Gateway,
        grant: &Grant,
        token: &str,
        last: &LastSession,
    ) -> Result<Arc<Session>, NoSession> {
        let known = last.lock().as_ref().and_then(|last| {
            let same = last.token == token
                && last.server == gateway.uid
                && last.grant == grant.caller.grant
                && last.opened.elapsed() < OPEN_AGAIN;
            same.then(|| Arc::clone(&last.session))
        });
        match known {
            Some(session) if gateway.ended.contains(&session.id) => Err(NoSession),
            Some(session) => Ok(session),
            None => {
                let session = Arc::new(Session::open(gateway, grant, token)?);
                gateway.opened.touch(&grant.caller.grant, &session);
                *last.lock() = Some(Last {
                    token: token.to_owned(),
                    server: gateway.uid.clone(),
                    grant: grant.caller.grant.clone(),
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
        gateway: &Gateway,
        grant: &Grant,
        version: Version,
        upstream: Option<&HeaderValue>,
    ) -> Result<(Session, HeaderValue), String> {
        let upstream = upstream
            .map(|id| {
                id.to_str()
                    .map_err(|_| "the upstream's session id is not visible ASCII".to_owned())
            })
            .transpose()?;
        let sealer = gateway
            .sealer()
            .ok_or("the gateway has no policy in force")?;
        let sealed = sealer
            .new_session(version, upstream)
            .map_err(|error| error.to_string())?;
        let token = sealer
            .seal_session(
                &gateway.uid,
                &grant.caller.grant,
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

    fn binding<'a>(&'a self, gateway: &'a Gateway, grant: &'a Grant) -> Binding<'a> {
        Binding {
            server_uid: &gateway.uid,
            grant: &grant.caller.grant,
            session: &self.uuid,
            ..Binding::default()
        }
    }

    /// The upstream's event id, for the client.
    pub fn seal_event(&self, gateway: &Gateway, grant: &Grant, id: &str) -> Option<String> {
        let binding = self.binding(gateway, grant);
        gateway
            .sealer()?
            .seal_text(Purpose::Event, &binding, id, expiry(EVENT_LIFE))
            .ok()
    }

    /// The upstream's event id that a `Last-Event-ID` stands for.
    pub fn open_event(&self, gateway: &Gateway, grant: &Grant, token: &str) -> Option<HeaderValue> {
        let binding = self.binding(gateway, grant);
        let id = gateway
            .sealer()?
            .open_text(Purpose::Event, &binding, token, seconds(Timestamp::now()))
            .ok()?;
        HeaderValue::from_str(&id).ok()
    }

    /// The id of an upstream's request, for the client. The method goes along, so that an answer can be held to the
    /// policy of then.
    pub fn seal_request(
        &self,
        gateway: &Gateway,
        grant: &Grant,
        method: &str,
        id: &str,
    ) -> Option<String> {
        let binding = self.binding(gateway, grant);
        let value = format!("{method} {id}");
        gateway
            .sealer()?
            .seal_text(
                Purpose::ServerRequest,
                &binding,
                &value,
                expiry(REQUEST_LIFE),
            )
            .ok()
    }

    /// The method and id of the upstream's request that a client answers.
    pub fn open_request(
        &self,
        gateway: &Gateway,
        grant: &Grant,
        token: &Id<'_>,
    ) -> Option<(String, Id<'static>)> {
        let Id::String(token) = token else {
            return None;
        };
        let binding = self.binding(gateway, grant);
        let value = gateway
            .sealer()?
            .open_text(
                Purpose::ServerRequest,
                &binding,
                token,
                seconds(Timestamp::now()),
            )
            .ok()?;
        let (method, id) = value.split_once(' ')?;
        Some((method.to_owned(), Id::from_json(id)?.into_owned()))
    }
}

/// The session that the last request of a connection named: most connections carry one session only.
#[derive(Default)]
pub struct LastSession(Mutex<Option<Last>>);

struct Last {
    token: String,
    server: String,
    grant: String,
    session: Arc<Session>,
    opened: Instant,
}

impl LastSession {
    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

fn expiry(life: Duration) -> u64 {
    seconds(Timestamp::now()) + life.as_secs()
}

/// A bounded memory of keys and values: the oldest leave first.
pub struct Remembered<V> {
    inner: Mutex<(HashMap<String, V>, VecDeque<String>)>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Remembered {
            inner: Mutex::default(),
        }
    }
}

impl<V: Clone> Remembered<V> {
    fn lock(&self) -> MutexGuard<'_, (HashMap<String, V>, VecDeque<String>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a key; false if it was remembered before.
    pub fn insert(&self, key: String, value: V) -> bool {
        let mut guard = self.lock();
        let (map, order) = &mut *guard;
        let fresh = map.insert(key.clone(), value).is_none();
        if fresh {
            order.push_back(key);
        }
        while order.len() > REMEMBERED {
            if let Some(oldest) = order.pop_front() {
                map.remove(&oldest);
            }
        }
        fresh
    }

    /// Whether the key is remembered.
    pub fn contains(&self, key: &str) -> bool {
        let inner = self.lock();
        !inner.0.is_empty() && inner.0.contains_key(key)
    }

    /// What is remembered under the key.
    pub fn get(&self, key: &str) -> Option<V> {
        self.lock().0.get(key).cloned()
    }
}

/// The sealed ids of requests that upstreams have sent to clients, so that an upstream can cancel its own.
#[derive(Default)]
pub struct ServerRequests(Remembered<String>);

impl ServerRequests {
    /// Remembers what the client knows the request as. `raw` is the upstream's id as JSON.
    pub fn remember(&self, session: &str, raw: &str, sealed: &str) {
        // Ids are chosen by the upstream, and many are remembered; one that is so long cannot be cancelled by it.
        if raw.len() > LONGEST_ID {
            return;
        }
        self.0.insert(format!("{session} {raw}"), sealed.to_owned());
    }

    /// What the client knows the request as.
    pub fn sealed(&self, session: &str, raw: &str) -> Option<String> {
        self.0.get(&format!("{session} {raw}"))
    }
}
