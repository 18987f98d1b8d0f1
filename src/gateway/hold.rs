//! Calls that wait for a person: a client that cancels one must find it, so that it is never forwarded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Every held call of a gateway, by session and request id.
#[derive(Clone, Default)]
pub struct Holds {
    calls: Arc<Mutex<HashMap<(String, String), CancellationToken>>>,
}

impl Holds {
    /// Cancels the call of that session and id (as JSON); false if it is not held.
    pub fn cancel(&self, session: &str, id: &str) -> bool {
        let held = self
            .lock()
            .get(&(session.to_owned(), id.to_owned()))
            .cloned();
        held.inspect(CancellationToken::cancel).is_some()
    }

    /// How many calls are held.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), CancellationToken>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One held call; forgotten when dropped.
pub struct Hold {
    holds: Holds,
    key: (String, String),
    token: CancellationToken,
}

impl Hold {
    /// Makes the call findable. A client that uses one id twice can cancel only the later of its calls.
    pub fn start(holds: &Holds, session: &str, id: &str) -> Self {
        let key = (session.to_owned(), id.to_owned());
        let token = CancellationToken::new();
        holds.lock().insert(key.clone(), token.clone());
        Hold {
            holds: holds.clone(),
            key,
            token,
        }
    }

    /// Resolves when the client cancels the call.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().remove(&self.key);
    }
}
