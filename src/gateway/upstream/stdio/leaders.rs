//! The leaders of the process groups of this process's children: the processes that must not be
//! reaped as orphans.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The variable that names the server's process to everything that it starts.
pub(super) const MARK: &str = "PORTCULLIS_PROCESS";

/// Leaders that are not reaped yet, with their marks. Held while one is started, so that the reaper
/// of orphans never takes one of these.
static LEADERS: Mutex<Option<HashMap<i32, String>>> = Mutex::new(None);
/// Signalled whenever a leader has been reaped.
pub(super) static REAPED: Notify = Notify::const_new();

/// The locked table: process ids of leaders, and their marks.
pub(super) type Leaders = MutexGuard<'static, Option<HashMap<i32, String>>>;

/// Locks the table.
pub(super) fn leaders() -> Leaders {
    LEADERS.lock()
}
