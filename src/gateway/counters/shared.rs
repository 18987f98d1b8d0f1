//! Counters in a Redis or Valkey server, which several gateways share.
//!
//! In: the charges of a call. Out: a reservation of all of them, or why there is none. One script
//! decides and counts, in one round trip, by that server's time; keys are hashes, and those of one
//! McpServer are on one node of a cluster. Must not do: repeat a request whose answer was lost, or
//! hold up a call for longer than a time-out.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Script;
use tokio::time::timeout;

use self::address::Address;
use self::link::{ANSWER_TIMEOUT, RedisLink, in_words};
use self::use_seen::UseSeen;
use super::bounds::{MAX_GRANT_CALLS, MAX_GRANT_KEYS};
use super::exhausted::{Cause, Exhausted};
use super::table::{hash, owner};
use crate::policy::decision::{Charge, RuleId};
use crate::policy::limit::Refused;

mod address;
mod link;
mod use_seen;

/// A call that could not be counted may be repeated after this time.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared/take.lua")));
static RETURN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared/return.lua")));

/// Counters of one McpServer.
pub struct SharedCounters {
    link: Arc<RedisLink>,
    /// What all keys begin with: braces make a cluster keep them together.
    prefix: String,
    /// Calls pass uncounted while the server is away.
    pass_uncounted: bool,
    /// Why the last call was not counted although there is a connection.
    complaint: Mutex<Option<String>>,
    seen: Mutex<UseSeen>,
}

/// Units that were taken there.
#[derive(Debug, Default)]
#[must_use = "units that are not given back stay used"]
pub struct SharedReservation {
    /// Keys, windows in microseconds, times and units.
    taken: Vec<(String, u64, String, u64)>,
}

/// What was taken, and the first rule in the shadow that would have refused.
pub type SharedTaken = (SharedReservation, Option<Arc<RuleId>>);

impl SharedCounters {
    /// Those of the server with this UID, at the URL.
    pub fn connect(uid: &str, url: &[u8], ca: Option<&[u8]>, pass_uncounted: bool) -> Self {
        let link = match Address::parse(url, ca) {
            Ok(address) => RedisLink::open(address),
            Err(why) => {
                let why = format!("spec.counters.redis.urlSecretRef: {why}");
                tracing::error!("limits cannot be counted: {why}");
                RedisLink::unusable(&why)
            }
        };
        SharedCounters {
            link,
            prefix: format!("portcullis:{{{uid}}}:"),
            pass_uncounted,
            complaint: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Takes the units of all charges that are enforced, or of none; then those in the shadow.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub async fn reserve(&self, grant: &str, charges: &[Charge]) -> Result<SharedTaken, Exhausted> {
        self.run(grant, charges, true).await
    }

    /// Whether [`Self::reserve`] would succeed now.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub async fn look(&self, grant: &str, charges: &[Charge]) -> Result<(), Exhausted> {
        self.run(grant, charges, false).await.map(drop)
    }

    async fn run(
        &self,
        grant: &str,
        charges: &[Charge],
        takes: bool,
    ) -> Result<SharedTaken, Exhausted> {
        if charges.is_empty() {
            return Ok(SharedTaken::default());
        }
        let keys: Vec<String> = charges.iter().map(|charge| self.key(charge)).collect();
        match self.ask(grant, charges, &keys, takes).await {
            Ok(answer) => self.read(charges, keys, &answer),
            Err(why) => {
                tracing::debug!("limits were not counted: {why}");
                let enforced = charges.iter().find(|charge| charge.enforced());
                match enforced {
                    Some(charge) if !self.pass_uncounted => {
                        let cause = Cause::Unavailable(UNAVAILABLE_RETRY);
                        Err(Exhausted::of(charge, cause))
                    }
                    _ => Ok(SharedTaken::default()),
                }
            }
        }
    }

    async fn ask(
        &self,
        grant: &str,
        charges: &[Charge],
        keys: &[String],
        takes: bool,
    ) -> Result<Vec<String>, String> {
        let mut connection = self
            .link
            .connection()
            .await
            .map_err(|why| why.to_string())?;
        let owner = hex::encode(owner(grant));
        let (all, calls) = (
            format!("{}{owner}:keys", self.prefix),
            format!("{}{owner}:calls", self.prefix),
        );
        let mut script = TAKE.prepare_invoke();
        script.arg(u8::from(takes));
        script.arg(MAX_GRANT_KEYS).arg(MAX_GRANT_CALLS);
        for (charge, key) in charges.iter().zip(keys) {
            script.key(key).key(&all).key(&calls);
            script
                .arg(charge.counter.max)
                .arg(micros(charge))
                .arg(charge.cost);
            script.arg(u8::from(charge.enforced()));
            script.arg(u8::from(!charge.value.is_empty()));
            script.arg(u8::from(charge.counts_calls()));
        }
        let sent = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, script.invoke_async(&mut connection)).await;
        // A process that was stopped meanwhile has an answer that is old.
        let late = sent.elapsed() > ANSWER_TIMEOUT;
        let why = match answer {
            Ok(Ok(answer)) if !late => {
                let mut complaint = self.complaint.lock();
                if complaint.take().is_some() {
                    tracing::info!("limits are counted again");
                }
                return Ok(answer);
            }
            Ok(Err(error)) => {
                let why = in_words(&error);
                // After an error as an answer the connection is still good, unless another server
                // would answer otherwise.
                let elsewhere = matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING"));
                if error.code().is_some() && !elsewhere {
                    let why = format!("the Redis server cannot count: {why}");
                    let mut complaint = self.complaint.lock();
                    if complaint.as_ref() != Some(&why) {
                        tracing::error!("limits cannot be counted: {why}");
                    }
                    *complaint = Some(why.clone());
                    return Err(why);
                }
                why
            }
            Ok(Ok(_)) | Err(_) => {
                format!("it did not answer within {} s", ANSWER_TIMEOUT.as_secs())
            }
        };
        self.link.failed(&why);
        Err(why)
    }

