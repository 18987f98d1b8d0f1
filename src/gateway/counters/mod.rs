//! Counting the units of limits. Redis comes later; until then counts live in this process.

pub mod local;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

pub use local::{Exhausted, Local, Reservation};

/// Counts of servers that are not served any more are kept for no more servers than this.
const MAX_SERVERS: usize = 256;

/// The counts of every server that this process serves, or has served: a server that is taken away
/// and comes back has used what it had used.
#[derive(Clone, Default)]
pub struct Counters {
    servers: Arc<Mutex<HashMap<String, Arc<Local>>>>,
}

impl Counters {
    /// Those of the server with this UID.
    pub fn of(&self, uid: &str) -> Arc<Local> {
        let mut servers = self.servers.lock();
        if servers.len() >= MAX_SERVERS && !servers.contains_key(uid) {
            servers.retain(|_, local| Arc::strong_count(local) > 1 || !local.is_idle());
        }
        Arc::clone(servers.entry(uid.to_owned()).or_default())
    }
}
