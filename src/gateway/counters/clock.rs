//! The clock of counters: it keeps running while the process does not, and a change of the wall
//! clock does not move it.
//!
//! In: the system's clocks. Out: nanoseconds since the machine's start, which start it was, and the
//! wall clock for what happens between two starts. Must not do: decide what a difference means.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::policy::canonical::sha256;

/// The clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The machine's start; all zeros where the system does not say which it was.
    pub boot: [u8; 16],
    /// Nanoseconds since then, sleep included.
    pub since_boot: u64,
    /// Nanoseconds since 1970, by the wall clock.
    pub wall: u64,
}

/// The clocks that counters read.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's.
    System {
        /// The machine's start.
        boot: [u8; 16],
    },
    /// A test's.
    #[cfg(test)]
    Test(std::sync::Arc<parking_lot::Mutex<Reading>>),
}

impl Default for Clock {
    fn default() -> Self {
        Clock::System { boot: boot() }
    }
}

impl Clock {
    /// Nanoseconds since the machine's start.
    pub fn since_boot(&self) -> u64 {
        match self {
            Clock::System { .. } => since_boot(),
            #[cfg(test)]
            Clock::Test(reading) => reading.lock().since_boot,
        }
    }

    /// All clocks.
    pub fn read(&self) -> Reading {
        match self {
            Clock::System { boot } => Reading {
                boot: *boot,
                since_boot: since_boot(),
                wall: wall(),
            },
            #[cfg(test)]
            Clock::Test(reading) => *reading.lock(),
        }
    }
}

/// Which start of the machine this is. Containers may have clocks of their own, so the namespace of
/// the clocks belongs to it.
fn boot() -> [u8; 16] {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.is_empty() {
        return [0; 16];
    }
    let clocks = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    let mut bytes = id;
    bytes.extend_from_slice(clocks.as_os_str().as_encoded_bytes());
    let mut boot = [0; 16];
    boot.copy_from_slice(&sha256(&bytes)[..16]);
    boot
}

fn since_boot() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(CLOCK);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
