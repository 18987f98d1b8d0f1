//! The connection to a Redis or Valkey server: made, watched and made again.
//!
//! In: an address. Out: a connection that many calls use at once, or why there is none. A call
//! never waits longer than [`ANSWER_TIMEOUT`] for an answer, and not at all while the server is
//! known to be away. Must not do: send anything twice.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::address::Address;

/// For connecting, TLS and AUTH included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to connect; it doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An idle connection is tried this often.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What is known of the connection.
#[derive(Clone)]
enum LinkState {
    Connecting,
    Up(MultiplexedConnection),
    Down(Arc<str>),
}

/// A connection.
pub struct RedisLink {
    /// The host and port.
    server: String,
    state: watch::Sender<LinkState>,
    broken: Notify,
}

impl RedisLink {
    /// Connects, and again whenever the connection breaks, as long as the link is used.
    pub fn open(address: Address) -> Arc<RedisLink> {
        let link = Arc::new(RedisLink {
            server: address.shown(),
            state: watch::Sender::new(LinkState::Connecting),
            broken: Notify::new(),
        });
        tokio::spawn(keep(Arc::downgrade(&link), address));
        link
    }

    /// One that cannot be made.
    pub fn unusable(why: &str) -> Arc<RedisLink> {
        Arc::new(RedisLink {
            server: String::new(),
            state: watch::Sender::new(LinkState::Down(Arc::from(why))),
            broken: Notify::new(),
        })
    }

    /// The connection. Only the first attempt to connect is waited for.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connection(&self) -> Result<MultiplexedConnection, Arc<str>> {
        let mut state = self.state.subscribe();
        let tried = |state: &LinkState| !matches!(state, LinkState::Connecting);
        let found = match timeout(CONNECT_TIMEOUT, state.wait_for(tried)).await {
            Ok(Ok(found)) => found.clone(),
            Ok(Err(_)) | Err(_) => return Err(Arc::from("there is no connection yet")),
        };
        match found {
            LinkState::Up(connection) => Ok(connection),
            LinkState::Down(why) => Err(why),
            LinkState::Connecting => Err(Arc::from("there is no connection yet")),
        }
    }

    /// A call found the connection unusable: it is made again.
    pub fn failed(&self, why: &str) {
        self.state.send_if_modified(|state| {
            let was_up = matches!(state, LinkState::Up(_));
            if was_up {
                let why = unusable(&self.server, why);
                tracing::error!("limits cannot be counted: {why}");
                *state = LinkState::Down(Arc::from(why));
            }
            was_up
        });
        self.broken.notify_one();
    }

    /// Why there is no connection.
    pub fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            LinkState::Down(why) => Some(why.to_string()),
            LinkState::Up(_) | LinkState::Connecting => None,
        }
    }
}

async fn keep(link: Weak<RedisLink>, address: Address) {
    let mut pause = RETRY.0;
    loop {
        let made = match timeout(CONNECT_TIMEOUT, connect(&address)).await {
            Ok(made) => made,
            Err(_) => Err(format!(
                "it did not answer within {} s",
                CONNECT_TIMEOUT.as_secs()
            )),
        };
        let Some(kept) = link.upgrade() else { return };
        match made {
            Ok(connection) => {
                if kept.trouble().is_some() {
                    tracing::info!("limits are counted again");
                }
                pause = RETRY.0;
                kept.state.send_replace(LinkState::Up(connection.clone()));
                drop(kept);
                watch_over(&link, connection).await;
            }
            Err(why) => {
                let why = unusable(&kept.server, &why);
                if kept.trouble().as_ref() != Some(&why) {
                    tracing::error!("limits cannot be counted: {why}");
                }
                kept.state.send_replace(LinkState::Down(Arc::from(why)));
                drop(kept);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// Returns when the connection is unusable, or no longer wanted.
async fn watch_over(link: &Weak<RedisLink>, mut connection: MultiplexedConnection) {
    loop {
        let Some(kept) = link.upgrade() else { return };
        let woken = timeout(PING_INTERVAL, kept.broken.notified()).await;
        if woken.is_ok() {
            return;
        }
        drop(kept);
        if let Err(why) = ping(&mut connection).await {
            if let Some(kept) = link.upgrade() {
                kept.failed(&why);
            }
            return;
        }
    }
}

async fn connect(address: &Address) -> Result<MultiplexedConnection, String> {
    let stream = address.connect().await.map_err(|error| error.to_string())?;
    // Time-outs are ours.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(&address.login, stream, config).await;
    let (mut connection, driver) = made.map_err(|error| in_words(&error))?;
    tokio::spawn(driver);
    ping(&mut connection).await?;
    Ok(connection)
}

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let ping = redis::cmd("PING");
    match timeout(ANSWER_TIMEOUT, ping.query_async::<String>(connection)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(in_words(&error)),
        Err(_) => Err(format!(
            "it did not answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        )),
    }
}

fn unusable(server: &str, why: &str) -> String {
    format!("the Redis server at {server} cannot be used: {why}")
}

/// What went wrong, for people.
pub fn in_words(error: &redis::RedisError) -> String {
    match error.code() {
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            "it refuses the user or password of the URL".to_owned()
        }
        Some("NOAUTH" | "WRONGPASS") => {
            "it refuses the user or password of the URL".to_owned()
        }
        Some("NOPERM") => {
            "its user may not do what is needed: allow EVALSHA, SCRIPT LOAD, TIME, and hashes and sorted sets below portcullis:*"
                .to_owned()
        }
        Some("READONLY" | "MASTERDOWN") => "it is a replica; name the primary".to_owned(),
        Some("MOVED" | "ASK" | "CLUSTERDOWN") => {
            "it is a node of a cluster that has these keys elsewhere; name the node that has them, or a proxy".to_owned()
        }
        Some("LOADING") => "it is still loading its data".to_owned(),
        Some("OOM") => "its memory is full".to_owned(),
        Some("MISCONF") => "it cannot write its data to the disk".to_owned(),
        _ => error.to_string(),
    }
}
