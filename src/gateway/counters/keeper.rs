//! The thread that does what counters need and calls must not wait for.
//!
//! In: a wake-up when something was counted. Out: journals on the disk, short ones. It ends with
//! what it works for. Must not do: hold a lock while it waits for the disk.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::local::Local;

/// The counters of servers, by UID.
pub type Servers = Mutex<HashMap<String, Arc<Local>>>;

/// New records are synced to the disk this often.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The clocks are compared this often.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// Starts the thread for these servers; what is returned wakes it.
///
/// # Errors
/// When the system allows no further thread.
pub fn start(servers: Weak<Servers>) -> std::io::Result<Sender<()>> {
    let (wake, woken) = channel();
    std::thread::Builder::new()
        .name("counters".to_owned())
        .spawn(move || run(&servers, &woken))?;
    Ok(wake)
}

fn run(servers: &Weak<Servers>, woken: &Receiver<()>) {
    let mut busy = false;
    loop {
        let wait = if busy { SYNC_INTERVAL } else { IDLE_INTERVAL };
        match woken.recv_timeout(wait) {
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
        }
        busy = false;
        let Some(all) = servers.upgrade() else { return };
        let locals: Vec<Arc<Local>> = all.lock().values().cloned().collect();
        drop(all);
        for local in locals {
            local.keep();
            busy |= local.is_busy();
        }
        // Not once for every call.
        std::thread::sleep(SYNC_INTERVAL);
        while woken.try_recv().is_ok() {
            busy = true;
        }
    }
}
