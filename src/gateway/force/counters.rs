//! From `spec.counters` to the Redis or Valkey server that counts.
//!
//! In: the spec, Secrets. Out: [`SharedCounters`], the same as before while nothing has changed, so
//! that the connection is kept. Must not do: count.

use std::sync::Arc;

use super::secrets::Lookup;
use crate::api::Switch;
use crate::gateway::counters::SharedCounters;
use crate::policy::bundle::Bundle;

/// The server that counts, with what it was made from.
#[derive(Default)]
pub struct SharedPlace {
    made: Option<(MadeOf, Arc<SharedCounters>)>,
}

#[derive(PartialEq)]
struct MadeOf {
    uid: String,
    url: Vec<u8>,
    ca: Option<Vec<u8>>,
    on_unavailable: Switch,
}

impl SharedPlace {
    /// Where the limits of the bundle's server are counted; None for this process. What is missing
    /// is noted.
    pub fn of(&mut self, bundle: &Bundle, lookup: &mut Lookup<'_>) -> Option<Arc<SharedCounters>> {
        let Some(redis) = bundle.server.spec.redis() else {
            self.made = None;
            return None;
        };
        let url = lookup.reference(&redis.url_secret_ref);
        let ca = match &redis.ca_secret_ref {
            Some(reference) => Some(lookup.reference(reference)?),
            None => None,
        };
        let of = MadeOf {
            uid: bundle.server.uid.clone(),
            url: url?,
            ca,
            on_unavailable: redis.on_unavailable(),
        };
        if let Some((same, counters)) = &self.made
            && *same == of
        {
            return Some(Arc::clone(counters));
        }
        let counters = Arc::new(SharedCounters::connect(
            &of.uid,
            &of.url,
            of.ca.as_deref(),
            of.on_unavailable == Switch::Allow,
        ));
        self.made = Some((of, Arc::clone(&counters)));
        Some(counters)
    }
}