    /// The use of the fullest key of each counter, by policy (`namespace/name`) and counter name:
    /// of the keys that this gateway counted within their windows.
    pub fn ratios(&self) -> HashMap<(String, String), f64> {
        self.seen.lock().ratios(Instant::now())
    }

    /// Notes the units in use, which an answer has behind `others`.
    fn note(&self, charges: &[Charge], keys: &[String], answer: &[String], others: usize) {
        let now = Instant::now();
        let used = answer.iter().skip(others);
        let mut seen = self.seen.lock();
        for ((charge, key), used) in charges.iter().zip(keys).zip(used) {
            if let Ok(used) = used.parse() {
                seen.note(&charge.counter, key, used, now);
            }
        }
    }

    fn read(
        &self,
        charges: &[Charge],
        keys: Vec<String>,
        answer: &[String],
    ) -> Result<SharedTaken, Exhausted> {
        let number = |at: usize| answer.get(at).and_then(|text| text.parse::<i64>().ok());
        let unreadable =
            |charge: &Charge| Exhausted::of(charge, Cause::Unavailable(UNAVAILABLE_RETRY));
        let named = || {
            let at = usize::try_from(number(1)?).ok()?;
            charges.get(at.checked_sub(1)?)
        };
        match (number(0), charges.first()) {
            (Some(0), _) => {}
            (Some(1), Some(first)) => {
                self.note(charges, &keys, answer, 3);
                let refused = match number(2) {
                    Some(-1) => Refused::Always,
                    left => {
                        let micros = u64::try_from(left.unwrap_or_default()).unwrap_or_default();
                        Refused::For(Duration::from_micros(micros))
                    }
                };
                let charge = named().unwrap_or(first);
                return Err(Exhausted::of(charge, Cause::Used(refused)));
            }
            (Some(2), Some(first)) => {
                return Err(Exhausted::of(named().unwrap_or(first), Cause::Capacity));
            }
            (_, Some(first)) => return Err(unreadable(first)),
            (_, None) => {}
        }
        self.note(charges, &keys, answer, 1 + charges.len());
        let (mut taken, mut shadow) = (Vec::with_capacity(charges.len()), None);
        for ((charge, key), at) in charges.iter().zip(keys).zip(&answer[1..]) {
            if at != "0" {
                taken.push((key, micros(charge), at.clone(), charge.cost));
            } else if !charge.enforced() {
                let by = Some(Arc::clone(&charge.by));
                shadow = by.into_iter().chain(shadow).min();
            }
        }
        Ok((SharedReservation { taken }, shadow))
    }

    /// Returns units, for a call that was never made. If the server is away, they stay used.
    pub fn give_back(self: &Arc<Self>, reservation: SharedReservation) {
        if reservation.taken.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(mut connection) = shared.link.connection().await else {
                return;
            };
            let mut script = RETURN.prepare_invoke();
            for (key, window, at, cost) in &reservation.taken {
                script.key(key).arg(window).arg(at).arg(cost);
            }
            let done = script.invoke_async::<String>(&mut connection);
            if let Ok(Err(error)) = timeout(ANSWER_TIMEOUT, done).await {
                tracing::debug!(%error, "units of a call that was not made were not returned");
            }
        });
    }

    /// Why calls with limits are refused, or forwarded uncounted.
    pub fn trouble(&self) -> Option<String> {
        self.link
            .trouble()
            .or_else(|| self.complaint.lock().clone())
    }

    fn key(&self, charge: &Charge) -> String {
        format!("{}{}", self.prefix, hex::encode(hash(charge)))
    }
}

fn micros(charge: &Charge) -> u64 {
    u64::try_from(charge.counter.window.as_micros()).unwrap_or(u64::MAX)
}
