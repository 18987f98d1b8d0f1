//! Orphans: processes that a child left behind and that the kernel hands to this process.
//!
//! For a process that runs servers and nothing else: PID 1 of a container, or one that declares
//! itself a subreaper. Elsewhere than on Linux it finds none. It must not take the exit status of a
//! child that this process waits for.
//!
//! A process that leaves its group escapes the signals that end the group. Once the server's
//! process has ended, it is a child of this process, and the variable [`MARK`] of its environment
//! says whose it was. Orphans whose server still runs are left alone, so that a server may have
//! helpers; all others are ended.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use super::leaders::{Leaders, MARK, REAPED, leaders};

/// How often orphans are looked for between SIGTERM and SIGKILL, and again after SIGKILL.
const SWEEPS: usize = 50;
/// The time between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// Children that were there before this process adopted any, as a shell's are after `exec`: they
/// are not orphans. Set once this process adopts.
static INHERITED: OnceLock<HashSet<i32>> = OnceLock::new();

/// Makes this process the parent of all orphans that its children leave, from now on. Call it
/// before the first child is started, in a process whose every child is started by
/// [`super::spawn`].
///
/// # Errors
/// When the system refuses; then descendants of children can get away from this process.
pub fn adopt() -> std::io::Result<()> {
    let known = leaders();
    INHERITED.get_or_init(|| children().collect());
    drop(known);
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Reaps orphans until cancelled; then kills those that are left. Call it after [`adopt`].
pub async fn care_for(stop: CancellationToken) {
    let mut changed = tokio::signal::unix::signal(SignalKind::child()).ok();
    loop {
        sweep(|_, _| None);
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
    // Killing one can make its children ours, so this repeats, but not for ever.
    for _ in 0..SWEEPS {
        if sweep(|_, _| Some(Some(Signal::KILL))) == 0 {
            return;
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Ends the orphans of servers that have ended, and those that do not say whose they are. Call it
/// once the server's process has been reaped.
pub(super) async fn end_those_of_the_ended() {
    if INHERITED.get().is_none() {
        return;
    }
    for round in 0..2 * SWEEPS {
        let signal = match round {
            0 => Some(Signal::TERM),
            round if round >= SWEEPS => Some(Signal::KILL),
            _ => None,
        };
        let left = sweep(|pid, leaders| {
            if is_of_a_running_server(pid, leaders) {
                None
            } else {
                Some(signal)
            }
        });
        if left == 0 {
            return;
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
    tracing::error!("processes that a server left behind do not exit; look for them with `ps`");
}

/// Reaps orphans that have ended and asks about each of the others: None leaves it, `Some` says
/// that it must end, and what to send it for that. Returns how many of those are left.
fn sweep(mut must_end: impl FnMut(Pid, &Leaders) -> Option<Option<Signal>>) -> usize {
    // Held for the whole sweep: a child that is being started is not mistaken for an orphan, and as
    // orphans are reaped only here, an id that is sent a signal still names the same process.
    let leaders = leaders();
    let inherited = INHERITED.get();
    let mut left = 0;
    for child in children() {
        let known = leaders.as_ref().is_some_and(|all| all.contains_key(&child))
            || inherited.is_some_and(|inherited| inherited.contains(&child));
        let Some(pid) = Pid::from_raw(child).filter(|_| !known) else {
            continue;
        };
        if !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)) {
            continue;
        }
        if let Some(signal) = must_end(pid, &leaders) {
            left += 1;
            if let Some(signal) = signal {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
    left
}

/// What does not say whose it is has hidden it, or was started beside the servers; the latter must
/// not be ended.
fn is_of_a_running_server(pid: Pid, leaders: &Leaders) -> bool {
    match mark_of(pid) {
        Some(mark) => leaders
            .as_ref()
            .is_some_and(|all| all.values().any(|running| *running == mark)),
        None => INHERITED.get().is_some_and(|others| !others.is_empty()),
    }
}

fn mark_of(pid: Pid) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let mark = variables.find_map(|variable| {
        variable
            .strip_prefix(MARK.as_bytes())?
            .strip_prefix(b"=".as_slice())
    })?;
    String::from_utf8(mark.to_vec()).ok()
}

/// Processes whose parent this process is.
fn children() -> impl Iterator<Item = i32> {
    let me = rustix::process::getpid().as_raw_pid();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |pid| parent(*pid) == Some(me))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; the state and the parent follow
    // the last one.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
