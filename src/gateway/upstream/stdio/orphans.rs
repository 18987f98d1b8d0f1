//! Orphans: processes that a child left behind and that the kernel hands to this process.
//!
//! For a process that runs servers and nothing else: PID 1 of a container, or one that declares itself a subreaper.
//! Elsewhere than on Linux it finds none. It must not take the exit status of a child that somebody here waits for.

use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use super::care::{REAPED, leaders};

/// Adopts orphans from now on and reaps them until cancelled; then kills those that are left.
///
/// Call it before the first child is started, in a process whose every child is started by [`super::spawn`].
pub async fn care_for(stop: CancellationToken) {
    // As PID 1 this changes nothing; elsewhere it may be forbidden, and then orphans go to init as usual.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::debug!(%error, "cannot adopt orphans");
    }
    let mut changed = tokio::signal::unix::signal(SignalKind::child()).ok();
    loop {
        reap(&adopted());
        let next = async {
            match changed.as_mut() {
                Some(changed) => {
                    let _ = changed.recv().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            () = REAPED.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
            () = stop.cancelled() => break,
        }
    }
    finish().await;
}

/// Kills and reaps what is left; killing one can hand us its children, so this repeats, but not for ever.
async fn finish() {
    for _ in 0..50 {
        let left = adopted();
        if left.is_empty() {
            return;
        }
        for pid in &left {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        reap(&left);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn reap(orphans: &[Pid]) {
    for pid in orphans {
        let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
    }
}

/// Direct children of this process that nobody here started.
fn adopted() -> Vec<Pid> {
    // Held while looking: a child that is just being started must not be taken for an orphan.
    let known = leaders();
    let me = rustix::process::getpid().as_raw_pid();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| known.as_ref().is_none_or(|known| !known.contains(pid)))
        .filter(|pid| parent(*pid) == Some(me))
        .filter_map(Pid::from_raw)
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; the state and the parent follow the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
