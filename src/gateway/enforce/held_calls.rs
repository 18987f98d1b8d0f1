//! Calls that wait for a person: a client that cancels one must find it, so that it is never
//! forwarded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

type CallKey = (String, String);

#[derive(Default)]
struct CallsById {
    /// A client may use one id for several calls, though it must not.
    by_id: HashMap<CallKey, Vec<(u64, CancellationToken)>>,
    next: u64,
}

/// Every held call of a gateway, by session and request id.
#[derive(Clone, Default)]
pub struct HeldCalls {
    calls: Arc<Mutex<CallsById>>,
}

impl HeldCalls {
    /// Cancels the calls of that session and id (as JSON); false if none is held.
    pub fn cancel(&self, session: &str, id: &str) -> bool {
        let calls = self.lock();
        // Under the lock: a hold that ends at this moment is either cancelled or not found.
        match calls.by_id.get(&(session.to_owned(), id.to_owned())) {
            Some(held) => {
                held.iter().for_each(|(_, token)| token.cancel());
                true
            }
            None => false,
        }
    }

    /// How many calls are held.
    pub fn count(&self) -> usize {
        self.lock().by_id.values().map(Vec::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, CallsById> {
        self.calls.lock()
    }
}

/// One held call; forgotten when dropped.
pub struct HeldCall {
    held_calls: HeldCalls,
    key: CallKey,
    number: u64,
    token: CancellationToken,
}

impl HeldCall {
    /// Registers the call.
    pub fn start(held_calls: &HeldCalls, session: &str, id: &str) -> Self {
        let key = (session.to_owned(), id.to_owned());
        let token = CancellationToken::new();
        let mut calls = held_calls.lock();
        let number = calls.next;
        calls.next += 1;
        let held = calls.by_id.entry(key.clone()).or_default();
        held.push((number, token.clone()));
        drop(calls);
        HeldCall {
            held_calls: held_calls.clone(),
            key,
            number,
            token,
        }
    }

    /// Resolves when the client cancels the call.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Whether the client has cancelled the call.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends the hold and says whether the call may still go. A cancellation that comes later does
    /// not find it, and is passed on to the upstream.
    pub fn release(&self) -> bool {
        self.forget();
        !self.token.is_cancelled()
    }

    fn forget(&self) {
        let mut calls = self.held_calls.lock();
        if let Entry::Occupied(mut held) = calls.by_id.entry(self.key.clone()) {
            held.get_mut().retain(|(number, _)| *number != self.number);
            if held.get().is_empty() {
                held.remove();
            }
        }
    }
}

impl Drop for HeldCall {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_finds_every_call_of_its_id_until_it_is_released() {
        let holds = HeldCalls::default();
        let (first, second) = (
            HeldCall::start(&holds, "s", "1"),
            HeldCall::start(&holds, "s", "1"),
        );
        let other = HeldCall::start(&holds, "t", "1");
        assert_eq!(holds.count(), 3);
        assert!(first.release());
        drop(first);
        assert!(holds.cancel("s", "1"), "the second is still held");
        assert!(!second.release() && other.release());
        assert!(!holds.cancel("s", "1") && !holds.cancel("t", "1"));
        assert_eq!(holds.count(), 0);
    }
}
