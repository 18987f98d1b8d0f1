//! People learn that a call waits for them: requests for approval are announced to webhooks.
//!
//! In: requests, webhooks of the spec. Out: signed POSTs, and why they were not accepted. Must not
//! do: decide, or show a URL.

use parking_lot::Mutex;

mod message;
mod send;
pub mod webhook;

/// What became of announcements.
#[derive(Default)]
pub struct Notices {
    faults: Mutex<Vec<String>>,
}

impl Notices {
    /// Why requests cannot be announced, one for each webhook that fails.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().clone()
    }

    fn set(&self, faults: Vec<String>) {
        *self.faults.lock() = faults;
    }
}
