//! How many keys of counters are kept, and how many of them for one caller.

use std::time::Duration;

/// This many keys are kept; live ones are never dropped for new ones (decisions.md, Limits).
pub const MAX_KEYS: usize = 10_000;
/// This many keys one grant may use: with sessions or different calls it could otherwise fill all
/// of them.
pub const MAX_GRANT_KEYS: usize = MAX_KEYS / 8;
/// This many of them may be those of different calls, so that a caller who makes many of them can
/// still be counted by its other limits.
pub const MAX_GRANT_CALLS: usize = MAX_GRANT_KEYS / 5 * 4;
/// Keys that count nothing any more are looked for no more often than this, as long as there are
/// too many.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// No window is longer.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 86_400);
