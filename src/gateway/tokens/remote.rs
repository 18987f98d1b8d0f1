//! The keys of an issuer behind a URL: fetched, refreshed, and kept for a while when the issuer is
//! away.
//!
//! In: the URL, a CA. Out: the newest key set. A token with an unknown key makes the set be fetched
//! once more, at most every [`REFETCH_PAUSE`] however many ask. Must not do: follow redirects, send
//! a credential, or use a set for longer than [`KEPT_WITHOUT_ANSWER`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, CACHE_CONTROL};
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::keys::{KeySet, MAX_KEY_SET_BYTES};
use crate::gateway::body::read;
use crate::gateway::upstream::HttpUpstream;

/// Sets are refreshed this often, unless the issuer says how long they are valid.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Whatever the issuer says, a set is refreshed within these bounds.
const REFRESH_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// After a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// The pause between two fetches on behalf of tokens with unknown keys.
const REFETCH_PAUSE: Duration = Duration::from_secs(30);
/// The last set is used for this long while the issuer does not answer.
pub const KEPT_WITHOUT_ANSWER: Duration = Duration::from_secs(24 * 60 * 60);
/// For one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Keys behind a URL.
pub struct RemoteKeys {
    client: HttpUpstream,
    /// What logs call it.
    url: String,
    state: RwLock<Fetched>,
    /// Held while a set is fetched; the moment of the last fetch for a token with an unknown key.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

impl std::fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteKeys")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Fetched {
    keys: Option<Arc<KeySet>>,
    /// When the issuer answered last.
    answered: Option<Timestamp>,
    /// Why the last fetch failed.
    error: Option<String>,
    /// How many fetches have ended, well or not.
    fetches: u64,
}

impl RemoteKeys {
    /// Nothing is fetched before [`RemoteKeys::keep`] or [`RemoteKeys::refetch`].
    ///
    /// # Errors
    /// Says what is wrong with the URL or the CA.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Arc<Self>, String> {
        let client = HttpUpstream::aside(url, ca)?;
        // Queries hold tokens.
        let shown = url.split(['?', '#']).next().unwrap_or_default();
        Ok(Arc::new(RemoteKeys {
            client,
            url: shown.to_owned(),
            state: RwLock::default(),
            fetching: tokio::sync::Mutex::new(None),
        }))
    }

    /// Fetches now, and from then on until the keys are no longer used by anyone.
    pub fn keep(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(remote) = weak.upgrade() else { return };
                let wait = {
                    let _fetching = remote.fetching.lock().await;
                    remote.fetch().await
                };
                drop(remote);
                tokio::time::sleep(wait).await;
            }
        });
    }

    /// The newest keys, unless the issuer has not answered for [`KEPT_WITHOUT_ANSWER`].
    pub(super) fn current(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let state = self.state.read();
        let age = now.duration_since(state.answered?);
        let kept = SignedDuration::try_from(KEPT_WITHOUT_ANSWER).ok()?;
        (age <= kept).then(|| state.keys.clone()).flatten()
    }

    /// Why the last fetch failed, in words.
    pub fn error(&self) -> Option<String> {
        self.state.read().error.clone()
    }

    /// Fetches once more on behalf of a token with an unknown key, unless that was done a moment
    /// ago; others who ask meanwhile wait for the same fetch.
    pub async fn refetch(&self) {
        let seen = self.state.read().fetches;
        let mut last = self.fetching.lock().await;
        if self.state.read().fetches != seen {
            // Fetched while this one waited, such as the first time: the token is judged by those
            // keys.
            return;
        }
        if last.is_some_and(|last| last.elapsed() < REFETCH_PAUSE) {
            return;
        }
        self.fetch().await;
        // The very first fetch is due in any case, and leaves a rotation right after it to be
        // noticed.
        if seen > 0 {
            *last = Some(Instant::now());
        }
    }

    /// Fetches the set; returns how long until the next fetch.
    async fn fetch(&self) -> Duration {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.get())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())));
        let mut state = self.state.write();
        state.fetches += 1;
        match fetched {
            Ok((body, lifetime)) => match KeySet::parse(&body) {
                Ok(keys) => {
                    if state.error.take().is_some() {
                        tracing::info!(url = self.url, "the issuer's keys are fetched again");
                    }
                    // The same set stays, so that tokens are not verified again for it.
                    if state
                        .keys
                        .as_ref()
                        .is_none_or(|known| !known.is_from(&body))
                    {
                        state.keys = Some(Arc::new(keys));
                    }
                    state.answered = Some(Timestamp::now());
                    return lifetime
                        .unwrap_or(REFRESH_INTERVAL)
                        .clamp(REFRESH_BOUNDS.0, REFRESH_BOUNDS.1);
                }
                Err(why) => state.failed(&self.url, why),
            },
            Err(why) => state.failed(&self.url, why),
        }
        RETRY_INTERVAL
    }

    async fn get(&self) -> Result<(Bytes, Option<Duration>), String> {
        let request = Request::get("/")
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .body(Bytes::new())
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .send(request)
            .await
            .map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("it answered HTTP {}", response.status()));
        }
        let lifetime = response
            .headers()
            .get(CACHE_CONTROL)
            .and_then(|value| max_age(value.to_str().ok()?));
        let body = read(
            response.into_body(),
            MAX_KEY_SET_BYTES,
            FETCH_TIMEOUT,
            FETCH_TIMEOUT,
        );
        Ok((body.await.map_err(|error| error.to_string())?, lifetime))
    }
}

impl Fetched {
    fn failed(&mut self, url: &str, why: String) {
        tracing::warn!(
            url,
            why,
            "the issuer's keys could not be fetched; the last ones are used for a day, and new tokens of other keys are refused"
        );
        self.error = Some(why);
    }
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1).
fn max_age(value: &str) -> Option<Duration> {
    let seconds = value.split(',').find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("max-age")
            .then(|| seconds.trim().trim_matches('"').parse().ok())?
    });
    seconds.map(Duration::from_secs)
}
